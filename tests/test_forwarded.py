"""What a proxy says about its client: believed only when the proxy is trusted."""

from __future__ import annotations

import json

import pytest

from support.raw_client import RawClient
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


# --- the host that the client asked

ASGI_HOST = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    hosts = [value.decode() for name, value in scope["headers"] if name == b"host"]
    said = f"{','.join(hosts)} {scope['server'][1]}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
"""

WSGI_HOST = """
def app(environ, start_response):
    said = " ".join([environ.get("HTTP_HOST", "-"), environ["SERVER_NAME"], environ["SERVER_PORT"]]).encode()
    start_response("200 OK", [("Content-Length", str(len(said)))])
    return [said]
"""


def hosts(client: RawClient, *fields: str, host: str = "Host: inner:81", version: str = "1.1") -> str | int:
    """What the application was told; else the status."""
    fields = (host, *fields) if host else fields
    client.send("\r\n".join([f"GET / HTTP/{version}", *fields, "", ""]).encode())
    response = client.response()
    return response.body.decode() if response.status == 200 else response.status


HTTPS = "X-Forwarded-Proto: https"

HOSTS = [
    ([], "inner:81 127.0.0.1 PORT"),
    (["X-Forwarded-Host: outer.example"], "outer.example outer.example 80"),
    (["X-Forwarded-Host: outer.example:8443"], "outer.example:8443 outer.example 8443"),
    (["X-Forwarded-Host: outer.example", HTTPS], "outer.example outer.example 443"),
    (["X-Forwarded-Host: [2001:db8::1]:99"], "[2001:db8::1]:99 [2001:db8::1] 99"),
    (["X-Forwarded-Host: outer.example", "X-Forwarded-Port: 8080"], "outer.example:8080 outer.example 8080"),
    (["X-Forwarded-Host: outer.example:1", "X-Forwarded-Port: 443", HTTPS], "outer.example outer.example 443"),
    (["X-Forwarded-Port: 8080"], "inner:8080 127.0.0.1 8080"),
    (["X-Forwarded-Port: 80"], "inner 127.0.0.1 80"),
    (["Forwarded: for=192.0.2.7;host=outer.example"], "outer.example outer.example 80"),
    (['Forwarded: for=192.0.2.7;host="outer.example:99";proto=https'], "outer.example:99 outer.example 99"),
    # The client is 192.0.2.7: what is said at its place counts, not what it has sent itself, nor what is inside.
    (["X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.1.1", "X-Forwarded-Host: evil, real, inner"], "real real 80"),
    (["X-Forwarded-For: 6.6.6.6, 192.0.2.7", "X-Forwarded-Host: evil, real"], "real real 80"),
    (["X-Forwarded-For: 192.0.2.7, 10.1.1.1", "X-Forwarded-Host: real"], "real real 80"),
    (["X-Forwarded-For: 192.0.2.7, 10.1.1.1", "X-Forwarded-Host: a", "X-Forwarded-Proto: https, http"], "a a 443"),
    (["Forwarded: for=6.6.6.6;host=evil, for=192.0.2.7;host=real, for=10.1.1.1;host=inner"], "real real 80"),
    (
        ["X-Forwarded-Host: outer.example", "Forwarded: for=192.0.2.7;host=outer.example"],
        "outer.example outer.example 80",
    ),
    (["X-Forwarded-Host: outer.example", "Forwarded: for=192.0.2.7;host=evil"], 400),
    (["X-Forwarded-Host: a b"], 400),
    (["X-Forwarded-Host: a@b"], 400),
    (["X-Forwarded-Host: a/b"], 400),
    (["X-Forwarded-Host: a:123456"], 400),
    (["X-Forwarded-Port: 0"], 400),
    (["X-Forwarded-Port: 65536"], 400),
    (["X-Forwarded-Port: +80"], 400),
    (["X-Forwarded-Host: "], "inner:81 127.0.0.1 PORT"),
]


def test_the_host_in_wsgi(tmp_path):
    (tmp_path / "web.py").write_text(WSGI_HOST)
    options = ["--forwarded-host", "--forwarded-port", "--forwarded-allow-ips", "127.0.0.1,10.0.0.0/8"]
    with Server("web:app", *options, cwd=tmp_path) as server:
        for fields, expected in HOSTS:
            with RawClient(server.connect()) as client:
                wanted = expected.replace("PORT", str(server.port)) if isinstance(expected, str) else expected
                assert hosts(client, *fields) == wanted, fields
        with RawClient(server.connect()) as client:  # a host where there was none
            assert hosts(client, "X-Forwarded-Host: outer", host="", version="1.0") == "outer outer 80"
        with RawClient(server.connect()) as client:
            assert hosts(client, "X-Forwarded-Port: 99", host="", version="1.0") == "- 127.0.0.1 99"


def test_the_host_in_asgi_is_the_header_alone(tmp_path):
    (tmp_path / "web.py").write_text(ASGI_HOST)
    options = ["--forwarded-host", "--forwarded-port", "--forwarded-allow-ips", "127.0.0.1,10.0.0.0/8"]
    with Server("web:app", *options, cwd=tmp_path) as server:
        for fields, expected in HOSTS:
            with RawClient(server.connect()) as client:
                wanted = f"{expected.split()[0]} {server.port}" if isinstance(expected, str) else expected
                assert hosts(client, *fields) == wanted, fields
        with RawClient(server.connect()) as client:
            assert hosts(client, "X-Forwarded-Host: outer", host="", version="1.0") == f"outer {server.port}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "inner:81 127.0.0.1 PORT"),
        (["--forwarded-host"], "outer.example outer.example 80"),
        (["--forwarded-port"], "inner:99 127.0.0.1 99"),
        (["--forwarded-host", "--forwarded-port", "--no-proxy-headers"], "inner:81 127.0.0.1 PORT"),
        (["--forwarded-host", "--forwarded-port", "--forwarded-allow-ips", "10.0.0.1"], "inner:81 127.0.0.1 PORT"),
    ],
)
def test_the_host_is_believed_only_where_that_is_asked_for(tmp_path, options, expected):
    (tmp_path / "web.py").write_text(WSGI_HOST)
    with Server("web:app", *options, cwd=tmp_path) as server, RawClient(server.connect()) as client:
        said = hosts(client, "X-Forwarded-Host: outer.example", "X-Forwarded-Port: 99")
        assert said == expected.replace("PORT", str(server.port))
