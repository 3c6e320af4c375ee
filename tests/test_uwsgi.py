"""protocol = "uwsgi": what nginx's uwsgi_pass sends, the real one, and packets made by hand. Hostile ones:
tests/unit/test_uwsgi.c."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections.abc import Iterator

import pytest

from support.nginx import Nginx, nginx
from support.raw_client import RawClient
from support.raw_websocket import WebSocket, frame
from support.server import Server, wait_until

WSGI = """
import hashlib, json

KEYS = (
    "REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "SERVER_NAME", "SERVER_PORT",
    "SERVER_PROTOCOL", "REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "CONTENT_TYPE", "CONTENT_LENGTH",
    "DOCUMENT_ROOT", "EXTRA",
)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [])
        return iter([b"one", b"two", b"three"])
    body = environ["wsgi.input"].read()
    said = {key: environ[key] for key in environ if key in KEYS or key.startswith("HTTP_")}
    text = json.dumps({**said, "sha": hashlib.sha256(body).hexdigest(), "size": len(body)}).encode()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]
"""

ASGI = """
import hashlib, json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"].upper()})
        return
    body, more = b"", True
    while more:
        event = await receive()
        body += event["body"]
        more = event["more_body"]
    found = {key: scope[key] for key in ("method", "path", "root_path", "scheme", "client", "http_version")}
    found["raw_path"] = scope["raw_path"].decode()
    found["query"] = scope["query_string"].decode()
    found["headers"] = {name.decode(): value.decode() for name, value in scope["headers"]}
    text = json.dumps({**found, "sha": hashlib.sha256(body).hexdigest(), "size": len(body)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text[:10], "more_body": True})
    await send({"type": "http.response.body", "body": text[10:]})
