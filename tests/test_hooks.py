"""Server hooks: gunicorn's names, arguments and order, in the processes that the design names."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Server, wait_until

ASGI = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["path"] == "/stuck":
            while True:
                pass
        await send({"type": "http.response.start", "status": 202, "headers": [(b"x-a", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})
"""

WSGI = """
    def app(environ, start_response):
        start_response("202 Accepted", [("X-A", "1"), ("Content-Length", "5")])
        return iter([b"hel", b"lo"]) if environ["QUERY_STRING"] else [b"hel", b"lo"]
"""

# Each hook leaves a line: its name, its process, and what of its arguments the test wants to see.
NOTE = """
    import json, os

    def note(name, **facts):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "notes"), "a") as file:
            file.write(json.dumps({"hook": name, "pid": os.getpid(), **facts}) + "\\n")
"""


def write(folder: Path, conf: str, app: str = ASGI, note: str = NOTE) -> None:
    (folder / "web.py").write_text(textwrap.dedent(app))
    (folder / "gunicorn.conf.py").write_text(textwrap.dedent(note) + textwrap.dedent(conf))


def notes(folder: Path, hook: str | None = None) -> list[dict[str, Any]]:
    try:
        lines = (folder / "notes").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [note for note in map(json.loads, lines) if hook in (None, note["hook"])]


def get(server: Server, path: str = "/") -> bytes:
    with server.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-B: 2\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


LIFE = """
    def pre_fork(server, worker):
        note("pre_fork", age=worker.age, worker=str(worker.pid), server=server.pid)

    def post_fork(server, worker):
        server.log.info("Worker spawned (pid: %s)", worker.pid)
        note("post_fork", age=worker.age, worker=worker.pid, server=server.pid, workers=server.cfg.workers)

    def post_worker_init(worker):
        note("post_worker_init", worker=worker.pid, alive=worker.alive, booted=worker.booted, timeout=worker.timeout)

    def worker_int(worker):
        worker.log.info("worker received INT or QUIT signal")
        note("worker_int", worker=worker.pid)

    def worker_exit(server, worker):
        note("worker_exit", worker=worker.pid, served=worker.nr)
"""


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_a_workers_life(tmp_path, options):
    write(tmp_path, LIFE)
    with Server("web:app", *options, cwd=tmp_path) as server:
        (worker,), master = server.workers(), server.pid
        assert get(server).startswith(b"HTTP/1.1 202 ")
        server.stop(signal.SIGTERM)
        assert f"Worker spawned (pid: {worker})" in server.log
    before, *rest = notes(tmp_path)
    assert before["pid"] not in (worker, master)
    assert (before["hook"], before["age"], before["worker"], before["server"]) == ("pre_fork", 1, "[booting]", master)
    assert [(note["hook"], note["pid"], note["worker"]) for note in rest] == [
        (name, worker, worker) for name in ("post_fork", "post_worker_init", "worker_exit")
    ]
    assert rest[1] | {"alive": True, "booted": True, "timeout": 30} == rest[1]
    assert rest[2]["served"] == 1


@pytest.mark.parametrize(
    ("app", "options"), [(ASGI, ()), (WSGI, ()), (WSGI, ("--threads", "3"))], ids=["asgi", "wsgi", "threads"]
)
def test_a_fast_stop_is_told(tmp_path, app, options):
    write(tmp_path, LIFE, app)
    with Server("web:app", *options, cwd=tmp_path) as server:
        assert get(server).startswith(b"HTTP/1.1 202 ")
        server.stop(signal.SIGINT)
        assert "worker received INT or QUIT signal" in server.log
    assert [note["hook"] for note in notes(tmp_path)][-2:] == ["worker_int", "worker_exit"]


def test_a_stuck_worker_is_told_before_it_is_killed(tmp_path):
    conf = """
        timeout = 1
        def worker_abort(worker):
            note("worker_abort", worker=worker.pid, aborted=worker.aborted)
    """
    write(tmp_path, conf)
    with Server("web:app", cwd=tmp_path) as server:
        (first,) = server.workers()
        with server.connect() as client:
            client.sendall(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: notes(tmp_path, "worker_abort"), "the hook")
        wait_until(lambda: [pid for pid in server.workers() if pid != first], "another worker")
    (note,) = notes(tmp_path)
    assert note == {"hook": "worker_abort", "pid": first, "worker": first, "aborted": True}


# --- the server's life, as the mold hears of it

