"""The mold and its workers: what --preload shares, how workers come out of a fork, and how they end."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import textwrap
from pathlib import Path

import pytest

from tests.support.server import Server, alive, wait_until

# Answers with what the worker knows of itself.
WEB = """
    import gc, json, os, sys, threading

    loaded_in = os.getpid()
    forks = []
    os.register_at_fork(
        before=lambda: forks.append("before"),
        after_in_child=lambda: forks.append("child"),
        after_in_parent=lambda: forks.append("parent"),
    )

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        facts = {
            "loaded_in": loaded_in,
            "pid": os.getpid(),
            "parent": os.getppid(),
            "forks": forks,
            "collects": gc.isenabled(),
            "frozen": gc.get_freeze_count(),
            "environment": {name: os.environ.get(name) for name in ("LD_PRELOAD", "MALLOC_CONF", "SERVER_SOFTWARE")},
            "saved": [name for name in os.environ if name.startswith("LICORNE_SAVED")],
            "threads": threading.active_count(),
        }
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": json.dumps(facts).encode()})
"""


def write(folder: Path, text: str = WEB, **more: str) -> None:
    (folder / "web.py").write_text(textwrap.dedent(text) + "".join(textwrap.dedent(part) for part in more.values()))


def facts(server: Server) -> dict:
    assert not isinstance(server.address, str)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())
    finally:
        connection.close()


def facts_of_all(server: Server, count: int) -> dict[int, dict]:
    """By worker: new connections until each has answered."""
    found: dict[int, dict] = {}

    def ask() -> bool:
        answer = facts(server)
        found[answer["pid"]] = answer
        return len(found) >= count

    wait_until(ask, f"answers of {count} workers")
    return found


def test_a_preloaded_application_is_loaded_once_and_frozen(tmp_path):
    write(tmp_path)
    with Server("web:app", "--preload", "--workers", "2", cwd=tmp_path) as server:
        answers = facts_of_all(server, 2).values()
        assert len({answer["loaded_in"] for answer in answers}) == 1
        for answer in answers:
            assert answer["loaded_in"] not in (answer["pid"], server.pid)
            assert answer["parent"] == server.pid  # adopted by the master
            assert answer["frozen"] > 1000
            assert answer["collects"]
            assert answer["threads"] == 1


def private_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"^Private_\w+: +(\d+) kB$", rollup, re.MULTILINE))


def test_a_full_collection_in_each_worker_keeps_the_heap_shared(tmp_path):
    more = """
        heap = [{"id": i, "name": f"name {i}", "tags": [str(i), str(i + 1)]} for i in range(150_000)]
        real = app

        async def app(scope, receive, send):
            gc.collect()
            await real(scope, receive, send)
    """
    write(tmp_path, WEB, more=more)
    with Server("web:app", "--preload", "--workers", "2", cwd=tmp_path) as server:
        for pid, answer in facts_of_all(server, 2).items():
            mold = Path(f"/proc/{answer['loaded_in']}/status").read_text()
            heap_kib = int(re.search(r"^VmRSS:\s+(\d+) kB$", mold, re.MULTILINE)[1])
            assert heap_kib > 75_000
            assert private_kib(pid) < 0.05 * heap_kib


def test_without_preload_each_worker_loads_the_application(tmp_path):
    write(tmp_path)
    with Server("web:app", "--workers", "2", cwd=tmp_path) as server:
        for pid, answer in facts_of_all(server, 2).items():
            assert answer["loaded_in"] == pid
            assert answer["parent"] == server.pid
            assert answer["frozen"] > 1000
            assert answer["collects"]


def test_one_pair_of_fork_hooks_spans_the_double_fork(tmp_path):
    write(tmp_path)
    with Server("web:app", "--preload", cwd=tmp_path) as server:
        assert facts(server)["forks"] == ["before", "child"]


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["in the worker", "preloaded"])
def test_a_collector_that_the_application_turned_off_stays_off(tmp_path, preload):
    write(tmp_path, WEB, more="\nimport gc\ngc.disable()\n")
    with Server("web:app", *preload, cwd=tmp_path) as server:
        assert not facts(server)["collects"]


@pytest.mark.parametrize("users", [None, "narenas:2"])
def test_the_application_sees_the_users_own_environment(tmp_path, users):
    write(tmp_path)
    with Server("web:app", cwd=tmp_path, env={"MALLOC_CONF": users} if users else {}) as server:
        answer = facts(server)
        assert answer["environment"]["LD_PRELOAD"] == os.environ.get("LD_PRELOAD")
        assert answer["environment"]["MALLOC_CONF"] == (users or os.environ.get("MALLOC_CONF"))
        assert answer["environment"]["SERVER_SOFTWARE"].startswith("licorne/")
        assert answer["saved"] == []


def test_threads_that_the_import_left_running_are_named(tmp_path):
    more = """
        stop = threading.Event()
        threading.Thread(target=stop.wait, name="metrics", daemon=True).start()
    """
    write(tmp_path, WEB, more=more)
    with Server("web:app", "--preload", cwd=tmp_path) as server:
        assert "Preloading the application left 1 thread running: metrics" in server.log
        assert facts(server)["threads"] == 1


def test_the_mold_survives_what_is_sent_to_the_whole_group(tmp_path):
    write(tmp_path)
    with Server("web:app", "--preload", cwd=tmp_path) as server:
        first = facts(server)
        mold = first["loaded_in"]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH):
            os.kill(mold, number)
        os.kill(first["pid"], signal.SIGKILL)
        server.wait_log("Booting worker", count=2)
        second = facts(server)
        assert alive(mold)
        assert second["loaded_in"] == mold
        assert second["pid"] != first["pid"]


WSGI = """
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"{}"]
"""


@pytest.mark.parametrize("args", [[], ["--threads", "4"]], ids=["inline", "threads"])
@pytest.mark.parametrize("text", [WEB, WSGI], ids=["ASGI", "WSGI"])
def test_workers_with_idle_connections_end_by_themselves(tmp_path, text, args):
    write(tmp_path, text)
    with Server("web:app", "--preload", "--workers", "2", *args, cwd=tmp_path) as server:
        clients = [server.connect() for _ in range(8)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        assert server.stop() == 0
        assert "killed" not in server.log
        for client in clients:
            client.close()


def test_handlers_and_threads_of_the_application_end_the_worker(tmp_path):
    more = """
        import atexit

        def announce():
            sys.stdout.write(f"atexit {os.getpid() == loaded_in}\\n")  # buffered: the end flushes it

        atexit.register(announce)
        done = threading.Event()
        atexit.register(done.set)

        def work():
            threading.main_thread().join()
            sys.stdout.write("thread\\n")

        threading.Thread(target=work).start()
    """
    write(tmp_path, WEB, more=more)
    with Server("web:app", cwd=tmp_path) as server:
        facts(server)
        assert server.stop() == 0
        assert sorted(server.output.split("\n")) == ["", "atexit True", "thread"]


def test_a_handler_that_hangs_is_cut_short(tmp_path):
    more = """
        import atexit
        atexit.register(threading.Event().wait)
    """
    write(tmp_path, WEB, more=more)
    with Server("web:app", "--graceful-timeout", "1", cwd=tmp_path) as server:
        facts(server)
        assert server.stop() == 0
        assert "did not end within" in server.log


def test_an_error_in_a_handler_is_told_and_harmless(tmp_path):
    more = """
        import atexit
        atexit.register(lambda: 1 / 0)
    """
    write(tmp_path, WEB, more=more)
    with Server("web:app", cwd=tmp_path) as server:
        facts(server)
        assert server.stop() == 0
        assert "ZeroDivisionError" in server.log


def test_the_workers_do_not_share_their_random_numbers(tmp_path):
    text = """
        import json, os, random
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                raise NotImplementedError
            answer = json.dumps({"pid": os.getpid(), "number": first}).encode()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": answer})
        first = None
        def draw():
            global first
            first = random.random()
        os.register_at_fork(after_in_child=draw)
    """
    write(tmp_path, text)
    with Server("web:app", "--preload", "--workers", "3", cwd=tmp_path) as server:
        assert len({answer["number"] for answer in facts_of_all(server, 3).values()}) == 3


def test_a_worker_is_replaced_after_max_requests(tmp_path):
    write(tmp_path)
    with Server("web:app", "--max-requests", "3", cwd=tmp_path) as server:
        pids = [facts(server)["pid"] for _ in range(3)]
        assert len(set(pids)) == 1
        wait_until(lambda: facts(server)["pid"] != pids[0], "another worker")
        wait_until(lambda: not alive(pids[0]), "the end of the first worker")


def test_a_failed_preload_leaves_nothing_behind(tmp_path):
    write(tmp_path, "import threading\nthreading.Thread(target=lambda: 1).start()\n1 / 0\n")
    with Server("web:app", "--preload", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 4
        assert "ZeroDivisionError" in server.log
        assert "Booting worker" not in server.log


def test_an_application_that_takes_all_descriptors_is_told_so(tmp_path):
    text = """
        import os, resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                last = os.open("/dev/null", os.O_RDONLY)
        except OSError:
            os.close(last)

        async def app(scope, receive, send):
            pass
    """
    write(tmp_path, text)
    with Server("web:app", "--preload", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 3
        assert "Importing the application has opened too many: raise `ulimit -n`" in server.log


def test_what_was_printed_before_the_fork_is_printed_once(tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("print('configured')\ndef pre_fork(server, worker): print('forking')\n")
    (tmp_path / "web.py").write_text(textwrap.dedent(WEB) + "\nprint('imported')\n")
    buffered = {"PYTHONUNBUFFERED": ""}
    with Server("web:app", "--preload", "--workers", "3", cwd=tmp_path, env=buffered) as server:
        wait_until(lambda: "imported" in server.output, "what the mold printed")
        server.stop()
        assert sorted(server.output.split()) == ["configured", "forking", "forking", "forking", "imported"]


# --- asyncio, which takes longer to import than all else that a server of a small application needs

PLAIN = """
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b""]
"""
SPEAKS = PLAIN.replace("def app", "def asgi_or_not(): pass\n\n    def app")


@pytest.mark.parametrize(
    ("text", "arguments", "mold_has_it"),
    [
        (PLAIN, [], False),
        (SPEAKS, [], True),  # a guess, from the text alone
        (SPEAKS, ["--interface", "wsgi"], False),
        (SPEAKS, ["--threads", "2"], False),
        (SPEAKS, ["--preload"], False),  # it knows
        (WEB, ["--preload"], True),
        (WEB, [], True),
    ],
)
def test_asyncio_is_there_for_who_needs_it(tmp_path, text, arguments, mold_has_it):
    (tmp_path / "shop.py").write_text(textwrap.dedent(text))
    with Server("shop:app", *arguments, cwd=tmp_path) as server:
        (worker,) = server.workers()
        (mold,) = (pid for pid in server.processes() if b"mold" in Path(f"/proc/{pid}/cmdline").read_bytes())
        extension = "_asyncio."  # a shared library of its own everywhere but in static builds
        if importlib.util.find_spec("_asyncio").origin in (None, "built-in"):
            pytest.skip("this Python has _asyncio built in")
        assert (extension in Path(f"/proc/{mold}/maps").read_text()) == mold_has_it
        speaks = text is WEB
        assert (extension in Path(f"/proc/{worker}/maps").read_text()) == (speaks or mold_has_it)
