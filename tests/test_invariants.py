"""What a request costs in system calls: counted by strace, so a change of the hot path cannot go unnoticed."""

from __future__ import annotations

import re
import shutil
import socket
from collections import Counter
from pathlib import Path

import pytest

from support.raw_websocket import WebSocket, frame
from support.server import Server
from support.strace import Strace

APPS = Path(__file__).parent / "apps"
CALLS = "read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,epoll_ctl,close,accept4"
TIMERS = "timer_settime,timerfd_settime,setitimer"
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\nUser-Agent: invariants\r\nAccept: */*\r\n\r\n"
ROUNDS = 200

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def read_responses(client: socket.socket, count: int) -> bytes:
    """Reads until `count` hello responses have come."""
    data = b""
    while data.count(b"Hello, World!") < count:
        part = client.recv(65536)
        assert part, f"closed after {data!r}"
        data += part
    return data


def count_calls(server: Server, tmp_path: Path, exchange) -> tuple[Counter, list[str]]:
    with server.connect() as client:
        for _ in range(3):
            client.sendall(REQUEST)
            read_responses(client, 1)
        (worker,) = server.workers()
        strace = Strace(worker, tmp_path / "strace", f"{CALLS},{TIMERS}")
        exchange(client)
        lines = strace.stop()
    return Counter(line.split("(")[0] for line in lines), lines


def kept_requests(client: socket.socket) -> None:
    for _ in range(ROUNDS):
        client.sendall(REQUEST)
        read_responses(client, 1)


ASGI, WSGI, THREADS = ["hello_asgi:app"], ["hello_wsgi:app"], ["hello_wsgi:app", "--threads", "4"]


@pytest.mark.parametrize("args", [ASGI, WSGI, THREADS], ids=["asgi", "wsgi", "wsgi-threads"])
def test_a_kept_request_is_one_read_and_one_write(args, tmp_path):
    with Server(*args, cwd=APPS) as server:
        calls, lines = count_calls(server, tmp_path, kept_requests)
    served = Counter(line.split("(")[0] for line in lines if "HTTP/1.1" in line)
    assert served["read"] == ROUNDS
    assert served["write"] == ROUNDS
    assert not [line for line in lines if "EAGAIN" in line and line.startswith("read(")]
    assert calls["epoll_ctl"] == 0
    assert calls["close"] == calls["accept4"] == 0


@pytest.mark.parametrize("args", [ASGI, WSGI, THREADS], ids=["asgi", "wsgi", "wsgi-threads"])
def test_deadlines_set_no_timers(args, tmp_path):
    with Server(*args, "--request-timeout", "60", cwd=APPS) as server:
        calls, lines = count_calls(server, tmp_path, kept_requests)
    assert sum("HTTP/1.1" in line for line in lines) == 2 * ROUNDS
    assert not set(TIMERS.split(",")) & set(calls), calls


@pytest.mark.parametrize("args", [ASGI, WSGI], ids=["asgi", "wsgi"])
def test_sixteen_pipelined_requests_are_answered_in_one_write(args, tmp_path):
    """Not with threads: the next request may run elsewhere, and must not hold back what is answered."""

    def exchange(client: socket.socket) -> None:
        client.sendall(REQUEST * 16)
        read_responses(client, 16)

    with Server(*args, cwd=APPS) as server:
        _, lines = count_calls(server, tmp_path, exchange)
    writes = [line for line in lines if re.match(r"(write|writev|sendto|sendmsg)\(", line) and "HTTP/1.1" in line]
    assert len(writes) == 1, writes


def test_websocket_messages_of_one_read_are_answered_in_one_write(tmp_path):
    with Server("websocket_cases:app", cwd=APPS) as server, server.connect() as client:
        (worker,) = server.workers()
        websocket = WebSocket(client).open()
        strace = Strace(worker, tmp_path / "strace", f"{CALLS},{TIMERS}")
        websocket.send(b"".join(frame(0x81, b"message %d" % number) for number in range(16)))
        assert [websocket.read()[1] for _ in range(16)] == [b"message %d" % number for number in range(16)]
        lines = strace.stop()
    assert [line.split("(")[0] for line in lines if "message" in line or "\\201" in line] == ["read", "write"], lines
    assert not [line for line in lines if line.startswith(("epoll_ctl", "timer"))], lines
