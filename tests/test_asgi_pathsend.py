"""http.response.pathsend: the body is a file, sent by the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_http import Client
from support.server import Server

APPS = Path(__file__).parent / "apps"
LARGE = os.urandom(3 << 20)

pytestmark = pytest.mark.sanitized


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "small").write_bytes(b"0123456789")
    (folder / "large").write_bytes(LARGE)
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "fifo")
    with Server("pathsend_asgi:app", cwd=APPS, env={"PATHSEND_FOLDER": str(folder)}) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.connect()) as connected:
        yield connected


@pytest.mark.parametrize(
    ("name", "body"), [("small", b"0123456789"), ("large", LARGE), ("empty", b"")], ids=["small", "large", "empty"]
)
@pytest.mark.parametrize("length", [True, False], ids=["declared", "undeclared"])
def test_files_of_all_sizes_on_a_kept_connection(client: Client, name: str, body: bytes, length: bool) -> None:
    for _ in range(3):
        declared = f"&length={len(body)}" if length else ""
        response = client.ask(f"/?name={name}{declared}")
        assert response.status == 200
        assert response.body == body
        assert response.headers.get("content-length") == str(len(body))


def test_head_gets_no_body(client: Client) -> None:
    client.send(b"HEAD /?name=small HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read("HEAD").headers.get("content-length") == "10"
    assert client.ask("/?name=small").body == b"0123456789"


def test_a_file_that_has_grown_is_sent_as_far_as_it_was_promised(client: Client) -> None:
    assert client.ask("/?name=small&length=4").body == b"0123"
    assert client.ask("/?name=small").body == b"0123456789"


def test_a_file_that_is_shorter_than_promised(server: Server, client: Client) -> None:
    assert client.ask("/?name=small&length=11").status == 500
    assert "less body than Content-Length" in server.log


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/?name=none", "FileNotFoundError"),
        ("/?name=.", "IsADirectoryError"),
        ("/?name=fifo", "OSError"),
        ("/", 'http.response.pathsend needs the key "path"'),
        ("/early?name=small", "http.response.pathsend was sent before http.response.start"),
    ],
)
def test_what_cannot_be_sent_is_an_error_of_the_application(
    server: Server, client: Client, path: str, error: str
) -> None:
    mark = len(server.log)
    assert client.ask(path).status == 500
    assert error in server.log[mark:]


def test_no_descriptor_is_left(server: Server, client: Client) -> None:
    (worker,) = server.workers()
    descriptors = Path(f"/proc/{worker}/fd")
    client.ask("/?name=small")
    before = len(list(descriptors.iterdir()))
    for path in ("/?name=small", "/?name=large", "/?name=small&length=11", "/?name=fifo", "/?name=."):
        with Client(server.connect()) as other:
            other.ask(path)
    client.ask("/?name=small")
    assert len(list(descriptors.iterdir())) <= before


def test_extensions_are_each_requests_own(client: Client) -> None:
    for _ in range(3):
        assert client.ask("/extensions").json() == {"http.response.pathsend": {}}
