"""What a proxy says about its client: believed only when the proxy is trusted."""

from __future__ import annotations

import json

import pytest

from tests.support.server import Server

ASGI = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    said = json.dumps({"client": scope["client"][0] if scope["client"] else None, "scheme": scope["scheme"]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
"""

WSGI = """
import json

def app(environ, start_response):
    said = {"client": environ["REMOTE_ADDR"] or None, "scheme": environ["wsgi.url_scheme"]}
    start_response("200 OK", [])
    return [json.dumps(said).encode()]
"""


def ask(client, *fields: str) -> tuple[int, str | None, str]:
    """Status, client, scheme; on a connection that is kept."""
    lines = ["GET / HTTP/1.1", "Host: x", *fields, "", ""]
    client.sendall("\r\n".join(lines).encode())
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.endswith((b"}", b"\n")):
        part = client.recv(65536)
        if not part:
            break
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    said = json.loads(body) if status == 200 else {"client": None, "scheme": ""}
    return status, said["client"], said["scheme"]


PLAIN = (200, "127.0.0.1", "http")

CASES = [
    ("127.0.0.1", ["X-Forwarded-For: 192.0.2.7"], (200, "192.0.2.7", "http")),
    ("127.0.0.1", ["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"], (200, "192.0.2.7", "https")),
    ("127.0.0.1", ["X-Forwarded-For: 6.6.6.6, 192.0.2.7"], (200, "192.0.2.7", "http")),
    ("127.0.0.1", ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.7"], (200, "192.0.2.7", "http")),
    ("127.0.0.1,10.0.0.0/8", ["X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.2.3"], (200, "192.0.2.7", "http")),
    ("*", ["X-Forwarded-For: 6.6.6.6, 192.0.2.7"], (200, "6.6.6.6", "http")),
    ("10.0.0.0/8", ["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"], PLAIN),
    ("127.0.0.0/8", ["X-Forwarded-For: 192.0.2.7:4711"], (200, "192.0.2.7", "http")),
    ("127.0.0.1", ["X-Forwarded-For: [2001:db8::7]:4711"], (200, "2001:db8::7", "http")),
    ("127.0.0.1", ["X-Forwarded-For: 2001:db8::7"], (200, "2001:db8::7", "http")),
    ("127.0.0.1", ["X-Forwarded-For: unknown"], PLAIN),
    ("127.0.0.1", ["X-Forwarded-For: 6.6.6.6, <script>"], PLAIN),
    ("127.0.0.1", ["X-Forwarded-For: "], PLAIN),
    ("127.0.0.1", ["Forwarded: for=6.6.6.6, for=192.0.2.7;proto=https;by=10.0.0.1"], (200, "192.0.2.7", "https")),
    ("127.0.0.1", ['Forwarded: For="[2001:db8::7]:4711";Proto=http'], (200, "2001:db8::7", "http")),
    ("127.0.0.1", ["Forwarded: for=_hidden"], PLAIN),
    ("127.0.0.1", ["X-Forwarded-SSL: on"], (200, "127.0.0.1", "https")),
    ("127.0.0.1", ["X-Forwarded-Proto: https", "X-Forwarded-SSL: off"], (400, None, "")),
    ("127.0.0.1", ["X-Forwarded-Proto: http", "Forwarded: for=192.0.2.7;proto=https"], (400, None, "")),
    ("10.0.0.1", ["X-Forwarded-Proto: https", "X-Forwarded-SSL: off"], PLAIN),
]


@pytest.mark.parametrize("app", [ASGI, WSGI], ids=["asgi", "wsgi"])
@pytest.mark.parametrize("trusted", sorted({case[0] for case in CASES}))
def test_the_client_and_its_scheme(tmp_path, app, trusted):
    (tmp_path / "web.py").write_text(app)
    with Server("web:app", "--forwarded-allow-ips", trusted, cwd=tmp_path) as server:
        for _, fields, expected in (case for case in CASES if case[0] == trusted):
            with server.connect() as client:
                assert ask(client, *fields) == expected, fields


@pytest.mark.parametrize("app", [ASGI, WSGI], ids=["asgi", "wsgi"])
def test_clients_of_one_connection_differ(tmp_path, app):
    (tmp_path / "web.py").write_text(app)
    with Server("web:app", cwd=tmp_path) as server, server.connect() as client:
        assert ask(client) == PLAIN
        assert ask(client, "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https") == (200, "192.0.2.7", "https")
        assert ask(client, "X-Forwarded-For: 192.0.2.8") == (200, "192.0.2.8", "http")
        assert ask(client) == PLAIN


@pytest.mark.parametrize("app", [ASGI, WSGI], ids=["asgi", "wsgi"])
def test_the_peer_of_a_unix_socket_is_trusted(tmp_path, app):
    (tmp_path / "web.py").write_text(app)
    with Server("web:app", cwd=tmp_path, bind="unix") as server, server.connect() as client:
        assert ask(client, "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https") == (200, "192.0.2.7", "https")
        assert ask(client) == (200, None, "http")


def test_proxies_may_be_ignored(tmp_path):
    (tmp_path / "web.py").write_text(ASGI)
    with Server("web:app", "--no-proxy-headers", cwd=tmp_path) as server, server.connect() as client:
        assert ask(client, "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https") == PLAIN


def test_the_scheme_may_have_another_header(tmp_path):
    (tmp_path / "web.py").write_text(ASGI)
    (tmp_path / "gunicorn.conf.py").write_text('secure_scheme_headers = {"CloudFront-Viewer": "tls"}\n')
    with Server("web:app", cwd=tmp_path) as server, server.connect() as client:
        assert ask(client, "Cloudfront-Viewer: tls") == (200, "127.0.0.1", "https")
        assert ask(client, "X-Forwarded-Proto: https") == PLAIN


@pytest.mark.parametrize("bad", ["10.0.0.1/8", "10.0.0.0/33", "proxy", "127.0.0.1,::1/129"])
def test_what_is_no_address_is_refused(tmp_path, bad):
    (tmp_path / "web.py").write_text(ASGI)
    with Server("web:app", "--forwarded-allow-ips", bad, cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 1
        assert f"forwarded_allow_ips = '{bad.split(',')[-1]}' (from --forwarded-allow-ips): must be" in server.log
