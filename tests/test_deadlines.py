"""request_timeout and timeout: how a request that takes too long ends, in every mode, and that nobody else is hurt."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_client import RawClient
from support.server import Server, alive, wait_until

APPS = Path(__file__).parent / "apps"
LIMIT = 0.5  # s

pytestmark = pytest.mark.sanitized


def serve(app: str, *args: str, limit: float = LIMIT) -> Server:
    return Server(f"deadline_apps:{app}", "--request-timeout", str(limit), *args, cwd=APPS)


@contextlib.contextmanager
def asked(server: Server, target: str, *fields: str, method: str = "GET") -> Iterator[RawClient]:
    with RawClient(server.connect()) as client:
        client.request(method, target, *fields)
        yield client


def get(server: Server, target: str) -> tuple[int, bytes]:
    with asked(server, target) as client:
        response = client.response()
        return response.status, response.body


def assert_cut(client: RawClient) -> None:
    """The part came, and the client cannot take it for the whole."""
    response = client.response()
    assert response.status == 200
    assert not response.complete
    assert response.body == b"part"


# --- ASGI


@pytest.fixture(scope="module")
def asgi() -> Iterator[Server]:
    with serve("app") as server:
        yield server
        assert "Booting" in server.log
        assert len(re.findall("Booting worker", server.log)) == 1, "no worker had to be replaced"


@pytest.mark.smoke
def test_asgi_is_cancelled_and_answered(asgi: Server) -> None:
    with asked(asgi, "/sleeps?a") as client:
        response = client.response()
        assert response.status == 504
        assert response["connection"] == "close"
        assert client.rest() == b""
    asgi.wait_log("cancelled True")
    asgi.wait_log("finally ClientDisconnected")
    asgi.wait_log(r"Request timed out after \d\.\d s .*: GET /sleeps\?a from 127\.0\.0\.1: answered with 504")
    found = asgi.wait_log(r"(?s)The request that timed out was here: GET /sleeps\?a\n(.*?)CancelledError")
    assert "in sleeps" in found[0].group(1), "the traceback says where"


def test_asgi_beside_it_goes_on(asgi: Server) -> None:
    with asked(asgi, "/sleeps?b") as slow:
        with RawClient(asgi.connect()) as beside:
            while not slow.data:
                beside.request("GET", "/")
                assert beside.response().body == b"hello"
                slow.connection.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    slow.receive()
        assert slow.response().status == 504


@pytest.mark.parametrize("query", ["", "length"])
def test_asgi_part_is_not_taken_for_the_whole(asgi: Server, query: str) -> None:
    with asked(asgi, f"/streams?{query}") as client:
        assert_cut(client)
    asgi.wait_log("stream ended")


def test_asgi_part_without_framing_ends_in_a_reset(asgi: Server) -> None:
    with RawClient(asgi.connect()) as client:
        client.send(b"GET /streams HTTP/1.0\r\n\r\n")
        client.until(b"part")
        with pytest.raises(ConnectionResetError):
            client.connection.recv(100)


def test_asgi_that_waits_in_receive(asgi: Server) -> None:
    assert get(asgi, "/receives")[0] == 504


def test_asgi_that_gives_in_is_no_failure(asgi: Server) -> None:
    assert get(asgi, "/gives_in")[0] == 504
    asgi.wait_log("gave in")
    assert get(asgi, "/")[1] == b"hello"
    assert "[ERROR]" not in asgi.log


def test_asgi_extends(asgi: Server) -> None:
    assert get(asgi, "/extends") == (200, b"extended")
    asgi.wait_log("left at the end: None")


def test_asgi_takes_its_limit_away(asgi: Server) -> None:
    assert get(asgi, "/unlimited") == (200, b"<licorne.Deadline: no limit>")


def test_asgi_shortens() -> None:
    with serve("app", limit=3600) as server:
        assert get(server, "/shortens")[0] == 504
        assert get(server, "/waits?0.3")[0] == 200


def test_wrong_limits_are_refused(asgi: Server) -> None:
    assert get(asgi, "/refused") == (200, b"ValueError ValueError TypeError TypeError")


def test_asgi_complete_response_ends_the_time(asgi: Server) -> None:
    assert get(asgi, "/background") == (200, b"complete")
    asgi.wait_log("background went on")


def test_asgi_whose_client_has_left_is_cancelled_too(asgi: Server) -> None:
    with asked(asgi, "/says_hello_and_sleeps?gone") as client:
        asgi.wait_log("it has begun")
        client.reset()
    asgi.wait_log(r"GET /says_hello_and_sleeps\?gone from .*: its client had left")


def offer(server: Server, path: str) -> RawClient:
    client = RawClient(server.connect())
    client.request(
        "GET", path, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    return client


def test_websocket_has_no_limit_once_it_is_accepted(asgi: Server) -> None:
    with offer(asgi, "/") as client:
        assert client.head().status == 101
        assert get(asgi, "/sleeps?ws")[0] == 504  # so much time has passed
        assert get(asgi, "/sleeps?ws")[0] == 504
        client.send(b"\x81\x82\0\0\0\0hi")
        assert client.exactly(4) == b"\x81\x02hi"


def test_websocket_that_is_not_answered(asgi: Server) -> None:
    with offer(asgi, "/never") as client:
        assert client.response().status == 504
    asgi.wait_log("offer ended")


def test_without_a_limit_there_is_no_extension() -> None:
    with Server("deadline_apps:without", cwd=APPS) as server:
        assert get(server, "/") == (200, b"['http.response.pathsend']")


# --- WSGI, inline and in threads

MODES = {"inline": (), "threads": ("--threads", "2")}


@pytest.fixture(params=MODES)
def wsgi(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve("wsgi", *MODES[request.param]) as server:
        server.args.append(request.param)  # for is_inline()
        yield server


def is_inline(server: Server) -> bool:
    return server.args[-1] == "inline"


def wait_replaced(server: Server, count: int = 2) -> None:
    """The worker is replaced, and the replacement was there first."""
    server.wait_log("Booting worker", count=count)
    first = server.workers()[0]
    wait_until(lambda: not alive(first) or len(server.workers()) < count, "the end of the worker")
    server.wait_log("request_timeout")


@pytest.mark.smoke
def test_wsgi_is_answered_and_replaced(wsgi: Server) -> None:
    with asked(wsgi, "/handles_exceptions?a") as client:
        response = client.response()
        assert response.status == 504
        assert response["connection"] == "close"
        assert client.rest() == b""
    wsgi.wait_log(r"Request timed out after \d\.\d s .*: GET /handles_exceptions\?a from 127\.0\.0\.1: answered")
    wsgi.wait_log("finally")
    found = wsgi.wait_log(r"(?s)The request that timed out was here: GET /handles_exceptions\?a\n(.*?)RequestTimeout")
    assert "in wsgi_handles_exceptions" in found[0].group(1)
    wait_replaced(wsgi)
    assert get(wsgi, "/") == (200, b"hello")
    assert "[ERROR]" not in wsgi.log


def test_wsgi_inline_is_interrupted_wherever_it_is() -> None:
    with serve("wsgi") as server:
        for path in ("/sleeps", "/spins", "/reads", "/waits_for_a_lock"):
            assert get(server, path)[0] == 504
            found = server.wait_log(rf"(?s)The request that timed out was here: GET {path}\n(.*?)RequestTimeout")
            assert f"in wsgi_{path[1:]}" in found[0].group(1)
        assert get(server, "/") == (200, b"hello")


def test_wsgi_thread_that_cannot_be_interrupted_is_answered(tmp_path: Path) -> None:
    with serve("wsgi", "--threads", "2", "--graceful-timeout", "1") as server:
        assert get(server, "/reads")[0] == 504
        wait_replaced(server)
        assert get(server, "/") == (200, b"hello")


def test_wsgi_that_gives_in_is_no_failure(wsgi: Server) -> None:
    assert get(wsgi, "/gives_in")[0] == 504
    wsgi.wait_log("gave in")
    wait_replaced(wsgi)
    assert "[ERROR]" not in wsgi.log


def test_wsgi_that_waits_for_its_body(wsgi: Server) -> None:
    with asked(wsgi, "/reads_body", "Content-Length: 100000", method="POST") as client:
        client.send(bytes(70000))
        assert client.response().status == 504
    wsgi.wait_log(r"(?s)was here: POST /reads_body\n.*in wsgi_reads_body.*RequestTimeout")


def test_wsgi_that_waits_for_a_slow_reader(wsgi: Server) -> None:
    with asked(wsgi, "/writes") as client:
        wsgi.wait_log("GET /writes from 127.0.0.1: its connection was cut")
        wsgi.wait_log("The request that timed out was here: GET /writes")
        client.rest()


def test_wsgi_part_is_not_taken_for_the_whole() -> None:
    with serve("wsgi") as server:
        for query in ("", "length"):
            with asked(server, f"/streams?{query}") as client:
                assert_cut(client)
        server.wait_log("stream ended", count=2)


def test_wsgi_thread_part_is_not_taken_for_the_whole() -> None:
    with serve("wsgi", "--threads", "2", "--graceful-timeout", "1") as server:
        with asked(server, "/streams") as client:
            assert_cut(client)


def test_wsgi_extends(wsgi: Server) -> None:
    assert get(wsgi, "/extends") == (200, b"extended")
    assert get(wsgi, "/handles_exceptions")[0] == 504, "the next one has the usual limit"


@pytest.mark.parametrize("mode", MODES)
def test_wsgi_shortens(mode: str) -> None:
    with serve("wsgi", *MODES[mode], limit=3600) as server:
        assert get(server, "/shortens")[0] == 504


def test_wsgi_interruption_hits_no_other_request(wsgi: Server) -> None:
    """Requests end all around the time of their limit, on threads that serve others at once."""
    for i in range(4):
        with asked(wsgi, f"/waits?s={LIMIT - 0.01 + 0.005 * i:.3f}") as client:
            assert client.response().status in (200, 504)
        with RawClient(wsgi.connect()) as client:
            for _ in range(20):
                client.request("GET", "/")
                assert client.response().body == b"hello"
    assert not re.findall("here: GET /$", wsgi.log, re.MULTILINE)


def test_wsgi_in_the_queue_is_answered_and_dropped() -> None:
    with serve("wsgi", "--threads", "2", "--graceful-timeout", "1") as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(asked(server, "/reads"))
        server.wait_log("it reads", count=2)
        waiting = stack.enter_context(asked(server, "/queued"))
        assert waiting.response().status == 504


# --- the hard limit, and timeout for calls in threads


def wait_killed(server: Server, worker: int, line: str, by: str = "--request-timeout, --request-timeout-grace") -> str:
    """The worker dies, the log says why and what for, and another one serves. Returns what the log says of it."""
    why = rf"Worker {worker} was still at a request after \d+\.\d s \({by}\): killed\. It was {re.escape(line)}"
    server.wait_log(why)
    wait_until(lambda: not alive(worker), "the end of the worker")
    report = re.search(rf"{why}\n((?: .*\n|\n)*)", server.log)
    assert report is not None
    server.wait_log("Booting worker", count=2)
    wait_until(lambda: get(server, "/") == (200, b"hello"), "another worker to serve")
    return report.group(1)


HARD = ("--request-timeout-grace", "0.5")


def test_asgi_that_swallows_is_killed_with_its_worker() -> None:
    with serve("app", *HARD) as server, contextlib.ExitStack() as stack:
        (worker,) = server.workers()
        beside = stack.enter_context(offer(server, "/"))
        assert beside.head().status == 101
        swallowing = stack.enter_context(asked(server, "/swallows?a"))
        other = stack.enter_context(asked(server, "/goes_on"))
        assert swallowing.response().status == 504
        report = wait_killed(server, worker, "GET /swallows?a")
        assert other.rest() == b""
        assert "lost with it" in report
        assert "GET /goes_on from" in report
        assert re.search(r"GET /swallows\?a from 127\.0\.0\.1:\d+, for \d", report)
        assert "in swallows" in report, "the stacks of its tasks"


def test_asgi_that_blocks_its_loop_is_killed() -> None:
    with serve("app", *HARD) as server:
        (worker,) = server.workers()
        with asked(server, "/blocks") as client:
            report = wait_killed(server, worker, "GET /blocks")
            assert client.rest() == b""
        assert "in blocks" in report


def test_a_shorter_limit_of_the_application_is_enforced_too() -> None:
    with serve("app", *HARD, limit=3600) as server:
        (worker,) = server.workers()
        assert get(server, "/shortens_and_swallows")[0] == 504
        wait_killed(server, worker, "GET /shortens_and_swallows")


@pytest.mark.parametrize("mode", MODES)
def test_wsgi_that_swallows_is_killed(mode: str) -> None:
    with serve("wsgi", *MODES[mode], *HARD) as server:
        (worker,) = server.workers()
        assert get(server, "/swallows")[0] == 504
        server.wait_log("swallowed")
        assert "in wsgi_swallows" in wait_killed(server, worker, "GET /swallows")


@pytest.mark.parametrize("mode", MODES)
def test_wsgi_that_never_comes_back_is_killed(mode: str) -> None:
    """The master needs nothing of the worker."""
    with serve("wsgi", *MODES[mode], *HARD) as server:
        (worker,) = server.workers()
        with asked(server, "/never_comes_back") as client:
            report = wait_killed(server, worker, "GET /never_comes_back")
            assert client.rest().startswith(b"" if mode == "inline" else b"HTTP/1.1 504 ")
        assert "in wsgi_never_comes_back" in report


def test_a_worker_that_leaves_is_spared_for_its_other_requests() -> None:
    """After the soft limit it is replaced; what it still serves is not lost to the hard one."""
    with serve("wsgi", "--threads", "2", *HARD, "--graceful-timeout", "30") as server, contextlib.ExitStack() as stack:
        (worker,) = server.workers()
        stuck = stack.enter_context(asked(server, "/reads"))
        other = stack.enter_context(asked(server, "/extends?2"))
        server.wait_log("it reads")
        assert stuck.response().status == 504
        assert other.response().body == b"extended"
        wait_until(lambda: not alive(worker), "the end of the worker")


def test_timeout_bounds_calls_in_threads() -> None:
    with Server("deadline_apps:wsgi", "--threads", "2", "--timeout", "1", cwd=APPS) as server:
        (worker,) = server.workers()
        with asked(server, "/reads") as client:
            assert "in wsgi_reads" in wait_killed(server, worker, "GET /reads", "--timeout")
            assert client.rest() == b""
