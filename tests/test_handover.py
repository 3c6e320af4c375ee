"""Kept connections outlive their worker: they pass to another, with what was read of them; no client feels it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import Server, alive, command, wait_until

APPS = Path(__file__).parent / "apps"
KINDS = {
    "asgi": ["handover_apps:asgi"],
    "wsgi": ["handover_apps:wsgi"],
    "wsgi-threads": ["handover_apps:wsgi", "--threads", "4"],
}
every_kind = pytest.mark.parametrize("args", KINDS.values(), ids=KINDS.keys())
ASGI = KINDS["asgi"]


class Client:
    """One kept connection. Every answer is read whole and checked to be this connection's."""

    def __init__(self, server: Server) -> None:
        self.socket = server.connect()
        self.data = b""
        self.closing = False

    def send(self, path: str, body: bytes = b"") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.socket.sendall(f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: t\r\n{length}\r\n".encode() + body)

    def _fill(self) -> None:
        part = self.socket.recv(65536)
        assert part, f"closed after {self.data!r}"
        self.data += part

    def receive(self) -> dict:
        while b"\r\n\r\n" not in self.data:
            self._fill()
        head, _, rest = self.data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        self.closing = b"connection: close" in head.lower()
        match = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert match, head
        while len(rest) < int(match[1]):
            self._fill()
            rest = self.data.partition(b"\r\n\r\n")[2]
        self.data = rest[int(match[1]) :]
        facts = json.loads(rest[: int(match[1])])
        if self.socket.family == socket.AF_INET:
            assert facts["client"] == list(self.socket.getsockname()), facts
        return facts

    def ask(self, path: str = "/pid", body: bytes = b"") -> dict:
        self.send(path, body)
        facts = self.receive()
        assert facts["path"] == path.partition("?")[0]
        return facts

    def pid(self) -> int:
        return self.ask()["pid"]

    def closed(self) -> bool:
        """Waits for the end; anything else is a failure."""
        return self.socket.recv(1) == b""


@contextlib.contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        made = [Client(server) for _ in range(count)]
        for client in made:
            stack.enter_context(client.socket)
        yield made


def counts(server: Server, name: str) -> list[int]:
    """Of each worker."""
    ctl = [command()[0], "ctl", "--pid", str(server.pid), "status", "--json"]
    status = json.loads(subprocess.run(ctl, capture_output=True, text=True, check=True, timeout=30).stdout)
    return [worker[name] for worker in status["workers"]]


def reload(server: Server) -> None:
    """Until the old workers are gone."""
    before, count = set(server.workers()), len(re.findall("Reloaded: ", server.log))
    server.send_signal(signal.SIGHUP)
    server.wait_log("Reloaded: ", count=count + 1)
    wait_until(lambda: not before & set(server.workers()), "the old workers' end")


# --- reload ---------------------------------------------------------------------------------------------------------


@pytest.mark.sanitized
@every_kind
@pytest.mark.parametrize("bind", ["tcp", "unix"])
def test_a_reload_passes_idle_connections_on(args, bind):
    with Server(*args, "-w", "2", "--boot-grace", "0", bind=bind, cwd=APPS) as server, clients(server, 60) as kept:
        assert all(client.pid() for client in kept)
        fresh = kept[:10]
        kept += [Client(server) for _ in range(10)]  # nothing was ever asked on these
        for _ in range(3):
            before = set(server.workers())
            reload(server)
            assert not before & {client.pid() for client in kept}
        assert not any(client.closing for client in kept)
        assert fresh[0].ask("/echo", b"x" * 100_000)["body"] == "x" * 100_000
        for client in kept:
            client.socket.close()


@every_kind
def test_what_is_in_flight_is_finished_and_goes_afterwards(args, tmp_path):
    with Server(*args, "-w", "2", "--boot-grace", "0", cwd=APPS) as server, clients(server, 4) as kept:
        before = set(server.workers())
        for client in kept:
            client.send(f"/until?{tmp_path / 'reloaded'}")
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: ")
        (tmp_path / "reloaded").touch()
        answered_by = {client.receive()["pid"] for client in kept}
        assert answered_by & before
        assert answered_by <= before or args == KINDS["wsgi"]  # a request that one has not read goes to who is free
        assert not any(client.closing for client in kept)
        wait_until(lambda: not before & set(server.workers()), "the old workers' end")
        assert not before & {client.pid() for client in kept}


@pytest.mark.sanitized
@every_kind
def test_what_was_sent_ahead_moves_along(args, tmp_path):
    """The old worker has read all of it, and answers only what it had begun when it was to leave."""
    with Server(*args, "-w", "1", "--boot-grace", "0", cwd=APPS) as server, clients(server, 3) as kept:
        before = set(server.workers())
        for client in kept:
            client.send(f"/until?{tmp_path / 'reloaded'}")
            for i in range(20):
                client.send("/sleep?0.02", b"%d" % i * 100)
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: ")
        (tmp_path / "reloaded").touch()
        for client in kept:
            assert client.receive()["path"] == "/until"
            answers = [client.receive() for _ in range(20)]
            assert [answer["body"] for answer in answers] == [f"{i}" * 100 for i in range(20)]
            assert answers[-1]["pid"] not in before or args == KINDS["wsgi"]  # there it is read when it is served
        wait_until(lambda: not before & set(server.workers()), "the old worker's end")
        assert not before & {client.pid() for client in kept}


def test_half_a_request_stays_until_it_is_answered():
    with Server(*ASGI, "-w", "2", "--boot-grace", "0", cwd=APPS) as server, clients(server, 4) as kept:
        homes = [client.pid() for client in kept]
        for client in kept:
            client.socket.sendall(b"GET /pid HTT")
        before = set(server.workers())
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: ")
        for client, home in zip(kept, homes, strict=True):
            client.socket.sendall(b"P/1.1\r\nHost: t\r\n\r\n")
            assert client.receive()["pid"] == home
        wait_until(lambda: not before & set(server.workers()), "the old workers' end")
        assert not before & {client.pid() for client in kept}


def test_only_connections_of_addresses_that_stay_are_passed_on(tmp_path):
    config = tmp_path / "conf.py"
    stays, goes = tmp_path / "stays.sock", tmp_path / "goes.sock"
    config.write_text(f"bind = ['unix:{stays}', 'unix:{goes}']\n")

    def connect(path: Path) -> Client:
        client = Client.__new__(Client)
        client.socket, client.data = socket.socket(socket.AF_UNIX), b""
        client.socket.settimeout(30)
        client.socket.connect(str(path))
        return client

    with Server(*ASGI, "-w", "2", "--boot-grace", "0", "-c", str(config), bind=None, cwd=APPS) as server:
        staying, going = [connect(stays) for _ in range(6)], [connect(goes) for _ in range(6)]
        before = {client.pid() for client in staying + going}
        config.write_text(f"bind = ['unix:{stays}']\n")
        reload(server)
        assert not before & {client.pid() for client in staying}
        assert all(client.closed() for client in going)
        for client in staying + going:
            client.socket.close()


def test_switched_off_they_are_closed():
    with Server(*ASGI, "-w", "2", "--boot-grace", "0", "--no-hand-over", cwd=APPS) as server:
        with clients(server, 6) as kept:
            for client in kept:
                client.pid()
            reload(server)
            assert all(client.closed() for client in kept)


# --- scaling, limits, the end ---------------------------------------------------------------------------------------


def test_scaling_down_closes_nothing():
    with Server(*ASGI, "-w", "3", cwd=APPS) as server, clients(server, 60) as kept:
        assert {client.pid() for client in kept} <= set(server.workers())
        for wanted in (2, 1):
            server.send_signal(signal.SIGTTOU)
            server.wait_log(f"Workers wanted: {wanted}")
        wait_until(lambda: len(server.workers()) == 1, "two workers' end")
        assert {client.pid() for client in kept} == set(server.workers())


def test_what_nobody_has_room_for_is_closed():
    """Not left hanging; and who is full takes none."""
    with Server(*ASGI, "-w", "2", "--worker-connections", "20", cwd=APPS) as server, clients(server, 40) as kept:
        assert set(Counter(client.pid() for client in kept).values()) == {20}
        server.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(server.workers()) == 1, "a worker's end")
        (last,) = server.workers()
        left = 0
        for client in kept:
            with contextlib.suppress(ConnectionError, AssertionError):  # closed
                left += client.pid() == last
        assert 0 < left <= 20


