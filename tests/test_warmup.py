"""The warm-up: what runs through the application once, before workers are forked or serve."""

from __future__ import annotations

import http.client
import json
import os
import signal
import textwrap
from pathlib import Path

import pytest

from support.server import Server, wait_until

# Both answer with what has happened so far in this process and those that it was forked from: [pid, what], ...
ASGI = """
    import asyncio, json, os, threading, time

    log = [[os.getpid(), "import"]]

    def note(what):
        log.append([os.getpid(), what])

    async def app(scope, receive, send):
        note(scope["type"] + " " + scope.get("path", ""))
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["path"] == "/broken":
            raise ZeroDivisionError("no divisor")
        if scope["path"] == "/thread":
            await asyncio.get_running_loop().run_in_executor(None, note, "executor")
        if scope["path"] == "/left":
            threading.Thread(target=time.sleep, args=[60], name="poller", daemon=True).start()
        status = {"/failing": 503, "/missing": 404}.get(scope["path"], 200)
        await receive()
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body", "body": json.dumps([log, str(scope)]).encode()})

    def warm():
        note("called")

    async def warm_async():
        await asyncio.sleep(0)
        note("awaited")
"""
WSGI = """
    import json, os

    log = [[os.getpid(), "import"]]

    def app(environ, start_response):
        log.append([os.getpid(), "http " + environ["PATH_INFO"]])
        if environ["PATH_INFO"] == "/broken":
            raise ZeroDivisionError("no divisor")
        status = {"/failing": "503 Busy", "/missing": "404 Not Found"}.get(environ["PATH_INFO"], "200 OK")
        environ["wsgi.input"].read()
        start_response(status, [("Content-Type", "text/plain")])
        yield json.dumps([log, str(environ)]).encode()
"""
URL = "https://shop.example:8443/a"
KINDS = pytest.mark.parametrize("text", [ASGI, WSGI], ids=["ASGI", "WSGI"])


def serve(folder: Path, text: str, *args: str, **more) -> Server:
    (folder / "web.py").write_text(textwrap.dedent(text))
    return Server("web:app", *args, cwd=folder, **more)


def log_of(server: Server) -> list[tuple[int, str]]:
    """What the worker that answers knows, but for this request itself."""
    assert not isinstance(server.address, str)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    try:
        connection.request("GET", "/last")
        log, _ = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return [(pid, what) for pid, what in log if what not in ("http /last", "lifespan ")]


@pytest.mark.sanitized
@KINDS
def test_paths_run_through_the_application_in_the_mold(tmp_path, text):
    with serve(tmp_path, text, "--preload", "--workers", "2", "--warmup", "/a", "--warmup", "/b?x=1") as server:
        log = log_of(server)
        (mold,) = {pid for pid, _ in log}
        assert [what for _, what in log] == ["import", "http /a", "http /b"]
        assert mold not in (server.pid, *server.workers())


@KINDS
def test_without_preload_each_worker_warms_itself_up(tmp_path, text):
    with serve(tmp_path, text, "--warmup", "/a") as server:
        (worker,) = server.workers()
        assert log_of(server) == [(worker, "import"), (worker, "http /a")]


def test_callables_are_called_and_awaited(tmp_path):
    (tmp_path / "licorne.conf.py").write_text('warmup = ["web:warm", "/a", "web:warm_async"]\n')
    with serve(tmp_path, ASGI, "--preload") as server:
        assert [what for _, what in log_of(server)] == ["import", "called", "http /a", "awaited"]


@KINDS
def test_a_url_says_host_and_scheme(tmp_path, text):
    texts = {
        ASGI: 'note(scope["scheme"] + str(dict(scope["headers"])[b"host"]) + str(scope["server"]))',
        WSGI: 'log.append([0, environ["wsgi.url_scheme"] + environ["HTTP_HOST"] + environ["SERVER_PORT"]])',
    }
    first = {ASGI: "await receive()", WSGI: 'environ["wsgi.input"].read()'}[text]
    with serve(tmp_path, text.replace(first, f"{first}; {texts[text]}"), "--preload", "--warmup", URL) as server:
        said = "".join(what for _, what in log_of(server)[:3])
        assert "https" in said
        assert "shop.example:8443" in said


@KINDS
@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("/broken", "ZeroDivisionError: no divisor"),
        ("/failing", "was answered with 503"),
        ("web:nothing", "has no attribute 'nothing'"),
        ("nonsense", "is neither a path, nor a URL, nor module:callable"),
    ],
)
def test_a_warm_up_that_fails_ends_the_boot(tmp_path, text, item, message):
    with serve(tmp_path, text, "--preload", "--warmup", item, wait=False) as server:
        assert server.wait_exit() == 3
        assert f"The warm-up failed (--warmup): {item}: " in server.log
        assert message in server.log


def test_a_warm_up_that_fails_in_a_worker_ends_the_boot(tmp_path):
    with serve(tmp_path, ASGI, "--warmup", "/broken", wait=False) as server:
        assert server.wait_exit() == 3
        assert "The warm-up failed (--warmup): /broken: ZeroDivisionError: no divisor (" in server.log


def test_a_warm_up_that_fails_in_a_reload_leaves_the_old_generation(tmp_path):
    with serve(tmp_path, ASGI, "--preload", "--warmup", "/a") as server:
        text = textwrap.dedent(ASGI).replace('"/broken"', '"/a"')
        (tmp_path / "web.py").write_text(text)
        server.send_signal(signal.SIGHUP)
        server.wait_log("The reload has failed: generation 1 serves on")
        assert log_of(server)


def test_an_answer_of_400_and_more_is_told(tmp_path):
    with serve(tmp_path, ASGI, "--preload", "--warmup", "/missing") as server:
        assert "Warm-up: /missing was answered with 404" in server.log
        assert log_of(server)


def test_threads_that_the_warm_up_leaves_are_named_and_ended_ones_are_not(tmp_path):
    with serve(tmp_path, ASGI, "--preload", "--warmup", "/thread", "--warmup", "/left") as server:
        assert "The warm-up left 1 thread running: poller. They do not exist in the workers" in server.log
        assert "Preloading the application left" not in server.log
        assert [what for _, what in log_of(server)] == ["import", "http /thread", "executor", "http /left"]


def test_no_loop_is_left_in_the_mold(tmp_path):
    policy = """
    def loop_is_set():
        local = asyncio.get_event_loop_policy()._local
        note(f"{local._loop} {getattr(local, '_set_called', False)}")
    """
    with serve(tmp_path, ASGI + policy, "--preload", "--warmup", "/a", "--warmup", "web:loop_is_set") as server:
        log = log_of(server)
        assert log[-1][1] == "None False"
        mold = log[0][0]
        kinds = [os.readlink(fd) for fd in Path(f"/proc/{mold}/fd").iterdir()]
        assert not [kind for kind in kinds if "eventpoll" in kind]


def test_check_config_does_not_warm_up(tmp_path):
    with serve(tmp_path, ASGI, "--check-config", "--warmup", "/broken", wait=False) as server:
        assert server.wait_exit() == 0


def test_worker_threads_of_a_framework_have_ended(tmp_path):
    pytest.importorskip("starlette")
    text = """
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        def page(request):
            return JSONResponse([[], ""])

        app = Starlette(routes=[Route("/{path:path}", page)])
    """
    with serve(tmp_path, text, "--preload", "--warmup", "/a") as server:
        assert "left" not in server.log
        wait_until(lambda: log_of(server) == [], "an answer")
