#!/usr/bin/env python3
"""Measures servers side by side: a table of servers x loads.

    bench/run.py                                       every row, every server (hours)
    bench/run.py --quick                               the rows that say most, the fastest peers (under 5 minutes)
    bench/run.py hello post/wsgi connect/asgi/4        some rows: LOAD, LOAD/KIND, LOAD/KIND/WORKERS
    bench/run.py hello --servers yardstick,licorne,granian --rounds 7 --seconds 2
    bench/run.py --list

The figures go to bench/results/*.json and bench/report.html. What each row means and how to read them: bench/README.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import loads, machine, measures, report, servers, table

RESULTS = machine.BENCH / "results"
QUICK_ROWS = """hello/asgi/1 hello/wsgi/1 post stream upload_1mb/asgi connect/asgi/1 pipelined/asgi sleep_0 starlette
    flask""".split()
QUICK_SERVERS = ["yardstick", "licorne", "uvicorn", "granian", "fastpysgi", "bjoern", "gunicorn_gthread"]


class Progress:
    """One line that is rewritten; on what is no terminal, nothing."""

    def __init__(self) -> None:
        self.began, self.width, self.row = time.monotonic(), 0, ""

    def say(self, text: str) -> None:
        if sys.stderr.isatty():
            line = f"  {time.monotonic() - self.began:5.0f} s  {self.row}{text}"
            print("\r" + line.ljust(self.width), end="", file=sys.stderr, flush=True)
            self.width = len(line)

    def clear(self) -> None:
        if sys.stderr.isatty():
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)


def commit() -> str:
    command = ["git", "-C", str(machine.ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def versions(names: list[str], licorne: str) -> dict[str, str]:
    found = {}
    for name in names:
        peer = servers.load_peer(name)
        try:
            found[name] = servers.peer_version(peer, licorne if not peer.REQUIREMENTS else "")
        except OSError:
            continue
    return found


def install(names: list[str], licorne: str) -> None:
    for name in names:
        try:
            servers.peer_bin(name, servers.load_peer(name), licorne)
        except servers.Unavailable as reason:
            print(f"{name}: {reason}", file=sys.stderr)
    servers.make_site()


def list_all() -> None:
    for row in loads.find_rows([]):
        print(f"{row.name:20} {row.goal.text if row.goal else '':32} {row.text.split(': ')[0][:90]}")
    print(f"\nservers: {', '.join(servers.peer_names())}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--servers", "--peers", default="", help="names of files under bench/peers (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a sample; loads that need more take a multiple")
    parser.add_argument("--workers", default="", help="1,4,16: instead of what the loads say")
    parser.add_argument("--quick", action="store_true", help="few rows, few servers, short samples")
    parser.add_argument(
        "--licorne", default=str(machine.ROOT / ".venv" / "bin"), help="bin directory of the licorne to measure"
    )
    parser.add_argument("--json", type=Path, help="instead of bench/results/DATE.json")
    parser.add_argument("--report", type=Path, default=machine.BENCH / "report.html")
    parser.add_argument("--list", action="store_true", help="rows, goals and servers")
    parser.add_argument("--install", action="store_true", help="make the environments of the servers, and end")
    args = parser.parse_args()
    args.servers = [name for name in args.servers.split(",") if name]
    args.workers = [int(number) for number in args.workers.split(",") if number]
    if args.quick:
        args.rows, args.servers = args.rows or QUICK_ROWS, args.servers or QUICK_SERVERS
        args.seconds = min(args.seconds, 0.35)
    unknown = set(args.servers) - set(servers.peer_names())
    if unknown:
        parser.error(f"no such server: {', '.join(unknown)}; there are: {', '.join(servers.peer_names())}")
    return args


def main() -> int:
    args = arguments()
    names = args.servers or servers.peer_names()
    if args.list or args.install:
        list_all() if args.list else install(names, args.licorne)
        return 0
    measures.raise_file_limit()
    progress = Progress()
    plan = measures.Plan(args.rounds, args.seconds, args.licorne, progress.say)
    path = args.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.parent.mkdir(exist_ok=True)
    result: dict[str, Any] = {
        "format": 1,
        "about": {**machine.about(), "commit": commit(), "rounds": args.rounds, "seconds": args.seconds},
        "versions": versions(names, args.licorne),
        "rows": [],
    }
    rows = loads.find_rows(args.rows, args.workers)
    for number, row in enumerate(rows):
        progress.row = f"[{number + 1}/{len(rows)}] "
        try:
            measured = measures.measure(row, names, plan)
        except servers.Unavailable as reason:
            print(f"\n{row.name}: not measured: {reason}")
            continue
        finally:
            progress.clear()
        print(table.text(measured), flush=True)
        result["rows"].append(measured)
        path.write_text(without_paths(measures.dump(result)))
        args.report.write_text(report.html(result))
    print(table.summary(result))
    print(f"{path}\n{args.report}")
    return 0


def without_paths(text: str) -> str:
    """Results can be shown to others: no folders of this machine."""
    return re.sub(re.escape(str(machine.ROOT)), ".", text)


if __name__ == "__main__":
    sys.exit(main())
