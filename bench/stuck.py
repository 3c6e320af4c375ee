#!/usr/bin/env python3
"""How long requests on kept connections wait while one worker is stuck in the application, again and again.

    bench/stuck.py [--workers 4] [--kept 200] [--block 2] [--seconds 20] [--app handover_apps:wsgi]
                   [--args="--no-hand-over"]

The client is one thread over epoll: every kept connection asks again when it has its answer and PAUSE_S have passed.
The request that blocks goes by a connection of its own, to whichever worker has that one. Printed: percentiles of all
other requests' latencies, how many connections were closed, how many were handed over.
"""

from __future__ import annotations

import argparse
import heapq
import json
import select
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.server import Server, command  # noqa: E402

REQUEST = b"GET /pid HTTP/1.1\r\nHost: bench\r\n\r\n"
PAUSE_S = 0.02
GAP_S = 0.3  # between two blocking requests


class Load:
    def __init__(self, server: Server, kept: int, block: float) -> None:
        self.poller, self.blocker = select.epoll(), server.connect()
        self.block_request = f"GET /block?{block} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self.clients = {client.fileno(): client for client in (server.connect() for _ in range(kept))}
        self.due: list[tuple[float, int]] = [(0.0, fd) for fd in self.clients]
        self.due.append((time.monotonic() + 1, self.blocker.fileno()))
        self.asked: dict[int, float] = {}
        self.took: list[float] = []
        self.blocks = self.lost = 0
        for fd in [*self.clients, self.blocker.fileno()]:
            self.poller.register(fd, select.EPOLLIN)
        heapq.heapify(self.due)

    def socket(self, fd: int) -> socket.socket:
        return self.clients.get(fd, self.blocker)

    def ask(self, now: float) -> None:
        while self.due and self.due[0][0] <= now:
            fd = heapq.heappop(self.due)[1]
            self.asked[fd] = time.monotonic()
            self.socket(fd).sendall(REQUEST if fd in self.clients else self.block_request)

    def hear(self, fd: int) -> None:
        answer, now = self.socket(fd).recv(65536), time.monotonic()
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.lost += 1
            self.poller.unregister(fd)
        elif fd in self.clients:
            self.took.append(now - self.asked[fd])
            heapq.heappush(self.due, (now + PAUSE_S, fd))
        else:
            self.blocks += 1
            heapq.heappush(self.due, (now + GAP_S, fd))

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self.ask(now)
            for fd, _ in self.poller.poll(max(0.0, self.due[0][0] - now) if self.due else 0.1):
                self.hear(fd)


def handed_over(server: Server) -> int:
    ctl = [command()[0], "ctl", "--pid", str(server.pid), "status", "--json"]
    status = json.loads(subprocess.run(ctl, capture_output=True, text=True, check=True).stdout)
    return sum(worker["handed_over"] for worker in status["workers"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kept", type=int, default=200)
    parser.add_argument("--block", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--app", default="handover_apps:asgi")
    parser.add_argument("--args", default="")
    given = parser.parse_args()
    args = [given.app, "-w", str(given.workers), *shlex.split(given.args)]
    with Server(*args, cwd=ROOT / "tests" / "apps") as server:
        load = Load(server, given.kept, given.block)
        load.run(given.seconds)
        took = sorted(load.took)
        cuts = {name: took[min(int(len(took) * part), len(took) - 1)] * 1e3 for name, part in CUTS.items()}
        print(
            f"{len(took)} requests, {load.blocks} blocks, {load.lost} lost, {handed_over(server)} handed over;", end=" "
        )
        print(", ".join(f"{name} {ms:.1f} ms" for name, ms in cuts.items()))


CUTS = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}

if __name__ == "__main__":
    main()
