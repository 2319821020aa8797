#!/usr/bin/env python3
"""Checks the tree against its own laws (docs/design.md, "Include law and budgets"): who may include whom, how long files and
functions may be, how files are named and how they open, and whether the links of pages lead anywhere. Prints each breach as
file:line: message; exits 1 if there is one. Standard library only; knows nothing of the build."""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = (".h", ".hpp", ".cpp", ".c", ".cuh", ".cu")
SCRIPT = (".py", ".sh", ".cmake")

FILE_BUDGET = 400
LONG_FILE_BUDGET = 600  # a kernel's main loop, the public headers
CMAKE_BUDGET = 150
FUNCTION_BUDGET = 60
ROLE_BUDGET = 150  # a warp role of a CUDA kernel

# Data, generated text and prose that grows with the data: no length budget.
FREE = ("tests/cases.h", "tests/cuda/golden_dispatch.txt", "docs/coverage.md", "docs/performance.md", "LICENSE")
FREE_FOLDERS = ("tests/fixtures/", "docs/notes/")

BAD_STEMS = re.compile(r"(^|_)(utils?|commons?|helpers?|misc)(_|$)")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
# The repository speaks of the project alone: no paths of one machine, no numbers of a tracker that readers cannot see.
MACHINE = re.compile(r"(?<![\w.])/(work|root|home)/|\bissue #?\d|\bhand" r"book\b", re.IGNORECASE)
DEAD_CODE = re.compile(r"^\s*//\s*(?:(?:if|for|while|return|const|auto|int|float|double|void|static|#\w+)\b.*[;{]|[\w.>\-\[\]:]+\s*(?:\(.*\)|=.*);)\s*$")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def tracked_files():
    """Paths git knows or would add; without git (an unpacked archive), every file outside build folders."""
    try:
        out = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], check=True, capture_output=True, text=True)
        names = out.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = []
        for folder, subfolders, files in os.walk(ROOT):
            subfolders[:] = [s for s in subfolders if not s.startswith((".", "build")) and s != "__pycache__"]
            names += [os.path.relpath(os.path.join(folder, f), ROOT) for f in files]
    return sorted(n for n in set(names) if os.path.isfile(os.path.join(ROOT, n)))


def may_include(path, target):
    """The include law: may the file `path` include the project header `target` (relative to src/, include/ or the root)?"""
    public = target.startswith("flash_attn/")
    top = path.split("/")[0]
    if top == "include":
        return public
    if path.startswith("tests/oracle/"):
        return public or target.startswith(("tests/oracle/", "tests/support/", "tests/cases.h"))
    if top in ("tools", "bench"):
        return public or target.startswith(("tools/", "bench/", "tests/cases", "tests/oracle/", "tests/support/"))
    if top == "examples":  # as a user of the library would
        return public or target.startswith("examples/")
    if top != "src":
        return True
    room = path.split("/")[1]
    if room in ("math", "runtime"):
        return target.startswith(room + "/")
    if room == "api":
        return public or target.startswith(("api/", "core/"))
    if room == "core":
        if path == "src/core/registry.cpp":
            return True
        return public or target.startswith(("core/", "math/"))
    kernels = room + "/kernels/"
    if path.startswith("src/" + kernels):
        return target.startswith(("math/", kernels)) or (room == "cpu" and target == "cpu/simd.h")
    if target.startswith(kernels):
        is_seam = re.fullmatch(re.escape(kernels) + r"(\w+_)?(configs|params)\.h", target) is not None
        return is_seam or path.startswith("src/cpu/isa/")
    return public or target.startswith(("core/", "math/", room + "/"))


def resolve(path, target):
    """A quoted include as the project path it names: beside the including file, or below src/, include/ or the root."""
    beside = os.path.normpath(os.path.join(os.path.dirname(path), target))
    if os.path.isfile(os.path.join(ROOT, beside)):
        return re.sub(r"^(src|include)/", "", beside)
    return target


def check_includes(path, lines, report):
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, target = match.group(1) == '"', match.group(2)
        if quoted and not may_include(path, resolve(path, target)):
            report(path, number, 'may not include "%s" (include law)' % target)
        if not quoted and path.startswith("src/cuda/kernels/"):
            report(path, number, "device code includes no host header, but has <%s>" % target)
        if not quoted and path.startswith("src/math/") and target != "cstdint":
            report(path, number, "math/ compiles on devices: only <cstdint> may be included, not <%s>" % target)


