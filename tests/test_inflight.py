"""What can be seen of requests in flight, from outside: `licorne ctl status` and `dump`, the report on a slow request,
and what is logged of a worker that is killed or dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_websocket import WebSocket
from support.server import Server, command, process_state, wait_until
from support.wsgi_probe import Fifo

ASGI = """
import asyncio, os, re, warnings

gate = asyncio.Event()

async def pause():
    await gate.wait()

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await pause()
    if scope["type"] != "http":
        return
    what = scope["path"].partition("/")[2].split("/")[0]
    if what == "go":
        gate.set()
    if what == "wait":
        await pause()
    if what == "block":
        await asyncio.sleep(0)
        open(os.environ["FIFO"]).close()
    if what == "first":
        open(os.environ["FIFO"]).close()
    if what == "regex":
        re.match("(a+)+b", "a" * 64)
    if what == "die":
        os.kill(os.getpid(), 9)
    if what == "fork":
        warnings.simplefilter("error")  # of threads, from Python 3.12 on
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
    if what == "after":
        await pause()
"""

WSGI = """
import os

def block():
    open(os.environ["FIFO"]).close()

def app(environ, start_response):
    if environ["PATH_INFO"].startswith("/block"):
        block()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(ASGI)
    (tmp_path / "w.py").write_text(WSGI)
    Fifo(tmp_path)
    return tmp_path


def serve(folder: Path, app: str, *args: str) -> Server:
    env = {"XDG_RUNTIME_DIR": str(folder), "FIFO": str(folder / "fifo")}
    return Server(app, *args, cwd=folder, env=env)


def go_on(folder: Path) -> None:
    with open(folder / "fifo", "wb"):
        pass


def ctl(folder: Path, *args: str) -> str:
    env = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    told = subprocess.run([command()[0], "ctl", *args], capture_output=True, text=True, env=env, timeout=60, check=True)
    return told.stdout


def workers(folder: Path) -> list[dict]:
    return json.loads(ctl(folder, "status", "--json"))["workers"]


def current(folder: Path) -> list[dict]:
    return [request for worker in workers(folder) for request in worker["current"]]


def wait_current(folder: Path, *lines: str) -> list[dict]:
    """Waits until just these requests are in flight; oldest first."""
    now: list[dict] = []

    def are_there() -> bool:
        now[:] = current(folder)
        return sorted(request["request"] for request in now) == sorted(lines)

    wait_until(are_there, f"{lines} in flight")
    return now


@contextlib.contextmanager
def asking(server: Server, target: str) -> Iterator[socket.socket]:
    with server.connect() as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        yield client


def answer(client: socket.socket) -> str:
    with client.makefile("rb") as stream:
        return stream.read().decode()


def get(server: Server, target: str) -> str:
    with asking(server, target) as client:
        return answer(client)


def block(log: str, first: str) -> str:
    """The message that begins so, with its further lines."""
    return re.search(rf"(?m)^\[.*\] {first}.*\n(?:[^\[\n].*\n|\n)*", log)[0]


# --- status


@pytest.mark.sanitized
def test_requests_are_listed_while_they_last(folder: Path) -> None:
    with serve(folder, "a:app") as server:
        with asking(server, "/wait/1?a=%20b") as first:
            wait_current(folder, "GET /wait/1?a=%20b")
            with asking(server, "/wait/2") as second:
                one, two = wait_current(folder, "GET /wait/1?a=%20b", "GET /wait/2")
                assert (one["client"], one["port"]) == first.getsockname()
                assert (two["client"], two["port"]) == second.getsockname()
                assert one["elapsed_s"] >= two["elapsed_s"] >= 0
                assert one["state"] == "serving"
                (worker,) = workers(folder)
                assert worker["in_flight"] == 2
                table = ctl(folder, "status")
                assert re.search(r"\n +GET /wait/2 from 127\.0\.0\.1:\d+, for \d+\.\d+ s\n", table), table
                get(server, "/go")
                assert answer(first).endswith("ok")
                assert answer(second).endswith("ok")
        wait_current(folder)
        assert workers(folder)[0]["in_flight"] == 0


