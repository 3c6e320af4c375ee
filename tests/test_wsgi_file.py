"""wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling")."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.server import wait_until
from support.wsgi_probe import Probe, probe_server

pytestmark = pytest.mark.sanitized


@pytest.fixture(scope="module", params=[1, 4], ids=["inline", "threads"])
def probe(request: pytest.FixtureRequest) -> Iterator[Probe]:
    with probe_server(request.param) as probe:
        yield probe


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


KINDS = ["open", "raw", "random", "gzip", "bytesio", "minimal", "pipe"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 1000, 300000])
def test_a_file(probe: Probe, kind: str, size: int) -> None:
    with probe.connect() as client:
        response = client.ask("GET", f"/file/x?kind={kind}&size={size}")
        assert (response.status, response.complete) == (200, True)
        assert response.body == content(size)
        if kind in ("open", "raw", "random"):
            assert response["content-length"] == str(size) or size == 0
        closed = b"has no close()" if kind == "minimal" else b"True"
        wait_until(lambda: client.ask("GET", "/file-closed").body == closed, "the file to be closed")


@pytest.mark.parametrize("kind", ["open", "raw", "random", "gzip", "bytesio"])
def test_from_where_the_file_stands(probe: Probe, kind: str) -> None:
    assert probe.get(f"/file/x?kind={kind}&size=9000&skip=100").body == content(9000)[100:]
    assert probe.get(f"/file/x?kind={kind}&size=9000&skip=9000").body == b""


@pytest.mark.parametrize("kind", ["open", "gzip"])
def test_no_more_than_content_length(probe: Probe, kind: str) -> None:
    response = probe.get(f"/file/x?kind={kind}&size=9000&skip=10&says=50")
    assert response.body[:50] == content(60)[10:] if kind == "open" else response.status == 500


def test_less_than_content_length_is_an_error(probe: Probe) -> None:
    assert probe.get("/file/x?size=10&says=50").status == 500
    probe.server.wait_log("less body than Content-Length")


def test_head_of_a_file(probe: Probe) -> None:
    with probe.connect() as client:
        assert client.ask("HEAD", "/file/x?size=5000")["content-length"] == "5000"
        wait_until(lambda: client.ask("GET", "/file-closed").body == b"True", "the file to be closed")


def test_close_comes_once(probe: Probe) -> None:
    token = probe.token()
    assert probe.get(f"/file/{token}?as=object").body == content(1000)
    probe.wait_closed(token)


def test_a_wrapper_is_an_iterable(probe: Probe) -> None:
    assert probe.get("/file/x?size=10000&as=list").body == content(10000)
    assert probe.get("/file/x?size=10000&as=begun").body == content(10000)[4096:]


def test_a_large_file_to_a_slow_client_takes_no_thread(probe: Probe) -> None:
    """The kernel sends it in its own time: with one thread, too, others are served meanwhile."""
    size = 20_000_000
    slow = [probe.connect() for _ in range(8)]
    for client in slow:
        client.request("GET", f"/file/x?size={size}")
    for client in slow:
        client.head()
    assert probe.get("/hello").status == 200
    expected = content(size)
    for client in slow:
        assert client.exactly(size) == expected
        client.close()
