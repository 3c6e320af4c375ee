"""The real nginx in front of a server, with a file of examples/deploy."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from support.databases import running
from support.server import Server, wait_until

DEPLOY = Path(__file__).resolve().parent.parent.parent / "examples/deploy"
PARAMS = Path("/etc/nginx/uwsgi_params")


class Nginx:
    """Looks like a server to the clients."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.url = "http://localhost"


@contextlib.contextmanager
def nginx(server: Server, folder: Path, example: str = "nginx.conf", *changes: tuple[str, str]) -> Iterator[Nginx]:
    """The example's file as it is, but for the two addresses and `changes`."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    text = (DEPLOY / example).read_text()
    address = server.address
    ours = [
        ("server unix:/run/licorne/licorne.sock", f"server {_upstream(address)}"),
        ("listen 80", f"listen unix:{folder}/nginx.sock"),
    ]
    for theirs, own in ours:
        assert text.count(f"    {theirs}") == 1
        text = text.replace(f"    {theirs}", f"    {own}")
    for theirs, own in changes:
        assert theirs in text
        text = text.replace(theirs, own)
    (folder / "licorne.conf").write_text(text)
    if PARAMS.exists():
        shutil.copy(PARAMS, folder)
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


def _upstream(address: tuple[str, int] | str) -> str:
    return f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"
