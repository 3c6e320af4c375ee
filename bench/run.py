#!/usr/bin/env python3
"""Measures servers side by side: CPU microseconds per request of the process tree, interleaved with the yardstick.

    bench/run.py --kind asgi --peers licorne,uvicorn --rounds 5 --seconds 4

Each round runs every server once, the order reversed from round to round (ABBA), so that a host that drifts is felt by
all. The unit is CPU time (schedstat of every thread) divided by the requests that wrk counted: wall time lies on a
shared machine. See bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
PINS = BENCH / "peers" / "requirements.txt"
SERVER_CPU, LOAD_CPU = "0", "1"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def process_tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    tree, todo = [], [root]
    while todo:
        pid = todo.pop()
        tree.append(pid)
        todo += children.get(pid, [])
    return tree


def cpu_ns(root: int) -> int:
    """CPU time of every thread of the process tree, in ns."""
    total = 0
    for pid in process_tree(root):
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        except OSError:
            continue
    return total


def memory_kib(root: int) -> dict[str, int]:
    """PSS and private memory of the process tree, in KiB."""
    sums = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for pid in process_tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M):
            if name in sums:
                sums[name] += int(value)
    return {"pss": sums["Pss"], "private": sums["Private_Clean"] + sums["Private_Dirty"]}


class Server:
    """One server under test, in a process group of its own, pinned to one CPU."""

    def __init__(self, name: str, command: list[str], port: int, pinned: bool = True):
        self.name, self.port = name, port
        env = dict(os.environ, PYTHONPATH=str(BENCH / "apps"))
        prefix = ["taskset", "-c", SERVER_CPU] if pinned else []
        self.process = subprocess.Popen(
            prefix + command,
            cwd=BENCH / "apps",
            env=env,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                sys.exit(f"{self.name} ended: {self.process.stderr.read().decode()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                    s.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
                    if s.recv(4096):
                        return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{self.name} did not answer within 20 s")

    def load(self, seconds: int, connections: int, extra: list[str]) -> tuple[float, float]:
        """Runs wrk; returns CPU µs per request and requests per second."""
        before = cpu_ns(self.process.pid)
        out = subprocess.run(
            [
                "taskset",
                "-c",
                LOAD_CPU,
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds}s",
                *extra,
                f"http://127.0.0.1:{self.port}/",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        used = cpu_ns(self.process.pid) - before
        requests = int(re.search(r"(\d+) requests in", out)[1])
        if "Non-2xx" in out or "Socket errors" in out:
            print(f"  {self.name}: {out}", file=sys.stderr)
        return used / 1000 / max(requests, 1), requests / seconds

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def yardstick_binary() -> Path:
    binary = ROOT / "build" / "yardstick"
    if not binary.exists() or binary.stat().st_mtime < (BENCH / "yardstick.c").stat().st_mtime:
        binary.parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", str(binary), str(BENCH / "yardstick.c")], check=True)
    return binary


def load_peer(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCH / "peers" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer_bin(name: str, peer, licorne: str) -> str:
    """The bin directory of the peer's own virtual environment, made at first use."""
    if not peer.REQUIREMENTS:
        return licorne
    venv = ROOT / "build" / "bench-venvs" / name
    ready = venv / "ready"
    if not ready.exists() or ready.stat().st_mtime < PINS.stat().st_mtime:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", "-c", str(PINS), *peer.REQUIREMENTS], check=True)
        ready.touch()
    return str(venv / "bin")


def start(name: str, args) -> Server:
    port = free_port()
    if name == "yardstick":
        return Server(name, [str(yardstick_binary()), str(port)], port)
    peer = load_peer(name)
    app = args.app or f"hello_{args.kind}:app"
    return Server(
        name,
        peer.command(peer_bin(name, peer, args.licorne), app, args.kind, port, args.workers),
        port,
        pinned=args.workers == 1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["asgi", "wsgi"], default="asgi")
    parser.add_argument("--app", help="MODULE:ATTRIBUTE under bench/apps (default: hello of the kind)")
    parser.add_argument("--peers", default="licorne,uvicorn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--licorne", default=str(ROOT / ".venv" / "bin"), help="bin directory of the licorne to measure"
    )
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("wrk", nargs="*", help="more options for wrk, after --")
    args = parser.parse_args()

    names = ["yardstick", *args.peers.split(",")]
    servers: list[Server] = []
    cpu: dict[str, list[float]] = {name: [] for name in names}
    rps: dict[str, list[float]] = {name: [] for name in names}
    try:
        for name in names:
            servers.append(start(name, args))
            servers[-1].load(1, args.connections, args.wrk)  # warm up
        for number in range(args.rounds):
            for server in servers if number % 2 == 0 else servers[::-1]:
                c, r = server.load(args.seconds, args.connections, args.wrk)
                cpu[server.name].append(c)
                rps[server.name].append(r)
            print(f"round {number + 1}/{args.rounds}", *(f"{n} {cpu[n][-1]:.2f}" for n in names), file=sys.stderr)
        memory = {server.name: memory_kib(server.process.pid) for server in servers}
    finally:
        for server in servers:
            server.stop()

    floor = statistics.median(cpu["yardstick"])
    print(f"\n{args.kind}, {args.connections} connections, {args.workers} worker(s), medians of {args.rounds} rounds")
    print(
        f"{'server':18} {'CPU µs/req':>10} {'spread':>8} {'over yardstick':>15} {'rps':>9} "
        f"{'PSS KiB':>9} {'private':>9}"
    )
    for name in names:
        median, spread = statistics.median(cpu[name]), max(cpu[name]) - min(cpu[name])
        print(
            f"{name:18} {median:10.2f} {spread:8.2f} {median - floor:+15.2f} {statistics.median(rps[name]):9.0f} "
            f"{memory[name]['pss']:9d} {memory[name]['private']:9d}"
        )
    if args.json:
        Path(args.json).write_text(json.dumps({"args": vars(args), "cpu": cpu, "rps": rps, "memory": memory}, indent=1))


if __name__ == "__main__":
    main()
