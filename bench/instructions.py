#!/usr/bin/env python3
"""Instructions per request (tests/support/instructions.py), as tests/test_instructions.py compares them.

bench/instructions.py                        all rows
bench/instructions.py --update               and writes them into tests/instructions.json, for this environment
bench/instructions.py asgi-hello --profile   where they go: per function, itself and with what it calls
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import instructions
from support.instructions import Callgrind


class Profile:
    """callgrind's file, read: per function its own instructions, those of its callees, and how often it was called."""

    def __init__(self, path: Path) -> None:
        self.own: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._names: dict[str, dict[str, str]] = {}
        self._read(iter(path.read_text().splitlines()))

    def _name(self, kind: str, text: str) -> str:
        """Names are said once, "(12) name", and then by their number."""
        match = re.match(r"\((\d+)\)(?: (.*))?$", text)
        if not match:
            return text
        names = self._names.setdefault(kind, {})
        if match[2]:
            names[match[1]] = re.sub(r"'\d+$|\.(isra|part|constprop|lto_priv)\.\d+", "", match[2])
        return names.get(match[1], text)

    def _read(self, lines: Iterator[str]) -> None:
        function = callee = ""
        for line in lines:
            kind, _, rest = line.partition("=")
            if kind == "fn":
                function = self._name("fn", rest)
            elif kind == "cfn":
                callee = self._name("fn", rest)
            elif kind == "calls":
                self.calls[callee] += int(rest.split()[0])
                if callee != function:
                    self.whole[callee] += int(next(lines).split()[1])
                else:
                    next(lines)
            elif line[:1] in "0123456789+-*" and len(cost := line.split()) == 2:
                self.own[function] += int(cost[1])

    def print(self, rounds: int) -> None:
        print(f"{'own':>8} {'with callees':>13} {'calls':>7}  function")
        for name, own in self.own.most_common(80):
            print(f"{own / rounds:8.0f} {self.whole[name] / rounds:13.0f} {self.calls[name] / rounds:7.2f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(instructions.ROWS)}")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if reason := instructions.missing():
        sys.exit(reason)
    rows = options.rows or list(instructions.ROWS)
    known = instructions.known()
    print(instructions.environment())
    for app in dict.fromkeys(instructions.ROWS[row].app for row in rows):
        with Callgrind(app) as callgrind:
            for row in (row for row in rows if instructions.ROWS[row].app == app):
                if options.profile:
                    print(f"\n{row}")
                    Profile(callgrind.profile(instructions.ROWS[row].exchange)).print(instructions.ROUNDS)
                    continue
                count = callgrind.count(instructions.ROWS[row].exchange)
                before = f" ({count / known[row] - 1:+.1%} of {known[row]})" if row in known else ""
                print(f"{row:18} {count:7}{before}", flush=True)
                known[row] = count
    if options.update:
        instructions.remember(known)


if __name__ == "__main__":
    main()
