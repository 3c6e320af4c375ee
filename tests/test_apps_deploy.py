"""examples/deploy: nginx takes its configuration, and what passes through it arrives whole and as it is produced."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients import Request, drive, feed, pattern, random_bytes
from support.server import Server, wait_until
from support.services import running

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


class Nginx:
    """Looks like a server to the clients."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.url = "http://localhost"


@contextlib.contextmanager
def nginx(server: Server, folder: Path) -> Iterator[Nginx]:
    """The example's file as it is, but for the two addresses."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    text = (EXAMPLES / "deploy/nginx.conf").read_text()
    ours = {
        "server unix:/run/licorne/licorne.sock": f"server unix:{server.address}",
        "listen 80": f"listen unix:{folder}/nginx.sock",
    }
    for theirs, own in ours.items():
        assert text.count(f"    {theirs}") == 1
        text = text.replace(f"    {theirs}", f"    {own}")
    (folder / "licorne.conf").write_text(text)
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user root;\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}include {folder}/licorne.conf;\n}}\n"
    )
    command = [binary, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with running(command, signal.SIGTERM, folder / "output") as process:
        front = folder / "nginx.sock"
        wait_until(lambda: front.exists() or process.poll() is not None, "nginx")
        assert process.poll() is None, (folder / "output").read_text()
        yield Nginx(front)


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


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_unit(tmp_path: Path) -> None:
    unit = tmp_path / "licorne.service"
    unit.write_text(
        (EXAMPLES / "deploy/licorne.service").read_text().replace("/srv/app/.venv/bin/licorne", "/bin/true")
    )
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "licorne.service" in line]
    assert done.returncode == 0 and not complaints, done.stderr
