#!/usr/bin/env python3
"""What becomes of requests while servers reload, recycle, break and end: one table, servers side by side.

    bench/lifecycle.py [--peers licorne,gunicorn_gthread,uvicorn] [--rows reload,term] [--rounds 3]

Each row disturbs a fresh server of two workers (recycling: four). The clients are those of
tests/support/loader.py, which check every answer. Where a row is repeated, the round in the middle is shown. The
figures go to bench/results/lifecycle.json. What each row means: bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import machine, servers

APPS = machine.ROOT / "tests" / "apps"
sys.path.insert(0, str(machine.ROOT / "tests"))

from support.loader import SLICE, Loader, Report  # noqa: E402

PEERS = "licorne,licorne_threads,gunicorn_gthread,uvicorn,granian,hypercorn,uwsgi"
WINDOW = 0.25  # seconds, of recycling
IMPORT = 1.0  # seconds that importing the application takes, as it does for real ones
Figures = dict[str, Any]


class NotOffered(Exception):
    """This server has no such thing."""


# --- one server -------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait(condition: Callable[[], Any], seconds: float) -> Any:
    """What became true; its last value when the time is over."""
    due = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < due:
        time.sleep(0.002)
    return value


class Running:
    """A server in a process group of its own, with a folder that its code and configuration come from."""

    def __init__(self, name: str, licorne: str, *options: str, workers: int = 2, files: int = 0, app: str = "tokens"):
        self.peer = servers.load_peer(name)
        self.kind = "asgi" if "asgi" in self.peer.KINDS else "wsgi"
        if name.endswith("_threads"):
            self.kind = "wsgi"
        self.keeps = getattr(self.peer, "KEEPS", True)
        self.port = machine.free_port()
        self.version = 0
        self._temporary = tempfile.TemporaryDirectory(prefix="lifecycle-")
        self.folder = Path(self._temporary.name)
        self.write_version()
        config = getattr(self.peer, "CONFIG", None)
        if config:
            (self.folder / config[0]).write_text(config[1])
        bin_dir = servers.peer_bin(name, self.peer, licorne)
        command = self.peer.command(bin_dir, f"{app}:{self.kind}", self.kind, self.port, workers)
        for option in options:
            command += self.option(option)
        limits = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        paths = os.pathsep.join([str(self.folder), str(APPS), str(machine.BENCH / "apps")])
        self.log_file = self.folder / "log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=dict(os.environ, PYTHONPATH=paths, PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=limits,
            )

    def option(self, name: str) -> list[str]:
        known = getattr(self.peer, "OPTIONS", {})
        if name in ("no_preload", "no_worker"):
            return known.get(name, [])
        if name not in known:
            raise NotOffered
        return known[name]

    def __enter__(self) -> Running:
        try:
            if not wait(self.answers, 20):
                raise SystemExit(f"no answer from {self.process.args}:\n{self.log}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._temporary.cleanup()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    def write_version(self, more: str = "") -> str:
        self.version += 1
        slow = f"import time\ntime.sleep({IMPORT})\n"
        (self.folder / "version.py").write_text(f"VERSION = {self.version}\n{slow}{more}\n")
        return str(self.version)

    def reload(self) -> None:
        if not hasattr(self.peer, "RELOAD"):
            raise NotOffered
        self.process.send_signal(self.peer.RELOAD)

    def ask(self, path: str, limit: float = 5.0) -> bytes:
        """All that comes; raises OSError."""
        with socket.create_connection(("127.0.0.1", self.port), limit) as client:
            client.settimeout(limit)
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := client.recv(65536):
                answer += part
            return answer

    def answers(self) -> bool:
        try:
            return b" 200 " in self.ask("/echo/x/0", 1.0)
        except OSError:
            return False

    def load(self, **options: Any) -> Loader:
        """Clients as this server can have them."""
        kept = options.pop("kept", 8)
        if self.keeps:
            options["kept"] = kept
        else:
            options.update(kept=0, fresh=kept)
        return Loader(("127.0.0.1", self.port), **{"only_small": True, "limit": 10.0, **options})

    def workers(self) -> list[int]:
        """Those that answer, by asking."""
        found: set[int] = set()

        def all_seen() -> bool:
            with contextlib.suppress(OSError, IndexError, ValueError):
                found.add(int(self.ask("/echo/x/0").partition(b"\r\n\r\n")[2].split()[2]))
            return len(found) == 2

        wait(all_seen, 3)
        return sorted(found)


# --- the rows ---------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    name: str
    title: str
    measure: Callable[..., Figures]
    show: Callable[[Figures], str]
    order: Callable[[Figures], Any] | None  # by what the round in the middle is found; None: once is enough


ROWS: dict[str, Row] = {}


def row(name: str, title: str, show: Callable[[Figures], str], order: Callable[[Figures], Any] | None = None) -> Any:
    def register(measure: Callable[..., Figures]) -> Callable[..., Figures]:
        ROWS[name] = Row(name, title, measure, show, order)
        return measure

    return register


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def preload(start: Callable[..., Running], *options: str, **more: Any) -> Running:
    """With the application loaded before the fork where the server can."""
    try:
        return start("preload", *options, **more)
    except NotOffered:
        return start(*options, **more)


def show_reload(figures: Figures) -> str:
    if figures["ended"]:
        return "ends"
    code = "" if figures["new_code"] else ", never the new code"
    return f"{ms(figures['gap'])}, {figures['lost']} lost{code}"


@row("reload", "Reload, preloaded: longest time without a good answer", show_reload, lambda figures: figures["gap"])
def reload(start: Callable[..., Running]) -> Figures:
    with preload(start) as server, server.load(rate=200) as loader:
        loader.wait_good(100)
        loader.phase("reload")
        version = server.write_version()
        server.reload()
        began = time.monotonic()
        new_code = False
        while time.monotonic() < began + 12 and not (new_code and time.monotonic() > began + 5):
            time.sleep(0.05)
            report = loader.report()
            new_code = report.streak[0] == version and report.streak[1] >= 30
        report = loader.stop()
        ended = server.process.poll() is not None
    gap = report.phases["reload"].longest_gap
    return {"gap": gap, "lost": report.failed, "new_code": new_code, "ended": ended, "phases": phases(report)}


def phases(report: Report) -> Figures:
    return {name: vars(phase) for name, phase in report.phases.items()}


def show_broken(figures: Figures) -> str:
    if figures["ended"]:
        return "ends" if not figures["orphans"] else "ends, orphans serve on"
    if not figures["served"]:
        return "serves nothing" + (", next HUP repairs" if figures["repaired"] else ", not repaired by HUP")
    whole = f"old code serves on, {figures['lost']} lost"
    return whole + (", next HUP repairs" if figures["repaired"] else ", next HUP does not repair")


def broken(server: Running, spoil: Callable[[], None], mend: Callable[[], None]) -> Figures:
    with server.load(rate=200) as loader:
        loader.wait_good(50)
        spoil()
        server.reload()
        time.sleep(5)
        loader.phase("broken")
        time.sleep(1)
        good = loader.report().phases["broken"].good
        ended = server.process.poll() is not None
        lost = loader.report().failed
        repaired = False
        if not ended:
            mend()
            version = server.write_version()
            server.reload()
            for _ in range(60):
                time.sleep(0.1)
                repaired = repaired or loader.report().streak[0] == version
    return {"served": good > 100, "ended": ended, "orphans": ended and good > 0, "lost": lost, "repaired": repaired}


@row("broken_code", "Broken code on HUP", show_broken)
def broken_code(start: Callable[..., Running]) -> Figures:
    with preload(start) as server:
        return broken(server, lambda: server.write_version("1 / 0") and None, lambda: None)


@row("broken_config", "Broken configuration on HUP", show_broken)
def broken_config(start: Callable[..., Running]) -> Figures:
    with preload(start, "config") as server:
        name, good, bad = server.peer.CONFIG
        path = server.folder / name
        return broken(server, lambda: path.write_text(bad) and None, lambda: path.write_text(good) and None)


@row(
    "recycle",
    "Recycling every ~200 requests: worst 250 ms against the median",
    lambda figures: f"{figures['worst']:.0%}, {figures['lost']} lost",
    lambda figures: figures["worst"],
)
def recycle(start: Callable[..., Running]) -> Figures:
    with preload(start, "max_requests", workers=4) as server, server.load(rate=800, kept=16) as loader:
        loader.wait_good(400)
        first = len(loader.report().slices)
        time.sleep(8)
        report = loader.report()
    width = round(WINDOW / SLICE)
    slices = report.slices[first:] + [0] * (first + round(8 / SLICE) - len(report.slices))
    windows = [sum(slices[at : at + width]) for at in range(len(slices) - width)]
    worst = min(windows) / max(1, statistics.median(windows))
    return {"worst": worst, "lost": report.failed, "pids": len(report.pids), "windows": windows}


@row(
    "kill_worker",
    "kill -9 of a worker, preloaded: replacement answers after",
    lambda figures: (ms(figures["after"]) if figures["after"] else "never") + f", {figures['lost']} lost",
    lambda figures: figures["after"] or 99,
)
def kill_worker(start: Callable[..., Running]) -> Figures:
    with preload(start) as server, server.load(kept=2, fresh=4, rate=500) as loader:
        report = loader.wait(lambda report: len(report.pids) == 2 and report.good > 500, "both workers", 20)
        victim, known = max(report.pids), set(report.pids)
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        due = killed + 8
        while set(loader.report().pids) == known and time.monotonic() < due:
            time.sleep(0.01)
        report = loader.stop()
    newcomers = [at for pid, at in report.pids.items() if pid not in known]
    return {"after": min(newcomers) - killed if newcomers else None, "lost": report.failed, "phases": phases(report)}


def show_kill_master(figures: Figures) -> str:
    flight = "in flight finished" if figures["finished"] else "in flight lost"
    if figures["gone"] is None:
        return f"{flight}, workers stay" + (" and serve on" if figures["serves"] else "")
    return f"{flight}, idle ones gone after {ms(figures['idle_gone'])}, all after {ms(figures['gone'])}"


@row("kill_master", "kill -9 of the master (one worker has a request of 1 s)", show_kill_master)
def kill_master(start: Callable[..., Running]) -> Figures:
    with start() as server:
        workers = server.workers()
        tree = [pid for pid in machine.process_tree(server.pid) if pid != server.pid]
        flight = Flight(server.port, "/sleep/x/1")
        time.sleep(0.3)
        killed = time.monotonic()
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        idle = wait(lambda: any(not alive(pid) for pid in workers) and time.monotonic() - killed, 8)
        gone = wait(lambda: not any(alive(pid) for pid in workers) and time.monotonic() - killed, 8) or None
        serves = gone is None and server.answers()
        finished = flight.finished()
        for pid in tree:  # some leave their own process group
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return {"finished": finished, "idle_gone": idle, "gone": gone, "serves": serves}


class Flight:
    """A request that is under way; what became of it is read while other things are looked at."""

    def __init__(self, port: int, path: str) -> None:
        self.client = socket.create_connection(("127.0.0.1", port), 5)
        self.client.settimeout(10)
        self.client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        self.answer = b""
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError), self.client:
            while part := self.client.recv(65536):
                self.answer += part

    def finished(self) -> bool:
        self.thread.join()
        return self.answer.endswith(b"\n")


def newcomer(port: int) -> str:
    """What one newcomer sees: served, refused, reset, hangs."""
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as client:
            client.settimeout(3)
            client.sendall(b"GET /echo/x/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return "served" if b" 200 " in client.recv(4096) else "reset"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "hangs"
    except OSError:
        return "reset"


def show_term(figures: Figures) -> str:
    idle = ms(figures["idle_closed"]) if figures["idle_closed"] is not None else "not"
    refused = f"refused from {ms(figures['refused_from'])}" if figures["refused_from"] is not None else "never refused"
    harm = [f"{figures['newcomers'][what]} {what}" for what in ("reset", "hangs") if figures["newcomers"].get(what)]
    flight = f"{figures['finished']} of 2 done"
    return f"{flight} / closed after {idle} / {refused}" + ("; " + ", ".join(harm) if harm else "")


@row(
    "term",
    "TERM: in flight / idle kept connections / newcomers",
    show_term,
    lambda figures: figures["refused_from"] or 99,
)
def term(start: Callable[..., Running]) -> Figures:
    with start() as server:
        server.workers()
        idle = socket.create_connection(("127.0.0.1", server.port), 5)
        if server.keeps:
            idle.sendall(b"GET /echo/x/0 HTTP/1.1\r\nHost: x\r\n\r\n")
            idle.recv(4096)
        flights = [Flight(server.port, "/sleep/x/2") for _ in range(2)]
        time.sleep(0.2)
        began = time.monotonic()
        seen: list[tuple[str, float]] = []

        def come() -> None:
            while time.monotonic() < began + 4 and (not seen or seen[-1][0] != "refused"):
                seen.append((newcomer(server.port), time.monotonic() - began))
                time.sleep(0.01)

        thread = threading.Thread(target=come)
        thread.start()
        server.process.send_signal(signal.SIGTERM)
        closed = time.monotonic() - began if select.select([idle], [], [], 5)[0] else None
        thread.join()
        finished = sum(flight.finished() for flight in flights)
    refused = [at for what, at in seen if what == "refused"]
    newcomers = {what: sum(what == other for other, _ in seen) for what, _ in seen}
    return {
        "finished": finished,
        "idle_closed": closed,
        "refused_from": refused[0] if refused else None,
        "newcomers": newcomers,
    }


def show_stuck(figures: Figures) -> str:
    if figures["noticed"] is None:
        return "not noticed"
    says = [what for what in ("request line", "stack") if figures[what]]
    return f"after {ms(figures['noticed'])}; log: {', '.join(says) or 'neither'}"


@row("stuck", "Worker stuck, limit 2 s: noticed; request line and stack in the log", show_stuck)
def stuck(start: Callable[..., Running]) -> Figures:
    with start("timeout") as server:
        workers = server.workers()
        client = socket.create_connection(("127.0.0.1", server.port), 5)
        began = time.monotonic()
        client.sendall(b"GET /stuck/x/600 HTTP/1.1\r\nHost: x\r\n\r\n")
        gone = wait(lambda: any(not alive(pid) for pid in workers) and time.monotonic() - began, 12) or None
        time.sleep(0.5)
        log = server.log
        client.close()
    return {
        "noticed": gone,
        "request line": "/stuck/x/600" in log,
        "stack": bool(re.search(r"tokens.py.*line \d+", log)),
        "log": log[-3000:],
    }


@row("no_worker", "No worker can boot: what a client sees", lambda figures: figures["sees"])
def no_worker(start: Callable[..., Running]) -> Figures:
    with start("no_preload", "no_worker") as server:
        workers = server.workers()
        server.write_version("import os\nos._exit(1)")
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(3)
        try:
            answer = server.ask("/echo/x/0", 4.0)
            sees = answer.partition(b"\r\n")[0].decode() or "closed"
        except ConnectionRefusedError:
            sees = "refused"
        except TimeoutError:
            sees = "nothing: hangs"
        except OSError as error:
            sees = f"reset ({error.strerror})"
        if server.process.poll() is not None:
            sees += ", the server has ended"
        server.write_version()
        return {"sees": sees, "log": server.log[-2000:]}


def show_descriptors(figures: Figures) -> str:
    lost = f", {figures['failed']} lost" if figures["failed"] else ""
    full = f"while full: {figures['cpu']:.0%} CPU, {figures['lines']} log lines in 3 s"
    return f"{figures['first']} + {figures['later']} of 300 served{lost}; {full}"


@row("descriptors", "128 descriptors, 300 clients that keep their connections", show_descriptors)
def descriptors(start: Callable[..., Running]) -> Figures:
    with start(files=128) as server:
        poll, clients = select.epoll(), {}
        for _ in range(300):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLOUT)
        answered, failed = set(), set()

        def serve(seconds: float) -> None:
            due = time.monotonic() + seconds
            while time.monotonic() < due and len(answered) + len(failed) < 300:
                for fd, _ in poll.poll(0.1):
                    step(fd)

        def step(fd: int) -> None:
            client = clients[fd]
            try:
                if fd not in asked:
                    client.send(b"GET /echo/x/0 HTTP/1.1\r\nHost: x\r\n\r\n")
                    asked.add(fd)
                    poll.modify(fd, select.EPOLLIN)
                    return
                data = client.recv(4096)
                (answered if b" 200 " in data else failed).add(fd)
            except OSError:
                failed.add(fd)
            poll.modify(fd, 0)

        asked: set[int] = set()
        serve(3)
        first = len(answered)
        before, lines = machine.cpu_ns(server.pid), server.log.count("\n")
        time.sleep(3)
        cpu, lines = max(0, machine.cpu_ns(server.pid) - before) / 3e9, server.log.count("\n") - lines
        while len(answered) + len(failed) < 300:  # those who have their answer make room
            known = len(answered)
            for fd in answered | failed:
                clients[fd].close()
            serve(3)
            if len(answered) == known:
                break
        later = len(answered) - first
        for client in clients.values():
            client.close()
    return {"first": first, "later": later, "failed": len(failed), "cpu": cpu, "lines": lines}


# --- all of them ------------------------------------------------------------------------------------------------------


def measure(line: Row, name: str, licorne: str, rounds: int) -> list[Figures]:
    def start(*options: str, **more: Any) -> Running:
        return Running(name, licorne, *options, **more)

    found = []
    for _ in range(rounds if line.order else 1):
        try:
            found.append(line.measure(start))
        except NotOffered:
            return []
    return sorted(found, key=line.order) if line.order else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=PEERS)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--licorne", default=str(machine.ROOT / ".venv" / "bin"), help="bin directory of ours")
    parser.add_argument("--json", default=str(machine.BENCH / "results" / "lifecycle.json"))
    args = parser.parse_args()
    peers = args.peers.split(",")
    results: dict[str, dict[str, list[Figures]]] = {}
    print("| | " + " | ".join(peers) + " |\n|---|" + "---|" * len(peers), flush=True)
    for line in (ROWS[name] for name in args.rows.split(",")):
        cells = []
        for name in peers:
            found = measure(line, name, args.licorne, args.rounds)
            results.setdefault(line.name, {})[name] = found
            cells.append(line.show(found[len(found) // 2]) if found else "-")
            print(f"  {line.name} {name}: {cells[-1]}", file=sys.stderr, flush=True)
        print(f"| {line.title} | " + " | ".join(cells) + " |", flush=True)
    path = Path(args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
