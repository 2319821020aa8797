#!/usr/bin/env python3
"""Writes the first fenced block of a language from a Markdown file to a source file, so that tests compile what readers copy.
Usage: extract_example.py PAGE.md LANGUAGE OUTPUT"""

import re
import sys


def main():
    page, language, output = sys.argv[1:4]
    with open(page, encoding="utf-8") as file:
        match = re.search(r"^```%s\n(.*?)^```$" % re.escape(language), file.read(), re.DOTALL | re.MULTILINE)
    if not match:
        print("%s has no block of %s" % (page, language))
        return 1
    with open(output, "w", encoding="utf-8") as file:
        file.write(match.group(1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
