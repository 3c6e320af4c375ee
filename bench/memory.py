#!/usr/bin/env python3
"""Private memory of four workers that share a preloaded application of about 100 MB, after requests and a full GC.

    bench/memory.py [--licorne DIRECTORY]

What the workers share is the mold's: its resident memory is what their private memory is compared with.
"""

from __future__ import annotations

import argparse
import http.client
import re
import subprocess
from pathlib import Path

import run

WORKERS, REQUESTS = 4, 20_000


def fetch(port: int, path: str) -> int:
    """A request over a connection of its own; the pid of the worker that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    pid = int(connection.getresponse().read())
    connection.close()
    return pid


def visit_all(port: int, path: str) -> list[int]:
    seen: set[int] = set()
    for _ in range(5000):
        seen.add(fetch(port, path))
        if len(seen) == WORKERS:
            break
    return sorted(seen)


def make_requests(port: int, count: int) -> None:
    """Over kept connections, so many at least."""
    done = 0
    while done < count:
        command = ["wrk", "-t1", "-c64", "-d1s", f"http://127.0.0.1:{port}/"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        done += int(re.search(r"(\d+) requests in", said)[1])


def resident_mib(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def report(label: str, root: int, workers: list[int]) -> None:
    each = [run.memory_kib(pid)["private"] / 1024 for pid in workers]
    heap = max(resident_mib(pid) for pid in run.process_tree(root) if pid not in workers)
    total = run.memory_kib(root)
    print(
        f"{label:34} tree: private {total['private'] / 1024:6.1f} MiB, PSS {total['pss'] / 1024:6.1f} MiB; "
        f"workers' private: {', '.join(f'{m:.1f}' for m in each)} MiB, {100 * max(each) / heap:.1f} % of {heap:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--licorne", default=str(run.ROOT / ".venv" / "bin"), help="bin directory of the licorne to measure"
    )
    args = parser.parse_args()
    port = run.free_port()
    command = [
        f"{args.licorne}/licorne",
        "heap:app",
        "-b",
        f"127.0.0.1:{port}",
        "-w",
        str(WORKERS),
        "--preload",
        "--log-level",
        "warning",
    ]
    server = run.Server("licorne", command, port, pinned=False)
    try:
        report("after boot", server.process.pid, visit_all(port, "/"))
        make_requests(port, REQUESTS)
        report("after requests", server.process.pid, visit_all(port, "/"))
        report("after a full GC in each worker", server.process.pid, visit_all(port, "/collect"))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
