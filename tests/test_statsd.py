"""Metrics to statsd: gunicorn's names, over UDP and unix sockets, to a receiver that is really there."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections import Counter

import pytest

from tests.support.server import Server

DATAGRAM = 1432

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["path"] == "/bad":
        raise ValueError("no such luck")
    await send({"type": "http.response.start", "status": 404 if scope["path"] == "/no" else 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hi"})
"""

WSGI = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/bad":
        raise ValueError("no such luck")
    start_response("404 Not Found" if environ["PATH_INFO"] == "/no" else "200 OK", [("Content-Length", "2")])
    return [b"hi"]
"""


class Daemon:
    """Receives, and sums up as a statsd daemon does."""

    def __init__(self, family: int, address: object) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.address = self._socket.getsockname()
        self.datagrams: list[bytes] = []
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, int] = {}
        self.times: dict[str, list[float]] = {}
        self.tags: set[str] = set()

    def close(self) -> None:
        self._socket.close()

    def _take(self, line: str) -> None:
        name, value, kind, tags = re.fullmatch(r"([^:|]+):([^|]+)\|(c|g|ms)(?:\|#(.*))?", line).groups()
        self.tags.add(tags or "")
        if kind == "c":
            self.counters[name] += int(value)
        elif kind == "g":
            self.gauges[name] = int(value)
        else:
            self.times.setdefault(name, []).append(float(value))

    def wait(self, condition, timeout: float = 30.0) -> None:
        due = time.monotonic() + timeout
        while not condition():
            self._socket.settimeout(max(0.01, due - time.monotonic()))
            try:
                datagram = self._socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"in vain: {self.counters} {self.gauges} {self.times}") from None
            self.datagrams.append(datagram)
            for line in datagram.decode().split("\n"):
                self._take(line)


@pytest.fixture
def daemon():
    made = Daemon(socket.AF_INET, ("127.0.0.1", 0))
    with contextlib.closing(made):
        yield made


@pytest.fixture(params=["asgi", "wsgi", "wsgi-threads"])
def folder(request, tmp_path):
    (tmp_path / "web.py").write_text(ASGI if request.param == "asgi" else WSGI)
    (tmp_path / "gunicorn.conf.py").write_text("threads = 4\n" if request.param == "wsgi-threads" else "")
    return tmp_path


def statsd_host(daemon: Daemon) -> list[str]:
    return ["--statsd-host", f"127.0.0.1:{daemon.address[1]}"]


def ask(server: Server, *paths: str) -> None:
    with server.connect() as client:
        for path in paths:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(65536).startswith(b"HTTP/1.1 ")


def test_requests_statuses_durations_and_workers(folder, daemon):
    with Server("web:app", "--workers", "2", *statsd_host(daemon), cwd=folder) as server:
        ask(server, *["/"] * 30, *["/no"] * 3, "/bad")
        daemon.wait(lambda: daemon.counters["gunicorn.requests"] == 34 and daemon.gauges.get("gunicorn.workers") == 2)
    statuses = {name: count for name, count in daemon.counters.items() if ".status." in name}
    assert statuses == {f"gunicorn.request.status.{status}": n for status, n in ((200, 30), (404, 3), (500, 1))}
    assert len(daemon.times["gunicorn.request.duration"]) == 34
    assert all(0 < duration < 30_000 for duration in daemon.times["gunicorn.request.duration"])
    daemon.wait(lambda: daemon.counters["gunicorn.log.exception"] == 1)


def test_a_prefix_and_tags(folder, daemon):
    options = ["--statsd-prefix", "shop.web", "--dogstatsd-tags", "env:test,zone:b"]
    with Server("web:app", *statsd_host(daemon), *options, cwd=folder) as server:
        ask(server, "/")
        daemon.wait(lambda: daemon.counters["shop.web.gunicorn.requests"] == 1 and daemon.gauges)
    assert daemon.tags == {"env:test,zone:b"} and daemon.gauges == {"shop.web.gunicorn.workers": 1}


def test_many_requests_share_datagrams(folder, daemon):
    with Server("web:app", *statsd_host(daemon), cwd=folder) as server:
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
            received = b""
            while received.count(b"HTTP/1.1 200") < 300:
                received += client.recv(65536)
        daemon.wait(lambda: daemon.counters["gunicorn.requests"] == 300)
        daemon.wait(lambda: len(daemon.times["gunicorn.request.duration"]) == 300)
    assert len(daemon.datagrams) < 60 and max(map(len, daemon.datagrams)) <= DATAGRAM


def test_a_unix_socket(tmp_path):
    (tmp_path / "web.py").write_text(ASGI)
    with contextlib.closing(Daemon(socket.AF_UNIX, str(tmp_path / "stats"))) as daemon:
        with Server("web:app", "--statsd-host", f"unix://{tmp_path}/stats", cwd=tmp_path) as server:
            ask(server, "/")
            daemon.wait(lambda: daemon.counters["gunicorn.requests"] == 1)


def test_what_is_left_at_the_end_is_sent(tmp_path, daemon):
    (tmp_path / "web.py").write_text(ASGI)
    with Server("web:app", *statsd_host(daemon), cwd=tmp_path) as server:
        ask(server, "/", "/")
        server.stop()
        daemon.wait(lambda: daemon.counters["gunicorn.requests"] == 2)


def test_metrics_of_hooks(tmp_path, daemon):
    """As gunicorn's documentation of its statsd logger has it."""
    (tmp_path / "web.py").write_text(ASGI)
    (tmp_path / "gunicorn.conf.py").write_text(f"""
statsd_host = "127.0.0.1:{daemon.address[1]}"
loglevel = "warning"

def post_fork(server, worker):
    worker.log.info("", extra={{"metric": "shop.forks", "value": 3, "mtype": "counter"}})
    worker.log.debug("%d ms", 7, extra={{"metric": "shop.boot", "value": 7.5, "mtype": "histogram"}})
    server.log.warning("said", extra={{"metric": "shop.level", "value": 4, "mtype": "gauge"}})
""")
    with Server("web:app", cwd=tmp_path, wait=False) as server:
        daemon.wait(lambda: daemon.counters["shop.forks"] == 3 and daemon.gauges.get("shop.level") == 4)
        daemon.wait(lambda: daemon.times.get("shop.boot") == [7.5])
        daemon.wait(lambda: daemon.counters["gunicorn.log.warning"] == 1)
        server.wait_log("said")


