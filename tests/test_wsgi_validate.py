"""wsgiref.validate, the standard library's checker of PEP 3333, finds nothing to complain about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.wsgi_probe import Probe, probe_server

pytestmark = pytest.mark.sanitized


@pytest.fixture(scope="module", params=[1, 4], ids=["inline", "threads"])
def probe(request: pytest.FixtureRequest) -> Iterator[Probe]:
    with probe_server(request.param, app="wsgi_valid:app") as probe:
        yield probe


BODY = b"one\ntwo\nthree\nfour"


@pytest.mark.smoke
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/plain", b"plain"),
        ("/streaming", b"".join(b"%d\n" % i for i in range(10))),
        ("/writing", b"written"),
        ("/reading", BODY),
        ("/a_file", b"file" * 1000),
        ("/bytesio", b"file" * 1000),
    ],
)
def test_valid(probe: Probe, method: str, path: str, expected: bytes) -> None:
    body = BODY if method in ("POST", "PUT") else None
    with probe.connect() as client:
        for _ in range(2):
            response = client.ask(method, f"{path}?query=1", "X-A: 1", "X-A: 2", "Content-Type: text/plain", body=body)
            assert response.status == 200
            if method != "HEAD" and (body or path != "/reading"):
                assert response.body == expected
    assert "AssertionError" not in probe.server.log
    assert "Error handling" not in probe.server.log


def test_chunked_upload(probe: Probe) -> None:
    with probe.connect() as client:
        client.send(b"POST /reading HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n")
        for i in range(0, len(BODY), 5):
            client.send(b"%x\r\n%s\r\n" % (len(BODY[i : i + 5]), BODY[i : i + 5]))
        client.send(b"0\r\n\r\n")
        assert client.response().body == BODY
    assert "AssertionError" not in probe.server.log


def test_an_error_passes_the_validator(probe: Probe) -> None:
    assert probe.get("/failing").status == 500
    assert "ValueError: fails" in probe.server.log
    assert "AssertionError" not in probe.server.log