MASTER = """
    def on_starting(server):
        note("on_starting", server=server.pid)

    def when_ready(server):
        note("when_ready", server=server.pid)

    def nworkers_changed(server, new_value, old_value):
        note("nworkers_changed", new=new_value, old=old_value, workers=server.num_workers)

    def on_reload(server):
        note("on_reload")

    def child_exit(server, worker):
        note("child_exit", worker=worker.pid, age=worker.age)

    def on_exit(server):
        note("on_exit")
"""


def test_a_servers_life(tmp_path):
    write(tmp_path, MASTER)
    with Server("web:app", "--workers", "2", cwd=tmp_path) as server:
        first, second = server.workers()
        master = server.pid
        server.stop()
    told = notes(tmp_path)
    assert [note["hook"] for note in told] == [
        "nworkers_changed",
        "on_starting",
        "when_ready",
        "child_exit",
        "child_exit",
        "on_exit",
    ]
    (mold,) = {note["pid"] for note in told}
    assert mold not in (master, first, second)
    assert told[0] | {"new": 2, "old": None, "workers": 2} == told[0]
    assert told[1]["server"] == told[2]["server"] == master
    assert {note["worker"] for note in told[3:5]} == {first, second}


def test_the_number_of_workers_changes(tmp_path):
    write(tmp_path, MASTER)
    with Server("web:app", cwd=tmp_path) as server:
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(notes(tmp_path, "nworkers_changed")) == 2, "the hook")
        wait_until(lambda: len(server.workers()) == 2, "the worker")
    assert [(note["new"], note["old"]) for note in notes(tmp_path, "nworkers_changed")] == [(1, None), (2, 1)]


def test_a_workers_death_is_told(tmp_path):
    write(tmp_path, MASTER)
    with Server("web:app", cwd=tmp_path) as server:
        (pid,) = server.workers()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: notes(tmp_path, "child_exit"), "the hook")
        assert notes(tmp_path, "child_exit")[0] | {"worker": pid, "age": 1} == notes(tmp_path, "child_exit")[0]


def test_a_reload_is_told_to_the_new_file(tmp_path):
    write(tmp_path, MASTER)
    with Server("web:app", "--boot-grace", "0", cwd=tmp_path) as server:
        (old,) = server.workers()
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: generation 2 serves")
        wait_until(lambda: [note for note in notes(tmp_path, "child_exit") if note["worker"] == old], "child_exit")
    assert len(notes(tmp_path, "on_starting")) == len(notes(tmp_path, "when_ready")) == 1
    assert len(notes(tmp_path, "on_reload")) == len(notes(tmp_path, "on_exit")) == 1
    assert notes(tmp_path, "on_reload")[0]["pid"] != notes(tmp_path, "on_starting")[0]["pid"]


