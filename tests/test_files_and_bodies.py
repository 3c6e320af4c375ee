"""gunicorn's `sendfile` and `tmp_upload_dir`: how a file leaves, and where a large body waits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.raw_client import RawClient
from support.server import Server
from support.strace import Strace

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

APP = """
import hashlib, sys

def app(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        said = hashlib.sha256()
        while part := environ["wsgi.input"].read(65536):
            said.update(part)
        start_response("200 OK", [("Content-Length", "64")])
        return [said.hexdigest().encode()]
    start_response("200 OK", [("Content-Length", "300000")])
    return environ["wsgi.file_wrapper"](open("file", "rb"))
"""


@pytest.mark.parametrize(
    ("file", "options", "variables", "by_sendfile"),
    [
        ("", [], {}, True),
        ("", ["--no-sendfile"], {}, False),
        ("", [], {"SENDFILE": "0"}, False),
        ("", [], {"SENDFILE": "yes"}, True),
        ("sendfile = False", [], {}, False),
        ("sendfile = False", [], {"SENDFILE": "1"}, False),
        ("sendfile = True", [], {"SENDFILE": "0"}, True),
    ],
)
def test_sendfile(tmp_path: Path, file: str, options: list[str], variables: dict[str, str], by_sendfile: bool) -> None:
    content = bytes(range(256)) * 1200
    (tmp_path / "web.py").write_text(APP)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "gunicorn.conf.py").write_text(file)
    with Server("web:app", *options, cwd=tmp_path, env=variables) as server:
        trace = Strace(server.workers()[0], tmp_path / "trace", "sendfile,pread64")
        with RawClient(server.connect()) as client:
            assert client.ask("GET", "/").body == content[:300000]
        calls = trace.stop()
    assert {call.partition("(")[0] for call in calls} == {"sendfile" if by_sendfile else "pread64"}


def test_bodies_are_not_written_to_files(tmp_path: Path) -> None:
    """What `tmp_upload_dir` would be for."""
    (tmp_path / "web.py").write_text(APP)
    (tmp_path / "gunicorn.conf.py").write_text("tmp_upload_dir = '/nowhere'\n")
    with Server("web:app", cwd=tmp_path) as server:
        assert (
            'gunicorn.conf.py:1: "tmp_upload_dir" has no effect: request bodies are never written to files'
            in server.log
        )
        trace = Strace(server.workers()[0], tmp_path / "trace", "openat,open,creat,memfd_create,unlink,unlinkat")
        with RawClient(server.connect()) as client:
            digest = client.ask("POST", "/", body=bytes(4 << 20)).body
        calls = trace.stop()
    assert digest == b"bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8"
    assert not [call for call in calls if not call.startswith("open") or "O_CREAT" in call or "O_TMPFILE" in call]
