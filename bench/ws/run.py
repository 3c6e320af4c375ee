#!/usr/bin/env python3
"""WebSocket servers side by side: CPU microseconds per message of the process tree, and memory per idle connection.

    bench/ws/run.py echo                      every row below, every peer
    bench/ws/run.py echo --peers licorne,socketify --rows 64x64x1,64x64x16
    bench/ws/run.py memory --connections 10000

A row is CONNECTIONSxSIZExOUTSTANDING, with "d" at its end: compressed; with "room" before it: broadcast, per message
that arrives. Each round runs every server once, in turn forwards and backwards; a message is an echo that is back.
The client is load.c. See bench/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from peers import PEERS  # noqa: E402

from harness import machine, servers  # noqa: E402

ROWS = (
    "1x64x1,64x64x1,64x64x16,1000x64x1,1000x64x16,1x1024x1,64x1024x1,64x1024x16,1000x1024x1,"
    "1x65536x1,64x65536x1,room1000x64x1,64x1024x1d,64x1024x16d,64x65536x1d"
)
APP = "ws_asgi:app"


def load_binary() -> str:
    return str(machine.binary("ws_load", [HERE / "load.c"], "-lz"))


def start(name: str, args: argparse.Namespace, deflate: bool) -> servers.Server:
    peer, port = PEERS[name], machine.free_port()
    bin_dir = servers.peer_bin(name, peer, args.licorne)
    return servers.Server(name, peer.command(bin_dir, APP, port, deflate), port)


def client(server: servers.Server, kind: str, connections: int, size: int, count: int, seconds: float, deflate: bool):
    path = "/room" if kind == "broadcast" else "/"
    numbers = [connections, size, count, seconds, int(deflate)]
    command = ["taskset", "-c", machine.load_cpu(), load_binary(), str(server.port), path, kind, *map(str, numbers)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Failed(Exception):
    pass


def line(process: subprocess.Popen[str]) -> str:
    text = process.stdout.readline().strip()
    if not text:
        raise Failed(process.stderr.read().strip())
    return text


# --- CPU per message


class Row:
    def __init__(self, text: str) -> None:
        self.text, self.deflate = text, text.endswith("d")
        self.kind = "broadcast" if text.startswith("room") else "echo"
        self.connections, self.size, self.count = map(int, text.removeprefix("room").removesuffix("d").split("x"))


def measure(server: servers.Server, row: Row, seconds: float) -> tuple[float, float]:
    """CPU µs per message of the server, and of the client."""
    process = client(server, row.kind, row.connections, row.size, row.count, seconds, row.deflate)
    try:
        line(process)
        before = machine.cpu_ns(server.process.pid)
        messages, _, own = line(process).split()
        used = machine.cpu_ns(server.process.pid) - before
    finally:
        process.kill()
        process.communicate()
    if int(messages) == 0:
        raise Failed("no message came back")
    return used / 1000 / int(messages), float(own) * 1e6 / int(messages)


def measure_all(args: argparse.Namespace, row: Row) -> dict[str, list[float]]:
    names = [name for name in args.peers.split(",") if PEERS[name].can_deflate or not row.deflate]
    if not row.deflate:
        names = [name for name in names if name != "licorne-takeover"]
    servers, found = [], {name: [] for name in names}
    try:
        for name in names:
            servers.append(start(name, args, row.deflate))
        for number in range(args.rounds):
            for server in servers if number % 2 == 0 else servers[::-1]:
                try:
                    found[server.name].append(measure(server, row, args.seconds)[0])
                except Failed as error:
                    print(f"  {server.name}, {row.text}: {error}", file=sys.stderr)
    finally:
        for server in servers:
            server.stop()
    return found


def echo(args: argparse.Namespace) -> None:
    names = args.peers.split(",")
    print(f"CPU µs per message, median of {args.rounds} rounds of {args.seconds} s (spread)\n")
    print("| connections x bytes x outstanding |", " | ".join(names), "|\n|---|" + "---|" * len(names))
    for text in args.rows.split(","):
        found = measure_all(args, Row(text))
        cells = []
        for name in names:
            values = found.get(name)
            cells.append(f"{statistics.median(values):.2f} ({max(values) - min(values):.2f})" if values else "-")
        print(f"| {text} |", " | ".join(cells), "|", flush=True)


# --- memory per connection


def settled_memory(server: servers.Server) -> int:
    """Once it has stood still for 3 s; at most 20."""
    last, since = machine.memory_kib(server.process.pid)["private"], time.monotonic()
    due = since + 20
    while time.monotonic() < due and time.monotonic() - since < 3:
        time.sleep(1)
        now = machine.memory_kib(server.process.pid)["private"]
        if abs(now - last) > 64:
            last, since = now, time.monotonic()
    return machine.memory_kib(server.process.pid)["private"]


def memory_of(name: str, args: argparse.Namespace, deflate: bool) -> list[float]:
    """KiB a connection: idle since it was opened, idle again after the messages; and after all have gone."""
    server = start(name, args, deflate)
    try:
        before = settled_memory(server)
        process = client(server, "idle", args.connections, args.size, args.messages, 0, deflate)
        found = []
        for expected in ("open", "used"):
            if line(process) != expected:
                raise Failed(f"{name}: not {expected}")
            found.append(settled_memory(server))
            process.stdin.write("." if expected == "open" else "")
            process.stdin.flush()
        process.stdin.close()
        process.wait()
        found.append(settled_memory(server))
        return [(kib - before) / args.connections for kib in found]
    finally:
        server.stop()


def memory(args: argparse.Namespace) -> None:
    print(
        f"KiB of private memory a connection, {args.connections} connections; then {args.messages} messages of "
        f"{args.size} bytes on each, idle again; then all gone\n"
    )
    print("| server | deflate | open | idle again | gone |\n|---|---|---|---|---|")
    for name in args.peers.split(","):
        for deflate in (False, True):
            if (deflate and not PEERS[name].can_deflate) or (not deflate and name == "licorne-takeover"):
                continue
            try:
                cells = " | ".join(f"{kib:.2f}" for kib in memory_of(name, args, deflate))
            except Failed as error:
                cells = f"{error} | | "
            print(f"| {name} | {'agreed' if deflate else '-'} | {cells} |", flush=True)


def echo_samples(row: str, options: list[str]) -> dict[str, list[float]]:
    """CPU µs per message of each peer, a sample a round: for bench/run.py."""
    return measure_all(arguments(options), Row(row))


def arguments(options: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["echo", "memory"])
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--connections", type=int, default=10_000, help="memory: how many")
    parser.add_argument("--messages", type=int, default=100, help="memory: on each connection")
    parser.add_argument("--size", type=int, default=128, help="memory: of a message")
    parser.add_argument("--licorne", default=str(machine.ROOT / ".venv" / "bin"), help="bin directory of the licorne")
    return parser.parse_args(options)


def main() -> None:
    args = arguments()
    (echo if args.what == "echo" else memory)(args)


if __name__ == "__main__":
    main()
