"""examples/deploy: nginx and HAProxy take their configurations; what passes through arrives whole and as produced."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients import Request, drive, feed, pattern, random_bytes
from support.databases import running
from support.nginx import nginx
from support.server import Server, wait_until

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.parametrize("name", ["quart_app", "flask_app"])
def test_behind_nginx(name: str) -> None:
    upload = random_bytes(5 << 20)
    options = ["--threads", "8"] if name == "flask_app" else []
    with Server(f"{name}:app", "--chdir", str(EXAMPLES), *options, bind="unix") as server:
        with nginx(server, server.folder) as front:
            wanted = [
                Request("GET", "/"),
                Request("POST", "/upload", form={"note": "x"}, file=("blob", upload)),
                Request("GET", "/download/8"),
                Request("GET", "/nowhere"),
            ] * 3
            for client in ("httpx", "curl"):
                replies = drive(client, front, wanted)
                assert [reply.status for reply in replies] == [200, 200, 200, 404] * 3
                assert all(reply.json()["sha256"] == hashlib.sha256(upload).hexdigest() for reply in replies[1::4])
                assert all(reply.body == pattern(8) for reply in replies[2::4])
            with feed("curl", front, "/feed") as lines:
                messages = (line for line in lines if line.startswith("data:"))
                assert next(messages) == "data: welcome"
                for text in ("first", "second"):
                    assert drive("requests", front, [Request("POST", "/feed", json={"text": text})])[0].status == 204
                    assert next(messages) == f"data: {text}"
            wait_until(lambda: drive("httpx", front, [Request("GET", "/feed/readers")])[0].json() == {"readers": 0})
            errors = server.folder / "error.log"
            assert "upstream" not in errors.read_text(), errors.read_text()


@contextlib.contextmanager
def haproxy(server: Server, folder: Path, *changes: tuple[str, str]) -> Iterator[str]:
    """The example's file as it is, but for the two addresses and `changes`; yields the address of its socket."""
    text = (EXAMPLES / "deploy/haproxy.cfg").read_text()
    back = ("unix@/run/licorne/licorne.sock", f"unix@{server.address}")
    for theirs, own in [back, ("bind :80", f"bind unix@{folder}/front.sock"), *changes]:
        assert theirs in text
        text = text.replace(theirs, own)
    (folder / "haproxy.cfg").write_text(text)
    binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
    with running([binary, "-db", "-f", str(folder / "haproxy.cfg")], signal.SIGTERM, folder / "output") as process:
        front = folder / "front.sock"
        wait_until(lambda: front.exists() or process.poll() is not None, "haproxy")
        assert process.poll() is None, (folder / "output").read_text()
        yield str(front)


WHO = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    hosts = [value.decode() for name, value in scope["headers"] if name == b"host"]
    said = json.dumps([scope["client"], scope["scheme"], hosts]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
"""

# What a client says that proxies alone may say.
FORGED = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6;host=evil;proto=https\r\n"
FORGED += "X-Forwarded-Host: evil\r\nX-Forwarded-Port: 666\r\n"


def test_what_a_client_forges_ends_at_nginx(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(WHO)
    with Server("web:app", "--forwarded-host", "--forwarded-port", cwd=tmp_path, bind="unix") as server:
        with nginx(server, server.folder) as front, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(front.address)
            connection.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{FORGED}Connection: close\r\n\r\n".encode())
            reply = connection.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 200"), reply
    assert json.loads(reply.partition(b"\r\n\r\n")[2])[1:] == ["http", ["x"]]


# HAProxy says what this header of the test's client says: the address of a unix socket's peer would be none.
SOURCE = ("default_backend licorne", "http-request set-src req.hdr(Client)\n    default_backend licorne")


@pytest.mark.parametrize("way", ["headers", "proxy v1", "proxy v2"])
def test_behind_haproxy(tmp_path: Path, way: str) -> None:
    (tmp_path / "web.py").write_text(WHO)
    options = ["--forwarded-host", "--forwarded-port"] + ([] if way == "headers" else ["--proxy-protocol"])
    line = {"headers": "", "proxy v1": " send-proxy", "proxy v2": " send-proxy-v2"}[way]
    with Server("web:app", *options, cwd=tmp_path, bind="unix") as server:
        changes = [SOURCE, (server.address, server.address + line)]
        with haproxy(server, server.folder, *changes) as front:
            for client in ("192.0.2.7", "2001:db8::7"):
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(30)
                    connection.connect(front)
                    connection.sendall(
                        f"GET / HTTP/1.1\r\nHost: x\r\nClient: {client}\r\n{FORGED}Connection: close\r\n\r\n".encode()
                    )
                    reply = connection.makefile("rb").read()
                assert reply.startswith(b"HTTP/1.1 200"), reply
                said = json.loads(reply.partition(b"\r\n\r\n")[2])
                assert (said[0][0], said[1:]) == (client, ["http", ["x"]])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_unit(tmp_path: Path) -> None:
    unit = tmp_path / "licorne.service"
    unit.write_text(
        (EXAMPLES / "deploy/licorne.service").read_text().replace("/srv/app/.venv/bin/licorne", "/bin/true")
    )
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "licorne.service" in line]
    assert done.returncode == 0 and not complaints, done.stderr