def strip_code(text):
    """The text with comments, literals and preprocessor lines blanked, newlines kept."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'|^[ \t]*#(?:\\\n|[^\n])*',
        re.DOTALL | re.MULTILINE)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def is_container(head):
    head = re.sub(r"template\s*<[^{}]*>\s*(?=[\w\[])|alignas\s*\([^)]*\)|__attribute__\s*\(\(.*?\)\)", " ", head)
    return re.search(r"\b(namespace|extern)\b", head) or re.search(r"\b(class|struct|union|enum)\b[^()]*$", head)


def functions(text):
    """(first line, last line, name) of each function body outside other functions. A brace matcher, not a parser."""
    code = strip_code(text)
    found, stack, head_start = [], [], 0
    for match in re.finditer(r"[{};]", code):
        at, char = match.start(), match.group(0)
        if char == "{":
            head = code[head_start:at]
            inside = any(kind != "container" for kind, _, _ in stack)
            if inside or re.search(r"=\s*[\w:<>, ]*$", head) or (head.strip() and "(" not in head and not is_container(head)):
                kind = "block"
            elif is_container(head):
                kind = "container"
            else:
                kind = "function"
            begin = head_start + len(head) - len(head.lstrip())
            stack.append((kind, code.count("\n", 0, begin) + 1, head))
        elif char == "}" and stack:
            kind, first, head = stack.pop()
            if kind == "function":
                names = re.findall(r"([\w~:]+)\s*\(", head)
                found.append((first, code.count("\n", 0, at) + 1, names[0] if names else "?"))
        head_start = at + 1
    return found


def check_budgets(path, text, lines, report):
    if path in FREE or path.startswith(FREE_FOLDERS) or path.endswith((".json", ".svg", ".csv", ".inc")):
        return
    budget = FILE_BUDGET
    if re.match(r"src/\w+/kernels/", path) or path in ("include/flash_attn/flash_attn.h", "include/flash_attn/flash_attn.hpp"):
        budget = LONG_FILE_BUDGET
    if path.endswith((".cmake", "CMakeLists.txt")):
        budget = CMAKE_BUDGET
    if len(lines) > budget:
        report(path, len(lines), "%d lines; the budget is %d" % (len(lines), budget))
    if path.endswith(SOURCE):
        limit = ROLE_BUDGET if path.startswith("src/cuda/kernels/") else FUNCTION_BUDGET
        for first, last, name in functions(text):
            if last - first + 1 > limit:
                report(path, first, "function %s has %d lines; the budget is %d" % (name, last - first + 1, limit))


def check_opening(path, lines, report):
    is_script = path.endswith(SCRIPT) or path.endswith("CMakeLists.txt") or (lines and lines[0].startswith("#!"))
    if not (path.endswith(SOURCE) or is_script):
        return
    first = 1 if lines and lines[0].startswith("#!") else 0
    opening = lines[first] if len(lines) > first else ""
    marks = ("//", "/*") if path.endswith(SOURCE) else ("#", '"""', "'''")
    stem = os.path.splitext(os.path.basename(path))[0]
    if opening.startswith("// See %s.h" % stem):  # the header says it
        return
    if not opening.startswith(marks) or len(opening) < 30:
        report(path, first + 1, "a file opens with a comment: what it is, its place, what it must not know")


def check_words(path, lines, report):
    for number, line in enumerate(lines, 1):
        if UNFINISHED.search(line):
            report(path, number, "unfinished work is an issue or a refusal, not a note in the source")
        if MACHINE.search(line):
            report(path, number, "names a path or a thing outside the project")
        if path.endswith(SOURCE) and DEAD_CODE.match(line):
            report(path, number, "commented-out code")
        if line.rstrip() != line and not path.endswith(".md"):
            report(path, number, "space at the end of the line")


def check_links(path, lines, report):
    for number, line in enumerate(lines, 1):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
            if "://" not in target and not os.path.exists(os.path.join(ROOT, os.path.dirname(path), target)):
                report(path, number, "links to %s, which is not there" % target)


def main():
    breaches = []
    names = tracked_files()
    for path in names:
        report = lambda p, n, message: breaches.append("%s:%d: %s" % (p, n, message))
        if BAD_STEMS.search(os.path.splitext(os.path.basename(path))[0]) or any(BAD_STEMS.search(d) for d in path.split("/")[:-1]):
            report(path, 1, "a name says what is inside; utils, common, helpers, misc do not")
        with open(os.path.join(ROOT, path), "rb") as file:
            data = file.read()
        if b"\0" in data or path.startswith("tests/fixtures/") and not path.endswith(SOURCE + SCRIPT + (".md",)):
            continue
        text = data.decode("utf-8", "replace")
        lines = text.splitlines()
        check_words(path, lines, report)
        check_opening(path, lines, report)
        check_budgets(path, text, lines, report)
        if path.endswith(SOURCE):
            check_includes(path, lines, report)
        if path.endswith(".md"):
            check_links(path, lines, report)
    for breach in breaches:
        print(breach)
    print("check_tree: %d files, %d breaches" % (len(names), len(breaches)))
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
