"""Processes from outside, with real applications: what a client, an operator and the kernel see."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import Server, alive, command, process_state, wait_until

APP = """
import atexit, json, multiprocessing, os, re, resource, signal, subprocess, sys, threading, time

def info(environ):
    return {"pid": os.getpid(), "ppid": os.getppid(), "cwd": os.getcwd(), "path": sys.path[:2],
            "environ": dict(os.environ), "executable": sys.executable, "argv": sys.argv}

def slow(environ):
    time.sleep(float(environ["QUERY_STRING"]))
    return "slow"

def die(environ):
    os.kill(os.getpid(), int(environ["QUERY_STRING"]))

def leave(environ):
    os._exit(int(environ["QUERY_STRING"]))

def maps(environ):
    return open("/proc/self/maps").read()

def program(environ):
    return subprocess.run([sys.executable, "-c", "import os; print(os.environ.get('LD_PRELOAD'))"],
                          capture_output=True, text=True).stdout.strip()

kept = []

def grow(environ):
    kept.append(bytearray(int(environ["QUERY_STRING"]) << 20))
    return rss(environ)

def breathe(environ):
    many = [bytes(2000) for _ in range(50000)]
    anchors = many[::100]
    del many
    kept.extend(anchors[-1:])
    return rss(environ)

def rss(environ):
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def limits(environ):
    return resource.getrlimit(resource.RLIMIT_NOFILE)

def spin(environ):
    while True:
        pass

def backtrack(environ):
    return bool(re.match("(a+)+$", "a" * 60 + "b"))

def helper():
    time.sleep(1000)

def join(environ):
    thread = threading.Thread(target=helper, daemon=True)
    thread.start()
    thread.join()

def crash_at_exit(environ):
    atexit.register(os.kill, os.getpid(), signal.SIGSEGV)

def abort(environ):
    os.abort()

def sleeper():
    time.sleep(1000)

def fork(environ):
    child = multiprocessing.get_context("fork").Process(target=sleeper)
    child.start()
    return child.pid

def terminate(environ):
    child = multiprocessing.get_context("fork").Process(target=sleeper)
    child.start()
    child.terminate()
    child.join(10)
    return child.exitcode

def orphan(environ):
    if os.fork() == 0:
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", environ["QUERY_STRING"]])
        os._exit(0)
    os.wait()
    return "orphaned"

def app(environ, start_response):
    body = json.dumps(globals()[environ["PATH_INFO"][1:]](environ)).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""