def test_what_goes_on_after_its_response_is_no_request_in_flight(folder: Path) -> None:
    with serve(folder, "a:app", "--slow-request", "0.2") as server:
        assert get(server, "/after").endswith("ok")
        (request,) = wait_current(folder, "GET /after")
        assert request["state"] == "answered"
        assert workers(folder)[0]["in_flight"] == 0
        with asking(server, "/wait"):
            server.wait_log(r"Slow in worker \d+, .*: GET /wait\n")
            assert "GET /after" not in re.search(r"Slow in.*", server.log)[0]
            get(server, "/go")


def test_a_client_that_has_left(folder: Path) -> None:
    with serve(folder, "a:app") as server:
        with asking(server, "/wait") as client:
            wait_current(folder, "GET /wait")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
        wait_until(lambda: current(folder)[0]["state"] == "gone", "the client's leave")
        get(server, "/go")
        wait_current(folder)


@pytest.mark.parametrize(("app", "args"), [("a:app", []), ("w:app", [])], ids=["asgi", "wsgi"])
def test_a_blocked_worker_is_seen_as_it_is(folder: Path, app: str, args: list[str]) -> None:
    with serve(folder, app, *args) as server, asking(server, "/block") as client:
        wait_current(folder, "GET /block")
        wait_until(lambda: workers(folder)[0]["turn_s"] > 0.05, "a long turn")
        assert workers(folder)[0]["in_flight"] == 1
        go_on(folder)
        assert answer(client).endswith("ok")
        wait_until(lambda: workers(folder)[0]["longest_turn_s"] > 0.05, "the end of the turn")
        assert workers(folder)[0]["turn_s"] < workers(folder)[0]["longest_turn_s"]


def test_a_long_request_line_is_cut(folder: Path) -> None:
    with serve(folder, "a:app") as server, asking(server, '/wait/"?' + "x" * 300):
        wait_until(lambda: current(folder), "the request")
        assert re.fullmatch('GET /wait/"[?]x{100,140}', current(folder)[0]["request"])
        assert re.search(r'GET /wait/"[?]x{100,140}\.\.\. from 127', ctl(folder, "status"))
        get(server, "/go")


def test_threads_are_named(folder: Path) -> None:
    with serve(folder, "w:app", "--threads", "3") as server, asking(server, "/block") as client:
        wait_until(lambda: any(request["thread"] for request in current(folder)), "a thread")
        (request,) = current(folder)
        assert Path(f"/proc/{server.workers()[0]}/task/{request['thread']}").is_dir()
        ident = re.search(r"GET /block from .*, in thread (0x[0-9a-f]+)", ctl(folder, "status"))[1]
        dump = ctl(folder, "dump", "1")
        assert re.search(rf"Thread {ident} \(most recent call first\):\n +File .*, line \d+ in block\n", dump), dump
        go_on(folder)
        assert answer(client).endswith("ok")


def test_memory_and_the_last_worker_that_left(folder: Path) -> None:
    with serve(folder, "a:app", "--max-requests", "1") as server:
        (worker,) = workers(folder)
        assert worker["rss_bytes"] >= worker["pss_bytes"] >= worker["private_bytes"] > 1 << 20
        assert worker["handed_over"] == worker["taken_over"] == 0
        assert json.loads(ctl(folder, "status", "--json"))["last_left"] is None
        get(server, "/")
        left = wait_until(lambda: json.loads(ctl(folder, "status", "--json"))["last_left"], "the first one's leave")
        assert (left["pid"], left["reason"]) == (worker["pid"], "max_requests: 1 served")
        assert f"worker 1 (pid {worker['pid']}) has left" in ctl(folder, "status")