@every_kind
def test_the_end_of_the_server_closes_idle_connections(args):
    with Server(*args, "-w", "2", cwd=APPS) as server, clients(server, 20) as kept:
        for client in kept:
            client.pid()
        server.send_signal(signal.SIGTERM)
        assert all(client.closed() for client in kept)
        assert server.wait_exit() == 0


# --- a worker that is stuck in the application ------------------------------------------------------------------------

BLOCKING = {"asgi": KINDS["asgi"], "wsgi": KINDS["wsgi"]}
blocking_kinds = pytest.mark.parametrize("args", BLOCKING.values(), ids=BLOCKING.keys())
BLOCK = 2.0


@pytest.mark.sanitized
@blocking_kinds
def test_requests_on_kept_connections_do_not_wait_for_a_stuck_worker(args):
    """All but those that the stuck worker had read. It is stuck again and again, and 200 connections go on asking."""
    with Server(*args, "-w", "4", "--timeout", "60", cwd=APPS) as server, clients(server, 200) as kept:
        for _ in range(2):
            homes = [client.pid() for client in kept]
            busiest, count = Counter(homes).most_common(1)[0]
            blocker = kept[homes.index(busiest)]
            others = [client for client in kept if client is not blocker]
            assert count > 2  # at least these would have to wait
            blocker.send(f"/block?{BLOCK}")
            began, rounds, slowest = time.monotonic(), 0, 0.0
            while time.monotonic() < began + BLOCK * 0.8:
                for client in others:
                    client.send("/echo", b"a body that must arrive whole")
                asked = time.monotonic()
                for client in others:
                    assert client.receive()["body"] == "a body that must arrive whole"
                    assert not client.closing
                slowest = max(slowest, time.monotonic() - asked)
                rounds += 1
            assert rounds > 1
            assert slowest < BLOCK * 0.9, f"a round of requests took {slowest:.3f} s"
            blocker.receive()
        assert sum(counts(server, "handed_over")) > 0
        assert sum(counts(server, "handed_over")) == sum(counts(server, "taken_over"))


