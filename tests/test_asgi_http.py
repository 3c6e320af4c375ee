"""ASGI over HTTP: the scope, what receive() gives, what send() takes, and how a request ends. The numbers in the names'
comments are those of the specification's checklist: A base, B http."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.raw_http import Client
from support.server import Server, wait_until

APPS = Path(__file__).parent / "apps"

pytestmark = pytest.mark.sanitized


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("asgi_cases:app", "--chdir", str(APPS)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.connect()) as connected:
        yield connected


def notes(server: Server, name: str, count: int = 1) -> list[Any]:
    with Client(server.connect()) as own:
        found = own.ask(f"/notes/{name}?count={count}").json()
    assert len(found) >= count, f"{name}: only {found}\n{server.log}"
    return found


def errors_in(server: Server, mark: int) -> str:
    return "\n".join(line for line in server.log[mark:].splitlines() if "[ERROR]" in line)


def abort(client: Client) -> None:
    """Leaves with a reset."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# --- scope: A2, A3, A8, B


@pytest.mark.smoke
def test_scope(server: Server, client: Client) -> None:
    fields = "Host: a.example\r\nX-Two: 1\r\nX-Odd:\r\nAccept: */*\r\nx-two:  2 \r\nCookie: k=\xe9\r\n"
    client.send(f"GET /scope/a%20%C3%A9/%2F?b=%20&c HTTP/1.1\r\n{fields}\r\n".encode("latin-1"))
    scope = client.read().json()
    assert scope.pop("_type") == "dict"
    types = scope.pop("_types")
    assert types["path"] == types["method"] == types["root_path"] == types["http_version"] == types["scheme"] == "str"
    assert types["raw_path"] == types["query_string"] == "bytes"
    local, remote = client.socket.getsockname(), client.socket.getpeername()
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/scope/a é//",
        "raw_path": {"bytes": "/scope/a%20%C3%A9/%2F"},
        "query_string": {"bytes": "b=%20&c"},
        "root_path": "",
        "headers": [
            [{"bytes": "host"}, {"bytes": "a.example"}],
            [{"bytes": "x-two"}, {"bytes": "1"}],
            [{"bytes": "x-odd"}, {"bytes": ""}],
            [{"bytes": "accept"}, {"bytes": "*/*"}],
            [{"bytes": "x-two"}, {"bytes": "2"}],
            [{"bytes": "cookie"}, {"bytes": "k=\xe9"}],
        ],
        "client": list(local[:2]),
        "server": list(remote[:2]),
        "state": {"number": 1, "shared": scope["state"]["shared"]},
        "extensions": {"http.response.pathsend": {}},
    }


def test_scope_is_fresh(client: Client) -> None:
    """A request does not see what the one before did to its scope, on the same connection."""
    for _ in range(3):
        scope = client.ask("/scope").json()
        assert "touched" not in scope
        assert scope["headers"] == [[{"bytes": "host"}, {"bytes": "test"}]]


def test_scope_http_1_0(client: Client) -> None:
    client.send(b"GET /scope HTTP/1.0\r\n\r\n")
    scope = client.read().json()
    assert scope["http_version"] == "1.0"
    assert scope["headers"] == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT"])
def test_scope_method(client: Client, method: str) -> None:
    assert client.ask("/scope", method).json()["method"] == method


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        ("/scope", "/scope", "/scope", ""),
        ("/scope?", "/scope", "/scope", ""),
        ("/scope?a=%41?b", "/scope", "/scope", "a=%41?b"),
        ("/scope/%41%2f%2F", "/scope/A//", "/scope/%41%2f%2F", ""),
        ("/scope/%e2%82%ac", "/scope/€", "/scope/%e2%82%ac", ""),
        ("/scope/%ff%41", "/scope/\ufffdA", "/scope/%ff%41", ""),
        ("/scope/%C3", "/scope/\ufffd", "/scope/%C3", ""),
        ("/scope/%41" + "x" * 2000, "/scope/A" + "x" * 2000, "/scope/%41" + "x" * 2000, ""),
        ("/scope//b/../c/.", "/scope//b/../c/.", "/scope//b/../c/.", ""),
        ("http://other.example/scope/x?y", "/scope/x", "/scope/x", "y"),
    ],
)
def test_scope_path(client: Client, target: str, path: str, raw_path: str, query: str) -> None:
    host = "other.example" if target.startswith("http:") else "test"
    scope = client.ask(target, headers={"Host": host}).json()
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, {"bytes": raw_path}, {"bytes": query})


