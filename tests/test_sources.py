"""Settings from pyproject.toml, the application's environment from a file, what is sent with every response."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.support.server import Server, wait_until

APP = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    said = json.dumps({name: os.environ.get(name) for name in ("COLOUR", "SIZE")}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
"""


def ask(server: Server) -> tuple[int, dict[str, str], bytes]:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields: dict[str, str] = {}
    for name, _, value in (line.partition(": ") for line in lines[1:]):
        fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
    return int(lines[0].split()[1]), fields, body


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "web.py").write_text(APP)
    return tmp_path


needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")


@needs_toml
def test_a_table_in_pyproject_toml(folder):
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "shop"\n'
        '[tool.licorne]\napp = "web:app"\nworkers = 2\nserver-header = false\n'
        'headers = ["X-Shop: 1"]\nkeepalive = 1.5\n'
    )
    with Server(cwd=folder) as server:
        assert len(server.workers()) == 2
        status, fields, _ = ask(server)
        assert status == 200 and "server" not in fields and fields["x-shop"] == "1"
    with Server("--print-config", cwd=folder, wait=False) as server:
        assert server.wait_exit() == 0
        assert re.search(r"^workers += 2  # pyproject.toml \[tool.licorne\]$", server.output, re.MULTILINE)


@needs_toml
def test_a_python_file_is_preferred(folder):
    (folder / "pyproject.toml").write_text('[tool.licorne]\nworkers = 3\napp = "nope:app"\n')
    (folder / "licorne.conf.py").write_text("workers = 1\napp = 'web:app'\n")
    with Server(cwd=folder) as server:
        assert len(server.workers()) == 1


@needs_toml
def test_every_name_in_the_table_is_a_setting(folder):
    (folder / "pyproject.toml").write_text('[tool.licorne]\nworker = 3\napp = "web:app"\n')
    with Server(cwd=folder, wait=False) as server:
        assert server.wait_exit() == 1
        assert "workers" in server.log and "pyproject.toml" in server.log


def test_a_project_file_without_the_table_is_nothing(folder):
    (folder / "pyproject.toml").write_text("[tool.licorn\n")
    with Server("web:app", cwd=folder) as server:
        assert ask(server)[0] == 200
    with Server(cwd=folder, wait=False) as server:
        assert server.wait_exit() == 2
        assert "no application" in server.log


@pytest.mark.parametrize("strict", [False, True])
def test_a_name_that_is_nearly_a_setting(folder, strict):
    lines = ["worker_conections = 5", "background = 'blue'", f"strict_config = {strict}"]
    (folder / "gunicorn.conf.py").write_text("\n".join(lines))
    with Server("web:app", cwd=folder, wait=not strict) as server:
        if strict:
            assert server.wait_exit() == 1
        level = "ERROR" if strict else "WARNING"
        (line,) = [line for line in server.log.splitlines() if "worker_conections" in line]
        assert f"[{level}]" in line and "worker_connections" in line and "gunicorn.conf.py:1" in line
        assert "background" not in server.log


def test_an_environment_file(folder):
    (folder / "web.env").write_text('# ours\nexport COLOUR="deep blue"\nSIZE=1\n')
    with Server("web:app", "--env-file", "web.env", cwd=folder, env={"SIZE": "2"}) as server:
        assert json.loads(ask(server)[2]) == {"COLOUR": "deep blue", "SIZE": "2"}
    with Server("web:app", "--env-file", "nowhere.env", cwd=folder, wait=False) as server:
        assert server.wait_exit() == 1
        assert "nowhere.env" in server.log and "No such file" in server.log


def test_headers_for_every_response(folder):
    arguments = ["--header", "X-Frame-Options:DENY", "--header", "Server: Shop", "--header=X-Empty:"]
    with Server("web:app", *arguments, cwd=folder) as server:
        fields = ask(server)[1]
        assert fields | {"x-frame-options": "DENY", "server": "Shop"} == fields and "date" in fields
        with server.connect() as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert b"X-Frame-Options: DENY\r\n" in client.makefile("rb").read()


@pytest.mark.parametrize("value", ['{"X-A": "1", "X-B": 2}', '[("X-A", "1"), ("X-B", "2")]', '["X-A:1", "X-B: 2"]'])
def test_headers_in_a_file(folder, value):
    (folder / "licorne.conf.py").write_text(f"headers = {value}\n")
    with Server("web:app", cwd=folder) as server:
        fields = ask(server)[1]
        assert fields | {"x-a": "1", "x-b": "2"} == fields


@pytest.mark.parametrize(
    "header", ["X-A", "X A:1", ":1", "X-A:1\r\nX-B:2", "Content-Length:5", "transfer-encoding: chunked"]
)
def test_bad_headers_are_refused(folder, header):
    with Server("web:app", "--header", header, cwd=folder, wait=False) as server:
        assert server.wait_exit() == 1
        assert "must be NAME:VALUE" in server.log


def test_limit_concurrency(folder):
    waits = '    if scope["path"] == "/wait":\n        await receive(), await receive()\n'
    (folder / "web.py").write_text(APP.replace("    said", waits + "    said", 1))
    with Server("web:app", "--limit-concurrency", "2", cwd=folder) as server:
        with server.connect() as first, server.connect() as second:
            for client in (first, second):
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            assert ask(server)[0] == 503
        wait_until(lambda: ask(server)[0] == 200, "room")  # both are gone
        with server.connect() as first, server.connect() as second, server.connect() as third:
            for client in (first, second, third):
                client.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
            assert third.recv(1000).startswith(b"HTTP/1.1 503")