def test_top_shows_what_status_shows(folder: Path) -> None:
    env = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    with serve(folder, "a:app") as server, asking(server, "/wait"):
        wait_current(folder, "GET /wait")
        with subprocess.Popen([command()[0], "ctl", "top"], stdout=subprocess.PIPE, text=True, env=env) as top:
            assert top.stdout
            shown = [top.stdout.readline() for _ in range(5)]
            top.terminate()
        assert any(line.startswith("WORKER  GEN") for line in shown), shown
        assert any("GET /wait from" in line for line in shown), shown
        get(server, "/go")


# --- dump


@pytest.mark.sanitized
def test_a_dump_tells_which_task_serves_what(folder: Path) -> None:
    with serve(folder, "a:app") as server, asking(server, "/wait/7") as client:
        wait_current(folder, "GET /wait/7")
        dump = ctl(folder, "dump", str(server.workers()[0]))
        port = client.getsockname()[1]
        task = re.search(rf" +Task serves GET /wait/7 from 127\.0\.0\.1:{port} .*\n((?: {{8}}.*\n)+)", dump)
        assert task, dump
        assert [re.sub(r".* in ", "in ", line.strip()) for line in task[1].splitlines()] == [
            "waits for an asyncio.Future",
            "in wait",
            "in pause",
            "in app",
        ]
        assert re.search(r"process \d+: \d+\.\d MiB resident", dump)
        assert re.search(rf"thread {server.workers()[0]} (sleeps|runs)", dump)
        assert "no Python frame" not in dump
        assert dump.count("Task ") == 1, dump
        get(server, "/go")


def test_a_worker_that_cannot_tell(folder: Path) -> None:
    """What the master knows is told all the same."""
    with serve(folder, "a:app") as server, asking(server, "/wait"):
        wait_current(folder, "GET /wait")
        (pid,) = server.workers()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: process_state(pid) == "T", "the stop")
        dump = ctl(folder, "dump", "1")
        assert re.search(r"GET /wait from ", dump)
        assert re.search(rf"thread {pid} is stopped", dump)
        assert "(it does not answer" in dump
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: "Task serves GET /wait" in ctl(folder, "dump", "1"), "a whole dump")
        get(server, "/go")


def test_a_worker_that_has_forked_tells_still(folder: Path) -> None:
    """The thread that tells ends before a fork, and is made anew."""
    with serve(folder, "a:app") as server, asking(server, "/wait"):
        wait_current(folder, "GET /wait")
        assert get(server, "/fork").endswith("ok")
        assert [r["request"] for r in current(folder)] == ["GET /wait"]
        assert workers(folder)[0]["in_flight"] == 1
        assert "Task serves GET /wait" in ctl(folder, "dump", "1")
        get(server, "/go")


def test_a_first_step_that_blocks_is_named(folder: Path) -> None:
    with serve(folder, "a:app") as server, asking(server, "/first") as client:
        wait_current(folder, "GET /first")
        dump = ctl(folder, "dump", "1")
        assert re.search(r"Task serves GET /first, runs now .*\n +File .*a\.py\", line \d+ in app\n", dump), dump
        go_on(folder)
        assert answer(client).endswith("ok")


def test_a_websocket_is_named_in_a_dump(folder: Path) -> None:
    with serve(folder, "a:app") as server, WebSocket(server.connect()) as client:
        client.open("/chat/7")
        dump = ctl(folder, "dump", "1")
        assert re.search(
            r"Task serves WebSocket /chat/7 \(most recent call first\):\n(?: .*\n)* .* in pause\n", dump
        ), dump


# --- slow_request


