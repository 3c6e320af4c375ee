"""--reload: what the developer saves is what is served."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.server import Server, wait_until

APP = """
import helper

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    text = helper.TEXT
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})
"""


def ask(client) -> str:
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer or answer.endswith(b"\r\n\r\n"):
        part = client.recv(65536)
        if not part:
            return ""
        answer += part
    return answer.partition(b"\r\n\r\n")[2].decode()


def served(server: Server) -> str:
    with server.connect() as client:
        return ask(client)


def save(folder: Path, text: str, name: str = "helper.py") -> None:
    """As editors do: a new file takes the place of the old one."""
    beside = folder / f".{name}.swp"
    beside.write_text(text)
    beside.replace(folder / name)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "web.py").write_text(APP)
    save(tmp_path, 'TEXT = b"one"')
    return tmp_path


@pytest.mark.parametrize("more", [[], ["--preload"], ["--workers", "2"]], ids=["plain", "preload", "workers"])
def test_a_change_is_served(folder, more):
    with Server("web:app", "--reload", *more, cwd=folder) as server:
        with server.connect() as kept:
            assert ask(kept) == "one"
            save(folder, 'TEXT = b"number two"')
            server.wait_log("helper.py has changed")
            server.wait_log("Reloaded: generation 2 serves")
            wait_until(lambda: served(server) == "number two", "the new code")
            assert ask(kept) in ("one", "number two")  # the browser's connection survives
        (folder / "helper.py").write_text('TEXT = b"the third"')  # in place
        server.wait_log("Reloaded: generation 3 serves")
        wait_until(lambda: served(server) == "the third", "the new code")


def test_a_mistake_is_told_and_the_old_code_serves_on(folder):
    with Server("web:app", "--reload", cwd=folder) as server:
        save(folder, 'TEXT = b"one')
        server.wait_log("SyntaxError")
        server.wait_log("generation 1 serves on")
        assert served(server) == "one"
        save(folder, 'TEXT = b"mended"')
        wait_until(lambda: served(server) == "mended", "the new code")


REASONS = {
    "option": (["--reload"], {}, None),
    "variable": ([], {"UVICORN_RELOAD": "true"}, None),
    "file": ([], {}, ("gunicorn.conf.py", "reload = True\n")),
    "project": ([], {}, ("pyproject.toml", "[tool.licorne]\nreload = true\n")),
}


@pytest.mark.parametrize("where", REASONS)
def test_an_application_that_does_not_start_is_waited_for(folder, where):
    arguments, variables, file = REASONS[where]
    if where == "project" and sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    if file:
        (folder / file[0]).write_text(file[1])
    save(folder, 'TEXT = b"one')
    with Server("web:app", *arguments, cwd=folder, env=variables, bind="unix", wait=False) as server:
        server.wait_log("Waiting for a change")
        save(folder, 'TEXT = b"mended"')
        server.wait_ready()
        with server.connect() as client:
            assert ask(client) == "mended"


def test_waiting_can_be_interrupted(folder):
    save(folder, 'TEXT = b"one')
    with Server("web:app", "--reload", cwd=folder, wait=False) as server:
        server.wait_log("Waiting for a change")
        assert server.stop(signal.SIGINT) == -signal.SIGINT


def test_what_counts_as_a_change(folder):
    elsewhere = folder / "elsewhere"
    for name in ("project", "elsewhere", "project/.venv", "project/node_modules", "project/env"):
        (folder / name).mkdir(exist_ok=True)
    project = folder / "project"
    (project / "env/pyvenv.cfg").write_text("")
    (project / "web.py").write_text("import aside\n" + APP)
    (project / "helper.py").write_text('TEXT = b"one"')
    (elsewhere / "aside.py").write_text("")
    extra = folder / "settings.toml"
    arguments = ["--reload", "--reload-include", "*.html", "--reload-include", "*.py", "--reload-exclude", "big_*"]
    arguments += ["--reload-extra-file", str(extra), "--pythonpath", str(elsewhere)]
    with Server("web:app", *arguments, cwd=project) as server:
        for ignored in (".venv/a.py", "node_modules/a.py", "env/a.py", "big_data.py", ".hidden.py", "notes.txt"):
            (project / ignored).write_text("1")
        changes = 0
        for path in (project / "page.html", extra, elsewhere / "aside.py", project / "new/deep/module.py"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("# 1")
            changes += 1
            found = server.wait_log(r"\] (\S+) has changed", count=changes)
            assert found[-1].group(1).endswith(path.name)
            server.wait_log(rf"Reloaded: generation {changes + 1} serves")
        (project / "page.html").unlink()
        server.wait_log(r"page.html has changed", count=2)
        seen = [match.group(1) for match in server.wait_log(r"\] (\S+) has changed", count=changes + 1)]
        assert len(seen) == changes + 1, seen


def test_without_it_nothing_is_watched(folder):
    with Server("web:app", cwd=folder) as server:
        save(folder, 'TEXT = b"two"')
        server.send_signal(signal.SIGTTIN)
        server.wait_log("Workers wanted: 2")
        assert "has changed" not in server.log
