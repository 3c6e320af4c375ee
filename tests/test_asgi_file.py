"""Files by their path: the ASGI extension `http.response.pathsend` (asgiref, docs/extensions.rst, "Path Send")."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_http import Client, Response
from support.server import Server, wait_until

APPS = Path(__file__).parent / "apps"

pytestmark = pytest.mark.sanitized


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for size in (0, 1, 1000, 300_000, 20_000_000):
        (folder / str(size)).write_bytes(content(size))
    (folder / "secret").write_bytes(b"x")
    os.mkfifo(folder / "fifo")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server("file_apps:raw", "--chdir", str(APPS), env={"FILES": str(folder)}) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.connect()) as connected:
        yield connected


def files_open(server: Server, folder: Path) -> list[str]:
    (worker,) = server.workers()
    links = [os.readlink(fd) for fd in Path(f"/proc/{worker}/fd").iterdir() if fd.is_symlink()]
    return [link for link in links if link.startswith(str(folder))]


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
@pytest.mark.parametrize("length", ["", "&length={}"])
def test_a_file(client: Client, size: int, length: str) -> None:
    length = length.format(size)
    for _ in range(2):  # the connection is kept
        response = client.ask(f"/?name={size}{length}")
        assert (response.status, response.body) == (200, content(size))
        assert response.headers["content-length"] == str(size)


def test_head(client: Client) -> None:
    response = client.ask("/?name=1000&length=1000", method="HEAD")
    assert (response.status, response.body, response.headers["content-length"]) == (200, b"", "1000")
    assert client.ask("/?name=1").body == b"\0"


def test_one_that_has_grown_goes_out_as_far_as_was_said(client: Client) -> None:
    assert client.ask("/?name=1000&length=10").body == content(10)
    assert client.ask("/?name=1").status == 200


def test_one_that_has_shrunk_is_an_error(server: Server, client: Client) -> None:
    response: Response = client.ask("/?name=1000&length=1001")
    assert response.status == 500 or not response.complete
    server.wait_log("shorter|less")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("name=nobody", "FileNotFoundError: [Errno 2] No such file or directory: '"),
        ("name=.", "IsADirectoryError: [Errno 21]"),
        ("name=fifo", "OSError: [Errno 22]"),
        ("name=a%00b", "ValueError: embedded null byte"),
        ("", 'ValueError: http.response.pathsend needs the key "path"'),
    ],
)
def test_what_cannot_be_sent_is_raised_and_another_body_may_follow(client: Client, query: str, error: str) -> None:
    response = client.ask(f"/?{query}&tell=1")
    assert response.status == 200
    assert response.body.decode().startswith(error)


@pytest.mark.parametrize(
    ("first", "message"), [("nothing", "before http.response.start"), ("body", "after http.response.body")]
)
def test_its_place_among_the_events(server: Server, client: Client, first: str, message: str) -> None:
    response = client.ask(f"/?name=1000&first={first}")
    assert response.status == 500 or not response.complete
    server.wait_log(f"http.response.pathsend was sent {message}")


def test_a_slow_client_of_a_large_file(server: Server, folder: Path) -> None:
    """The kernel sends it in its own time: others are served meanwhile, and the file is closed at the end."""
    size = 20_000_000
    with Client(server.connect()) as slow, Client(server.connect()) as other:
        slow.send(f"GET /?name={size}&length={size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert other.ask("/?name=1").status == 200
        wait_until(lambda: files_open(server, folder), "the file to be open")
        assert slow.read().body == content(size)
    wait_until(lambda: not files_open(server, folder), "the file to be closed")


def test_a_client_that_leaves(server: Server, folder: Path) -> None:
    with Client(server.connect()) as client:
        client.send(b"GET /?name=20000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: files_open(server, folder), "the file to be open")
    wait_until(lambda: not files_open(server, folder), "the file to be closed")


def test_a_file_that_is_removed_while_it_is_sent(client: Client, folder: Path) -> None:
    (folder / "gone").write_bytes(content(5_000_000))
    assert client.ask("/?name=gone&unlink=1").body == content(5_000_000)


def test_extensions_are_each_requests_own(client: Client) -> None:
    for _ in range(3):
        assert client.ask("/extensions").body == b"[('http.response.pathsend', {})]"


def test_it_is_offered_only_if_files_are_sent_by_the_kernel(folder: Path) -> None:
    with Server("file_apps:raw", "--chdir", str(APPS), "--no-sendfile", env={"FILES": str(folder)}) as server:
        with Client(server.connect()) as client:
            assert client.ask("/offered").body == b"None"
            assert client.ask("/?name=300000").body == content(300_000)


@pytest.mark.parametrize("path", ["/one/300000", "/all/300000"])
def test_starlette(folder: Path, path: str) -> None:
    pytest.importorskip("starlette")
    with Server("file_starlette:app", "--chdir", str(APPS), env={"FILES": str(folder)}) as server:
        with Client(server.connect()) as client:
            whole = client.ask(path)
            assert (whole.status, whole.body, whole.headers["x-seen"]) == (200, content(300_000), "yes")
            part = client.ask(path, headers={"Range": "bytes=10-19"})
            assert (part.status, part.body) == (206, content(300_000)[10:20])
            assert client.ask(path, method="HEAD").headers["content-length"] == "300000"
            assert client.ask(path, headers={"If-None-Match": whole.headers["etag"]}).status in (200, 304)
            zipped = client.ask(path, headers={"Accept-Encoding": "gzip"})
            body = gzip.decompress(zipped.body) if zipped.headers.get("content-encoding") == "gzip" else zipped.body
            assert body == content(300_000)
