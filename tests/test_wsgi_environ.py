"""The environ of a WSGI request (PEP 3333, "environ Variables")."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.raw_client import RawClient
from support.server import Server
from support.wsgi_probe import APPS, Probe, probe_server

pytestmark = pytest.mark.sanitized


@pytest.fixture(scope="module", params=[1, 4], ids=["inline", "threads"])
def probe(request: pytest.FixtureRequest) -> Iterator[Probe]:
    with probe_server(request.param) as probe:
        yield probe


def facts(probe: Probe, target: str = "/environ", *fields: str, method: str = "GET", body: bytes | None = None) -> dict:
    response = probe.get(target, *fields, method=method, body=body)
    assert response.status == 200
    return json.loads(response.body)


@pytest.mark.smoke
def test_a_plain_request(probe: Probe) -> None:
    with probe.connect() as client:
        host, port = client.connection.getsockname()
        found = json.loads(client.ask("GET", "/environ/a%20b?x=1&y=%20").body)
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ/a b",
        "QUERY_STRING": "x=1&y=%20",
        "RAW_URI": "/environ/a%20b?x=1&y=%20",
        "REQUEST_URI": "/environ/a%20b?x=1&y=%20",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(probe.server.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": host,
        "REMOTE_PORT": str(port),
        "HTTP_HOST": "test",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "http",
        "wsgi.multithread": probe.threads > 1,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["SERVER_SOFTWARE"].startswith("licorne/")
    assert found["type"] is True
    assert found["bad_strings"] == []
    assert found["errors"] == [True, True, True]
    assert found["others"] == ["wsgi.errors", "wsgi.file_wrapper", "wsgi.input"]
    assert "CONTENT_LENGTH" not in found
    assert "CONTENT_TYPE" not in found


def test_the_query_string_is_always_there(probe: Probe) -> None:
    assert facts(probe)["QUERY_STRING"] == ""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/environ/%C3%A9", "/environ/\u00c3\u00a9"),  # bytes as latin-1, not characters
        ("/environ/%2F%2f", "/environ///"),
        ("/environ/%", "/environ/%"),
        ("/environ/%4", "/environ/%4"),
        ("/environ/%zz%41", "/environ/%zzA"),
        ("/environ/%ff%00", "/environ/\u00ff\u0000"),
        ("/environ/a+b", "/environ/a+b"),
        ("/environ/" + "%41" * 1000, "/environ/" + "A" * 1000),
    ],
)
def test_path_info(probe: Probe, path: str, expected: str) -> None:
    found = facts(probe, path)
    assert found["PATH_INFO"] == expected
    assert found["RAW_URI"] == path


def test_content_length_and_type_have_no_twins(probe: Probe) -> None:
    found = facts(probe, "/environ", "Content-Type: text/x", method="POST", body=b"abc")
    assert (found["CONTENT_TYPE"], found["CONTENT_LENGTH"]) == ("text/x", "3")
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & found.keys()


def test_header_fields(probe: Probe) -> None:
    fields = ["X-Some-Thing: 1", "x-some-thing:  2 ", "X-SOME-THING: 3", "Cookie: a=1", "Cookie: b=2", "X-Empty:"]
    found = facts(probe, "/environ", *fields, "X-Latin: \u00e9\u00ff", "Accept: */*", "Accept: text/x")
    assert found["HTTP_X_SOME_THING"] == "1,2,3"
    assert found["HTTP_COOKIE"] == "a=1; b=2"
    assert found["HTTP_X_EMPTY"] == ""
    assert found["HTTP_X_LATIN"] == "\u00e9\u00ff"
    assert found["HTTP_ACCEPT"] == "*/*,text/x"


def test_a_field_cannot_pose_as_another(probe: Probe) -> None:
    """X_Forwarded_For would have the same key as X-Forwarded-For."""
    found = facts(probe, "/environ", "X_Forwarded_For: 6.6.6.6", "Content_Length: 5")
    assert "HTTP_X_FORWARDED_FOR" not in found
    assert "CONTENT_LENGTH" not in found


def test_many_fields(probe: Probe) -> None:
    fields = [f"X-Field-{i}: {i}" for i in range(80)]
    found = facts(probe, "/environ", *fields)
    assert all(found[f"HTTP_X_FIELD_{i}"] == str(i) for i in range(80))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_methods(probe: Probe, method: str) -> None:
    assert facts(probe, method=method)["REQUEST_METHOD"] == method


def test_requests_of_one_connection_do_not_mix(probe: Probe) -> None:
    with probe.connect() as client:
        first = json.loads(client.ask("POST", "/environ/1?q", "X-One: 1", "Content-Type: a/b", body=b"x").body)
        second = json.loads(client.ask("GET", "/environ/2").body)
    assert first["HTTP_X_ONE"] == "1"
    assert not {"HTTP_X_ONE", "CONTENT_TYPE", "CONTENT_LENGTH"} & second.keys()
    assert (second["PATH_INFO"], second["QUERY_STRING"], second["REQUEST_METHOD"]) == ("/environ/2", "", "GET")


def test_http_1_0(probe: Probe) -> None:
    with probe.connect() as client:
        client.send(b"GET /environ HTTP/1.0\r\n\r\n")
        found = json.loads(client.response().body)
        assert found["SERVER_PROTOCOL"] == "HTTP/1.0"
        assert "HTTP_HOST" not in found
        assert client.rest() == b""


def test_server_name_is_not_what_the_client_says(probe: Probe) -> None:
    with probe.connect() as client:
        client.send(b"GET http://evil.example:99/environ HTTP/1.1\r\nHost: evil.example:99\r\n\r\n")
        found = json.loads(client.response().body)
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("127.0.0.1", str(probe.server.port))
    assert found["PATH_INFO"] == "/environ"
    assert found["RAW_URI"] == "http://evil.example:99/environ"


def test_a_unix_socket() -> None:
    with Server("wsgi_probe:app", bind="unix", cwd=APPS) as server, RawClient(server.connect()) as client:
        found = json.loads(client.ask("GET", "/environ").body)
    assert (found["SERVER_NAME"], found["SERVER_PORT"], found["REMOTE_ADDR"]) == ("localhost", "80", "")
    assert "REMOTE_PORT" not in found


def test_several_listeners_and_workers() -> None:
    with Server("wsgi_probe:app", "-b", "127.0.0.1:0", "-b", "127.0.0.2:0", "-w", "2", bind=None, cwd=APPS) as server:
        for address in server.addresses:
            host, _, port = address.removeprefix("http://").rpartition(":")
            import socket

            with RawClient(socket.create_connection((host, int(port)))) as client:
                found = json.loads(client.ask("GET", "/environ").body)
            assert (found["SERVER_NAME"], found["SERVER_PORT"]) == (host, port)
            assert found["wsgi.multiprocess"] is True


@pytest.mark.parametrize("root_path", ["/mount", "/mount/"])
def test_root_path(root_path: str) -> None:
    """With a proxy that takes the prefix off, and with one that does not."""
    with probe_server(1, "--root-path", root_path) as probe:
        for target, path_info in [("/environ/x", "/environ/x"), ("/mount/environ/x", "/environ/x")]:
            found = facts(probe, target)
            assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("/mount", path_info)
            assert found["RAW_URI"] == target
        with probe.connect() as client:
            assert client.ask("GET", "/mounted/x").status == 500  # no such function: the path was left alone
        assert "KeyError: 'mounted'" in probe.server.log
