"""Bodies of a gibibyte, both ways, in constant memory; clients that are slow, rude or both leave others unharmed."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import Server, wait_until

TESTS = Path(__file__).parent
GIBIBYTE = int(os.environ.get("LICORNE_TEST_GIBIBYTES", "1")) << 30
BLOCK = bytes(1 << 20)
HELLO = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CROWD = 200

APPS = [["stream_apps:asgi"], ["stream_apps:wsgi"], ["stream_apps:wsgi", "--threads", "4"]]
each_app = pytest.mark.parametrize("args", APPS, ids=["asgi", "wsgi", "wsgi-threads"])


def peak_bytes(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) * 1024


def cpu_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def read_head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(65536)
        assert part, data
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def read_body(client: socket.socket) -> bytes:
    head, body = read_head(client)
    match = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert match, head
    while len(body) < int(match[1]):
        part = client.recv(65536)
        assert part, body
        body += part
    return body


def ask(server: Server, request: bytes = HELLO) -> bytes:
    with server.connect() as client:
        client.sendall(request)
        return read_body(client)


@contextlib.contextmanager
def grows_little(server: Server, limit: int = 24 << 20) -> Iterator[None]:
    """The worker's peak memory stays within `limit` of what it was."""
    assert ask(server) == b"hello"
    (worker,) = server.workers()
    before = peak_bytes(worker)
    yield
    assert peak_bytes(worker) - before < limit
    assert server.workers() == [worker]


@each_app
def test_a_gibibyte_up(args: list[str]) -> None:
    with Server(*args, cwd=TESTS / "apps") as server, grows_little(server), server.connect() as client:
        client.sendall(b"POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % GIBIBYTE)
        for _ in range(GIBIBYTE // len(BLOCK)):
            client.sendall(BLOCK)
        assert read_body(client) == b"%d" % GIBIBYTE
        client.sendall(HELLO)
        assert read_body(client) == b"hello"


@each_app
def test_a_gibibyte_up_in_chunks(args: list[str]) -> None:
    chunk = b"%x\r\n" % len(BLOCK) + BLOCK + b"\r\n"
    with Server(*args, cwd=TESTS / "apps") as server, grows_little(server), server.connect() as client:
        client.sendall(b"POST /up HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(GIBIBYTE // len(BLOCK)):
            client.sendall(chunk)
        client.sendall(b"0\r\n\r\n")
        assert read_body(client) == b"%d" % GIBIBYTE


@each_app
def test_a_gibibyte_down(args: list[str]) -> None:
    with Server(*args, cwd=TESTS / "apps") as server, grows_little(server), server.connect() as client:
        client.sendall(b"GET /down/%d HTTP/1.1\r\nHost: test\r\n\r\n" % GIBIBYTE)
        _, rest = read_head(client)
        left, buffer = GIBIBYTE - len(rest), bytearray(1 << 20)
        while left > 0:
            n = client.recv_into(buffer)
            assert n
            left -= n
        client.sendall(HELLO)
        assert read_body(client) == b"hello"


@each_app
def test_a_million_tiny_chunks(args: list[str]) -> None:
    count = 200_000
    with Server(*args, cwd=TESTS / "apps") as server, grows_little(server), server.connect() as client:
        client.sendall(b"POST /up HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            client.sendall(b"1\r\na\r\n" * count)
        client.sendall(b"0\r\n\r\n")
        assert read_body(client) == b"%d" % (5 * count)


@each_app
def test_slow_heads_leave_others_unharmed(args: list[str]) -> None:
    """200 clients that never finish their head: others are served meanwhile, they get 408 in the end."""
    with Server(*args, "--header-timeout", "1", cwd=TESTS / "apps") as server, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(server.connect()) for _ in range(CROWD)]
        for client in crowd:
            client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        for _ in range(20):
            assert ask(server) == b"hello"
        for client in crowd:
            head, _ = read_head(client)
            assert head.startswith(b"HTTP/1.1 408 ")
        assert ask(server) == b"hello"


def test_slow_readers_leave_others_unharmed() -> None:
    """200 clients that ask for much and read nothing: memory stays bounded, others are served, then they are cut."""
    args = ["stream_apps:asgi", "--write-timeout", "1"]
    with Server(*args, cwd=TESTS / "apps") as server, contextlib.ExitStack() as stack:
        with grows_little(server, 96 << 20):
            crowd = [stack.enter_context(server.connect()) for _ in range(CROWD)]
            for client in crowd:
                client.sendall(b"GET /down/%d HTTP/1.1\r\nHost: test\r\n\r\n" % GIBIBYTE)
            for _ in range(20):
                assert ask(server) == b"hello"
        assert ask(server) == b"hello"
        for client in crowd:
            wait_until(lambda client=client: is_cut_off(client), "the end of a client that does not read")


def is_cut_off(client: socket.socket) -> bool:
    """The server has closed; looks without reading what was sent."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return info[0] != 1  # TCP_ESTABLISHED


@each_app
def test_resets_leave_no_trace(args: list[str]) -> None:
    """Connections that are reset at once, in a head, in a body, while waiting for the answer."""
    begun = [b"", b"GET / HT", HELLO, b"POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nabc"]
    with Server(*args, cwd=TESTS / "apps") as server:
        assert ask(server) == b"hello"
        (worker,) = server.workers()
        before = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        for i in range(100):
            client = server.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(begun[i % len(begun)])
            client.close()
        assert ask(server) == b"hello"
        wait_until(lambda: len(list(Path(f"/proc/{worker}/fd").iterdir())) <= before, "the descriptors to be closed")
        ticks, began = cpu_ticks(worker), time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.3)
        assert cpu_ticks(worker) - ticks < 10  # of 30: it sleeps
        assert server.workers() == [worker]