def test_scope_path_decodes_once(client: Client) -> None:
    assert client.ask("/scope/%2541").json()["path"] == "/scope/%41"


def test_absolute_target_names_the_host(client: Client) -> None:
    client.send(b"GET http://other.example/scope HTTP/1.1\r\nHost: other.example\r\n\r\n")
    headers = client.read().json()["headers"]
    assert headers == [[{"bytes": "host"}, {"bytes": "other.example"}]]


def test_header_values_are_each_request_s_own(client: Client) -> None:
    """Well-known and steady fields are shared between requests: each must still get its own values."""
    for agent in ["a", "b", "a" * 100, "a" * 99 + "b", "a", "", "c" * 300, "c" * 299 + "d"]:
        headers = client.ask("/scope", headers={"User-Agent": agent, "Accept": agent[:5]}).json()["headers"]
        assert headers[1:] == [[{"bytes": "user-agent"}, {"bytes": agent}], [{"bytes": "accept"}, {"bytes": agent[:5]}]]


def test_unix_socket_scope() -> None:
    with Server("asgi_cases:app", "--chdir", str(APPS), bind="unix") as server, Client(server.connect()) as client:
        scope = client.ask("/scope").json()
        assert scope["client"] is None
        assert scope["server"] == [server.address, None]


def test_root_path_stands_in_front(tmp_path: Path) -> None:
    (tmp_path / "shows.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    shown = repr((scope['root_path'], scope['path'], scope['raw_path'])).encode()\n"
        "    await send({'type': 'http.response.body', 'body': shown})\n"
    )
    options = ["--lifespan", "off", "--root-path", "/api/é"]
    with Server("shows:app", *options, cwd=tmp_path) as server, Client(server.connect()) as client:
        shown = client.ask("/%41?q").body.decode()
    assert shown == repr(("/api/é", "/api/é/A", "/api/é/%41".encode()))


def test_state_is_a_shallow_copy(client: Client) -> None:
    first = client.ask("/state").json()["seen"]
    second = client.ask("/state").json()["seen"]
    assert "request" not in second
    assert len(second["shared"]) == len(first["shared"]) + 1


# --- shapes of applications: A1, A7


@pytest.mark.smoke
def test_asgi2_double_callable() -> None:
    with Server("asgi_cases:Asgi2", "--chdir", str(APPS)) as server, Client(server.connect()) as client:
        assert client.ask("/").json() == {"asgi": "2.0"}
        assert client.ask("/").json() == {"asgi": "2.0"}


def test_instance_with_async_call() -> None:
    with Server("asgi_cases:instance", "--chdir", str(APPS)) as server, Client(server.connect()) as client:
        assert client.ask("/hello").body == b"Hello, world!"
        assert client.ask("/task").json()["coro"] == "Instance.__call__"


def test_plain_callable_runs_in_its_request() -> None:
    """What it does before there is a coroutine has a task, and its context variables end with the request."""
    options = ["--interface", "asgi3", "--chdir", str(APPS)]
    with Server("asgi_cases:plain_callable", *options) as server, Client(server.connect()) as client:
        for _ in range(2):
            assert client.ask("/sync_part").json() == {"before": "lifespan", "task": True}


# --- receive: B


@pytest.mark.smoke
def test_empty_body_is_one_event(client: Client) -> None:
    expected = [{"type": "http.request", "body": {"bytes": ""}, "more_body": False}]
    for method in ("GET", "POST", "DELETE"):
        assert client.ask("/events", method).json() == expected
    assert client.ask("/events", "POST", b"").json() == expected


def test_body(client: Client) -> None:
    assert client.ask("/events", "POST", b"abc").json() == [
        {"type": "http.request", "body": {"bytes": "abc"}, "more_body": False}
    ]
    assert client.ask("/echo", "POST", bytes(range(256)) * 300).body == bytes(range(256)) * 300


def test_body_in_pieces(client: Client) -> None:
    client.send(b"POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n")
    for piece in (b"ab", b"cd", b"ef"):
        client.send(piece)
    events = client.read().json()
    assert "".join(event["body"]["bytes"] for event in events) == "abcdef"
    assert [event["more_body"] for event in events] == [True] * (len(events) - 1) + [False]


