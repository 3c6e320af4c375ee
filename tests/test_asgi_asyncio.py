"""Each request is a real asyncio task in a context of its own: what frameworks and libraries rely on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.smoke
@pytest.mark.parametrize("query", ["", "?later=1"])
def test_current_task(client: Client, query: str) -> None:
    found = client.ask(f"/task{query}").json()
    expected = {
        "real": True,
        "in_all_tasks": True,
        "hashable": True,
        "weak_key": True,
        "coro": "app",
        "loop": "licorne.loop",
        "done": False,
        "name": "licorne-request",
    }
    assert {key: found[key] for key in expected} == expected
    assert found.get("cancelling", 0) == 0
    assert found.get("same", True)


def test_a_crowd_of_callbacks_leaves_room_for_requests(client: Client) -> None:
    client.ask("/crowd")
    assert int(client.ask("/crowd_seen").body) < 10_000


def test_tasks_are_unique_and_go(server: Server) -> None:
    """Requests that run at the same time have tasks of their own, which do not outlive them."""
    clients = [Client(server.connect()) for _ in range(10)]
    for client in clients:
        client.send(b"GET /task?gate=all HTTP/1.1\r\nHost: a\r\n\r\n")
    with Client(server.connect()) as other:
        other.ask("/notes/gate-all?count=10")
        other.ask("/open/all")
    found = [client.read().json() for client in clients]
    assert max(answer["unique"] for answer in found) == 10
    wait_until(lambda: clients[0].ask("/dead_tasks").json() == 0, "the end of the tasks")
    for client in clients:
        client.close()


def test_contexts_do_not_leak(client: Client) -> None:
    for target in ("/context/a", "/context/b", "/context/c?later=1", "/context/d?later=1", "/context/e"):
        path = target.partition("?")[0]
        assert client.ask(target).json() == {"before": "lifespan", "after": path}


def test_requests_interleave(server: Server) -> None:
    with Client(server.connect()) as waiting, Client(server.connect()) as opening:
        waiting.send(b"GET /gate/one HTTP/1.1\r\nHost: a\r\n\r\n")
        assert opening.ask("/notes/gate-one").json() == [True]
        assert opening.ask("/open/one").body == b"opened"
        assert waiting.read().body == b"through"


def test_wait_for(client: Client) -> None:
    assert client.ask("/timeout").json() == {"cancelling": 0}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with Python 3.11")
def test_timeout(client: Client) -> None:
    assert client.ask("/timeout?with=1").json() == {"cancelling": 0}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with Python 3.11")
def test_task_group(client: Client) -> None:
    assert client.ask("/task_group").json() == {"results": [0, 1, 2, 3, 4], "failed": ["KeyError"]}


def test_anyio(client: Client) -> None:
    pytest.importorskip("anyio")
    pytest.importorskip("sniffio")
    assert client.ask("/anyio").json() == {
        "library": "asyncio",
        "timed_out": True,
        "results": [0, 1, 2],
        "thread": 42,
        "host": "licorne-request",
    }


def test_anyio_keeps_its_threads(client: Client) -> None:
    pytest.importorskip("anyio")
    assert len({client.ask("/anyio_threads").body for _ in range(10)}) == 1


def test_group_that_a_disconnect_cancels(server: Server) -> None:
    pytest.importorskip("anyio")
    mark = len(server.log)
    with Client(server.connect()) as client, Client(server.connect()) as other:
        client.send(b"GET /disconnect_scope HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.ask("/notes/disconnect_scope").json() == ["started"]
        client.close()
        assert other.ask("/notes/disconnect_scope?count=3").json() == ["started", "disconnect", "cancelled"]
    assert "[ERROR]" not in server.log[mark:]


def test_background_work_after_the_response(client: Client) -> None:
    assert client.ask("/background").body == b"soon"
    assert client.ask("/hello").body == b"Hello, world!"  # the connection does not wait for it
    assert client.ask("/notes/background").json() == ["http.disconnect"]


def test_receive_and_send_in_child_tasks(client: Client) -> None:
    assert client.ask("/child_tasks", "POST", b"by a child").body == b"by a child"


def test_many_at_once(server: Server) -> None:
    httpx = pytest.importorskip("httpx")
    answers: list[bytes] = []

    def load() -> None:
        with httpx.Client(base_url=server.url) as own:
            answers.extend(own.post("/echo", content=b"%d" % n).content for n in range(100))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 800
    assert all(answers.count(b"%d" % n) == 8 for n in range(100))


# --- an application that meddles with the loop


@pytest.mark.parametrize("case", ["stop_loop", "cancel_all"])
def test_interrupted_loop_goes_on(case: str) -> None:
    with Server("asgi_cases:app", "--chdir", str(APPS)) as server, Client(server.connect()) as client:
        pid = client.ask("/stats").json()["pid"]
        assert client.ask(f"/{case}").status == 200
        for _ in range(3):
            assert client.ask("/stats").json()["pid"] == pid


def test_exit_of_a_task_of_the_application_ends_the_worker() -> None:
    with Server("asgi_cases:app", "--chdir", str(APPS)) as server:
        with Client(server.connect()) as client:
            pid = client.ask("/stats").json()["pid"]
            client.ask("/exit_task")
        server.wait_log(r"The application ends its worker")
        server.wait_log(r"Booting worker with pid", count=2)

        def replaced() -> bool:
            with Client(server.connect()) as client:
                return client.ask("/stats").json()["pid"] != pid

        wait_until(replaced, "the next worker")
