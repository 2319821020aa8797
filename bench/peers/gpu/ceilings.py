"""What the GPU gives at most, measured in the same run: a large matrix product, reading and writing, reading."""
import torch

from gpu.report import Table
from gpu.timing import Side

SIZE = 8192
COPY_BYTES = 4 << 30


def run(session, options):
    table = Table("ceilings", "Ceilings of this run", ("what", "measured"))
    a, b = (torch.randn(SIZE, SIZE, device=session.device, dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty_like(a)
    source = torch.randn(COPY_BYTES // 4, device=session.device)
    target = torch.empty_like(source)
    total = torch.empty((), device=session.device)
    timings = session.clock.time_together([
        Side("product", [lambda: torch.matmul(a, b, out=c)]), Side("copy", [lambda: torch.neg(source, out=target)]),
        Side("read", [lambda: torch.sum(source, dim=0, out=total)])])
    flops = 2 * SIZE**3
    product, copy, read = (timings[name] for name in ("product", "copy", "read"))
    rates = [f"{flops / seconds * 1e-12:.0f}" for seconds in (product.seconds, product.most, product.least)]
    table.add([f"bf16 matrix product {SIZE} x {SIZE} x {SIZE} (PyTorch)", f"{rates[0]} TFLOP/s ({rates[1]} to {rates[2]})"],
              seconds=product.seconds, flops=flops)
    table.add(["fp32 vector negated into another, bytes read and written", f"{2 * COPY_BYTES / copy.seconds * 1e-12:.2f} TB/s"],
              seconds=copy.seconds, bytes=2 * COPY_BYTES)
    table.add(["sum of an fp32 vector, bytes read", f"{COPY_BYTES / read.seconds * 1e-12:.2f} TB/s"],
              seconds=read.seconds, bytes=COPY_BYTES)
    session.finish(table)
