"""gunicorn's settings of how a request is read, against gunicorn itself: the same bytes to both, the same environ or
both refuse. gunicorn's parser and its `create` run in this process, as its workers run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from support.server import Server

gunicorn_config = pytest.importorskip("gunicorn.config")

APP = """
import json

KEYS = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "RAW_URI", "wsgi.url_scheme", "CONTENT_LENGTH")

def said(environ):
    body = environ["wsgi.input"].read().decode("latin-1")
    found = {key: environ[key] for key in environ if key in KEYS or key.startswith("HTTP_")}
    return {**found, "body": body}

def app(environ, start_response):
    text = json.dumps(said(environ)).encode()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]
"""


@dataclass
class Row:
    """Some settings, and requests that are read under them."""

    name: str
    settings: dict[str, object] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def get(target: str, *fields: str, method: str = "GET", version: str = "HTTP/1.1", body: str = "") -> str:
    return "\r\n".join([f"{method} {target} {version}", *fields, "Host: x", "", body])


METHODS = ["get", "Get", "GO", "A" * 20, "A" * 21, "A#B", "A!B", "M-SEARCH", "G@T", "POST", "BREW"]
VERSIONS = [
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/1.9",
    "HTTP/2.0",
    "HTTP/0.9",
    "HTTP/9.9",
    "HTTP/11.1",
    "HTTP/1",
    "http/1.1",
    "HTTP/1.1 ",
]
BLANKS = ["X-A : b", "X-A\t: b", "X-A  \t : b", "X A: b", "X-A", ": b", " : b", "X-A:b", "X-A : b : c", "X-A:"]
FOLDS = ["X-A: b\r\n c", "X-A: b\r\n\tc\r\n  d", "X-A:\r\n b"]
UNDERSCORES = ["X_A: b", "SCRIPT_NAME: /sub", "PATH_INFO: /other", "REMOTE_USER: kim", "X-A: 1\r\nX_A: 2", "_: 1"]
BODIES = ["Content-Length : 2", "Content-Length\t: 2", "Transfer-Encoding : chunked"]
PATHS = ["/sub/x?q", "/sub", "/sub/", "/other", "/", "/sub/%e9/y", "/SUB/x"]

ROWS = [
    Row(
        "defaults",
        {},
        [get("/", method=method) for method in METHODS]
        + [get("/", version=version) for version in VERSIONS]
        + [get("/sub/x", line) for line in [*BLANKS, *FOLDS, *UNDERSCORES, "script_name: /sub", "Script-Name: /sub"]]
        + [get("/other", "SCRIPT_NAME: /sub"), get("/sub/x", "SCRIPT_NAME: ")],
    ),
    Row(
        "untrusted",
        {"forwarded_allow_ips": "10.0.0.0/8"},
        [get("/sub/x", line) for line in [*UNDERSCORES, "X-Forwarded-Proto: https"]],
    ),
    Row("refuse", {"header_map": "refuse"}, [get("/sub/x", line) for line in UNDERSCORES]),
    Row(
        "refuse, untrusted",
        {"header_map": "refuse", "forwarded_allow_ips": "10.0.0.0/8"},
        [get("/sub/x", line) for line in UNDERSCORES],
    ),
    Row("dangerous", {"header_map": "dangerous"}, [get("/sub/x", line) for line in UNDERSCORES]),
    Row(
        "forwarder_headers",
        {"forwarder_headers": "REMOTE_USER,X_A"},
        [get("/sub/x", line) for line in UNDERSCORES],
    ),
    Row("all forwarder_headers", {"forwarder_headers": "*"}, [get("/sub/x", line) for line in UNDERSCORES]),
    Row(
        "strip_header_spaces",
        {"strip_header_spaces": True},
        [get("/", line) for line in [*BLANKS, *FOLDS]]
        + [get("/", line, method="POST", body="2\r\nhi\r\n0\r\n\r\n" if "chunked" in line else "hi") for line in BODIES]
        + [get("/", "Content-Length: 2", "Content-Length : 2", method="POST", body="hi")]
        + [get("/", "Content-Length : 2", "Transfer-Encoding: chunked", method="POST", body="0\r\n\r\n")],
    ),
    Row("permit_obsolete_folding", {"permit_obsolete_folding": True}, [get("/", line) for line in [*BLANKS]]),
    Row(
        "permit_unconventional_http_method",
        {"permit_unconventional_http_method": True},
        [get("/", method=method) for method in METHODS],
    ),
    Row(
        "casefold_http_method",
        {"permit_unconventional_http_method": True, "casefold_http_method": True},
        [get("/", method=method) for method in METHODS],
    ),
    Row(
        "permit_unconventional_http_version",
        {"permit_unconventional_http_version": True},
        [get("/", version=version) for version in VERSIONS]
        + [get("/", "Transfer-Encoding: chunked", method="POST", version="HTTP/2.0", body="2\r\nhi\r\n0\r\n\r\n")]
        + [get("/", "Transfer-Encoding: chunked", method="POST", version="HTTP/0.9", body="2\r\nhi\r\n0\r\n\r\n")],
    ),
    Row("SCRIPT_NAME", {}, [get(path) for path in PATHS], {"SCRIPT_NAME": "/sub"}),
    Row("SCRIPT_NAME and a header", {}, [get("/top/x", "SCRIPT_NAME: /top")], {"SCRIPT_NAME": "/sub"}),
    Row("SCRIPT_NAME by raw_env", {"raw_env": ["SCRIPT_NAME=/sub"]}, [get(path) for path in PATHS]),
]


class Nowhere:
    """What gunicorn's responses would be written to."""

    def send(self, data: bytes) -> None:
        pass