ASGI_APP = """
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown of", os.getpid(), flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.sleep(float(scope["query_string"] or 0))
    body = json.dumps(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wsgi.py").write_text(APP)
    (tmp_path / "asgi.py").write_text(ASGI_APP)
    return tmp_path


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def connection(server: Server) -> http.client.HTTPConnection:
    if isinstance(server.address, str):
        return UnixConnection(server.address)
    return http.client.HTTPConnection(*server.address, timeout=30)


def get(server: Server, path: str) -> object:
    client = connection(server)
    client.request("GET", path)
    response = client.getresponse()
    body = response.read()
    client.close()
    assert response.status == 200, body
    return json.loads(body)


def log_errors(server: Server) -> list[str]:
    return re.findall(r"\[ERROR\] (.*)", server.log)


# --- starting


@pytest.mark.parametrize("bind", ["tcp", "unix"])
@pytest.mark.parametrize("preload", [[], ["--preload"]])
def test_serves(folder: Path, bind: str, preload: list[str]) -> None:
    with Server("wsgi:app", "--workers", "2", *preload, bind=bind, cwd=folder) as server:
        info = get(server, "/info")
        assert info["pid"] in server.workers()
        assert info["ppid"] == server.pid
        assert info["cwd"] == str(folder)
        assert len(server.processes()) == 4


def test_python_version_is_said(folder: Path) -> None:
    with Server("asgi:app", cwd=folder) as server:
        assert re.search(r"Starting licorne \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+\S*, master \d+\)", server.log)


def test_the_environment_is_the_users(folder: Path) -> None:
    with Server("wsgi:app", cwd=folder, env={"MALLOC_CONF": "abort:false"}) as server:
        environ = get(server, "/info")["environ"]
        assert "LD_PRELOAD" not in environ
        assert environ["MALLOC_CONF"] == "abort:false"
        assert not [name for name in environ if name.startswith("LICORNE_SAVED")]
        assert get(server, "/program") == "None"


def test_jemalloc_only_on_demand(folder: Path) -> None:
    with Server("wsgi:app", "--malloc", "system", cwd=folder) as server:
        assert "jemalloc" not in get(server, "/maps")


def test_chdir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "other.py").write_text(APP)
    with Server("other:app", "--chdir", "inner", "--bind", "unix:s", bind=None, cwd=folder) as server:
        monkeypatch.chdir(inner)  # for the client: the socket's path is relative
        assert get(server, "/info")["cwd"] == str(inner)
        assert (inner / "s").is_socket()
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_log("Booting worker", count=2)
        assert get(server, "/info")["cwd"] == str(inner)


def test_config_file_says_where_to_listen(folder: Path) -> None:
    path = folder / "licorne.sock"
    (folder / "licorne.conf.py").write_text(f'bind = "unix:{path}"\nworkers = 2\nwsgi_app = "wsgi:app"\n')
    with Server("--workers", "1", bind=None, cwd=folder) as server:
        assert server.address == str(path)
        assert "Serving wsgi:app with 1 worker\n" in server.log
        assert get(server, "/info")["pid"] in server.workers()


@pytest.mark.parametrize("preload", [[], ["--preload"]])
@pytest.mark.parametrize(
    ("files", "args", "exit_code"),
    [
        ({}, ["missing:app"], 4),
        ({"a.py": "app = ("}, ["a:app"], 4),
        ({"a.py": "raise RuntimeError('oh no')"}, ["a:app"], 4),
        ({"a.py": "import os; os._exit(9)"}, ["a:app"], 3),
        ({"a.py": "import sys; sys.exit(9)"}, ["a:app"], 4),
        ({"a.py": "x = 1"}, ["a:app"], 4),
        ({"a.py": "app = 1"}, ["a:app"], 4),
        ({"licorne.conf.py": "workers = 'many'"}, ["a:app"], 1),
        ({"licorne.conf.py": "workers = ("}, ["a:app"], 1),
        ({"licorne.conf.py": "workers = 1"}, [], 1),
    ],
)
def test_failing_start(
    tmp_path: Path, files: dict[str, str], args: list[str], exit_code: int, preload: list[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with Server(*args, "--workers", "2", *preload, cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == exit_code, server.log
        assert log_errors(server), server.log


def test_failing_lifespan(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    with Server("a:app", "--workers", "2", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 3
        assert "no database" in server.log


# --- stopping


def in_flight(server: Server, path: str) -> tuple[threading.Thread, list[object]]:
    """A request that is being served when this returns."""
    got: list[object] = []

    def request() -> None:
        try:
            got.append(get(server, path))
        except OSError as error:
            got.append(error)

    before = open_connections(server)
    thread = threading.Thread(target=request)
    thread.start()
    wait_until(lambda: open_connections(server) > before, "the connection to be accepted")
    return thread, got


def open_connections(server: Server) -> int:
    """The workers' sockets beyond the listener."""
    count = 0
    for pid in server.workers():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                count += os.readlink(entry).startswith("socket:")
            except OSError:
                continue
    return count


def test_term_finishes_what_is_in_flight(folder: Path) -> None:
    with Server("asgi:app", cwd=folder) as server:
        thread, got = in_flight(server, "/?1")
        pid = server.workers()[0]
        assert server.stop() == 0
        thread.join()
        assert got == [pid]
        assert f"shutdown of {pid}" in server.output


def test_a_signal_to_the_process_and_its_group_counts_once(folder: Path) -> None:
    with Server("asgi:app", cwd=folder) as server:
        thread, got = in_flight(server, "/?1")
        pid = server.workers()[0]
        server.send_signal(signal.SIGTERM)
        assert server.stop(signal.SIGTERM) == 0
        thread.join()
        assert got == [pid]