"""

UPLOAD = bytes(range(256)) * 8192  # 2 MiB


def packet(variables: dict[str, str], body: bytes = b"") -> bytes:
    """As nginx makes it."""
    given = {
        "REQUEST_METHOD": "POST" if body else "GET",
        "CONTENT_LENGTH": str(len(body)) if body else "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "x",
        **variables,
    }
    parts = [text.encode("latin-1") for pair in given.items() for text in pair]
    block = b"".join(struct.pack("<H", len(part)) + part for part in parts)
    return b"\0" + struct.pack("<H", len(block)) + b"\0" + block + body


def tell(server: Server, variables: dict[str, str], body: bytes = b"") -> dict | int:
    """What the application has seen, else the status."""
    with RawClient(server.connect()) as client:
        client.send(packet(variables, body))
        response = client.response()
        assert client.rest() == b""  # the connection ends with the response
    return json.loads(response.body) if response.status == 200 else response.status


@pytest.fixture(params=[WSGI, ASGI], ids=["wsgi", "asgi"])
def app(request, tmp_path):
    (tmp_path / "web.py").write_text(request.param)
    return tmp_path


def ask(front: Nginx, method: str, target: str, *fields: str, body: bytes | None = None, chunked: bool = False):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(front.address)
        client = RawClient(connection)
        if chunked:
            client.request(method, target, "Transfer-Encoding: chunked", *fields)
            for at in range(0, len(body), 100_000):
                part = body[at : at + 100_000]
                client.send(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            client.send(b"0\r\n\r\n")
        else:
            client.request(method, target, *fields, body=body)
        response = client.response(method)
    assert response.complete
    return json.loads(response.body) if response.body.startswith(b"{") else response


@pytest.mark.parametrize("bind", ["unix", "tcp"])
def test_behind_nginx(app, bind: str) -> None:
    secret = ("include uwsgi_params;", "include uwsgi_params; uwsgi_param EXTRA more; uwsgi_param HTTPS on;")
    with Server("web:app", "--protocol", "uwsgi", cwd=app, bind=bind) as server:
        with nginx(server, server.folder, "nginx-uwsgi.conf", secret) as front:
            said = ask(front, "GET", "/caf%C3%A9/b%2Fc?x=%20y", "User-Agent: me", "X-A: 1")
            wsgi = "PATH_INFO" in said
            headers = said if wsgi else said["headers"]
            assert headers["HTTP_USER_AGENT" if wsgi else "user-agent"] == "me"
            assert headers["HTTP_X_A" if wsgi else "x-a"] == "1"
            if wsgi:
                assert said["PATH_INFO"].encode("latin-1").decode() == "/caf\u00e9/b/c"
                assert said["REQUEST_URI"] == "/caf%C3%A9/b%2Fc?x=%20y" and said["QUERY_STRING"] == "x=%20y"
                assert (said["SCRIPT_NAME"], said["SERVER_NAME"], said["wsgi.url_scheme"]) == (
                    "",
                    "example.org",
                    "https",
                )
                assert (said["EXTRA"], said["REMOTE_ADDR"], said["SERVER_PROTOCOL"]) == ("more", "", "HTTP/1.1")
                assert said["DOCUMENT_ROOT"] and "CONTENT_LENGTH" not in said
            else:
                assert (said["path"], said["raw_path"]) == ("/caf\u00e9/b/c", "/caf%C3%A9/b%2Fc")
                assert (said["query"], said["scheme"], said["client"]) == ("x=%20y", "https", None)
            for chunked in (False, True):
                said = ask(front, "POST", "/", "Content-Type: a/b", body=UPLOAD, chunked=chunked)
                assert (said["size"], said["sha"]) == (len(UPLOAD), hashlib.sha256(UPLOAD).hexdigest())
                headers = said if wsgi else said["headers"]
                assert headers["CONTENT_TYPE" if wsgi else "content-type"] == "a/b"
                assert headers["CONTENT_LENGTH" if wsgi else "content-length"] == str(len(UPLOAD))
                assert not {"HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "transfer-encoding"} & set(headers)
            said = ask(front, "GET", "/shop/cart")
            seen = [said["SCRIPT_NAME"], said["PATH_INFO"]] if wsgi else [said["root_path"], said["path"]]
            assert seen == (["/shop", "/cart"] if wsgi else ["/shop", "/shop/cart"])
            assert ask(front, "HEAD", "/").status == 200
            if wsgi:
                assert ask(front, "GET", "/stream").body == b"onetwothree"
            assert "upstream" not in (server.folder / "error.log").read_text()


def test_a_websocket_behind_nginx(tmp_path) -> None:
    (tmp_path / "web.py").write_text(ASGI)
    with Server("web:app", "--protocol", "uwsgi", cwd=tmp_path, bind="unix") as server:
        with nginx(server, server.folder, "nginx-uwsgi.conf") as front, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(front.address)
            websocket = WebSocket(connection).open()
            websocket.send(frame(0x81, b"hello"))
            assert websocket.read() == (0x81, b"HELLO")


def test_the_client_that_is_named(app) -> None:
    address = {"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "4711"}
    forwarded = {"HTTP_X_FORWARDED_FOR": "6.6.6.6", "HTTP_X_FORWARDED_PROTO": "https"}
    with Server("web:app", "--protocol", "uwsgi", cwd=app) as server:
        said = tell(server, {**address, **forwarded})
        seen = [said["REMOTE_ADDR"], int(said["REMOTE_PORT"])] if "REMOTE_ADDR" in said else said["client"]
        assert seen == ["192.0.2.7", 4711]  # who is no proxy is not asked for whom it speaks
        assert said.get("wsgi.url_scheme", said.get("scheme")) == "http"
        said = tell(server, {"PATH_INFO": "/x"}, b"hello")
        assert said["size"] == 5
    trusting = ["--forwarded-allow-ips", "192.0.2.7"]
    with Server("web:app", "--protocol", "uwsgi", *trusting, cwd=app, bind="unix") as server:
        said = tell(server, {**address, **forwarded})
        assert (said["REMOTE_ADDR"] if "REMOTE_ADDR" in said else said["client"][0]) == "6.6.6.6"
        assert said.get("wsgi.url_scheme", said.get("scheme")) == "https"


@pytest.fixture
def wsgi(tmp_path) -> Iterator[str]:
    (tmp_path / "web.py").write_text(WSGI)
    yield str(tmp_path)


def test_only_those_allowed_may_speak_it(wsgi: str) -> None:
    with Server("web:app", "--protocol", "uwsgi", "--uwsgi-allow-from", "10.0.0.0/8", cwd=wsgi) as server:
        assert tell(server, {}) == 403
    with Server("web:app", "--protocol", "uwsgi", "--uwsgi-allow-from", "10.0.0.0/8", cwd=wsgi, bind="unix") as server:
        assert tell(server, {})["PATH_INFO"] == "/"
    with Server("web:app", "--protocol=uwsgi", "--uwsgi-allow-from=proxy", cwd=wsgi, wait=False) as server:
        assert server.wait_exit() == 1
        assert "uwsgi_allow_ips = 'proxy' (from --uwsgi-allow-from): must be" in server.log


def test_http_is_answered_so_that_it_is_understood(wsgi: str) -> None:
    with Server("web:app", "--protocol", "uwsgi", cwd=wsgi) as server, RawClient(server.connect()) as client:
        assert client.ask("GET", "/").status == 501


def test_gunicorns_names_in_a_file(tmp_path, wsgi: str) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "protocol = 'uwsgi'\nuwsgi_allow_ips = '*'\nraw_env = ['SCRIPT_NAME=/s']\n"
    )
    with Server("web:app", cwd=wsgi) as server:
        said = tell(server, {"PATH_INFO": "/s/x"})
        assert (said["SCRIPT_NAME"], said["PATH_INFO"]) == ("/s", "/x")
        assert tell(server, {"PATH_INFO": "/x"}) == 500


def test_a_worker_that_leaves_finishes_and_passes_the_others_on(tmp_path, wsgi: str) -> None:
    """Connections on which nothing has come go to the next worker, and speak what they spoke."""
    with Server("web:app", "--protocol", "uwsgi", cwd=wsgi, bind="unix") as server:
        with RawClient(server.connect()) as half, RawClient(server.connect()) as idle:
            whole = packet({"PATH_INFO": "/y"}, b"hello")
            half.send(whole[:-2])
            assert tell(server, {})["PATH_INFO"] == "/"  # so both are accepted
            (old,) = server.workers()
            server.send_signal(1)
            wait_until(lambda: any(pid != old for pid in server.workers()), "the new worker")
            half.send(whole[-2:])
            assert json.loads(half.response().body)["size"] == 5
            wait_until(lambda: old not in server.workers(), "the old worker's end")
            idle.send(packet({"PATH_INFO": "/z"}))
            assert json.loads(idle.response().body)["PATH_INFO"] == "/z"
