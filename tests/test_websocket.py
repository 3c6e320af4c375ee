"""WebSocket as an ASGI application sees it: the scope, the offer and its answers, messages, and every way to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.raw_http import Client
from support.raw_websocket import PROOF, WebSocket, close_frame, frame, offer
from support.server import Server, command, wait_until

APPS = Path(__file__).parent / "apps"
LIMITS = ["--ws-max-size", "200000", "--ws-max-queue", "4"]

Connect = Callable[[], WebSocket]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("websocket_cases:app", "--chdir", str(APPS), *LIMITS) as running:
        yield running


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    opened: list[WebSocket] = []

    def connected() -> WebSocket:
        opened.append(WebSocket(server.connect()))
        return opened[-1]

    yield connected
    for websocket in opened:
        websocket.socket.close()


def tell(server: Server, path: str) -> Any:
    with Client(server.connect()) as own:
        return own.ask(path).json()


def notes(server: Server, path: str, count: int) -> list[Any]:
    """What the connection of this path has noted, once these are `count` things."""

    def found() -> list[Any] | None:
        rows = [row for row in tell(server, "/notes") if row[0] == path]
        return rows[0][1:] if rows and len(rows[0]) > count else None

    return wait_until(found, f"{count} notes of {path}")


def errors(server: Server) -> list[str]:
    return [line for line in server.log.splitlines() if "[ERROR]" in line]


# --- the offer and its answers


@pytest.mark.smoke
@pytest.mark.sanitized
def test_scope(server: Server, connect: Connect) -> None:
    websocket = connect()
    host, port = websocket.socket.getsockname()[:2]
    websocket.open(
        "/sc%6Fpe?a=%20b", b"Sec-WebSocket-Protocol: one, two\r\nSec-WebSocket-Protocol: three\r\nX-A: 1\r\n"
    )
    assert b"sec-websocket-accept: " + PROOF in websocket.head
    assert b"sec-websocket-protocol" not in websocket.head
    scope, tasks = notes(server, "/scope", 2)
    headers = scope.pop("headers")
    assert [{"bytes": "x-a"}, {"bytes": "1"}] in headers
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/scope",
        "raw_path": {"bytes": "/sc%6Fpe"},
        "query_string": {"bytes": "a=%20b"},
        "root_path": "",
        "client": [host, port],
        "server": list(websocket.socket.getpeername()[:2]),
        "subprotocols": ["one", "two", "three"],
        "extensions": {"websocket.http.response": {}},
    }
    assert tasks == 1
    other = connect().open("/scope")
    other.send(frame(0x81, b"each connection has a task of its own"))
    other.read()
    tasks = wait_until(lambda: [row for row in tell(server, "/notes") if row[0] == "/scope"][1][2:])
    assert tasks == [2]


def test_accept_with_protocol_and_headers(connect: Connect) -> None:
    websocket = connect().open("/protocol", b"Sec-WebSocket-Protocol: one, two\r\n")
    lines = websocket.head.split(b"\r\n")
    assert b"sec-websocket-protocol: two" in lines
    assert [line for line in lines if line.startswith((b"x-order", b"set-cookie"))] == [
        b"x-order: 1",
        b"x-order: 2",
        b"set-cookie: a=b",
    ]


@pytest.mark.sanitized
def test_bad_events_raise(server: Server, connect: Connect) -> None:
    websocket = connect().open("/bad_accepts")
    assert [websocket.read() for _ in range(3)] == [(0x82, b"good"), (0x81, b"good"), (0x82, b"array")]
    websocket.send(close_frame(1000))
    websocket.read_end()
    *raised, disconnect = notes(server, "/bad_accepts", 21)
    accepts, early, messages, closes, twice = raised[:5], raised[5:7], raised[7:13], raised[13:19], raised[19:]
    assert accepts == ["ValueError", "ValueError", "TypeError", "ValueError", "TypeError"]
    assert early == ["RuntimeError", "ValueError"]
    assert messages == ["ValueError", "ValueError", "ValueError", "TypeError", "TypeError", "UnicodeEncodeError"]
    assert closes == ["ValueError"] * 6
    assert twice == ["RuntimeError"]
    assert disconnect == {"type": "websocket.disconnect", "code": 1000, "reason": ""}


@pytest.mark.sanitized
def test_refuse(server: Server, connect: Connect) -> None:
    websocket = connect()
    websocket.send(offer("/refuse") + frame(0x81, b"GET / HTTP/1.1\r\n\r\n"))  # what follows is never read as HTTP
    assert websocket.read_head().startswith(b"HTTP/1.1 403 ")
    assert b"content-length: 0" in websocket.head
    assert b"connection: close" in websocket.head
    assert websocket.read_rest() == b""
    assert notes(server, "/refuse", 2) == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "OSError"]


@pytest.mark.sanitized
@pytest.mark.parametrize("path", ["/fail", "/fail_first", "/return", "/deny_half"])
def test_failure_before_accept(server: Server, connect: Connect, path: str) -> None:
    websocket = connect()
    websocket.send(offer(path))
    assert websocket.read_head().startswith(b"HTTP/1.1 500 ")
    websocket.read_rest()
    wait_until(lambda: errors(server))
    assert len(errors(server)) == 1
    assert path in errors(server)[0]


def test_denial(server: Server, connect: Connect) -> None:
    websocket = connect()
    websocket.send(offer("/deny"))
    assert websocket.read_head().startswith(b"HTTP/1.1 401 ")
    assert b"x-a: 1" in websocket.head
    assert b"connection: close" in websocket.head
    body = websocket.read_rest()
    assert body == b"4\r\nwho \r\n8\r\nare you?\r\n0\r\n\r\n"
    assert notes(server, "/deny", 2) == ["RuntimeError", "websocket.disconnect"]
    assert errors(server) == []


def test_frames_before_accept_are_kept(server: Server, connect: Connect) -> None:
    websocket = connect()
    websocket.send(offer("/wait") + b"".join(frame(0x81, b"%d" % n) for n in range(50)))
    tell(server, "/go")
    websocket.read_head()
    assert [websocket.read()[1] for _ in range(50)] == [b"%d" % n for n in range(50)]


def test_client_leaves_before_accept(server: Server, connect: Connect) -> None:
    websocket = connect()
    websocket.send(offer("/gone"))
    wait_until(lambda: [row for row in tell(server, "/notes") if row[0] == "/gone"])
    websocket.socket.close()
    assert notes(server, "/gone", 2) == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "OSError"]
    assert errors(server) == []


# --- messages


@pytest.mark.smoke
@pytest.mark.sanitized
def test_echo(connect: Connect) -> None:
    websocket = connect().open()
    for first, payload in [(0x81, "hé€😀".encode()), (0x82, b"\0\xff"), (0x81, b""), (0x82, b"x" * 199_999)]:
        websocket.send(frame(first, payload))
        assert websocket.read() == (first, payload)
    text = "é".encode() * 50_000
    websocket.send(frame(0x01, text[:33_333]) + frame(0x89, b"between") + frame(0x00, text[33_333:]) + frame(0x80))
    assert websocket.read() == (0x8A, b"between")
    assert websocket.read() == (0x81, text)


def test_messages_of_one_turn_arrive_together(connect: Connect) -> None:
    websocket = connect()
    websocket.send(offer("/push"))
    wait_until(lambda: websocket.more() and b"\x81\x0299" in websocket.buffer)
    websocket.read_head()
    assert [websocket.read() for _ in range(100)] == [(0x81, b"%d" % n) for n in range(100)]


def test_client_that_is_not_received_from_must_wait(server: Server, connect: Connect) -> None:
    websocket = connect().open("/slow")
    websocket.socket.setblocking(False)
    message, sent = frame(0x82, bytes(100_000)), 0
    pending = b""
    with pytest.raises(BlockingIOError):  # socket buffers take some; the server not all
        while sent < 500:
            pending = pending or message
            pending = pending[websocket.socket.send(pending) :]
            sent += not pending
    websocket.socket.setblocking(True)
    websocket.socket.settimeout(30)
    tell(server, "/go")
    for _ in range(sent):
        assert len(websocket.read()[1]) == 100_000


@pytest.mark.sanitized
def test_application_waits_for_a_slow_reader(server: Server, connect: Connect) -> None:
    websocket = connect().open("/flood")
    (before,) = notes(server, "/flood", 1)
    counts = iter(lambda: notes(server, "/flood", 1)[0], None)
    wait_until(lambda: next(counts) == next(counts))  # it stands still
    assert next(counts) < 1000
    for _ in range(200):
        websocket.read()
    assert wait_until(lambda: notes(server, "/flood", 1)[0] > before)
    websocket.socket.close()
    assert notes(server, "/flood", 2)[-1] == "over"


# --- the end


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [(b"", 1005, ""), (struct.pack("!H", 1001), 1001, ""), (struct.pack("!H", 4999) + "é".encode(), 4999, "é")],
)
def test_client_closes(server: Server, connect: Connect, payload: bytes, code: int, reason: str) -> None:
    websocket = connect().open()
    websocket.send(frame(0x81, b"last") + frame(0x88, payload))
    assert websocket.read() == (0x81, b"last")  # its answer comes before the close frame's
    assert websocket.read_end() == (code, b"")
    assert notes(server, "/", 1) == [{"type": "websocket.disconnect", "code": code, "reason": reason}]


@pytest.mark.sanitized
def test_sending_after_the_end(server: Server, connect: Connect) -> None:
    websocket = connect().open("/send_after")
    websocket.send(close_frame(1000))
    websocket.read_end()
    assert notes(server, "/send_after", 4)[1:] == ["OSError", None, "websocket.disconnect"]
    assert errors(server) == []


def test_client_disappears(server: Server, connect: Connect) -> None:
    websocket = connect().open()
    websocket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    websocket.socket.close()
    assert notes(server, "/", 1) == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


def test_application_closes(server: Server, connect: Connect) -> None:
    websocket = connect().open("/close")
    code, reason = websocket.read_close()
    assert (code, reason.decode()) == (3123, "é" * 61)  # as much as fits, whole characters
    websocket.send(frame(0x81, b"crossed it") + close_frame(3123))
    assert websocket.read_rest() == b""
    disconnect, sent, closed = notes(server, "/close", 3)
    assert disconnect == {"type": "websocket.disconnect", "code": 3123, "reason": "é" * 100}
    assert [sent, closed] == ["OSError", None]


@pytest.mark.parametrize(("path", "code"), [("/close_plain", 1000), ("/accept_return", 1000), ("/accept_fail", 1011)])
def test_ends_of_the_application(server: Server, connect: Connect, path: str, code: int) -> None:
    websocket = connect().open(path)
    assert websocket.read_close() == (code, b"")
    websocket.send(close_frame(code))
    assert websocket.read_rest() == b""
    assert len(errors(server)) == (path == "/accept_fail")


VIOLATIONS = [
    ("reserved bit", frame(0xC1, b"x"), 1002),
    ("unknown opcode", frame(0x83), 1002),
    ("not masked", b"\x81\x01x", 1002),
    ("long ping", frame(0x89, bytes(126)), 1002),
    ("fragmented ping", frame(0x09), 1002),
    ("nothing to continue", frame(0x80), 1002),
    ("message in a message", frame(0x01) + frame(0x81), 1002),
    ("length not minimal", b"\x82\xfe\x00\x01", 1002),
    ("half a close code", frame(0x88, b"\x03"), 1002),
    ("close code 1005", close_frame(1005), 1002),
    ("close reason", close_frame(1000, b"\xff"), 1007),
    ("text", frame(0x81, b"\xff"), 1007),
    ("text in the middle of a message", frame(0x01, b"\xed\xa0"), 1007),
    ("text, cut", frame(0x01, b"\xc3") + frame(0x80), 1007),
    ("frame too long", b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
    ("message too long", frame(0x02, bytes(200_000)) + frame(0x80, b"x"), 1009),
    ("second reserved bit", frame(0xA1), 1002),
    ("third reserved bit", frame(0x91), 1002),
    ("reserved bit on a ping", frame(0xC9), 1002),
    ("reserved bit on a close frame", frame(0xC8), 1002),
    ("unknown control opcode", frame(0x8B), 1002),
    ("ping not masked", b"\x89\x00", 1002),
    ("close frame not masked", b"\x88\x02\x03\xe8", 1002),
    ("long pong", frame(0x8A, bytes(126)), 1002),
    ("long close frame", close_frame(1000, b"x" * 124), 1002),
    ("fragmented close frame", frame(0x08, b"\x03\xe8"), 1002),
    ("ping with a long length", b"\x89\xff" + bytes(12), 1002),
    ("nothing to continue, after a message", frame(0x81, b"x") + frame(0x00), 1002),
    ("negative length", b"\x82\xff\xff" + bytes(11), 1002),
    ("length not minimal in 8 bytes", b"\x82\xff" + bytes(6) + b"\xff\xff", 1002),
    ("close code 0", close_frame(0), 1002),
    ("close code 999", close_frame(999), 1002),
    ("close code 1004", close_frame(1004), 1002),
    ("close code 1006", close_frame(1006), 1002),
    ("close code 1015", close_frame(1015), 1002),
    ("close code 2999", close_frame(2999), 1002),
    ("close code 5000", close_frame(5000), 1002),
    ("close reason, cut", close_frame(1000, "é".encode()[:1]), 1007),
    ("text, overlong", frame(0x81, b"\xc0\xaf"), 1007),
    ("text, beyond Unicode", frame(0x81, b"\xf4\x90\x80\x80"), 1007),
    ("text, in a later frame", frame(0x01, b"\xf0\x9f") + frame(0x00, b"\x98") + frame(0x00, b"x"), 1007),
]

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


def packed(data: bytes) -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH))[:-4]


COMPRESSED_VIOLATIONS = [
    ("reserved bit on a continuation", frame(0x41, packed(b"x")) + frame(0xC0), 1002),
    ("reserved bit on a ping", frame(0xC9), 1002),
    ("second reserved bit", frame(0xE1), 1002),
    ("not deflate", frame(0xC1, b"\xff\xff\xff"), 1007),
    ("not deflate, in a later frame", frame(0x42, packed(b"x" * 1000)) + frame(0x80, b"\xff\xff"), 1007),
    ("a distance beyond what was sent", frame(0xC1, b"\x02\x04\x00"), 1007),
    ("text", frame(0xC1, packed(b"\xff")), 1007),
    ("text, in the middle of a message", frame(0x41, packed(b"ab\xff" * 99)), 1007),
    ("bomb", frame(0xC2, packed(bytes(10_000_000))), 1009),
    (
        "bomb in frames",
        frame(0x42, packed(bytes(150_000)) + b"\0\0\xff\xff") + frame(0x80, packed(bytes(150_000))),
        1009,
    ),
]


@pytest.mark.sanitized
@pytest.mark.parametrize(("extra", "violations"), [(b"", VIOLATIONS), (DEFLATE, COMPRESSED_VIOLATIONS)])
def test_violations(server: Server, connect: Connect, extra: bytes, violations: list[tuple[str, bytes, int]]) -> None:
    """Each gets its close code, one frame, and the end; the application is told; others live on."""
    bystander = connect().open()
    for number, (name, bad, code) in enumerate(violations):
        websocket = connect().open(f"/violation{number}", extra)
        websocket.send(bad)
        first = websocket.buffer or (websocket.more() and websocket.buffer)
        if first and first.startswith(b"\x81\x01x"):  # what was right before it is answered
            websocket.read()
        found, reason = websocket.read_end()
        assert found == code, name
        assert notes(server, f"/violation{number}", 1) == [
            {"type": "websocket.disconnect", "code": code, "reason": reason.decode()}
        ]
    bystander.send(frame(0x81, b"still here"))
    assert bystander.read() == (0x81, b"still here")
    assert errors(server) == []


def test_bomb_by_ratio() -> None:
    """Below ws_max_size, but made of next to nothing."""
    with Server("websocket_cases:app", "--chdir", str(APPS), "--ws-deflate-max-ratio", "50") as server:
        with WebSocket(server.connect()) as websocket:
            websocket.open(extra=DEFLATE)
            websocket.send(frame(0xC2, packed(bytes(2 << 20))))
            assert websocket.read_end() == (1009, b"the message expands by more than ws_deflate_max_ratio")


@pytest.mark.sanitized
def test_drain(server: Server, connect: Connect) -> None:
    websocket = connect().open()
    server.send_signal(signal.SIGTERM)
    assert websocket.read_close()[0] == 1012
    websocket.send(close_frame(1012))
    assert websocket.read_rest() == b""
    websocket.socket.close()  # else the server lingers
    assert server.wait_exit() == 0
    assert errors(server) == []


@pytest.mark.sanitized
def test_silent_client_is_found() -> None:
    with Server(
        "websocket_cases:app", "--chdir", str(APPS), "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.1"
    ) as server:
        with WebSocket(server.connect()) as alive:
            alive.open()
            for _ in range(3):
                assert alive.read() == (0x89, b"")
                alive.send(frame(0x8A))
            with WebSocket(server.connect()) as silent:
                silent.open("/silent")
                assert silent.read() == (0x89, b"")
                assert silent.read_end() == (1011, b"no answer to a ping")
            assert notes(server, "/silent", 1)[0]["code"] == 1006


def test_compression_can_be_switched_off() -> None:
    for value, agreed in (("false", False), ("true", True)):
        with Server("websocket_cases:app", "--chdir", str(APPS), "--ws-per-message-deflate", value) as server:
            with WebSocket(server.connect()) as websocket:
                assert (b"permessage-deflate" in websocket.open(extra=DEFLATE).head) == agreed


def test_client_that_leaves_a_busy_application_is_found() -> None:
    """Nothing is received any more, so its end cannot be read; the next pings find it."""
    args = ["--ws-max-queue", "1", "--ws-ping-interval", "0.1"]
    with Server("websocket_cases:app", "--chdir", str(APPS), *args) as server:
        with WebSocket(server.connect()) as websocket:
            websocket.open("/busy")
            websocket.send(frame(0x81, b"1") + frame(0x81, b"2") + frame(0x81, b"3"))
            wait_until(lambda: websocket.more() and websocket.buffer.count(b"\x89\0") > 2)  # pings, though not answered
        descriptors = f"/proc/{server.workers()[0]}/fd"
        count = len(os.listdir(descriptors))
        wait_until(lambda: len(os.listdir(descriptors)) < count, "the end of the connection")
        tell(server, "/go")
        first, end = notes(server, "/busy", 2)
        assert (first["text"], end["code"]) == ("1", 1006)


def test_access_log() -> None:
    """The offer is a request: it has its line, with the status that answered it."""
    with Server("websocket_cases:app", "--chdir", str(APPS), "--access-logfile", "-") as server:
        with WebSocket(server.connect()) as websocket:
            websocket.open("/logged?a=1")
            wait_until(lambda: '"GET /logged?a=1 HTTP/1.1" 101 ' in server.output)
        with WebSocket(server.connect()) as websocket:
            websocket.send(offer("/refuse"))
            websocket.read_rest()
            wait_until(lambda: '"GET /refuse HTTP/1.1" 403 ' in server.output)


def test_status_counts_them(tmp_path: Path) -> None:
    def count() -> int:
        ctl = [command()[0], "ctl", "status", "--json"]
        answer = subprocess.run(ctl, capture_output=True, text=True, env={**os.environ, **env}, check=True, timeout=60)
        return json.loads(answer.stdout)["workers"][0]["websockets"]

    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with Server("websocket_cases:app", "--chdir", str(APPS), env=env) as server:
        with WebSocket(server.connect()) as first, WebSocket(server.connect()) as second:
            first.open()
            second.open()
            assert count() == 2
            first.socket.close()
            wait_until(lambda: count() == 1)
        wait_until(lambda: count() == 0)


def test_wsgi_answers_in_http() -> None:
    with Server("hello_wsgi:app", "--chdir", str(APPS)) as server, WebSocket(server.connect()) as websocket:
        websocket.send(offer())
        assert websocket.read_head().startswith(b"HTTP/1.1 200 ")
        websocket.read_rest()