def test_idle_connections_do_not_hold_the_end_up(folder: Path) -> None:
    """Nor does a client that has got its last response and does not close: far less than its time limits."""
    limits = ["--keep-alive", "100", "--linger-timeout", "100", "--header-timeout", "100"]
    with Server("asgi:app", *limits, "--graceful-timeout", "100", cwd=folder) as server:
        idle, silent, last = server.connect(), server.connect(), server.connect()
        idle.sendall(b"GET /?0 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        last.sendall(b"GET /?1 HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: open_connections(server) >= 3)
        server.send_signal(signal.SIGTERM)
        assert idle.recv(4096) == b""
        assert silent.recv(4096) == b""
        assert b"connection: close" in last.recv(4096)
        assert server.wait_exit() == 0
        for client in (idle, silent, last):
            client.close()


@pytest.mark.parametrize("retires", [True, False])
def test_a_crash_at_the_end_is_an_error(folder: Path, retires: bool) -> None:
    with Server("wsgi:app", "--boot-grace", "0", cwd=folder) as server:
        get(server, "/crash_at_exit")
        if retires:
            server.send_signal(signal.SIGHUP)
        else:
            server.stop()
        server.wait_log(r"\[ERROR\] Worker \d+ was killed by SIGSEGV at the age of .* s, while it was to end")


def test_graceful_timeout(folder: Path) -> None:
    with Server("asgi:app", "--graceful-timeout", "0.2", cwd=folder) as server:
        thread, got = in_flight(server, "/?1000")
        assert server.stop() == 0
        thread.join()
        assert isinstance(got[0], OSError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_fast_stop(folder: Path, number: int) -> None:
    with Server("asgi:app", cwd=folder) as server:
        thread, got = in_flight(server, "/?1000")
        assert server.stop(number) == 0
        thread.join()
        assert isinstance(got[0], OSError)


def test_a_worker_that_is_stuck_does_not_hold_the_end_up(folder: Path) -> None:
    with Server("wsgi:app", "--graceful-timeout", "0.2", cwd=folder) as server:
        thread, _ = in_flight(server, "/slow?1000")
        assert server.stop() == 0
        thread.join()


def test_newcomers_are_refused_while_the_last_request_is_served(folder: Path) -> None:
    with Server("asgi:app", cwd=folder) as server:
        thread, got = in_flight(server, "/?2")
        server.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                server.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(refused, "a refused connection", 2)
        assert server.wait_exit() == 0
        thread.join()
        assert len(got) == 1


@pytest.mark.parametrize("app", ["wsgi:app", "asgi:app"])
def test_a_storm_of_newcomers_while_the_server_stops(folder: Path, app: str) -> None:
    """Each is served whole, or refused: none is accepted by the kernel and then reset."""
    path = "/rss" if app == "wsgi:app" else "/?0"
    with Server(app, "--workers", "2", cwd=folder) as server:
        served, failures = [], []

        def visit() -> None:
            while True:
                try:
                    get(server, path)
                    served.append(1)
                except (ConnectionRefusedError, TimeoutError):
                    return
                except (OSError, http.client.HTTPException, AssertionError) as error:
                    failures.append(error)
                    return

        threads = [threading.Thread(target=visit) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(served) > 200)
        assert server.stop() == 0
        for thread in threads:
            thread.join()
        assert failures == []


def test_as_pid_1(folder: Path) -> None:
    """In a container: orphans are reaped, TERM ends it."""
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode != 0:
        pytest.skip("no pid namespace can be made")
    alone = ["unshare", "--pid", "--fork", "--mount-proc", *command()]
    with Server("wsgi:app", "--bind", f"unix:{folder / 's'}", bind=None, program=alone, cwd=folder) as server:
        assert "master 1)" in server.log
        get(server, "/orphan?0.1")
        marked = wait_until(lambda: [pid for pid in server.processes() if name_of(pid) == "sleep"], "the orphan")
        wait_until(lambda: process_state(marked[0]) is None, "the orphan's burial")
        (master,) = [pid for pid in server.processes() if name_of(pid) == "licorne"]
        os.kill(master, signal.SIGUSR2)
        server.wait_log(r"No new master is started: as process 1 .* HUP serves new code and configuration")
        os.kill(master, signal.SIGTERM)
        assert server.wait_exit() == 0


def test_what_waits_in_the_backlog_is_served(folder: Path) -> None:
    with Server("wsgi:app", cwd=folder) as server:
        thread, _ = in_flight(server, "/slow?0.5")
        threads = [threading.Thread(target=lambda: answers.append(get(server, "/slow?0"))) for _ in range(10)]
        answers: list[object] = []
        for other in threads:
            other.start()
        wait_until(lambda: waiting_in_backlog(server) == 10, "ten connections in the backlog")
        assert server.stop() == 0
        for other in [thread, *threads]:
            other.join()
        assert answers == ["slow"] * 10


def waiting_in_backlog(server: Server) -> int:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].partition(":")[2], 16) == server.port:
            return int(fields[4].partition(":")[2], 16)
    return -1