def test_chunked_body_is_dechunked(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    client.send(b"4;x=y\r\ndefg\r\n0\r\nTrailer: 1\r\n\r\n")
    assert client.read().body == b"abcdefg"
    assert client.ask("/hello").status == 200


def test_receive_after_the_body_waits_for_the_end(server: Server, client: Client) -> None:
    assert client.ask("/after_body", "POST", b"x").body == b"done"
    assert notes(server, "after_body", 3) == [False, {"type": "http.disconnect"}, {"type": "http.disconnect"}]


def test_receive_tells_the_disconnect(server: Server, client: Client) -> None:
    client.send(b"GET /wait_disconnect HTTP/1.1\r\nHost: a\r\n\r\n")
    assert notes(server, "wait_disconnect") == ["waiting"]
    client.close()
    assert notes(server, "wait_disconnect", 3)[1:] == [{"type": "http.disconnect"}] * 2


def test_half_close_still_gets_the_response(server: Server, client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.read().body == b"abc"
    assert client.at_end()


def test_body_that_ends_early_is_a_disconnect(server: Server, client: Client) -> None:
    mark = len(server.log)
    client.send(b"POST /half_body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    assert notes(server, "half_body") == [{"type": "http.request", "body": {"bytes": "abc"}, "more_body": True}]
    client.close()
    assert notes(server, "half_body", 2)[1] == {"type": "http.disconnect"}
    assert errors_in(server, mark) == ""


def test_cancelled_receive_loses_nothing(client: Client) -> None:
    client.send(b"POST /wait_for_body HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n")
    for number in range(100):
        client.send(b"%03d" % number)
        if number == 99:
            break
        client.socket.settimeout(0.001 * (number % 10) + 0.0001)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
    client.socket.settimeout(30)
    answer = client.read().json()
    assert answer["body"]["bytes"] == "".join(f"{number:03}" for number in range(100))
    assert answer["cancelled"] > 0


def test_two_receivers_both_learn_of_the_end(server: Server, client: Client) -> None:
    assert client.ask("/two_receivers").body == b"done"
    assert notes(server, "two_receivers") == [[{"type": "http.disconnect"}] * 2]


# --- send: A4, B


START = {"type": "http.response.start", "status": 200}
BODY = {"type": "http.response.body", "body": {"$bytes": "x"}}


@pytest.mark.parametrize(
    ("name", "events", "expected"),
    [
        ("body_first", [BODY], ["RuntimeError"]),
        ("start_twice", [START, START, BODY], [None, "RuntimeError", None]),
        ("no_type", [{"status": 200}], ["ValueError"]),
        ("type_int", [{"type": 3}], ["TypeError"]),
        ("no_dict", ["http.response.start"], ["TypeError"]),
        ("unknown", [{"type": "http.response.nonsense"}, START, BODY], ["ValueError", None, None]),
        ("websocket", [{"type": "websocket.accept"}], ["ValueError"]),
        ("no_status", [{"type": "http.response.start"}], ["ValueError"]),
        ("status_str", [{**START, "status": "200"}], ["TypeError"]),
        ("status_float", [{**START, "status": 200.0}], ["TypeError"]),
        ("status_none", [{**START, "status": None}], ["TypeError"]),
        ("status_20", [{**START, "status": 20}], ["ValueError"]),
        ("status_1xx", [{**START, "status": 101}], ["ValueError"]),
        ("status_huge", [{**START, "status": 1 << 70}], ["ValueError"]),
        ("header_str", [{**START, "headers": [["a", "b"]]}], ["TypeError"]),
        ("header_value_int", [{**START, "headers": [[{"$bytes": "a"}, 1]]}], ["TypeError"]),
        ("header_single", [{**START, "headers": [[{"$bytes": "a"}]]}], ["ValueError"]),
        ("header_int", [{**START, "headers": [1]}], ["TypeError"]),
        ("headers_int", [{**START, "headers": 1}], ["TypeError"]),
        ("header_crlf", [{**START, "headers": [[{"$bytes": "a"}, {"$bytes": "b\r\nc: d"}]]}], ["ValueError"]),
        ("header_nul", [{**START, "headers": [[{"$bytes": "a"}, {"$bytes": "b\0"}]]}], ["ValueError"]),
        ("header_name_space", [{**START, "headers": [[{"$bytes": "a b"}, {"$bytes": "b"}]]}], ["ValueError"]),
        ("header_name_empty", [{**START, "headers": [[{"$bytes": ""}, {"$bytes": "b"}]]}], ["ValueError"]),
        ("length_text", [{**START, "headers": [[{"$bytes": "content-length"}, {"$bytes": "x"}]]}], ["ValueError"]),
        ("body_str", [START, {**BODY, "body": "text"}, BODY], [None, "TypeError", None]),
        ("body_int", [START, {**BODY, "body": 3}, BODY], [None, "TypeError", None]),
        ("body_none", [START, {**BODY, "body": None}, BODY], [None, "TypeError", None]),
        ("bad_start_then_good", [{**START, "status": "200"}, START, BODY], ["TypeError", None, None]),
        ("surplus", [{**START, "surplus": 1, "trailers": False}, {**BODY, "surplus": 1}], [None, None]),
    ],
)
def test_events_of_the_application(
    server: Server, client: Client, name: str, events: list[Any], expected: list[str | None]
) -> None:
    response = client.ask(f"/raw/{name}", "POST", json.dumps(events).encode())
    seen = notes(server, name, len(expected))
    assert [error and error["type"] for error in seen] == expected
    assert all(error is None or error["text"] for error in seen)
    complete = expected[-1] is None
    assert (response.status, response.body) == ((200, b"x") if complete else (500, response.body))


@pytest.mark.parametrize("kind", ["$bytes", "$bytearray", "$memoryview"])
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_bytes_like_bodies(client: Client, kind: str, size: int) -> None:
    events = [START, {**BODY, "body": {kind: "y" * size}, "more_body": True}, {**BODY, "body": {kind: "z"}}]
    assert client.ask("/raw/bytes_like", "POST", json.dumps(events).encode()).body == b"y" * size + b"z"


@pytest.mark.parametrize("kind", ["$tuple", "$iter"])
def test_headers_may_be_any_iterable_of_pairs(client: Client, kind: str) -> None:
    pairs = [[{"$bytes": f"x-{n}"}, {"$bytes": str(n)}] for n in range(50)]
    pairs[3] = {kind: pairs[3]}
    response = client.ask("/raw/iterable", "POST", json.dumps([{**START, "headers": {kind: pairs}}, BODY]).encode())
    own = [pair for pair in response.header_pairs if pair[0].startswith("x-")]
    assert own == [(f"x-{n}", str(n)) for n in range(50)]


def test_header_order_and_duplicates(client: Client) -> None:
    pairs = [("set-cookie", "a=1"), ("x-b", ""), ("Set-Cookie", "b=2"), ("x-a", "\xe9")]
    headers = [[{"$bytes": name}, {"$bytes": value}] for name, value in pairs]
    response = client.ask("/raw/order", "POST", json.dumps([{**START, "headers": headers}, BODY]).encode())
    assert [p for p in response.header_pairs if p[0].lower() in ("set-cookie", "x-a", "x-b")] == pairs


def test_transfer_encoding_of_the_application_is_ignored(client: Client) -> None:
    headers = [[{"$bytes": "Transfer-Encoding"}, {"$bytes": "gzip, chunked"}]]
    response = client.ask("/raw/te", "POST", json.dumps([{**START, "headers": headers}, BODY]).encode())
    assert response.headers["transfer-encoding"] is None
    assert (response.headers["content-length"], response.body) == ("1", b"x")


def test_missing_body_and_headers(client: Client) -> None:
    response = client.ask("/raw/bare", "POST", json.dumps([START, {"type": "http.response.body"}]).encode())
    assert (response.status, response.body, response.headers["content-length"]) == (200, b"", "0")


def test_more_body_may_be_any_truth_value(client: Client) -> None:
    events = [START, {**BODY, "more_body": 1}, {**BODY, "more_body": []}]
    assert client.ask("/raw/truth", "POST", json.dumps(events).encode()).body == b"xx"


def test_stream_is_chunked(client: Client) -> None:
    response = client.ask("/stream?pieces=5")
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.body == b"".join(b"piece %d\n" % n for n in range(5))
    assert client.ask("/stream?pieces=300&slow=1").body.count(b"\n") == 300


def test_stream_to_http_1_0_ends_with_the_connection(client: Client) -> None:
    client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    response = client.read()
    assert response.headers["transfer-encoding"] is None
    assert response.headers["content-length"] is None
    assert response.body == b"piece 0\npiece 1\npiece 2\n"
    assert client.at_end()


def test_no_body_where_none_belongs(client: Client) -> None:
    head = client.ask("/status/200", "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "6")
    no_content = client.ask("/status/204")
    assert (no_content.status, no_content.body) == (204, b"")
    assert no_content.headers["content-length"] is no_content.headers["transfer-encoding"] is None
    not_modified = client.ask("/status/304")
    assert (not_modified.status, not_modified.body) == (304, b"")
    assert client.ask("/hello").body == b"Hello, world!"


def test_head_is_held_until_the_first_body_event(server: Server, client: Client) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    assert notes(server, "held") == ["started"]
    client.socket.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    client.socket.settimeout(30)
    assert client.read().body == b"body"


def test_everything_after_the_end_is_ignored(server: Server, client: Client) -> None:
    assert client.ask("/after_end").body == b"all"
    assert notes(server, "after_end") == ["ignored"]
    assert client.ask("/hello").body == b"Hello, world!"


def test_more_than_content_length(server: Server, client: Client) -> None:
    headers = [[{"$bytes": "content-length"}, {"$bytes": "3"}]]
    events = [{**START, "headers": headers}, {**BODY, "more_body": True}, {**BODY, "body": {"$bytes": "yyyyy"}}]
    response = client.ask("/raw/too_long", "POST", json.dumps(events).encode())
    assert [error and error["type"] for error in notes(server, "too_long", 3)] == [None, None, "RuntimeError"]
    assert (response.body, response.complete) == (b"x", False)
    assert client.at_end()


def test_less_than_content_length(server: Server, client: Client) -> None:
    headers = [[{"$bytes": "content-length"}, {"$bytes": "3"}]]
    events = [{**START, "headers": headers}, {**BODY, "more_body": True}, {"type": "http.response.body"}]
    response = client.ask("/raw/too_short", "POST", json.dumps(events).encode())
    assert [error and error["type"] for error in notes(server, "too_short", 3)] == [None, None, "RuntimeError"]
    assert (response.body, response.complete) == (b"x", False)
    assert client.at_end()


def test_less_than_content_length_at_once(server: Server, client: Client) -> None:
    """Nothing was sent yet, so nothing was promised: a clean 500."""
    headers = [[{"$bytes": "content-length"}, {"$bytes": "3"}]]
    response = client.ask("/raw/short_at_once", "POST", json.dumps([{**START, "headers": headers}, BODY]).encode())
    assert [error and error["type"] for error in notes(server, "short_at_once", 2)] == [None, "RuntimeError"]
    assert response.status == 500


# --- the client leaves: A5


def test_send_after_the_disconnect_raises_an_os_error(server: Server, client: Client) -> None:
    client.send(b"GET /send_late HTTP/1.1\r\nHost: a\r\n\r\n")
    mark = len(server.log)
    abort(client)
    seen = notes(server, "send_late", 2)
    assert [error["type"] for error in seen[:2]] == ["ClientDisconnected"] * 2
    assert "OSError" in seen[0]["bases"]
    assert errors_in(server, mark) == ""


@pytest.mark.parametrize("query", ["", "?raise=1"])
def test_endless_stream_ends_when_the_client_leaves(server: Server, query: str) -> None:
    """The exception, and a framework's own that is raised from it, is no error of the application."""
    before = len(notes(server, "endless", 0))
    mark = len(server.log)
    with Client(server.connect()) as client:
        client.send(b"GET /endless%s HTTP/1.1\r\nHost: a\r\n\r\n" % query.encode())
        assert client.socket.recv(1000)
        abort(client)
    seen = notes(server, "endless", before + 2)
    assert seen[-1]["type"] == "ClientDisconnected"
    with Client(server.connect()) as client:
        wait_until(lambda: client.ask("/stats").json()["tasks"] <= 4, "the end of the request's task")
    assert errors_in(server, mark) == ""


def test_client_that_leaves_while_the_stream_waits_for_room(server: Server) -> None:
    before = len(notes(server, "endless", 0))
    with Client(server.connect()) as client:
        client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        notes(server, "endless", before + 1)
        with Client(server.connect()) as other:
            for _ in range(50):  # turns go by: the stream has filled the socket and waits
                other.ask("/hello")
        abort(client)
    assert notes(server, "endless", before + 2)[-1]["type"] == "ClientDisconnected"


def test_half_closed_client_that_leaves_while_the_stream_waits(server: Server) -> None:
    """The disconnect was told at the half-close; the reset that follows must still wake the stream."""
    before = len(notes(server, "endless", 0))
    with Client(server.connect()) as client:
        client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        notes(server, "endless", before + 1)
        with Client(server.connect()) as other:
            for _ in range(50):
                other.ask("/hello")
        abort(client)
    assert notes(server, "endless", before + 2)[-1]["type"] == "ClientDisconnected"


# --- backpressure


def test_large_body_goes_out_whole(client: Client) -> None:
    size = 20 << 20
    response = client.ask(f"/download?size={size}&piece={size}")
    assert response.body == (bytes(range(256)) * (size // 256))
    assert client.ask("/hello").body == b"Hello, world!"


def test_mirror_both_ways(client: Client) -> None:
    client.send(b"POST /mirror HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    reader = client._reader()
    seen = b""
    for number in range(20):
        piece = b"%06d" % number * 1000
        client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        if number == 0:
            while reader.readline() != b"\r\n":
                pass
        wanted = len(seen) + len(piece)
        while len(seen) < wanted:
            seen += reader.read(int(reader.readline(), 16))
            assert reader.readline() == b"\r\n"
        assert seen.endswith(piece)
    client.send(b"0\r\n\r\n")
    assert reader.readline() == b"0\r\n"


# --- failures: A6, B


@pytest.mark.smoke
@pytest.mark.parametrize("case", ["boom", "boom_held", "boom_later"])
def test_exception_before_the_head_is_a_500(server: Server, client: Client, case: str) -> None:
    mark = len(server.log)
    response = client.ask(f"/{case}")
    assert response.status == 500
    assert response.headers["x-secret"] is None
    assert client.ask("/hello").status == 200  # the connection goes on
    log = server.log[mark:]
    assert f"Error in the ASGI application: GET /{case}" in log
    assert "Traceback" in log
    assert "ValueError: boom" in log


def test_exception_after_the_head_breaks_the_connection(server: Server, client: Client) -> None:
    mark = len(server.log)
    response = client.ask("/boom_after")
    assert (response.status, response.body, response.complete) == (200, b"part", False)
    assert client.at_end()
    assert "ValueError: boom after the head" in server.log[mark:]


def test_exception_after_the_response_is_logged_only(server: Server, client: Client) -> None:
    mark = len(server.log)
    assert client.ask("/boom_done").body == b"fine"
    assert client.ask("/hello").status == 200
    log = server.log[mark:]
    assert "Error in the ASGI application after its response: GET /boom_done" in log
    assert "ValueError: boom after the response" in log


@pytest.mark.parametrize(("case", "what"), [("nothing", "http.response.start"), ("only_start", "http.response.body")])
def test_return_without_a_response_is_a_500(server: Server, client: Client, case: str, what: str) -> None:
    mark = len(server.log)
    assert client.ask(f"/{case}").status == 500
    assert what in errors_in(server, mark)


def test_return_in_the_middle_breaks_the_connection(server: Server, client: Client) -> None:
    mark = len(server.log)
    response = client.ask("/unfinished")
    assert (response.body, response.complete) == (b"part", False)
    assert client.at_end()
    assert "without completing its response" in errors_in(server, mark)


@pytest.mark.parametrize("query", ["", "?later=1", "?keyboard=1", "?keyboard=1&later=1"])
def test_system_exit_ends_the_request_not_the_worker(server: Server, client: Client, query: str) -> None:
    pid = client.ask("/stats").json()["pid"]
    assert client.ask(f"/exit{query}").status == 500
    assert client.ask("/stats").json()["pid"] == pid


def test_cancelled_request_is_a_500(server: Server, client: Client) -> None:
    assert client.ask("/cancel_self").status == 500


def test_not_awaited_pipelining(client: Client) -> None:
    """Responses come in order although the first request waits."""
    client.send(b"GET /stream?slow=1 HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read().body.startswith(b"piece 0")
    assert client.read().body == b"Hello, world!"


def test_asgion_has_nothing_to_say() -> None:
    """A checker of the protocol between server and application."""
    pytest.importorskip("asgion")
    with Server("asgi_cases:checked", "--chdir", str(APPS)) as server, Client(server.connect()) as client:
        for target in (
            "/scope/%C3%A9?a=b",
            "/hello",
            "/stream",
            "/events",
            "/background",
        ):
            client.ask(target)
            client.ask(target, "HEAD")
            client.ask(target, "POST", b"a body" * 20_000)
        client.ask("/after_body", "POST", b"a body")
        client.ask("/mirror", "POST", b"a body")
        client.ask("/notes/after_body?count=3")
        assert client.ask("/notes/violations?count=0").json() == []
