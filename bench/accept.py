#!/usr/bin/env python3
"""What a new connection costs, by the number of workers: CPU microseconds of the process tree for a connection with one
request, and how evenly long-lived connections are spread.

    bench/accept.py [--workers 1,4,16,64] [--connections 4000] [--args="--reuse-port"]

`steady`: one connection after the other, while all workers wait: how many of them wake up for it shows here. `bursts`:
32 connections at once. A worker's first connections touch memory that it shared before: each gets some beforehand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import run

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
WARM_CONNECTIONS = 40  # for each worker
BURST = 32
LONG_LIVED = 100  # for each worker
PACE_S = 0.0005


def open_one(port: int, request: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(request)
    return client


def steady(port: int, count: int) -> None:
    for _ in range(count):
        with open_one(port, REQUEST) as client:
            while client.recv(4096):
                pass


def bursts(port: int, count: int) -> None:
    for _ in range(count // BURST):
        for client in [open_one(port, REQUEST) for _ in range(BURST)]:
            with client:
                while client.recv(4096):
                    pass


def cost(server: run.Server, load: Callable[[int, int], None], count: int) -> float:
    before = run.cpu_ns(server.process.pid)
    load(server.port, count)
    return (run.cpu_ns(server.process.pid) - before) / 1000 / count


def spread(server: run.Server, ctl: list[str], workers: int) -> tuple[int, int]:
    """The least and the most connections of a worker, of those that were opened at a steady pace and are kept."""
    clients = []
    for _ in range(LONG_LIVED * workers):
        clients.append(open_one(server.port, KEPT))
        clients[-1].recv(4096)
        time.sleep(PACE_S)
    status = json.loads(subprocess.run([*ctl, "status", "--json"], capture_output=True, check=True).stdout)
    counts = [worker["connections"] for worker in status["workers"]]
    for client in clients:
        client.close()
    return min(counts), max(counts)


def measure(licorne: str, workers: int, count: int, more: list[str]) -> str:
    port = run.free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ctl")
        command = [licorne, "hello_asgi:app", "-b", f"127.0.0.1:{port}", "-w", str(workers), "--preload"]
        command += ["--control-socket", path, "--log-level", "warning", *more]
        server = run.Server("licorne", command, port, pinned=False)
        try:
            steady(port, WARM_CONNECTIONS * workers)
            one, many = cost(server, steady, count), cost(server, bursts, count)
            least, most = spread(server, [licorne, "ctl", "--socket", path], workers)
        finally:
            server.stop()
    return f"{workers:7} {one:14.1f} {many:14.1f} {least:12} .. {most}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,4,16,64")
    parser.add_argument("--connections", type=int, default=4000)
    parser.add_argument("--licorne", default=str(run.ROOT / ".venv" / "bin" / "licorne"))
    parser.add_argument("--args", default="", help="more arguments for licorne")
    args = parser.parse_args()
    print("workers  steady µs/conn bursts µs/conn   kept connections a worker")
    for workers in args.workers.split(","):
        print(measure(args.licorne, int(workers), args.connections, shlex.split(args.args)), flush=True)


if __name__ == "__main__":
    main()