@pytest.mark.parametrize("hook", ["on_starting", "when_ready"])
def test_a_server_whose_start_is_refused_by_a_hook_ends(tmp_path, hook):
    write(tmp_path, f"    def {hook}(server):\n        raise RuntimeError('not today')\n")
    with Server("web:app", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 1
        assert "RuntimeError: not today" in server.log
        assert f"The hook {hook} failed" in server.log


# --- requests

REQUESTS = """
    def pre_request(worker, req):
        note("pre_request", method=req.method, path=req.path, query=req.query, uri=req.uri, headers=dict(req.headers))

    def post_request(worker, req, environ, resp):
        note("post_request", path=req.path, status=resp.status_code, text=str(resp.status), headers=dict(resp.headers),
             sent=resp.sent, environ=environ["HTTP_X_B"])
"""


@pytest.mark.parametrize(
    ("app", "options"), [(ASGI, ()), (WSGI, ()), (WSGI, ("--threads", "3"))], ids=["asgi", "wsgi", "threads"]
)
def test_requests(tmp_path, app, options):
    write(tmp_path, REQUESTS, app)
    with Server("web:app", *options, cwd=tmp_path) as server:
        assert get(server, "/a%20b?c=d").endswith(b"hello")
        wait_until(lambda: notes(tmp_path, "post_request"), "post_request")
    before, after = notes(tmp_path)
    assert (before["method"], before["path"], before["query"]) == ("GET", "/a b", "c=d")
    assert before["uri"] == "/a%20b?c=d"
    assert before["headers"]["X-B"] == "2"
    assert (after["path"], after["status"], after["sent"], after["environ"]) == ("/a b", 202, 5, "2")
    assert after["text"].startswith("202")
    assert {name.lower(): value for name, value in after["headers"].items()}["x-a"] == "1"


@pytest.mark.parametrize("count", [2, 3, 4])
def test_post_request_takes_two_to_four_arguments(tmp_path, count):
    names = ("worker", "req", "environ", "resp")[:count]
    write(tmp_path, f"    def post_request({', '.join(names)}):\n        note('post_request', path=req.path)\n", WSGI)
    with Server("web:app", cwd=tmp_path) as server:
        get(server, "/x")
        wait_until(lambda: notes(tmp_path), "post_request")
    assert notes(tmp_path)[0]["path"] == "/x"


def test_a_failing_post_request_hurts_nobody(tmp_path):
    write(tmp_path, "    def post_request(worker, req):\n        raise RuntimeError('oops')\n", WSGI)
    with Server("web:app", cwd=tmp_path) as server:
        assert get(server).endswith(b"hello")
        assert get(server).endswith(b"hello")
        server.wait_log("Exception in post_request hook[^$]*RuntimeError: oops", count=1)


# --- the attributes that hooks look at

EVERYTHING = """
    import logging

    bind = ["127.0.0.1:0"]
    my_own = {"shop": 7}
    timeout = 40
    raw_env = ["SHOP=7", "PLACE=here=there"]
    proc_name = "shop"

    def facts_of(server):
        cfg, log = server.cfg, server.log
        return {
            "server": server.pid, "num_workers": server.num_workers, "title": server.proc_name,
            "address": server.address, "listeners": [str(x) for x in server.LISTENERS],
            "names": [x.getsockname() for x in server.LISTENERS], "workers": sorted(server.WORKERS),
            "workers_pids": sorted(w.pid for w in server.WORKERS.values()),
            "cfg": [cfg.timeout, cfg.workers, cfg.is_ssl, cfg.worker_class_str, cfg.env, cfg.proc_name, cfg.address,
                    cfg.settings["timeout"].get(), cfg.my_own, cfg.uid, cfg.wsgi_app, cfg.preload_app],
            "log": [isinstance(x, logging.Logger) for x in (log.error_log, log.access_log)],
            "methods": [callable(getattr(log, x)) for x in
                        ("critical", "error", "warning", "info", "debug", "exception", "log", "access")],
        }

    def when_ready(server):
        note("when_ready", **facts_of(server))

    def post_worker_init(worker):
        note("post_worker_init", ppid=worker.ppid, app=worker.app.callable is worker.wsgi is worker.app.wsgi(),
             callable=callable(worker.wsgi), tmp=worker.tmp.last_update() > 0, sockets=[str(x) for x in worker.sockets],
             reloader=worker.reloader, string=str(worker))
        worker.notify()

    def worker_exit(server, worker):
        note("worker_exit", **facts_of(server))

    def child_exit(server, worker):
        note("child_exit", worker=worker.pid, alive=worker.alive, left=sorted(server.WORKERS))

    def pre_request(worker, req):
        worker.log.debug("%s %s", req.method, req.path)
        note("pre_request", version=req.version, fragment=req.fragment, peer=req.remote_addr[0], scheme=req.scheme,
             close=req.should_close(), header=req.get_header("x-b"), body=req.body is not None)

    def post_request(worker, req, environ, resp):
        note("post_request", sent=resp.sent, length=resp.response_length, status=str(resp.status)[:3],
             code=resp.status_code, head=resp.headers_sent, close=resp.should_close(), chunked=resp.chunked,
             environ=[environ[n] for n in ("REQUEST_METHOD", "RAW_URI", "REMOTE_ADDR", "SERVER_PROTOCOL")])
"""


@pytest.mark.parametrize("app", [ASGI, WSGI], ids=["asgi", "wsgi"])
def test_attributes_of_what_hooks_are_given(tmp_path, app):
    write(tmp_path, EVERYTHING, app)
    with Server("web:app", "--workers", "2", bind=None, cwd=tmp_path) as server:
        workers, address = server.workers(), server.addresses[0]
        get(server, "/a?b")
        master, port = server.pid, server.port
        server.stop()
    cfg = [40, 2, False, "sync", {"SHOP": "7", "PLACE": "here=there"}, "shop", [["127.0.0.1", 0]], 40, {"shop": 7}]
    (ready,) = notes(tmp_path, "when_ready")
    assert (ready["server"], ready["num_workers"], ready["title"]) == (master, 2, "shop")
    assert ready["cfg"] == [*cfg, os.geteuid(), "web:app", False] and ready["workers"] == []
    assert all(ready["log"]) and all(ready["methods"])
    booted = notes(tmp_path, "post_worker_init")
    assert {note["pid"] for note in booted} == set(workers)
    for note in booted:
        assert note["ppid"] == master and note["app"] and note["callable"] and note["tmp"] and note["reloader"] is None
        assert note["sockets"] == [address] and note["string"] == f"<Worker {note['pid']}>"
    for note in notes(tmp_path, "worker_exit"):
        assert note["listeners"] == [address] and note["names"] == [["127.0.0.1", port]]
        assert note["pid"] in note["workers"] and note["workers"] == note["workers_pids"]
    gone = notes(tmp_path, "child_exit")
    assert [len(note["left"]) for note in gone] == [1, 0] and not any(note["alive"] for note in gone)
    (before,) = notes(tmp_path, "pre_request")
    assert (before["version"], before["fragment"], before["peer"], before["scheme"]) == (
        [1, 1],
        "",
        "127.0.0.1",
        "http",
    )
    assert before["close"] is True and before["header"] == "2" and before["body"] is (app is WSGI)
    (after,) = notes(tmp_path, "post_request")
    assert (after["sent"], after["status"], after["code"], after["head"]) == (5, "202", 202, True)
    assert after["environ"] == ["GET", "/a?b", "127.0.0.1", "HTTP/1.1"]
    assert (after["length"], after["chunked"]) == ((5, False) if app is WSGI else (None, True))


# --- how many arguments each takes

HOOK_ARITIES = {
    "on_starting": [1],
    "on_reload": [1],
    "when_ready": [1],
    "pre_fork": [2],
    "post_fork": [2],
    "post_worker_init": [1],
    "worker_int": [1],
    "worker_abort": [1],
    "pre_exec": [1],
    "pre_request": [2],
    "post_request": [2, 3, 4],
    "child_exit": [2],
    "worker_exit": [2],
    "nworkers_changed": [3],
    "on_exit": [1],
}


def function_of(count: int):
    names = ", ".join(f"a{i}" for i in range(count))
    return eval(f"lambda {names}: None")


@pytest.mark.parametrize("hook", HOOK_ARITIES)
def test_arities(hook):
    from licorne import hooks

    allowed = HOOK_ARITIES[hook]
    for count in range(6):
        if count in allowed:
            hooks.add(hook, function_of(count))
            continue
        with pytest.raises(TypeError, match=f"{hook} must take .*, not {count}"):
            hooks.add(hook, function_of(count))
    hooks.add(hook, lambda *args: None)
    with pytest.raises(TypeError, match="must be a function"):
        hooks.add(hook, 7)
    hooks._hooks.pop(hook)


def test_all_hooks_of_gunicorn_are_known():
    from licorne import config_file, hooks

    assert set(HOOK_ARITIES) == set(hooks.ARITIES) == config_file.HOOKS


def test_the_hook_of_an_exchanged_executable(tmp_path):
    conf = """
        def pre_exec(server):
            server.log.info("Forked child, re-executing.")
            note("pre_exec", server=server.pid)
    """
    write(tmp_path, conf)
    with Server("web:app", cwd=tmp_path) as server:
        server.send_signal(signal.SIGUSR2)
        wait_until(lambda: notes(tmp_path, "pre_exec"), "the hook")
        assert notes(tmp_path, "pre_exec")[0]["server"] == server.pid
        server.wait_log("Ready: ", count=2)
        successor = int(
            server.wait_log(r"Starting licorne [\d.]+ \(Python [\d.]+, master (\d+)\)", count=2)[1].group(1)
        )
        os.kill(successor, signal.SIGTERM)
        wait_until(lambda: not os.path.exists(f"/proc/{successor}"), "its end")


# --- mistakes


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("def post_fork(worker): pass\n", r"gunicorn.conf.py:1: post_fork must take 2 arguments, not 1"),
        ("def post_request(worker): pass\n", r"post_request must take 2 or 3 or 4 arguments, not 1"),
        ("post_fork = 'nowhere.post_fork'\n", r"gunicorn.conf.py:1: No module named 'nowhere'"),
        ("def post_fork(server, worker): 1 / 0\n", r"ZeroDivisionError[^$]*post_fork failed"),
        ("def post_worker_init(worker): 1 / 0\n", r"ZeroDivisionError[^$]*post_worker_init failed"),
    ],
    ids=["arity", "arities", "import", "post_fork", "post_worker_init"],
)
def test_a_hook_that_cannot_be_used_ends_the_start(tmp_path, conf, message):
    write(tmp_path, conf, note="")
    with Server("web:app", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() in (1, 3)
        assert re.search(message, server.log), server.log


def test_a_hook_may_be_named(tmp_path):
    (tmp_path / "shop_hooks.py").write_text("def post_fork(server, worker):\n    server.log.warning('named')\n")
    write(tmp_path, "post_fork = 'shop_hooks.post_fork'\n", note="")
    with Server("web:app", cwd=tmp_path) as server:
        assert "[WARNING] named" in server.log