def of_gunicorn(row: Row, request: str, monkeypatch: pytest.MonkeyPatch) -> dict | None:
    """None: refused."""
    from gunicorn.http import errors, wsgi
    from gunicorn.http.message import Request
    from gunicorn.http.unreader import IterUnreader

    config = gunicorn_config.Config()
    for name, value in row.settings.items():
        config.set(name, value)
    environment = dict(item.split("=") for item in row.settings.get("raw_env", []))  # type: ignore[attr-defined]
    for name, value in {**row.environment, **environment}.items():
        monkeypatch.setenv(name, value)
    said: dict = {}
    exec(APP, said)
    try:
        received = IterUnreader(iter([request.encode("latin-1")]))
        parsed = Request(config, received, ("127.0.0.1", 4711), 1)
        _, environ = wsgi.create(parsed, Nowhere(), ("127.0.0.1", 4711), ("127.0.0.1", 80), config)
        return said["said"](environ)
    except (errors.ParseException, errors.ConfigurationProblem):
        return None


def of_licorne(server: Server, request: str) -> dict | None:
    with server.connect() as client:
        client.sendall(request.encode("latin-1"))
        head, answer = b"", client.makefile("rb")
        while not head.endswith(b"\r\n\r\n"):
            line = answer.readline()
            assert line, head
            head += line
        status = int(head.split()[1])
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        body = answer.read(length)
    assert status == 200 or 400 <= status <= 599, head
    return json.loads(body) if status == 200 else None


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path) -> Iterator[tuple[Row, Server]]:
    row: Row = request.param
    (tmp_path / "web.py").write_text(APP)
    (tmp_path / "gunicorn.conf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in row.settings.items()))
    with Server("web:app", cwd=tmp_path, env=row.environment) as server:
        yield row, server


@pytest.mark.parametrize("server", ROWS, indirect=True, ids=[row.name for row in ROWS])
def test_reads_as_gunicorn_does(server: tuple[Row, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    row, licorne = server
    for request in row.requests:
        assert of_licorne(licorne, request) == of_gunicorn(row, request, monkeypatch), request
