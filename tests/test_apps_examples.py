"""The examples, as a newcomer starts them, under the clients that people use.

Not every combination: each example runs twice, once with one worker and once with four, once on TCP and once on a unix
socket, and all five clients talk to both, in one of them over one kept connection and in the other over new ones. So
every pair of (example, client, transport, workers, kind of connection) occurs.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients import DRIVERS, FEEDS, Reply, Request, drive, feed, pattern, random_bytes
from support.server import Server, wait_until

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CLIENTS = list(DRIVERS)
MIB = 1 << 20
FLAT = ["fastapi_app", "starlette_app", "litestar_app", "quart_app", "falcon_asgi"]
THREADED = ["flask_app", "bottle_app", "falcon_wsgi"]  # WSGI: a feed occupies a thread
NAMES = ["django_wsgi", "django_asgi", *FLAT, *THREADED]
HELLO = {
    "django_wsgi": "Hello from Django (WSGI)\n",
    "django_asgi": "Hello from Django (ASGI)\n",
    "fastapi_app": "Hello from FastAPI\n",
    "starlette_app": "Hello from Starlette\n",
    "litestar_app": "Hello from Litestar\n",
    "quart_app": "Hello from Quart\n",
    "falcon_asgi": "Hello from Falcon (ASGI)\n",
    "flask_app": "Hello from Flask\n",
    "bottle_app": "Hello from Bottle\n",
    "falcon_wsgi": "Hello from Falcon (WSGI)\n",
}
TEXT = {"a": [1, 2.5, None, True], "ü": "漢字 \u2028 \U0001f984", "long": "x" * 100_000}


@pytest.fixture(scope="session")
def django_data(tmp_path_factory) -> Iterator[Path]:
    """A database with its tables and an administrator, and the collected static files: the steps of the example."""
    data = tmp_path_factory.mktemp("mysite")
    env = {**os.environ, "MYSITE_DATA": str(data), "DJANGO_SUPERUSER_PASSWORD": "correct horse"}
    for words in (
        ["migrate"],
        ["createsuperuser", "--no-input", "--username", "admin", "--email", "admin@example.org"],
        ["collectstatic", "--no-input"],
    ):
        command = [sys.executable, "manage.py", *words, "--verbosity", "0"]
        subprocess.run(command, cwd=EXAMPLES / "django_site", env=env, check=True, timeout=100)
    yield data


@contextlib.contextmanager
def serve(name: str, *options: str, bind: str = "tcp", data: Path | None = None) -> Iterator[Server]:
    """The command that the head of the example names, and the options of the test."""
    if name.startswith("django"):
        app, folder = f"mysite.{name.removeprefix('django_')}:application", EXAMPLES / "django_site"
    else:
        app, folder = f"{name}:app", EXAMPLES
    env = {"MYSITE_DATA": str(data)} if data else {}
    with Server(app, "--chdir", str(folder), *options, bind=bind, env=env) as server:
        yield server


def threads_of(name: str) -> list[str]:
    return ["--threads", "8"] if name in (*THREADED, "django_wsgi") else []


# --- what each client asks, and what it must get

UPLOAD = random_bytes(3 * MIB + 17)
EXCHANGE = [
    Request("GET", "/"),
    Request("GET", "/greet/Zo%C3%AB%20%26%20co?times=3&x=%2F"),
    Request("GET", "/greet/x?times=many"),
    Request("POST", "/echo", json=TEXT),
    Request("GET", "/visits"),
    Request("GET", "/visits"),
    Request("GET", "/visits"),
    Request("POST", "/upload", form={"note": "größer"}, file=("blob.bin", UPLOAD)),
    Request("POST", "/upload", form={"note": "empty"}, file=("empty.bin", b"")),
    Request("GET", "/download/4"),
    Request("GET", "/nowhere"),
    Request("GET", "/error"),
    Request("HEAD", "/nowhere"),
    Request("GET", "/"),
]


def check_exchange(name: str, replies: list[Reply]) -> None:
    index, greet, invalid, echo, *visits, upload, empty, download, nowhere, error, head, again = replies
    assert (index.status, index.text) == (200, HELLO[name])
    assert (greet.status, greet.json()) == (200, {"hello": "Zoë & co", "times": 3})
    assert invalid.status in (400, 422) and invalid.body
    assert (echo.status, echo.json()) == (200, TEXT)
    assert [(one.status, one.json()) for one in visits] == [(200, {"visits": count}) for count in (1, 2, 3)]
    digest = hashlib.sha256(UPLOAD).hexdigest()
    assert upload.json() == {"name": "blob.bin", "note": "größer", "size": len(UPLOAD), "sha256": digest}
    digest = hashlib.sha256(b"").hexdigest()
    assert empty.json() == {"name": "empty.bin", "note": "empty", "size": 0, "sha256": digest}
    assert download.status == 200 and len(download.body) == 4 * MIB
    assert download.sha256 == hashlib.sha256(pattern(4)).hexdigest()
    assert nowhere.status == 404
    assert error.status == 500
    assert head.status in (404, 405) and head.body == b""
    assert (again.status, again.text) == (200, HELLO[name])  # the connection, if it was kept, is still in step
    assert all("date" in reply.headers and "server" in reply.headers for reply in replies)


@pytest.mark.parametrize("four", [False, True], ids=["1-worker", "4-workers"])
@pytest.mark.parametrize("name", NAMES)
def test_example(name: str, four: bool, django_data: Path) -> None:
    turned = NAMES.index(name) % 2 == 1  # which of the two is on the unix socket
    workers = ["--workers", "4", "--preload"] if four else ["--workers", "1", *threads_of(name)]
    with serve(name, *workers, bind="unix" if four != turned else "tcp", data=django_data) as server:
        for number, client in enumerate(CLIENTS):
            check_exchange(name, drive(client, server, EXCHANGE, keep=(number % 2 == 0) != four))
        assert len(server.workers()) == (4 if four else 1)
        booted = len(re.findall("Booting worker", server.log))
        assert booted == (4 if four else 1), f"workers died:\n{server.log}"


# --- streaming, while it is produced


def readers(server: Server) -> int:
    return drive("requests", server, [Request("GET", "/feed/readers")])[0].json()["readers"]


def next_message(lines: Iterator[str]) -> str:
    """The data of the next event; comments and the blank lines between events do not count."""
    for line in lines:
        if line.startswith("data:"):
            return line.removeprefix("data:").strip()
    raise AssertionError("the feed has ended")


PAIRS = list(zip(NAMES, itertools.cycle(FEEDS), strict=False))


@pytest.mark.parametrize(("name", "client"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_feed(name: str, client: str, django_data: Path) -> None:
    """Each message is posted when the one before has been read: none may wait for company or for the end."""
    bind = "unix" if NAMES.index(name) % 2 else "tcp"
    options = [*threads_of(name), "--log-level", "debug"]
    with serve(name, *options, bind=bind, data=django_data) as server:
        with feed(client, server, "/feed") as lines, feed("httpx", server, "/feed") as others:
            assert next_message(lines) == next_message(others) == "welcome"
            for text in ("first", "zweite ü", "x" * 20_000):
                (posted,) = drive("urllib3", server, [Request("POST", "/feed", json={"text": text})])
                assert posted.status == 204 and posted.body == b""
                assert next_message(lines) == next_message(others) == text
            assert readers(server) == 2
        if name == "starlette_app":  # leaves the generator to the garbage collector: test_apps_leaks.py calls that
            server.wait_log("ended as the client has closed the connection", count=2)
        else:
            wait_until(lambda: readers(server) == 0, "the app to be told that its readers have left")
        assert "ERROR" not in server.log and "Traceback" not in server.log


# --- FastAPI's own


def test_fastapi_validation() -> None:
    with serve("fastapi_app", "--workers", "2", bind="unix") as server:
        wanted = [
            Request("POST", "/orders", json={"item": "horn", "count": 2, "price": 1.5}),
            Request("POST", "/orders", json={"item": "", "count": 1000, "price": "x"}),
            Request("POST", "/orders", form={"item": "horn"}),
            Request("POST", "/orders"),
            Request("GET", "/greet/x?times=1.5"),
        ]
        for client in CLIENTS:
            good, bad, form, nothing, query = drive(client, server, wanted)
            assert good.status == 201 and good.json()["total"] == 3.0
            assert [reply.status for reply in (bad, form, nothing, query)] == [422] * 4
            assert {error["loc"][-1] for error in bad.json()["detail"]} == {"item", "count", "price"}
        (schema,) = drive("httpx", server, [Request("GET", "/openapi.json")])
        assert "/orders" in schema.json()["paths"]
        assert "ERROR" not in server.log


def test_fastapi_background_task_runs_after_the_answer() -> None:
    with serve("fastapi_app") as server:
        orders = [Request("POST", "/orders", json={"item": f"horn {n}", "count": n, "price": 1}) for n in range(1, 21)]
        assert {reply.status for reply in drive("httpx", server, orders)} == {201}
        expected = {f"{n} x horn {n}" for n in range(1, 21)}

        def letters() -> set[str]:
            return set(drive("curl", server, [Request("GET", "/letters")])[0].json())

        wait_until(lambda: letters() == expected, "20 letters")


def test_fastapi_dependencies_are_closed() -> None:
    """After an answer, a stream, an HTTPException, an exception, and a client that left in the middle."""
    with serve("fastapi_app") as server:

        def opened() -> dict[str, int]:
            return drive("httpx", server, [Request("GET", "/connections")])[0].json()

        wanted = [
            Request("POST", "/orders", json={"item": "horn", "count": 1, "price": 1}),
            Request("GET", "/download/1"),
            Request("GET", "/refused"),
            Request("GET", "/error"),
            Request("GET", "/blocking"),
        ]
        assert [reply.status for reply in drive("aiohttp", server, wanted)] == [201, 200, 409, 500, 200]
        wait_until(lambda: opened()["now"] == 0, "all to be closed")
        assert opened() == {"now": 0, "ever": 4, "failed": 2}
        with server.connect() as client:
            client.sendall(b"GET /download/1000 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            assert opened()["now"] == 1
        wait_until(lambda: opened()["now"] == 0, "the connection of the client that left to be closed")
        assert server.log.count("[ERROR]") == 1, server.log  # the one on purpose: that a client leaves is none


# --- Django's own


@pytest.mark.parametrize("side", ["wsgi", "asgi"])
def test_django_admin(side: str, django_data: Path) -> None:
    """Log in with the form, see the list of users, log out; the page's style sheets and scripts are there, whole."""
    import httpx

    with serve(f"django_{side}", "--workers", "2", data=django_data) as server:
        with httpx.Client(base_url=server.url, timeout=30, follow_redirects=True, trust_env=False) as client:
            page = client.get("/admin/")
            assert page.url.path == "/admin/login/" and page.status_code == 200
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
            form = {"username": "admin", "password": "wrong", "next": "/admin/", "csrfmiddlewaretoken": token}
            assert "Please enter the correct" in client.post("/admin/login/", data=form).text
            page = client.post("/admin/login/", data={**form, "password": "correct horse"})
            assert page.url.path == "/admin/" and "Site administration" in page.text
            assert "admin@example.org" in client.get("/admin/auth/user/").text

            linked = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text))
            assert any(path.endswith(".css") for path in linked) and any(path.endswith(".js") for path in linked)
            for path in linked:
                check_static_file(client, path, django_data)

            assert client.post("/admin/logout/", data={"x": 1}).status_code == 403  # without its CSRF token
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
            assert "Logged out" in client.post("/admin/logout/", data={"csrfmiddlewaretoken": token}).text
        assert "ERROR" not in server.log


def check_static_file(client, path: str, data: Path) -> None:
    expected = (data / path.removeprefix("/")).read_bytes()
    plain = client.get(path, headers={"accept-encoding": "identity"})
    assert plain.status_code == 200 and plain.content == expected
    packed = client.get(path, headers={"accept-encoding": "gzip"})
    assert packed.content == expected
    head = client.head(path, headers={"accept-encoding": "identity"})
    assert head.content == b"" and head.headers["content-length"] == str(len(expected))
    part = client.get(path, headers={"accept-encoding": "identity", "range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == expected[10:20]
    same = client.get(path, headers={"if-modified-since": plain.headers["last-modified"]})
    assert same.status_code == 304 and same.content == b""
