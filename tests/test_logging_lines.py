"""The server's own log lines: what the debug level tells of connections, and colours on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.server import Server, command, wait_until

WEB = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/bad":
        raise ValueError("no such luck")
    await send({"type": "http.response.start", "status": 404 if scope["path"] == "/no" else 200})
    await send({"type": "http.response.body", "body": b"hi"})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web.py").write_text(WEB)
    return tmp_path


def connection_lines(server: Server, port: int) -> list[str]:
    """What the log says of the client's connection from `port`, without what is the same in all lines."""
    pattern = rf"\[DEBUG\] Connection \d+ \(127\.0\.0\.1:{port}\):? (.*)"
    return re.findall(pattern, server.log)


def ask(client, path: str = "/", fields: str = "") -> bytes:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
    return client.recv(65536)


# --- what the server is doing to each connection


def test_a_kept_connection(folder):
    with Server("web:app", "--log-level", "debug", "--keep-alive", "0.3", cwd=folder) as server:
        with server.connect() as client:
            port = client.getsockname()[1]
            ask(client, "/a?b=c")
            ask(client, "/bad")
            assert client.recv(10) == b""  # the keepalive time is over
        assert connection_lines(server, port) == [
            "accepted",
            "GET /a?b=c HTTP/1.1",
            "answered 200, 2 bytes; kept",
            "GET /bad HTTP/1.1",
            "answered 500, 22 bytes; kept",
            "closed: no further request came (keepalive)",
        ]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", ["closed: the client closed the connection"]),
        (b"GET /", ["closed: the client left in the middle of a request"]),
        (b"GET / HTTP/1.1\r\n\r\n", [r"refused with 400: .*", r"answered 400, \d+ bytes; the last response"]),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            ["GET / HTTP/1.1", "answered 200, 2 bytes; the last response"],
        ),
    ],
    ids=["peer left", "in the middle", "refused", "close"],
)
def test_how_a_connection_ends(folder, sent, told):
    with Server("web:app", "--log-level", "debug", cwd=folder) as server:
        with server.connect() as client:
            port = client.getsockname()[1]
            client.sendall(sent)
            if b"\r\n\r\n" in sent:
                client.makefile("rb").read()
        wait_until(lambda: any(" closed: " in f" {line}" for line in connection_lines(server, port)), "the end")
        lines = connection_lines(server, port)
    assert lines[0] == "accepted" and lines[-1].startswith("closed: ")
    for pattern, line in zip(told, lines[1:], strict=False):
        assert re.fullmatch(pattern, line), lines


def test_a_connection_that_another_worker_takes(folder):
    with Server("web:app", "--workers", "2", "--log-level", "debug", cwd=folder) as server:
        with server.connect() as client:
            port = client.getsockname()[1]
            ask(client)
            (pid,) = {
                int(m) for m in re.findall(rf"\[(\d+)\] \[DEBUG\] Connection \d+ \(127.0.0.1:{port}\)", server.log)
            }
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: "taken over from another worker" in connection_lines(server, port), "the other worker")
            assert b" 200 " in ask(client, "/again")
        lines = connection_lines(server, port)
    assert "closed: another worker has it now" in lines
    assert lines.index("taken over from another worker") < lines.index("GET /again HTTP/1.1")


def test_the_end_of_a_worker_is_a_reason(folder):
    with Server("web:app", "--log-level", "debug", cwd=folder) as server:
        with server.connect() as client:
            port = client.getsockname()[1]
            ask(client)
            server.stop()
        assert connection_lines(server, port)[-1] == "closed: the worker is leaving"


def test_info_tells_nothing_of_connections(folder):
    with Server("web:app", cwd=folder) as server:
        with server.connect() as client:
            ask(client)
        server.stop()
        assert "[DEBUG]" not in server.log and "Connection" not in server.log


# --- colours


@contextlib.contextmanager
def on_a_terminal(folder: Path, *options: str, env: dict[str, str] | None = None):
    """Serves with a terminal for standard output and standard error; gives (what is on it, the address)."""
    master, slave = pty.openpty()
    seen = bytearray()
    given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    arguments = [*command(), "web:app", "--bind", "127.0.0.1:0", *options]
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env={**given, "TERM": "xterm", **(env or {})},
    )
    os.close(slave)

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end
            while data := os.read(master, 65536):
                seen.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield lambda: seen.decode()
    finally:
        process.terminate()
        process.wait(30)
        reader.join(30)
        os.close(master)


def request_on(text) -> None:
    """One request for each status, once the server on the terminal is ready."""
    wait_until(lambda: "Ready: " in text(), "the start")
    host, port = re.search(r"http://([\d.]+):(\d+)", text()).groups()
    for path in ("/", "/no", "/bad"):
        with socket.create_connection((host, int(port)), 30) as client:
            ask(client, path, "Connection: close\r\n")
    wait_until(lambda: "no such luck" in text() and "/bad HTTP" in text(), "the lines")


def test_colours_on_a_terminal(folder):
    with on_a_terminal(folder, "--access-log", "--access-logformat", '"%(r)s" %(s)s') as text:
        request_on(text)
        said = text()
    assert "\033[32m[INFO]\033[0m Ready: " in said
    assert "\033[31m[ERROR]\033[0m " in said
    assert '"\033[1mGET / HTTP/1.1\033[0m" \033[32m200\033[0m' in said
    assert '"\033[1mGET /no HTTP/1.1\033[0m" \033[31m404\033[0m' in said
    assert '"\033[1mGET /bad HTTP/1.1\033[0m" \033[91m500\033[0m' in said


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["--no-use-colors"], {}),
        ([], {"NO_COLOR": "1"}),
        ([], {"TERM": "dumb"}),
        (["--no-use-colors"], {"FORCE_COLOR": "1"}),
    ],
    ids=["option", "NO_COLOR", "dumb", "option wins"],
)
def test_a_terminal_without_colours(folder, options, env):
    with on_a_terminal(folder, "--access-log", *options, env=env) as text:
        request_on(text)
        assert "\033[" not in text()


@pytest.mark.parametrize(
    ("options", "env", "colours"),
    [
        ([], {}, False),
        (["--use-colors"], {}, True),
        (["--use-colors"], {"NO_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ([], {"LICORNE_USE_COLORS": "true"}, True),
    ],
    ids=["file", "option", "option wins", "FORCE_COLOR", "NO_COLOR wins", "variable"],
)
def test_colours_in_a_file(folder, options, env, colours):
    with Server("web:app", *options, cwd=folder, env={"NO_COLOR": "", "FORCE_COLOR": "", **env}, wait=False) as server:
        server.wait_log("Ready: ")
        assert ("\033[32m[INFO]" in server.log) is colours
        assert ("[INFO] Ready" in server.log) is not colours
