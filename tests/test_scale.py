"""How many workers there are, and how they share what comes: newcomers, idleness."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from support.server import Server, command, wait_until

# Answers with the worker's pid. /block keeps the whole worker until the file `go` is there; /sleep lets it turn.
APP = """
import asyncio, os, pathlib, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    while scope["path"] == "/block" and not pathlib.Path("go").exists():
        time.sleep(0.01)
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(APP)
    return tmp_path


def serve(folder: Path, *args: str, **more) -> Server:
    return Server("a:app", "--preload", "--control-socket", str(folder / "ctl"), *args, cwd=folder, **more)


def status(folder: Path) -> dict:
    ctl = [command()[0], "ctl", "--socket", str(folder / "ctl"), "status", "--json"]
    return json.loads(subprocess.run(ctl, capture_output=True, check=True, timeout=60).stdout)


def connections(folder: Path) -> dict[int, int]:
    return {worker["pid"]: worker["connections"] for worker in status(folder)["workers"] if worker["state"] == "ready"}


def ask(client: socket.socket, path: str = "/") -> int:
    """The pid of the worker that answered."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return int(client.recv(4096).partition(b"\r\n\r\n")[2])


class Clients:
    """Kept connections, by the worker that has them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.open: list[tuple[int, socket.socket]] = []

    def add(self, count: int, pace_s: float = 0.0) -> None:
        for _ in range(count):
            client = self.server.connect()
            self.open.append((ask(client), client))
            time.sleep(pace_s)

    def counts(self) -> Counter[int]:
        return Counter(pid for pid, _ in self.open)

    def close_those_of(self, pid: int) -> None:
        for owner, client in self.open:
            if owner == pid:
                client.close()
        self.open = [(owner, client) for owner, client in self.open if owner != pid]

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *exception: object) -> None:
        for _, client in self.open:
            client.close()


def spread(counts: Counter[int]) -> float:
    return max(counts.values()) / min(counts.values())


def wake_ups(pid: int) -> int:
    """How often any of its threads was put on a CPU."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[2]) for task in tasks)


def rest(*pids: int) -> None:
    """Waits for a second in which none of them wakes up."""

    def rested() -> bool:
        before = [wake_ups(pid) for pid in pids]
        time.sleep(1)
        return before == [wake_ups(pid) for pid in pids]

    wait_until(rested, "a second of rest")


# --- newcomers


def test_long_lived_connections_are_spread_evenly(folder):
    with serve(folder, "--workers", "4") as server, Clients(server) as clients:
        clients.add(400, pace_s=0.001)
        assert len(clients.counts()) == 4
        assert spread(clients.counts()) <= 1.1


@pytest.mark.sanitized
def test_who_has_few_connections_gets_the_next_ones(folder):
    with serve(folder, "--workers", "3") as server, Clients(server) as clients:
        clients.add(90)
        (poor, _) = clients.open[0]
        clients.close_those_of(poor)
        wait_until(lambda: connections(folder)[poor] == 0)
        clients.add(60, pace_s=0.001)
        assert clients.counts()[poor] >= 30
        assert spread(clients.counts()) <= 1.5


def test_a_new_worker_gets_the_next_connections(folder):
    with serve(folder, "--workers", "1") as server, Clients(server) as clients:
        clients.add(40)
        (old,) = clients.counts()
        subprocess.run([command()[0], "ctl", "--socket", str(folder / "ctl"), "scale", "+1"], check=True)
        wait_until(lambda: len(connections(folder)) == 2)
        clients.add(40, pace_s=0.001)
        assert clients.counts()[old] <= 50


def test_a_blocked_worker_delays_no_newcomer(folder):
    """It is blocked until all have been answered: one that waited for it would wait in vain."""
    with serve(folder, "--workers", "3", "--timeout", "120") as server, Clients(server) as clients:
        clients.add(60)
        blocked, client = clients.open[0]
        clients.close_those_of(blocked)  # so that by its load the next ones would be for it
        wait_until(lambda: connections(folder)[blocked] == 0)
        while True:
            client = server.connect()
            if ask(client) == blocked:
                break
            client.close()
        client.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: any(w["turn_s"] > 0.01 for w in status(folder)["workers"] if w["pid"] == blocked))
        clients.add(60)
        assert clients.counts()[blocked] == 0
        (folder / "go").touch()
        assert client.recv(4096).endswith(str(blocked).encode())
        client.close()


GIL_KEPT = """
import ctypes, threading, time

def keep():
    time.sleep(0.3)  # the loop waits by then
    ctypes.PyDLL(None).sleep(1000)  # with the GIL

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["path"] == "/keep":
        threading.Thread(target=keep, daemon=True).start()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"1"})
