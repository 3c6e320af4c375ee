"""The lifespan scope: D of the specification's checklist."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from support.raw_http import Client
from support.server import Server, wait_until

APPS = Path(__file__).parent / "apps"

pytestmark = pytest.mark.sanitized


def server(name: str, *args: str, wait: bool = True) -> Server:
    return Server(f"asgi_cases:{name}", "--chdir", str(APPS), *args, wait=wait)


@pytest.mark.smoke
def test_application_without_lifespan_is_served() -> None:
    with server("http_only") as running, Client(running.connect()) as client:
        assert client.ask("/hello").status == 200
        assert "state" not in client.ask("/scope").json()
        assert "The application has no lifespan" in running.log
        assert "[ERROR]" not in running.log


def test_lifespan_off() -> None:
    with server("startup_fails", "--lifespan", "off") as running, Client(running.connect()) as client:
        assert client.ask("/").status == 500  # it takes the request for its lifespan
        assert "start-up failed" not in running.log


@pytest.mark.parametrize("name", ["http_only", "startup_raises", "startup_returns"])
def test_lifespan_on_needs_one(name: str) -> None:
    with server(name, "--lifespan", "on", wait=False) as running:
        assert running.wait_exit() == 3
        assert "lifespan" in running.log


@pytest.mark.parametrize("name", ["startup_raises", "startup_returns"])
def test_lifespan_auto_needs_none(name: str) -> None:
    with server(name) as running:
        assert "Ready" in running.log


@pytest.mark.smoke
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_failed_startup_ends_the_server(mode: str) -> None:
    with server("startup_fails", "--lifespan", mode, wait=False) as running:
        assert running.wait_exit() == 3
        assert "the database is away" in running.log
        assert running.log.count("the database is away") == 1


def test_shutdown_comes_after_the_last_request() -> None:
    with server("shutdown_notes") as running:
        answers = []

        def ask() -> None:
            with Client(running.connect()) as client:
                answers.append(client.ask("/slow"))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: "request begins" in running.output, "the request")
        assert running.stop() == 0
        thread.join()
        assert answers[0].body == b"slow"
        assert running.output.split("\n")[:4] == ["request begins", "request ends", "shutdown begins", "shutdown ends"]


def test_failed_shutdown_is_logged() -> None:
    with server("shutdown_fails") as running:
        assert running.stop() == 0
        assert "could not flush" in running.log


def test_shutdown_is_bounded() -> None:
    with server("shutdown_hangs", "--graceful-timeout", "1") as running:
        assert running.stop(timeout=20) == 0
        assert "takes too long" in running.log


def test_wrong_events_raise_in_the_application() -> None:
    with server("wrong_lifespan") as running, Client(running.connect()) as client:
        seen = client.ask("/notes/wrong_lifespan?count=4").json()
        assert [error["type"] for error in seen] == ["RuntimeError", "ValueError", "TypeError", "TypeError"]


def test_context_of_the_lifespan_is_that_of_the_requests() -> None:
    with server("app") as running, Client(running.connect()) as client:
        assert client.ask("/context").json()["before"] == "lifespan"


# --- the end of a worker


def test_tasks_that_are_left_are_cancelled_and_named() -> None:
    with server("app") as running:
        with Client(running.connect()) as client:
            client.ask("/leave_task")
        assert running.stop() == 0
        assert "was cancelled: <Task cancelled name='forgotten'" in running.log


def test_fast_stop_ends_requests_without_blaming_them() -> None:
    with server("app") as running, Client(running.connect()) as client:
        client.send(b"GET /gate/never HTTP/1.1\r\nHost: a\r\n\r\n")
        with Client(running.connect()) as other:
            assert other.ask("/notes/gate-never").json() == [True]
        running.stop(signal.SIGINT)
        assert client.at_end()
        assert "[ERROR]" not in running.log