@pytest.mark.parametrize(
    ("app", "args", "target", "where"),
    [
        ("a:app", [], "/wait", r"Task serves GET /wait .*\n(?: +(?:waits|File) .*\n)* +File .* in pause\n"),
        ("a:app", [], "/block", r"Thread .*\n +File .*a\.py\", line \d+ in app\n"),
        ("a:app", [], "/regex", r"Thread .*\n(?: +File .*\n)* +File .*a\.py\", line \d+ in app\n"),
        ("w:app", [], "/block", r"Thread .*\n +File .*w\.py\", line \d+ in block\n"),
        ("w:app", ["--threads", "3"], "/block", r"Thread .*\n +File .*w\.py\", line \d+ in block\n"),
    ],
    ids=["asgi-suspended", "asgi-blocked", "asgi-holds-gil", "wsgi", "wsgi-threads"],
)
def test_a_slow_request_is_reported_once_and_goes_on(
    folder: Path, app: str, args: list[str], target: str, where: str
) -> None:
    with serve(folder, app, "--slow-request", "0.3", *args) as server, asking(server, target) as client:
        server.wait_log(rf"\[WARNING\] Slow in worker \d+, for \d+\.\d s already \(--slow-request\): GET {target}\n")
        report = wait_until(lambda: "where it is:" in server.log and block(server.log, "Slow in"), "the report")
        assert re.search(rf"requests in flight:\n +GET {target} from 127\.0\.0\.1:{client.getsockname()[1]}, ", report)
        assert re.search(where, report), report
        if target == "/regex":
            return server.kill_all()
        if target == "/wait":
            get(server, "/go")
        else:
            go_on(folder)
        assert answer(client).endswith("ok")
        assert get(server, "/").endswith("ok")
        assert server.log.count("Slow in") == 1
        assert len(server.workers()) == 1
    return None


def test_the_slowlog(folder: Path) -> None:
    with serve(folder, "a:app", "--slow-request", "0.2", "--slowlog", "slow.log") as server:
        file = folder / "slow.log"
        for number in (1, 2):
            with asking(server, f"/wait/{number}"):
                wait_until(
                    lambda n=number: file.exists() and f"Task serves GET /wait/{n}" in file.read_text(), "a line"
                )
        get(server, "/go")
        assert "Slow" not in server.log
        file.rename(folder / "rotated.log")
        with asking(server, "/block"):
            wait_until(lambda: file.exists() and "GET /block" in file.read_text(), "the new file")
            go_on(folder)


# --- kills and deaths


@pytest.mark.sanitized
def test_one_block_tells_of_a_kill(folder: Path) -> None:
    with serve(folder, "a:app", "--timeout", "0.5") as server, asking(server, "/wait") as lost:
        wait_current(folder, "GET /wait")
        (pid,) = server.workers()
        assert get(server, "/block/1") == ""
        assert answer(lost) == ""
        server.wait_log("Booting worker", count=2)
        report = block(server.log, f"Worker {pid} was stuck in one turn for more than 0.5 s")
        assert re.search(r"worker 1 of generation 1, \d+\.\d s old, \d+ requests answered", report)
        assert re.search(r"lost with it:\n +GET /wait from .*, for .* s\n +GET /block/1 from .*, for .* s\n", report)
        assert re.search(rf"thread {pid} sleeps", report)
        assert re.search(r"Thread .*\n +File .*a\.py\", line \d+ in app\n", report)
        assert re.search(r"Task serves GET /block/1 from .*, runs now ", report), report
        assert "Task serves GET /wait from" in report
        assert json.loads(ctl(folder, "status", "--json"))["last_left"]["pid"] == pid


def test_a_death_tells_what_is_lost(folder: Path) -> None:
    with serve(folder, "a:app") as server, asking(server, "/wait"):
        wait_current(folder, "GET /wait")
        assert get(server, "/die") == ""
        server.wait_log(r"was killed by SIGKILL .*; it is replaced\n    lost with it:\n +GET /wait .*\n +GET /die ")


def test_requests_that_outlast_a_graceful_stop_are_told(folder: Path) -> None:
    with serve(folder, "w:app", "--graceful-timeout", "0.3") as server, asking(server, "/block"):
        wait_current(folder, "GET /block")
        server.send_signal(signal.SIGTERM)
        server.wait_log(r"had not ended in time: killed\n    lost with it:\n +GET /block from ")
        server.wait_exit()