"""


def test_a_newcomer_for_whom_a_worker_woke_in_vain_goes_to_another(folder):
    """A thread keeps the GIL, so that the loop cannot accept what it is woken for."""
    (folder / "a.py").write_text(GIL_KEPT)
    args = ["--workers", "2", "--timeout", "0", "--graceful-timeout", "0.1"]
    with serve(folder, *args) as server:
        with server.connect() as client:
            ask(client, "/keep")
        time.sleep(0.6)  # a loop that still has the GIL then serves, and the test shows nothing
        for _ in range(4):
            with server.connect() as client:
                ask(client)


@pytest.mark.sanitized
def test_what_a_full_worker_cannot_take_others_do(folder):
    with serve(folder, "--workers", "2", "--worker-connections", "10") as server, Clients(server) as clients:
        clients.add(20)
        assert sorted(clients.counts().values()) == [10, 10]
        with server.connect() as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            waiting.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                raise AssertionError(f"{waiting.recv(4096)!r}: there was no room")
            (somebody, _) = clients.open[7]
            clients.open.pop(7)[1].close()
            waiting.settimeout(30)
            assert int(waiting.recv(4096).partition(b"\r\n\r\n")[2]) == somebody


# --- workers = auto

CPUS = sorted(os.sched_getaffinity(0))


def ready_workers(folder: Path) -> int:
    return len(connections(folder))


def test_auto_follows_the_affinity_and_is_found_anew_in_a_reload(folder):
    with serve(folder, "--workers", "auto", "--boot-grace", "0", env={"WEB_CONCURRENCY": ""}) as server:
        assert ready_workers(folder) == len(CPUS)
        os.sched_setaffinity(server.pid, CPUS[:1])
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: generation 2 serves")
        wait_until(lambda: ready_workers(folder) == 1)
        assert "workers = auto: 1, as 1 CPU can be used" in server.log


@pytest.mark.parametrize("place", ["command line", "file", "environment", "platform"])
def test_auto_can_be_said_everywhere(folder, place):
    os.sched_setaffinity(0, CPUS[:1])  # inherited
    try:
        (folder / "licorne.conf.py").write_text('workers = "auto"\n' if place == "file" else "")
        args = ["--workers", "auto"] if place == "command line" else []
        name = {"environment": "LICORNE_WORKERS", "platform": "WEB_CONCURRENCY"}.get(place)
        with serve(folder, *args, env={name: "auto"} if name else {}) as server:
            assert ready_workers(folder) == 1
            assert "workers = auto: 1" in server.log
    finally:
        os.sched_setaffinity(0, CPUS)


def test_auto_takes_what_the_platform_proposes(folder):
    with serve(folder, "--workers", "auto", env={"WEB_CONCURRENCY": "3"}) as server:
        assert ready_workers(folder) == 3
        assert "workers = auto: 3, as $WEB_CONCURRENCY says" in server.log


def test_a_number_is_stronger_than_what_the_platform_proposes(folder):
    with serve(folder, "--workers", "2", env={"WEB_CONCURRENCY": "3"}):
        assert ready_workers(folder) == 2


def test_a_worker_is_counted_with_the_memory_that_it_may_have(folder):
    half_of_all = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") * 2 // 3
    args = ["--workers", "auto", "--max-worker-memory", str(half_of_all)]
    with serve(folder, *args, env={"WEB_CONCURRENCY": ""}):
        assert ready_workers(folder) == 1


# --- reuse_port


def test_two_servers_share_a_port_only_if_both_are_told(folder):
    with serve(folder, "--reuse-port") as first:
        address = f"127.0.0.1:{first.port}"
        with Server("a:app", "--reuse-port", "--bind", address, bind=None, cwd=folder) as second:
            assert second.port == first.port
        with Server("a:app", "--bind", address, bind=None, cwd=folder, wait=False) as refused:
            assert refused.wait_exit() == 1
            assert "in use" in refused.log


# --- by busyness

BUSY = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/busy":
        time.sleep(0.02)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


class Load:
    """Clients that ask for `path` without a pause, each on connections of its own, until told to stop."""

    def __init__(self, server: Server, path: str, clients: int) -> None:
        self.server, self.path = server, path
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def run(self) -> None:
        while not self.stopping.is_set():
            with self.server.connect() as client:
                client.sendall(f"GET {self.path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                while client.recv(4096):
                    pass

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def wanted(folder: Path) -> int:
    return status(folder)["workers_wanted"]


def scaled(folder: Path, *args: str) -> Server:
    (folder / "a.py").write_text(BUSY)
    return serve(folder, "--workers-max", "3", "--scale-down-delay", "0.5", "--timeout", "1", *args)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_busy_workers_get_siblings_which_go_when_they_are_idle(folder, threads):
    with scaled(folder, "--threads", threads) as server:
        assert ready_workers(folder) == 1
        with Load(server, "/busy", 8):
            wait_until(lambda: ready_workers(folder) == 3)
        wait_until(lambda: ready_workers(folder) == 1)
        if threads == "1":
            rest(server.pid)


def test_scaling_by_hand_stays_within_the_bounds(folder):
    with scaled(folder, "--workers-min", "2", "--scale-down-delay", "3600") as server:
        assert ready_workers(folder) == 2
        server.send_signal(signal.SIGTTOU)
        server.wait_log("Workers wanted: 2")
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: ready_workers(folder) == 3)
        ctl = [command()[0], "ctl", "--socket", str(folder / "ctl"), "scale", "=4"]
        refused = subprocess.run(ctl, capture_output=True, text=True)
        assert "between 2 and 3 workers can be had" in refused.stderr + refused.stdout
        assert wanted(folder) == 3


def test_bounds_are_checked(folder):
    with serve(folder, "--workers-min", "3", "--workers-max", "2", wait=False) as server:
        assert server.wait_exit() == 1
        assert "workers_min = 3 (from --workers-min): must not be more than workers_max = 2" in server.log


# --- at rest


def test_the_master_of_many_workers_is_small_and_at_rest(folder):
    with serve(folder, "--workers", "64", "--timeout", "1") as server:
        kib = int(re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)[1])
        assert kib <= 3 * 1024
        assert len(server.workers()) == 64
        rest(server.pid, *server.workers())