@pytest.mark.parametrize("app", ["wsgi:app", "asgi:app"])
@pytest.mark.parametrize("preload", [[], ["--preload"]])
def test_no_orphan_when_the_master_is_killed(folder: Path, app: str, preload: list[str]) -> None:
    with Server(app, "--workers", "3", *preload, cwd=folder) as server:
        server.stop(signal.SIGKILL)
        server.assert_nothing_left(5)


def test_a_killed_masters_requests_are_finished(folder: Path) -> None:
    with Server("asgi:app", cwd=folder) as server:
        pid = server.workers()[0]
        thread, got = in_flight(server, "/?1")
        server.stop(signal.SIGKILL)
        thread.join()
        assert got == [pid]
        server.assert_nothing_left(5)


# --- replacing


@pytest.mark.parametrize(
    ("path", "says"),
    [("/die?9", "was killed by SIGKILL"), ("/die?11", "was killed by SIGSEGV"), ("/leave?7", "exited with status 7")],
)
def test_a_dead_worker_is_replaced(folder: Path, path: str, says: str) -> None:
    with Server("wsgi:app", cwd=folder) as server:
        (before,) = server.workers()
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server, path)
        server.wait_log(rf"\[ERROR\] Worker {before} {says} at the age of \d+\.\d s; it is replaced")
        assert get(server, "/info")["pid"] != before


def test_a_stuck_worker_is_killed_and_replaced(folder: Path) -> None:
    with Server("wsgi:app", "--timeout", "0.5", cwd=folder) as server:
        (before,) = server.workers()
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server, "/slow?1000")
        server.wait_log(rf"Worker {before} was stuck in one turn for more than 0\.5 s")
        assert get(server, "/info")["pid"] != before


@pytest.mark.parametrize("preload", [[], ["--preload"]])
@pytest.mark.parametrize(
    ("path", "function"), [("/slow?1000", "slow"), ("/spin", "spin"), ("/backtrack", "backtrack"), ("/join", "helper")]
)
def test_a_stuck_worker_tells_where(folder: Path, path: str, function: str, preload: list[str]) -> None:
    """Asleep; in bytecode; in C code that holds the GIL; and all threads are told, not the loop's alone."""
    with Server("wsgi:app", "--timeout", "0.5", *preload, cwd=folder) as server:
        (before,) = server.workers()
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server, path)
        server.wait_log(rf"Worker {before} was stuck in one turn.*\n(?: .*\n)*    where it is:\n")
        assert re.search(rf'File ".*wsgi\.py", line \d+ in {function}\n', server.log), server.log
        server.wait_log("Booting worker", count=2)
        assert get(server, "/info")["pid"] != before
        assert "was killed by SIGKILL" not in server.log


def test_an_abort_of_the_applications_own_is_one(folder: Path) -> None:
    with Server("wsgi:app", cwd=folder) as server:
        (before,) = server.workers()
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server, "/abort")
        server.wait_log(rf"Worker {before} was killed by SIGABRT")
        assert "was stuck" not in server.log


def test_waiting_is_not_being_stuck(folder: Path) -> None:
    with Server("asgi:app", "--timeout", "0.3", cwd=folder) as server:
        assert get(server, "/?1") == server.workers()[0]
        assert not log_errors(server)


