"""wsgi.input: reading the request's body (PEP 3333, "Input and Error Streams")."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator

import pytest

from support.raw_client import RawClient
from support.server import wait_until
from support.wsgi_probe import Probe, probe_server

pytestmark = pytest.mark.sanitized


@pytest.fixture(scope="module", params=[1, 4], ids=["inline", "threads"])
def probe(request: pytest.FixtureRequest) -> Iterator[Probe]:
    with probe_server(request.param) as probe:
        yield probe


BODY = b"first\nsecond line\n\nlast"


def chunked(data: bytes, size: int) -> bytes:
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def head(target: str, *fields: str) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: test", *fields, "", ""]).encode()


WAYS = [
    ("read", ["first\nsecond line\n\nlast", "", ""]),
    ("read-none", ["first\nsecond line\n\nlast"]),
    ("read-minus", ["first\nsecond line\n\nlast"]),
    ("read-4", ["firs", "", "t\nse", "cond line\n\nlast"]),
    ("readline", ["first\n", "second line\n", "\n"]),
    ("readline-4", ["firs", "t\n", "second line\n", "\n"]),
    ("readlines", ["first\n", "second line\n", "\n", "last"]),
    ("readlines-hint", ["first\n", "|", "second line\n", "\n", "last"]),
    ("iter", ["first\n", "second line\n", "\n", "last"]),
    ("readinto", ["firs", "t\nsecond line\n\nlast"]),
    ("buffered", ["first\n", "second line\n", "\n", "last"]),
]


@pytest.mark.parametrize(("how", "expected"), WAYS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_ways_to_read(probe: Probe, how: str, expected: list[str], framing: str) -> None:
    with probe.connect() as client:
        if framing == "length":
            client.request("POST", f"/read?how={how}", body=BODY)
        else:
            client.send(head(f"/read?how={how}", "Transfer-Encoding: chunked") + chunked(BODY, 3))
        assert json.loads(client.response().body) == expected
        assert client.ask("GET", "/hello").status == 200


@pytest.mark.parametrize(("how", "expected"), WAYS)
def test_ways_to_read_a_body_that_comes_byte_by_byte(probe: Probe, how: str, expected: list[str]) -> None:
    """Expect: 100-continue gets the application started before the body is there."""
    with probe.connect() as client:
        client.send(head(f"/read?how={how}", f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
        assert client.response().status == 100
        if how == "readinto":  # what is here is what it gives
            client.send(BODY)
        else:
            for i in range(len(BODY)):
                client.send(BODY[i : i + 1])
        assert "".join(json.loads(client.response().body)) == "".join(expected)


@pytest.mark.parametrize("how", [how for how, _ in WAYS])
def test_without_a_body_reading_gives_nothing_at_once(probe: Probe, how: str) -> None:
    assert "".join(json.loads(probe.get(f"/read?how={how}").body)).strip("|") == ""


def test_reading_stops_at_the_end_of_the_body(probe: Probe) -> None:
    """What follows is the next request, not more of this one."""
    with probe.connect() as client:
        follower = b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n"
        client.send(head("/echo", "Content-Length: 5") + b"12345" + follower)
        assert client.response().body == b"12345"
        assert client.response().body == b"Hello, world!\n"


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 200000, 5000000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_sizes(probe: Probe, size: int, framing: str) -> None:
    body = (hashlib.sha512(b"%d" % size).digest() * (size // 64 + 1))[:size]
    with probe.connect() as client:
        if framing == "length":
            client.request("POST", "/echo", body=body)
        else:
            client.send(head("/echo", "Transfer-Encoding: chunked") + chunked(body, 10007))
        assert client.response().body == body
        assert client.ask("GET", "/hello").status == 200


@pytest.mark.skipif("sanitized" in os.environ.get("LICORNE_BIN", ""), reason="a sanitizer keeps what is freed")
def test_a_large_upload_in_little_memory(probe: Probe) -> None:
    (worker,) = probe.server.workers()
    before = rss_peak(worker)
    size, block = 256 * 1024 * 1024, b"u" * 1024 * 1024
    with probe.connect() as client:
        client.send(head("/count", f"Content-Length: {size}"))
        for _ in range(size // len(block)):
            client.send(block)
        assert client.response().body == b"%d" % size
    assert rss_peak(worker) - before < 16 * 1024


def rss_peak(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def test_100_continue_only_when_the_application_reads(probe: Probe) -> None:
    with probe.connect() as client:
        client.send(head("/ignore", "Content-Length: 5", "Expect: 100-continue"))
        response = client.response()
        assert (response.status, response.body) == (200, b"ignored")
        assert response["connection"] == "close"
    with probe.connect() as client:
        client.send(head("/echo", "Content-Length: 5", "Expect: 100-continue"))
        assert client.response().status == 100
        client.send(b"12345")
        assert client.response().body == b"12345"
        assert client.ask("GET", "/hello").status == 200


def test_no_100_continue_for_a_body_that_is_there(probe: Probe) -> None:
    with probe.connect() as client:
        client.send(head("/echo", "Content-Length: 5", "Expect: 100-continue") + b"12345")
        assert client.response().body == b"12345"


def test_an_unread_body_is_not_the_next_request(probe: Probe) -> None:
    evil = b"GET /environ/evil HTTP/1.1\r\nHost: t\r\n\r\n"
    with probe.connect() as client:
        client.send(head("/ignore", f"Content-Length: {len(evil)}") + evil)
        assert client.response().body == b"ignored"
        assert client.ask("GET", "/hello").body == b"Hello, world!\n"


def test_input_and_output_alternate(probe: Probe) -> None:
    token = probe.token()
    with probe.connect() as client:
        client.send(head(f"/lines-as-they-come/{token}", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert client.response().status == 100
        for i in range(5):
            client.send(b"7\r\nline %d\n\r\n" % i)
            if i == 0:
                client.head()
            assert client.chunk() == b"got line %d\n" % i
        client.send(b"0\r\n\r\n")
        assert client.chunk() == b""
    probe.wait_report(token, "closed")


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("how", ["reset", "half-close"])
def test_a_body_that_is_cut_off_is_an_error(probe: Probe, framing: str, how: str) -> None:
    """A part is never taken for the whole."""
    token = probe.token()
    errors = probe.count_log("Error handling request")
    client = probe.connect()
    client.send(head(f"/cut-off/{token}", framing, "Expect: 100-continue"))
    assert client.response().status == 100
    client.send(b"a\r\n1234567890\r\n")
    probe.wait_report(token, "reads")
    if how == "reset":
        client.reset()
    else:
        client.connection.shutdown(1)
    probe.wait_report(token, "raised ConnectionResetError")
    client.close()
    assert probe.get("/hello").status == 200
    assert probe.count_log("Error handling request") == errors


def test_a_body_that_stops_coming() -> None:
    """body_timeout ends the wait."""
    for threads in (1, 4):
        with probe_server(threads, "--body-timeout", "0.3") as probe:
            token = probe.token()
            with probe.connect() as client:
                client.send(head(f"/cut-off/{token}", "Content-Length: 10", "Expect: 100-continue"))
                assert client.response().status == 100
                client.send(b"123")
                probe.wait_report(token, "raised ConnectionResetError")
                assert client.response().status == 408
                assert probe.get("/hello").status == 200


def test_use_after_the_request(probe: Probe) -> None:
    assert probe.get("/keep-input", method="POST", body=b"abc").body == b"kept"
    assert probe.get("/use-kept").body == b"ValueError,RuntimeError,RuntimeError"


def test_a_slow_small_body_takes_no_thread(probe: Probe) -> None:
    """A request reaches the application when a small body is complete; until then it costs nothing."""
    slow = [probe.connect() for _ in range(10)]
    for client in slow:
        client.send(head("/echo", "Content-Length: 10") + b"12345")
    assert all(probe.get("/hello").status == 200 for _ in range(10))
    for client in slow:
        client.send(b"67890")
        assert client.response().body == b"1234567890"
        client.close()


def test_large_slow_uploads_hold_no_thread_before_their_start(probe: Probe) -> None:
    if probe.threads == 1:
        pytest.skip("with one thread a large body that is read keeps it")
    slow: list[RawClient] = [probe.connect() for _ in range(20)]
    for client in slow:
        client.send(head("/echo", "Content-Length: 300000") + b"x" * 1000)
    wait_until(lambda: probe.get("/hello").status == 200, "an answer beside slow uploads")
    for client in slow:
        client.send(b"x" * 299000)
    for client in slow:
        assert client.response().body == b"x" * 300000
        client.close()