def test_the_backlog(tmp_path, daemon):
    (tmp_path / "web.py").write_text(ASGI)
    with Server("web:app", *statsd_host(daemon), "--enable-backlog-metric", cwd=tmp_path):
        daemon.wait(lambda: len(daemon.times.get("gunicorn.backlog", [])) >= 2)


def test_nobody_is_there(tmp_path):
    """A daemon that is not there is no reason to fail, nor to wait."""
    (tmp_path / "web.py").write_text(ASGI)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Server("web:app", "--statsd-host", f"127.0.0.1:{port}", cwd=tmp_path) as server:
        ask(server, *["/"] * 50)


@pytest.mark.parametrize("host", ["127.0.0.1:http", ":8125", "unix://", "a:99999"])
def test_addresses_that_cannot_be(tmp_path, host):
    (tmp_path / "web.py").write_text(ASGI)
    with Server("web:app", "--statsd-host", host, cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 1
        assert "must be HOST:PORT or unix://PATH" in server.log


def test_the_setting_is_gunicorns(tmp_path, daemon):
    (tmp_path / "web.py").write_text(ASGI)
    options = ["--logger-class", "gunicorn.instrument.statsd.Statsd"]
    with Server("web:app", *options, *statsd_host(daemon), cwd=tmp_path) as server:
        ask(server, "/")
        daemon.wait(lambda: daemon.counters["gunicorn.requests"] == 1)
