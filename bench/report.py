#!/usr/bin/env python3
"""Makes the page of a result again: bench/report.py bench/results/DATE.json [bench/report.html]"""

import json
import sys
from pathlib import Path

from harness import machine, report


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    page = Path(sys.argv[2]) if len(sys.argv) == 3 else machine.BENCH / "report.html"
    page.write_text(report.html(json.loads(Path(sys.argv[1]).read_text())))
    print(page)


if __name__ == "__main__":
    main()