def test_a_slow_start_is_not_being_stuck(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"{ASGI_APP}\nimport time\ntime.sleep(1)\n")
    with Server("a:app", "--timeout", "0.3", cwd=tmp_path) as server:
        assert get(server, "/?0") == server.workers()[0]
        assert not log_errors(server)


@pytest.mark.parametrize("app", ["wsgi:app", "asgi:app"])
def test_max_requests_loses_nothing(folder: Path, app: str) -> None:
    with Server(app, "--max-requests", "20", "--workers", "2", cwd=folder) as server:
        seen = set()
        for _ in range(20000):
            answer = get(server, "/info" if app == "wsgi:app" else "/?0")
            seen.add(answer["pid"] if isinstance(answer, dict) else answer)
            if len(seen) >= 6:
                break
        assert len(seen) >= 6
        server.wait_log("max_requests", count=4)
        assert not log_errors(server)


def test_term_of_a_worker_replaces_it(folder: Path) -> None:
    with Server("asgi:app", cwd=folder) as server:
        (before,) = server.workers()
        thread, got = in_flight(server, "/?0.5")
        os.kill(before, signal.SIGTERM)
        server.wait_log("Booting worker", count=2)
        thread.join()
        assert got == [before]
        wait_until(lambda: not alive(before))
        assert get(server, "/?0") != before
        assert not log_errors(server)


def test_max_worker_memory(folder: Path) -> None:
    with Server("wsgi:app", "--max-worker-memory", "256M", cwd=folder) as server:
        (before,) = server.workers()
        get(server, "/grow?300")
        server.wait_log(rf"Worker {before} is to be replaced: max_worker_memory: \d+\.\d MiB")
        server.wait_log(rf"Worker {before} has left")
        assert get(server, "/info")["pid"] != before
        assert not log_errors(server)


def test_max_worker_memory_hard(folder: Path) -> None:
    with Server("wsgi:app", "--max-worker-memory-hard", "256M", cwd=folder) as server:
        (before,) = server.workers()
        get(server, "/grow?300")
        server.wait_log(rf"Worker {before} has taken \d+\.\d MiB of memory, more than 256\.0 MiB .*: killed")
        server.wait_log("Booting worker", count=2)
        assert get(server, "/info")["pid"] != before


def test_a_memory_limit_that_nobody_can_keep(folder: Path) -> None:
    with Server("wsgi:app", "--max-worker-memory", "1M", cwd=folder) as server:
        server.wait_log("max_worker_memory is too low, and left aside")
        assert get(server, "/info")["pid"] == server.workers()[0]


