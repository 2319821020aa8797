"""Tables of a run: printed as Markdown as soon as they are there, and kept for the JSON file. Knows nothing of attention."""
import math
import statistics
from dataclasses import asdict, dataclass, field


@dataclass
class Table:
    """`cells` are what is printed, `rows` the numbers behind them, `verdicts` lines about a requirement."""

    section: str
    title: str
    columns: tuple
    note: str = ""
    cells: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    verdicts: list = field(default_factory=list)

    def add(self, cells, **numbers):
        self.cells.append([str(cell) for cell in cells])
        self.rows.append(numbers)

    def require(self, what, value, limit, is_least=True):
        is_met = value >= limit if is_least else value <= limit
        self.verdicts.append(f"{what}: {value:.3f}, {'at least' if is_least else 'at most'} {limit:.2f} wanted: "
                             f"{'met' if is_met else 'MISSED'}")

    def say(self, text):
        self.verdicts.append(text)

    def markdown(self):
        lines = [f"### {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.cells]
        if self.verdicts:
            lines += ["", *(f"- {verdict}" for verdict in self.verdicts)]
        return "\n".join(lines) + "\n"

    def as_json(self):
        return asdict(self)


def geometric_mean(values):
    values = list(values)
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def microseconds(seconds):
    return f"{seconds * 1e6:.1f}"


def ratio(value):
    return "-" if value is None else f"{value:.3f}"