@blocking_kinds
def test_new_connections_do_not_wait_either(args):
    with Server(*args, "-w", "2", "--timeout", "60", cwd=APPS) as server, clients(server, 1) as (blocker,):
        blocker.send(f"/block?{BLOCK}")
        began = time.monotonic()
        for _ in range(50):
            client = Client(server)
            client.pid()
            client.socket.close()
        assert time.monotonic() - began < BLOCK * 0.9
        blocker.receive()


def test_without_a_free_sibling_they_wait_and_lose_nothing():
    with Server(*ASGI, "-w", "2", "--timeout", "60", cwd=APPS) as server, clients(server, 40) as kept:
        for _ in range(3):
            for client in kept[:20]:
                client.send("/block?0.05")
            for client in kept[20:]:
                client.send("/echo", b"x")
            assert all(client.receive() for client in kept)


def switches(pid: int) -> int:
    """How often the process's threads have gone to sleep."""
    found = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(re.search(r"^voluntary_ctxt_switches:\t(\d+)", text, re.MULTILINE)[1]) for text in found)


def test_the_guard_sleeps_when_nothing_is_to_be_done():
    with Server(*ASGI, "-w", "1", cwd=APPS) as server, clients(server, 1) as (client,):
        client.pid()
        (worker,) = server.workers()

        def sleeps() -> bool:
            before = switches(worker)
            time.sleep(0.3)
            return switches(worker) == before

        wait_until(sleeps, "a rest")


@blocking_kinds
def test_a_stuck_worker_does_not_outlive_its_master_for_long(args):
    with Server(*args, "-w", "2", "--timeout", "1", cwd=APPS) as server, clients(server, 1) as (client,):
        stuck = client.pid()
        client.send("/block?60")
        server.send_signal(signal.SIGKILL)
        server.wait_exit()
        server.assert_nothing_left()
        wait_until(lambda: not alive(stuck), "the worker's end")


def test_a_fork_of_the_application_does_not_see_the_guard():
    """From Python 3.12 on a fork warns of other threads; and the child must not hold what the worker serves."""
    args = [*ASGI, "-w", "2"]
    with Server(*args, env={"PYTHONWARNINGS": "error"}, cwd=APPS) as server, clients(server, 8) as kept:
        for _ in range(3):
            for client in kept:
                before, at_the_fork = client.ask("/fork")["body"].split()
                assert int(before) >= 2
                assert int(at_the_fork) == 1
            assert all(client.pid() for client in kept)


# --- recycling under load -------------------------------------------------------------------------------------------


class Load(threading.Thread):
    """Asks on one kept connection until told to stop; any failure ends it and is kept."""

    def __init__(self, server: Server, stop: threading.Event) -> None:
        super().__init__()
        self.client, self.stop_event = Client(server), stop
        self.answers: Counter[int] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop_event.is_set():
                self.answers[self.client.ask("/echo", b"0123456789")["pid"]] += 1
                assert not self.client.closing, "the response says close"
        except BaseException as error:
            self.failure = error
        finally:
            self.client.socket.close()


@every_kind
def test_recycling_under_load_closes_no_connection(args):
    """Every worker is replaced every 150 requests; a response in flight does not say `close` either."""
    stop = threading.Event()
    with Server(*args, "-w", "2", "--max-requests", "150", "--max-requests-jitter", "50", cwd=APPS) as server:
        loads = [Load(server, stop) for _ in range(8)]
        for load in loads:
            load.start()
        try:
            server.wait_log("has left", count=8)
        finally:
            stop.set()
            for load in loads:
                load.join(30)
        assert [load.failure for load in loads if load.failure] == []
        assert all(len(load.answers) > 1 for load in loads)
