"""Real frameworks over many requests of all kinds, good and bad: nothing stays behind in the worker.

Few thousand of them here; 200 000 with `make soak`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from pathlib import Path

import pytest

from support.clients import Request, drive
from support.server import Server, wait_until

APPS = Path(__file__).resolve().parent / "apps"
KINDS = [["mixed_asgi:app"], ["mixed_wsgi:app"], ["mixed_wsgi:app", "--threads", "4"]]
each_kind = pytest.mark.parametrize("args", KINDS, ids=["asgi", "wsgi", "wsgi-threads"])


def head(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def post(target: str, content_type: str, body: bytes, chunked: bool = False) -> bytes:
    if not chunked:
        return head("POST", target, f"Content-Type: {content_type}", f"Content-Length: {len(body)}") + body
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    return head("POST", target, f"Content-Type: {content_type}", "Transfer-Encoding: chunked") + framed


FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + bytes(20_000) + b"\r\n--b--\r\n"
KEPT = [  # request, status of its answer; the connection goes on
    (head("GET", "/"), 200),
    (head("GET", "/greet/Zo%C3%AB?times=2", "X-A: 1", "X-A: 2", "X-7: x"), 200),
    (head("GET", "/greet/x?times=no"), 400),
    (post("/echo", "application/json", b'{"a": [1, 2]}'), 200),
    (post("/echo", "application/json", b'{"a": [1, 2]}', chunked=True), 200),
    (head("GET", "/visits", "Cookie: session=nonsense; a=b"), 200),
    (post("/upload", "multipart/form-data; boundary=b", FORM), 200),
    (head("GET", "/nowhere"), 404),
    (head("GET", "/late/limit"), 504),
    (head("GET", "/feed/readers"), 200),
    (post("/feed", "application/json", b'{"text": "x"}'), 204),
    (head("GET", "/error"), 500),
]
LAST = [  # request, how many bytes to wait for before the client is gone; two of them are answered, with an error
    (head("GET", "/feed"), 20),  # the first: where there is one thread, it would hold all others up for a while
    (head("GET", "/download/64"), 100_000),
    (head("POST", "/echo", "Content-Type: application/json", "Content-Length: 100") + b'{"a', 0),
    (head("POST", "/upload", "Content-Type: multipart/form-data; boundary=b", "Content-Length: 90000") + FORM, 0),
    (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n", 20),
    (b"GARBAGE\r\n\r\n", 20),
    (head("GET", "/"), 0),
    (head("GET", "/late/client"), 0),
    (b"GET /gre", 0),
]


class Answers:
    """Reads the answers to pipelined requests, and minds nothing but framing and status."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.stream = client.makefile("rb")

    def status(self) -> int:
        status = int(self.stream.readline().split()[1])
        length, chunked = 0, False
        while (line := self.stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            chunked |= name.lower() == b"transfer-encoding"
        if chunked:
            while size := int(self.stream.readline(), 16):
                self.stream.read(size + 2)
            self.stream.readline()
        elif length:
            assert len(self.stream.read(length)) == length
        return status


def one_connection(server: Server, number: int, last: list[tuple[bytes, int]]) -> int:
    """Everything once, pipelined; then the client leaves in one of the ways. Returns the number of requests."""
    with server.connect() as client:
        answers = Answers(client)
        turned = [*KEPT[number % len(KEPT) :], *KEPT[: number % len(KEPT)]]
        client.sendall(b"".join(request for request, _ in turned))
        for request, status in turned:
            assert answers.status() == status, request
        answers.stream.close()
        request, bytes_first = last[number % len(last)]
        client.sendall(request)
        if bytes_first:
            assert client.recv(bytes_first)
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return len(KEPT) + 1


def mixed(server: Server, requests: int) -> None:
    number, last = 0, LAST[1:] if server.args[0] == "mixed_wsgi:app" and "--threads" not in server.args else LAST
    while requests > 0:
        requests -= one_connection(server, number, last)
        number += 1


def settled_facts(server: Server) -> dict[str, int]:
    def facts() -> dict[str, int]:
        readers, found = drive("urllib3", server, [Request("GET", "/feed/readers"), Request("GET", "/facts")])
        return found.json() if readers.json()["readers"] == 0 and found.json().get("tasks", 0) <= 3 else {}

    return wait_until(facts, "the end of all that went on")


def check_flat(args: list[str], warm_up: int, requests: int) -> None:
    with Server(*args, cwd=APPS) as server:
        mixed(server, warm_up)
        before = settled_facts(server)
        mixed(server, requests)
        after = settled_facts(server)
        assert len(server.workers()) == 1
    grown = {name: after[name] - before[name] for name in before}
    shown = json.dumps({"before": before, "grown": grown})
    print(shown)
    assert grown["pid"] == grown["garbage"] == grown["fds"] == grown.get("tasks", 0) == 0, shown
    assert grown["threads"] <= 0, shown
    assert grown["objects"] < 300 and grown["blocks"] < 3000, shown
    assert grown["rss"] < 6 << 20, shown


@each_kind
def test_nothing_stays_behind(args: list[str]) -> None:
    check_flat(args, 3000, 6000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@each_kind
def test_nothing_stays_behind_of_200_000(args: list[str]) -> None:
    check_flat(args, 10_000, 200_000)


@pytest.mark.parametrize("args", KINDS[1:], ids=["wsgi", "wsgi-threads"])
def test_slow_readers_hold_no_thread(args: list[str]) -> None:
    """200 clients ask for a page of 1 MiB and do not read it. Four threads, or one, go on serving all others."""
    with Server(*args, cwd=APPS) as server, contextlib.ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(server.address)
            client.sendall(head("GET", "/blob/1024"))
            stack.callback(client.close)
        for name in ("httpx", "curl"):
            replies = drive(name, server, [Request("GET", "/"), Request("GET", "/blob/1024")] * 10)
            assert [(reply.status, len(reply.body)) for reply in replies] == [(200, 17), (200, 1 << 20)] * 10
        client.settimeout(30)  # the last of the slow ones wakes up: its page is whole
        received = client.recv(4096)
        while len(received) < 1 << 20:
            part = client.recv(1 << 16)
            assert part, "cut off"
            received += part
        assert received.startswith(b"HTTP/1.1 200 ")
        assert "[ERROR]" not in server.log, server.log
