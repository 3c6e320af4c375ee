"""The command lines that uvicorn's, FastAPI's and Starlette's documentation shows, with the one word changed. Each is
started for real and asked; hosts and ports are the test's own."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import Server, command, wait_until

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    said = f"Hello, {scope['type']} {scope['root_path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})

def create_app():
    return app

class App:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await app(self.scope, receive, send)
"""
WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    return [b"Hello, wsgi"[:10]]
"""
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"default": {"format": "[%(name)s] %(message)s"}},
    "handlers": {"default": {"class": "logging.StreamHandler", "formatter": "default", "stream": "ext://sys.stderr"}},
    "loggers": {
        "uvicorn.error": {"handlers": ["default"], "level": "INFO"},
        "uvicorn.access": {"handlers": ["default"], "level": "INFO"},
    },
}
INI = """
[loggers]
keys = root, uvicorn.error
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[logger_uvicorn.error]
qualname = uvicorn.error
handlers =
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = [%(name)s] %(message)s
"""
FILES = {
    "main.py": ASGI,
    "example.py": ASGI,
    "app/__init__.py": "",
    "app/main.py": ASGI,
    "mysite/asgi.py": ASGI + "\napplication = app\n",
    "src/package.py": ASGI,
    "flask_app.py": WSGI,
    ".env": "COLOUR=blue\n",
    "log.json": json.dumps(LOGGING),
    "log.yaml": json.dumps(LOGGING),  # which is YAML, too
    "log.ini": INI,
    "key.pem": "-----BEGIN PRIVATE KEY-----\n",
    "cert.pem": "-----BEGIN CERTIFICATE-----\n",
}

COMMANDS = """
uvicorn main:app
uvicorn example:app
uvicorn main:app --reload --port 5000
uvicorn --reload --reload-dir . --reload-include '*.html' --reload-exclude '*.txt' --reload-delay 0.1 main:app
uvicorn main:app --host 0.0.0.0 --port 80 --workers 2
uvicorn app.main:app --proxy-headers --host 0.0.0.0 --port 80
uvicorn mysite.asgi:application
uvicorn --factory main:create_app
uvicorn main:create_app --factory --host 127.0.0.1
uvicorn --interface wsgi flask_app:app
uvicorn main:App --interface asgi2
uvicorn main:app --interface asgi3 --lifespan on --lifespan off
uvicorn main:app --proxy-headers --forwarded-allow-ips='*'
uvicorn main:app --forwarded-allow-ips="127.0.0.1,10.0.0.0/8" --no-proxy-headers
uvicorn main:app --root-path /api/v1
uvicorn main:app --header "A: b" --header X-Frame-Options:DENY --no-server-header --no-date-header
uvicorn main:app --log-config log.yaml
uvicorn main:app --log-config log.json --no-access-log
uvicorn main:app --log-config=log.ini
uvicorn main:app --log-level trace --use-colors
uvicorn main:app --log-level debug --access-log --no-use-colors
uvicorn main:app --loop uvloop --http httptools --ws websockets-sansio
uvicorn main:app --loop asyncio --http h11 --h11-max-incomplete-event-size 16384 --ws none --reset-contextvars
uvicorn main:app --env-file .env
uvicorn package:app --app-dir=src
uvicorn main:app --limit-concurrency 100 --limit-max-requests 1000 --limit-max-requests-jitter 10 --backlog 100
uvicorn main:app --timeout-keep-alive 5 --timeout-graceful-shutdown 10 --timeout-worker-healthcheck 5
uvicorn main:app --ws-max-size 1000 --ws-max-queue 8 --ws-ping-interval 5.5 --ws-ping-timeout 5
uvicorn main:app --ws-per-message-deflate false --ws auto
gunicorn -k uvicorn.workers.UvicornWorker main:app
gunicorn example:app -w 2 -k uvicorn.workers.UvicornWorker
gunicorn main:app --workers 1 --worker-class uvicorn.workers.UvicornWorker --bind 0.0.0.0:80
gunicorn main:app -k uvicorn_worker.UvicornWorker --forwarded-allow-ips "*"
"""
VARIABLES = [
    ({"UVICORN_HOST": "127.0.0.1", "UVICORN_APP": "main:app"}, "uvicorn", 1),
    ({"UVICORN_FACTORY": "true", "UVICORN_LIFESPAN": "off"}, "uvicorn main:create_app", 1),
    ({"UVICORN_WORKERS": "2", "UVICORN_LOOP": "uvloop"}, "uvicorn main:app", 2),
    ({"WEB_CONCURRENCY": "2", "FORWARDED_ALLOW_IPS": "*"}, "uvicorn main:app", 2),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("commands")
    for name, text in FILES.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(text)
    return made


def words_of(line: str) -> list[str]:
    """Without the one word, and where the test listens."""
    words = shlex.split(line)[1:]
    ours = {"0.0.0.0": "127.0.0.1", "0.0.0.0:80": "127.0.0.1:0"}
    behind_port = {i + 1 for i, word in enumerate(words) if word == "--port"}
    words = ["0" if i in behind_port else ours.get(word, word) for i, word in enumerate(words)]
    return words if not line.startswith("gunicorn") or "--bind" in words else [*words, "-b", "127.0.0.1:0"]


def ask(server: Server) -> tuple[str, str]:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = client.makefile("rb").read().decode().partition("\r\n\r\n")
    return head, body


def surroundings(line: str) -> dict[str, str]:
    return {} if line.startswith("gunicorn") else {"UVICORN_PORT": "0"}


@pytest.mark.parametrize("line", COMMANDS.strip().splitlines())
def test_a_documented_command_line(folder, line):
    if ".yaml" in line:
        pytest.importorskip("yaml")
    if "--env-file" in line:
        pytest.importorskip("dotenv")
    with Server(*words_of(line), bind=None, cwd=folder, env=surroundings(line), wait=False) as server:
        server.wait_log("Ready: ")
        head, body = ask(server)
        assert head.startswith("HTTP/1.1 200") and body.startswith("Hello, ")
        assert "[WARNING]" not in server.log and "[ERROR]" not in server.log
        if "--workers 2" in line or "-w 2" in line:
            assert len(server.workers()) == 2
        if "--root-path" in line:
            assert body == "Hello, http /api/v1"
        if "--header" in line:
            lower = head.lower()
            assert "a: b" in lower and "x-frame-options: deny" in lower
            assert "server:" not in lower and "date:" not in lower


@pytest.mark.parametrize(("variables", "line", "workers"), VARIABLES, ids=[" ".join(row[0]) for row in VARIABLES])
def test_a_documented_variable(folder, variables, line, workers):
    with Server(*words_of(line), bind=None, cwd=folder, env={**surroundings(line), **variables}) as server:
        assert ask(server)[1] == "Hello, http "
        assert len(server.workers()) == workers


def test_as_a_module(folder):
    program = [sys.executable, "-m", "licorne"]
    with Server("main:app", "--port", "0", bind=None, cwd=folder, program=program) as server:
        assert ask(server)[1] == "Hello, http "


def test_a_unix_socket(folder, tmp_path):
    path = tmp_path / "uvicorn.sock"
    line = f"uvicorn main:app --uds {path} --log-level warning"
    with Server(*words_of(line), bind=None, cwd=folder, env=surroundings(line), wait=False) as server:
        server._first_address = f"unix:{path}"
        wait_until(path.exists, "the socket")
        assert ask(server)[1] == "Hello, http "
        assert server.log == ""


def test_the_descriptor_of_a_supervisor(folder):
    """supervisord gives the socket as standard input: `uvicorn --fd 0 main:app`; circus as some other number."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        by_number = Server("main:app", "--fd", str(number), bind=None, cwd=folder, pass_fds=[listener])
        with by_number as server:
            assert server.port == listener.getsockname()[1]
            assert ask(server)[1] == "Hello, http "
        moved = f"import os, sys; os.dup2({number}, 0); os.execv(sys.argv[1], sys.argv[1:])"
        program = [sys.executable, "-c", moved, *command()]
        by_input = Server("--fd", "0", "main:app", bind=None, cwd=folder, program=program, pass_fds=[listener])
        with by_input as server:
            assert server.port == listener.getsockname()[1]
            assert ask(server)[1] == "Hello, http "


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("uvicorn main:app --port 5000 --ssl-keyfile=./key.pem --ssl-certfile=./cert.pem", 1, "does not serve TLS"),
        ("uvicorn main:app --loop uvlop", 1, "--loop = 'uvlop': must be one of auto|asyncio|uvloop"),
        ("uvicorn main:app --http h12", 1, "--http = 'h12': must be one of auto|h11|httptools"),
        ("granian main:app --http 2", 1, "HTTP/2 is not served by this version"),
        ("uvicorn main:app --ws websocket", 1, "--ws = 'websocket': must be one of auto|none|websockets"),
        ("uvicorn main:app --lifespan maybe", 1, "lifespan = 'maybe' (from --lifespan): must be one of auto, on, off"),
        ("uvicorn main:app --log-level loud", 1, "loglevel = 'loud' (from --log-level): must be one of trace, debug"),
        ("uvicorn main:app --relaod", 2, "--relaod: no such option; did you mean --reload?"),
        ("uvicorn", 2, "no application"),
    ],
)
def test_a_command_line_that_is_refused(folder, line, code, message):
    ran = subprocess.run([*command(), *words_of(line)], cwd=folder, capture_output=True, text=True)
    assert (ran.returncode, message in ran.stderr) == (code, True), ran.stderr
