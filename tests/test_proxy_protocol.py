"""The PROXY protocol: a load balancer says whose connection it is (proxy-protocol.txt, gunicorn's settings)."""

from __future__ import annotations

import json
import signal
import socket
import struct

import pytest

from tests.support.server import Server, wait_until

ASGI = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    said = json.dumps({"client": list(scope["client"]) if scope["client"] else None}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
"""

WSGI = """
import json

def app(environ, start_response):
    address = environ["REMOTE_ADDR"]
    said = json.dumps({"client": [address, int(environ["REMOTE_PORT"] or 0)] if address else None}).encode()
    start_response("200 OK", [("Content-Length", str(len(said)))])
    return [said]
"""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"


def binary(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(rest)) + rest


V4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 4711, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "::1")
    + struct.pack("!HH", 4711, 443)
)
TLV = b"\x02" + struct.pack("!H", 9) + b"authority"


def ask(client: socket.socket, before: bytes = b"", *fields: str) -> tuple[int, list | None]:
    """Status and client, of one request that follows `before`."""
    client.sendall(before + "\r\n".join(["GET / HTTP/1.1", "Host: x", *fields, "", ""]).encode())
    answer = b""
    while not answer.endswith((b"}", b"\n")) or b"\r\n\r\n" not in answer:
        part = client.recv(65536)
        if not part:
            break
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    return status, json.loads(body)["client"] if status == 200 else None


@pytest.fixture(params=[ASGI, WSGI], ids=["asgi", "wsgi"])
def app(request, tmp_path):
    (tmp_path / "web.py").write_text(request.param)
    return tmp_path


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (LINE, ["192.0.2.7", 4711]),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", ["2001:db8::7", 4711]),
        (binary(1, 0x11, V4), ["192.0.2.7", 4711]),
        (binary(1, 0x21, V6), ["2001:db8::7", 4711]),
        (binary(1, 0x11, V4 + TLV * 500), ["192.0.2.7", 4711]),
    ],
    ids=["v1-tcp4", "v1-tcp6", "v2-tcp4", "v2-tcp6", "v2-tlvs"],
)
def test_the_client_is_the_one_that_the_header_names(app, header, expected):
    with Server("web:app", "--proxy-protocol", cwd=app) as server:
        with server.connect() as client:
            assert ask(client, header) == (200, expected)
            assert ask(client) == (200, expected)  # of the connection, not of a request
        with server.connect() as client:
            for i in range(len(header)):
                client.sendall(header[i : i + 1])
            assert ask(client) == (200, expected)


@pytest.mark.parametrize("header", [b"", b"PROXY UNKNOWN\r\n", binary(0, 0, b""), binary(0, 0x11, V4)])
def test_without_an_address_the_client_is_the_peer(app, header):
    with Server("web:app", "--proxy-protocol=auto", cwd=app) as server, server.connect() as client:
        assert ask(client, header) == (200, list(client.getsockname()))


def test_bad_headers_are_refused(app):
    with Server("web:app", "--proxy-protocol", cwd=app) as server:
        lines = [b"PROXY TCP4 192.0.2.7\r\n", b"PROXY " + b"x" * 200]
        for header in (*lines, binary(1, 0x11, b"abc"), binary(2, 0x11, V4)):
            with server.connect() as client:
                assert ask(client, header)[0] == 400, header
        with server.connect() as client:
            assert ask(client, LINE) == (200, ["192.0.2.7", 4711])
            assert ask(client, LINE)[0] == 400  # only at the beginning
        with server.connect() as client:
            client.sendall(LINE[:20])
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""


def test_versions_may_be_chosen(app):
    with Server("web:app", "--proxy-protocol", "v2", cwd=app) as server:
        with server.connect() as client:
            assert ask(client, LINE)[0] == 400
        with server.connect() as client:
            assert ask(client, binary(1, 0x11, V4)) == (200, ["192.0.2.7", 4711])


def test_only_those_allowed_may_say_so(app):
    with Server("web:app", "--proxy-protocol", "--proxy-allow-from", "10.0.0.0/8", cwd=app) as server:
        with server.connect() as client:
            assert ask(client, LINE)[0] == 403
        with server.connect() as client:
            assert ask(client)[0] == 200


def test_the_peer_of_a_unix_socket_may_say_so(app):
    with Server("web:app", "--proxy-protocol", cwd=app, bind="unix") as server, server.connect() as client:
        assert ask(client, LINE) == (200, ["192.0.2.7", 4711])


def test_the_client_behind_it_is_trusted_only_if_it_is_a_proxy_itself(app):
    said = "X-Forwarded-For: 203.0.113.9"
    with Server("web:app", "--proxy-protocol", cwd=app) as server, server.connect() as client:
        assert ask(client, LINE, said) == (200, ["192.0.2.7", 4711])
    arguments = ["--proxy-protocol", "--forwarded-allow-ips", "192.0.2.0/24"]
    with Server("web:app", *arguments, cwd=app) as server, server.connect() as client:
        assert ask(client, LINE, said) == (200, ["203.0.113.9", 0])


def test_without_the_setting_it_is_no_request(app):
    with Server("web:app", cwd=app) as server, server.connect() as client:
        assert ask(client, LINE)[0] == 400


@pytest.mark.parametrize(("value", "status"), [("True", 200), ("'v1'", 200), ("False", 400), ("'off'", 400)])
def test_gunicorns_values_in_a_file(app, value, status):
    (app / "gunicorn.conf.py").write_text(f"proxy_protocol = {value}\nproxy_allow_ips = '*'\n")
    with Server("web:app", cwd=app) as server, server.connect() as client:
        assert ask(client, LINE)[0] == status


def test_the_value_may_be_left_out_before_the_application(app):
    with Server("--proxy-protocol", "web:app", cwd=app) as server, server.connect() as client:
        assert ask(client, LINE)[0] == 200


def test_a_bad_value_is_explained(app):
    with Server("web:app", "--proxy-protocol=v3", cwd=app, wait=False) as server:
        assert server.wait_exit() == 1
        assert "proxy_protocol" in server.log and "off, v1, v2, auto" in server.log


KEYS = """
import json

def app(environ, start_response):
    said = json.dumps({"client": {key: environ[key] for key in environ if key.startswith("PROXY_")}}).encode()
    start_response("200 OK", [("Content-Length", str(len(said)))])
    return [said]
"""


def test_gunicorns_keys_of_the_environ(tmp_path):
    (tmp_path / "web.py").write_text(KEYS)
    named = {"PROXY_PROTOCOL": "TCP4", "PROXY_ADDR": "198.51.100.1", "PROXY_PORT": "443"}
    with Server("web:app", "--proxy-protocol", cwd=tmp_path) as server:
        with server.connect() as client:
            assert ask(client, LINE) == (200, named)
            assert ask(client, b"", "X-Forwarded-For: 203.0.113.9") == (200, named)  # of the connection
        with server.connect() as client:
            v6 = {"PROXY_PROTOCOL": "TCP6", "PROXY_ADDR": "::1", "PROXY_PORT": "443"}
            assert ask(client, binary(1, 0x21, V6)) == (200, v6)
        for header in (b"", b"PROXY UNKNOWN\r\n", binary(0, 0, b"")):
            with server.connect() as client:
                assert ask(client, header) == (200, {})


def test_another_worker_is_told(tmp_path):
    (tmp_path / "web.py").write_text(KEYS)
    named = {"PROXY_PROTOCOL": "TCP4", "PROXY_ADDR": "198.51.100.1", "PROXY_PORT": "443"}
    with Server("web:app", "--proxy-protocol", cwd=tmp_path) as server, server.connect() as client:
        assert ask(client, LINE) == (200, named)
        (old,) = server.workers()
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: old not in server.workers(), "the end of the old worker")
        assert ask(client) == (200, named)