# --- reloading


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Server]:
    write_version(tmp_path, "1")
    server = Server("changing:app", "--workers", "2", "--preload", cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"})
    with server:
        yield server


def write_version(folder: Path, expression: str) -> None:
    text = APP + f"\nVERSION = {expression}\ndef version(environ):\n    return VERSION\n"
    (folder / "changing.py").write_text(text)


def test_hup_serves_new_code_without_a_gap(changing: Server) -> None:
    stop, seen, failures = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                seen.append(get(changing, "/version"))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for version in (2, 3):
            write_version(Path(changing.cwd), str(version))
            changing.send_signal(signal.SIGHUP)
            changing.wait_log(f"Reloaded: generation {version} serves")
            wait_until(lambda version=version: seen[-1] == version)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert sorted(set(seen)) == [1, 2, 3]


def test_hup_with_broken_code_changes_nothing(changing: Server) -> None:
    before = changing.workers()
    write_version(Path(changing.cwd), "1 / 0")
    changing.send_signal(signal.SIGHUP)
    changing.wait_log("The reload has failed: generation 1 serves on")
    assert "ZeroDivisionError" in changing.log
    assert get(changing, "/version") == 1
    assert changing.workers() == before
    write_version(Path(changing.cwd), "4")
    changing.send_signal(signal.SIGHUP)
    changing.wait_log("Reloaded: generation 3 serves")
    wait_until(lambda: get(changing, "/version") == 4)  # the old ones may still accept until they hear of it


# --- the application's own processes


def test_a_forked_child_does_not_hold_the_port(folder: Path) -> None:
    with Server("wsgi:app", cwd=folder) as server:
        child = get(server, "/fork")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_log("Booting worker", count=2)
        assert alive(child)
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_dies_by_term(folder: Path) -> None:
    with Server("wsgi:app", cwd=folder) as server:
        assert get(server, "/terminate") == -signal.SIGTERM
        assert get(server, "/info")["pid"] == server.workers()[0]


def test_orphans_of_the_application_are_reaped(folder: Path) -> None:
    with Server("wsgi:app", cwd=folder) as server:
        get(server, "/orphan?0.1")
        marked = wait_until(lambda: [pid for pid in server.processes() if name_of(pid) == "sleep"], "the orphan")
        wait_until(lambda: process_state(marked[0]) is None, "the orphan's burial")
        assert not log_errors(server)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


# --- rest


def wait_for_quiet(server: Server) -> None:
    pids = server.processes()

    def switches() -> list[str]:
        return [
            line
            for pid in pids
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        ]

    previous: list[list[str]] = [[]]

    def settled() -> bool:
        before, previous[0] = previous[0], switches()
        time.sleep(1.5)  # the time over which nothing may happen: what is measured
        return before == previous[0]

    wait_until(settled, "a second and a half without a wake-up", 15)


@pytest.mark.parametrize(
    "limits", [[], ["--timeout", "0.4", "--max-worker-memory", "500M", "--slow-request", "0.3"]], ids=["none", "all"]
)
def test_nothing_runs_when_nothing_is_due(folder: Path, limits: list[str]) -> None:
    with Server("asgi:app", "--workers", "2", *limits, cwd=folder) as server:
        for _ in range(2):
            get(server, "/?0")
            wait_for_quiet(server)


def test_a_worker_that_sticks_after_a_long_rest_is_noticed(folder: Path) -> None:
    with Server("wsgi:app", "--timeout", "0.4", cwd=folder) as server:
        (before,) = server.workers()
        get(server, "/info")
        wait_for_quiet(server)
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server, "/slow?1000")
        server.wait_log(rf"Worker {before} was stuck in one turn")


@pytest.mark.parametrize("malloc", ["jemalloc", "system"])
def test_memory_goes_back_after_a_busy_spell(folder: Path, malloc: str) -> None:
    with Server("wsgi:app", "--malloc", malloc, cwd=folder) as server:
        for _ in range(5):
            get(server, "/breathe")
        peak = get(server, "/breathe")
        (pid,) = server.workers()

        def rss() -> int:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

        wait_until(lambda: rss() < peak - (50 << 20), "the memory to go back", 5)


def test_as_many_descriptors_as_the_hard_limit_allows(folder: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    poor = ["sh", "-c", 'ulimit -Sn 256; exec "$0" "$@"', *command()]
    with Server("wsgi:app", program=poor, cwd=folder) as server:
        assert get(server, "/limits") == [min(hard, 1048576), hard]
    with Server("wsgi:app", "--open-files", "300", program=poor, cwd=folder) as server:
        assert get(server, "/limits") == [300, hard]


def test_the_master_is_small(folder: Path) -> None:
    with Server("wsgi:app", "--workers", "4", "--preload", cwd=folder) as server:
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) < 1024
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "python" not in maps


GIL_KEPT = """
    import ctypes, threading, time

    def keep():
        time.sleep(0.2)  # the loop waits by then
        ctypes.PyDLL(None).sleep(1000)  # with the GIL

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["path"] == "/keep":
            threading.Thread(target=keep).start()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
"""


def test_a_loop_that_does_not_get_the_gil_is_stuck(tmp_path: Path) -> None:
    (tmp_path / "gil.py").write_text(textwrap.dedent(GIL_KEPT))
    with Server("gil:app", "--timeout", "1", cwd=tmp_path) as server, contextlib.ExitStack() as clients:
        (worker,) = server.workers()

        def ask(path: str) -> None:
            client = clients.enter_context(server.connect())
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

        def stuck() -> bool:
            time.sleep(0.05)
            ask("/")  # a loop that has nothing to do is not stuck
            return f"Worker {worker} was stuck in one turn" in server.log

        ask("/keep")
        wait_until(stuck, "a kill")
