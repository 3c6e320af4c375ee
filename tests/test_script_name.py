"""SCRIPT_NAME: below which path the application is served, as a trusted proxy's header or the environment says. That
it is gunicorn's: test_gunicorn_http.py."""

from __future__ import annotations

import json

import pytest

from support.raw_client import RawClient
from support.server import Server

ASGI = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    said = json.dumps([scope["root_path"], scope["path"], scope["raw_path"].decode()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
"""

WSGI = """
import json

def app(environ, start_response):
    said = json.dumps([environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["REQUEST_URI"]]).encode()
    start_response("200 OK", [("Content-Length", str(len(said)))])
    return [said]
"""


def ask(server: Server, target: str, *fields: str, method: str = "GET") -> list[str] | int:
    with RawClient(server.connect()) as client:
        response = client.ask(method, target, *fields)
        return json.loads(response.body) if response.status == 200 else response.status


def test_in_wsgi(tmp_path):
    (tmp_path / "web.py").write_text(WSGI)
    with Server("web:app", cwd=tmp_path, env={"SCRIPT_NAME": "/shop/"}) as server:
        assert ask(server, "/shop/cart?q") == ["/shop", "/cart", "/shop/cart?q"]
        assert ask(server, "/shop") == ["/shop", "", "/shop"]
        assert ask(server, "/%73hop/%2F") == ["/shop", "//", "/%73hop/%2F"]  # compared decoded
        assert ask(server, "*", method="OPTIONS") == ["/shop", "*", "*"]
        for elsewhere in ("/shopping", "/Shop/cart", "/", "/cart"):  # /shopping: gunicorn would serve it as "ping"
            assert ask(server, elsewhere) == 500
        server.wait_log("Request path '/shopping' does not start with SCRIPT_NAME '/shop/'")
        assert ask(server, "/caf%C3%A9/x", "SCRIPT_NAME: /caf%C3%A9") == ["/caf\u00c3\u00a9", "/x", "/caf%C3%A9/x"]
        assert ask(server, "/x", "SCRIPT_NAME: /") == ["", "/x", "/x"]  # the proxy's word goes first
        assert ask(server, "/shop/x", "SCRIPT_NAME: /shop", "SCRIPT_NAME: /shop") == 400


def test_in_asgi(tmp_path):
    (tmp_path / "web.py").write_text(ASGI)
    with Server("web:app", "--root-path", "/root", cwd=tmp_path, env={"SCRIPT_NAME": "/env"}) as server:
        assert ask(server, "/x") == ["/root", "/root/x", "/root/x"]  # an ASGI server does not look at the environment
        assert ask(server, "/shop/c%20d", "SCRIPT_NAME: /shop") == ["/shop", "/shop/c d", "/shop/c%20d"]
        assert ask(server, "/caf%C3%A9/x", "SCRIPT_NAME: /caf%C3%A9") == ["/caf\u00e9", "/caf\u00e9/x", "/caf%C3%A9/x"]
        assert ask(server, "/x", "SCRIPT_NAME: /shop") == 500
        assert ask(server, "/x") == ["/root", "/root/x", "/root/x"]


@pytest.mark.parametrize("header_map", ["drop", "dangerous"])
def test_only_a_trusted_proxy_says_it(tmp_path, header_map):
    """Where header_map is dangerous gunicorn would believe everybody."""
    (tmp_path / "web.py").write_text(WSGI)
    options = ["--forwarded-allow-ips", "10.0.0.1", "--header-map", header_map]
    with Server("web:app", *options, cwd=tmp_path) as server:
        assert ask(server, "/shop/x", "SCRIPT_NAME: /shop") == ["", "/shop/x", "/shop/x"]
    with Server("web:app", "--forwarder-headers", "PATH_INFO", cwd=tmp_path) as server:
        assert ask(server, "/shop/x", "SCRIPT_NAME: /shop") == ["", "/shop/x", "/shop/x"]
    with Server("web:app", cwd=tmp_path, bind="unix") as server:
        assert ask(server, "/shop/x", "SCRIPT_NAME: /shop") == ["/shop", "/x", "/shop/x"]
