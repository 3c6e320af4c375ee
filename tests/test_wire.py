"""The wire corpus (tests/wire) against the built server, over TCP, with an ASGI and a WSGI application. The same data
runs in memory, at every split, in tests/unit/test_wire.c; here a sample of splits shows that the whole path agrees."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest

from support.server import Server

pytestmark = pytest.mark.sanitized

TESTS = Path(__file__).parent
CHOICES = {"header_map": ["drop", "refuse", "dangerous"]}
ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\(.)|⏎|\{([^}]*?)\*(\d+)\}", re.DOTALL)
PING = b"GET /ping HTTP/1.1\r\nHost: test\r\n\r\n"
SMALL = 300  # bytes: up to here a case is also sent byte by byte


@dataclass
class Case:
    name: str = ""
    set: str = ""
    send: bytes = b""
    eof: bool = False
    status: str = ""
    fate: str = "*"
    app: str = "*"
    saw: list[str] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)


def decode(text: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2]:
            return {"r": "\r", "n": "\n", "t": "\t"}.get(match[2], match[2])
        if match[4]:
            return decode(match[3]).decode("latin-1") * int(match[4])
        return "\r\n"

    return ESCAPE.sub(one, text).encode("latin-1")


def read_case(lines: list[str]) -> Case:
    case = Case()
    for line in lines:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "case":
            case.name = value
        elif key == "send":
            case.send += decode(value)
        elif key == "saw":
            case.saw.append(decode(value).decode("latin-1"))
        elif key == "got":
            case.got.append(value.encode())
        elif key == "eof":
            case.eof = value == "yes"
        else:
            setattr(case, key, value)
    return case


def read_cases() -> Iterator[Case]:
    for path in sorted((TESTS / "wire").glob("*.wire")):
        lines = [line for line in path.read_text().split("\n") if not line.startswith("#")]
        for full, group in groupby(lines, key=bool):
            if full:
                yield read_case(list(group))


CASES = list(read_cases())


def without_authority(line: str) -> str:
    """ASGI does not show the authority of an absolute-form target."""
    return re.sub(r"^(\S+) http://[^/ ]*/?", r"\1 /", line)


# --- servers: one for each application and set of settings


def environment(settings: str) -> dict[str, str]:
    pairs = [pair.split("=") for pair in settings.split()]
    return {f"LICORNE_{name.upper()}": CHOICES[name][int(value)] if name in CHOICES else value for name, value in pairs}


class Servers:
    def __init__(self, application: str):
        self.application = application
        self.settings: str | None = None
        self.server: Server | None = None

    def get(self, settings: str) -> Server:
        if self.server is None or settings != self.settings:
            self.stop()
            self.server = Server(f"wire_apps:{self.application}", cwd=TESTS / "apps", env=environment(settings))
            self.server.__enter__()
            self.settings = settings
        return self.server

    def stop(self) -> None:
        if self.server is not None:
            self.server.__exit__(None, None, None)
            self.server = None


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def servers(request) -> Iterator[Servers]:
    servers = Servers(request.param)
    yield servers
    servers.stop()


# --- one exchange


def split_responses(data: bytes, first_is_head: bool) -> list[tuple[int, bytes, bytes]]:
    """(status, head, body) of the final responses; anything else among them is an error."""
    responses = []
    while data:
        head, blank, data = data.partition(b"\r\n\r\n")
        assert blank and head.startswith(b"HTTP/1.1 "), head[:200]
        status = int(head[9:12])
        if status < 200:
            continue
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        assert length, head
        size = 0 if first_is_head else int(length[1])
        first_is_head = False
        responses.append((status, head, data[:size]))
        data = data[size:]
    return responses


def receive_all(client: socket.socket, until: bytes | None) -> tuple[bytes, bool]:
    """Reads to the end, or to `until`; what came, and whether the end did."""
    data = b""
    while until is None or not data.endswith(until):
        try:
            part = client.recv(65536)
        except ConnectionResetError:
            return data, True
        if not part:
            return data, True
        data += part
    return data, False


def exchange(server: Server, case: Case, pieces: list[bytes]) -> tuple[bytes, bool]:
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                client.sendall(piece)
            if case.eof:
                client.shutdown(socket.SHUT_WR)
            elif case.fate == "keep" and case.status != "-":
                client.sendall(PING)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before everything was sent
        if case.status == "-" and case.got:
            return receive_all(client, b"\r\n\r\n")
        return receive_all(client, b"\r\n\r\npong" if case.fate == "keep" else None)


def what_was_seen(server: Server) -> dict:
    with server.connect() as client:
        client.sendall(b"GET /seen HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        return json.loads(receive_all(client, None)[0].partition(b"\r\n\r\n")[2])


def check(case: Case, data: bytes, closed: bool, seen: dict) -> None:
    responses = split_responses(data, case.send.startswith(b"HEAD"))
    if case.fate == "keep" and case.status != "-":
        assert responses.pop()[2] == b"pong"
    statuses = " ".join(str(status) for status, _, _ in responses) or "-"
    assert statuses in case.status.split("|")
    assert closed == (case.fate == "close") or case.fate == "*"
    for text in case.got:
        assert text in data
    if case.app == "never":
        assert seen["started"] == 0
    elif case.app == "part":
        assert seen["complete"] == []
    elif case.app != "*":
        assert len(seen["complete"]) == seen["started"] == int(case.app)
    if case.saw:
        assert [without_authority(line) for line in seen["complete"]] == [without_authority(line) for line in case.saw]


def in_pieces(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    if len(data) <= SMALL:
        yield [data[i : i + 1] for i in range(len(data))]
    for at in (len(data) // 3, len(data) - 2):
        yield [data[:at], data[at:]]


@pytest.mark.parametrize("case", sorted(CASES, key=lambda case: case.set), ids=lambda case: case.name)
def test_wire(servers: Servers, case: Case) -> None:
    server = servers.get(case.set)
    for pieces in in_pieces(case.send):
        data, closed = exchange(server, case, pieces)
        check(case, data, closed, what_was_seen(server))


def test_the_corpus_is_read_in_full() -> None:
    names = re.findall(r"^case: ", "\n".join(p.read_text() for p in (TESTS / "wire").glob("*.wire")), re.MULTILINE)
    assert len(names) == len(CASES) > 200
