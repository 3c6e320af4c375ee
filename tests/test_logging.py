"""Error log and access log in Python's logging: gunicorn's logconfig settings and syslog, uvicorn's --log-config."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.support.server import Server, wait_until

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["path"] == "/bad":
        raise ValueError("no such luck")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})
"""

WSGI = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/bad":
        raise ValueError("no such luck")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]
"""

# How applications write their JSON logs under gunicorn: record.args are the atoms.
FILE = """
import json
import logging

class JsonFormatter(logging.Formatter):
    def format(self, record):
        line = {"level": record.levelname, "logger": record.name, "pid": record.process, "text": record.getMessage()}
        if isinstance(record.args, dict):
            line |= {"status": record.args["s"], "micros": record.args["D"], "id": record.args["{X-Request-Id}i"]}
        return json.dumps(line)

access_log_format = '%(m)s %(U)s %(s)s %({x-request-id}i)s'
logconfig_dict = {
    "version": 1,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"file": {"class": "logging.FileHandler", "formatter": "json", "filename": "log.json"}},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["file"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["file"], "propagate": False},
    },
}
"""


def ask(server: Server, path: str = "/", *fields: str) -> int:
    with server.connect() as client:
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode())
        return int(client.makefile("rb").read().split()[1])


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def records(folder: Path, logger: str) -> list[dict]:
    lines = text(folder / "log.json").split("\n")[:-1]
    return [record for record in map(json.loads, lines) if record["logger"] == logger]


@pytest.fixture(params=["asgi", "wsgi", "wsgi-threads"])
def folder(request, tmp_path):
    (tmp_path / "web.py").write_text(ASGI if request.param == "asgi" else WSGI)
    (tmp_path / "gunicorn.conf.py").write_text("threads = 4\n" if request.param == "wsgi-threads" else "")
    return tmp_path


def booted(errors: list[dict]) -> list[int]:
    """The workers' pids, as the master logs them."""
    start = "Booting worker with pid: "
    return [int(r["text"].removeprefix(start)) for r in errors if r["text"].startswith(start)]


def append(folder: Path, more: str) -> None:
    path = folder / "gunicorn.conf.py"
    path.write_text(path.read_text() + more)


def test_logconfig_dict(folder):
    append(folder, FILE)
    with Server("web:app", cwd=folder, wait=False, address_log=folder / "log.json") as server:
        wait_until(lambda: [r for r in records(folder, "gunicorn.error") if r["text"].startswith("Ready")], "the start")
        (worker,) = booted(records(folder, "gunicorn.error"))
        assert ask(server, "/bad") == 500
        for i in range(300):
            assert ask(server, f"/{i}", f"X-Request-Id: id-{i}") == 200
        server.stop()
        accesses = records(folder, "gunicorn.access")
        assert [r["text"] for r in accesses] == ["GET /bad 500 -", *(f"GET /{i} 200 id-{i}" for i in range(300))]
        assert accesses[1] | {"status": "200", "id": "id-0", "level": "INFO", "pid": worker} == accesses[1]
        assert all(0 < r["micros"] < 60e6 for r in accesses)
        errors = records(folder, "gunicorn.error")
        (bad,) = [r for r in errors if r["level"] == "ERROR"]
        assert "Traceback" in bad["text"] and "ValueError: no such luck" in bad["text"] and bad["pid"] == worker
        assert {r["pid"] for r in errors} >= {worker, server.pid}
        assert "no such luck" not in server.log and "Ready" not in server.log  # not twice


def test_a_reload_configures_anew(tmp_path):
    (tmp_path / "web.py").write_text(ASGI)
    (tmp_path / "gunicorn.conf.py").write_text(FILE)
    with Server("web:app", "--boot-grace", "0", cwd=tmp_path, wait=False, address_log=tmp_path / "log.json") as server:
        wait_until(lambda: [r for r in records(tmp_path, "gunicorn.error") if "Ready" in r["text"]], "the start")
        (tmp_path / "gunicorn.conf.py").write_text(FILE.replace("log.json", "new.json"))
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "Reloaded" in text(tmp_path / "log.json") + text(tmp_path / "new.json"), "the reload")
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: "Workers wanted" in text(tmp_path / "new.json"), "the master's line")
        # the first ones may still be the old worker's
        wait_until(lambda: ask(server) == 200 and "GET / 200" in text(tmp_path / "new.json"), "the access")


UVICORN = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {
            "()": "uvicorn.logging.DefaultFormatter",
            "fmt": "%(levelprefix)s %(message)s",
            "use_colors": False,
        },
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
            "use_colors": False,
        },
    },
    "handlers": {
        "default": {"formatter": "default", "class": "logging.FileHandler", "filename": "default.log"},
        "access": {"formatter": "access", "class": "logging.FileHandler", "filename": "access.log"},
    },
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"level": "INFO"},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}


@pytest.mark.parametrize("way", ["--log-config", "--log-config-json", "LICORNE_LOGCONFIG_DICT"])
def test_uvicorns_configuration(folder, way):
    (folder / "log.json").write_text(json.dumps(UVICORN))
    env = {way: json.dumps(UVICORN)} if way.startswith("LICORNE") else {}
    arguments = [] if env else [way, "log.json"]
    with Server("web:app", *arguments, cwd=folder, env=env, wait=False, address_log=folder / "default.log") as server:
        wait_until(lambda: "INFO:     Ready" in text(folder / "default.log"), "the start")
        with server.connect() as client:
            port = client.getsockname()[1]
            client.sendall(b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_until((folder / "access.log").read_text, "the access")
    line = f'INFO:     127.0.0.1:{port} - "GET /a%20b?c=d HTTP/1.1" 200 OK\n'
    assert (folder / "access.log").read_text() == line


INI = """
[loggers]
keys=root, error, access
[handlers]
keys=file
[formatters]
keys=plain
[logger_root]
handlers=
[logger_error]
level=WARNING
handlers=file
propagate=0
qualname=gunicorn.error
[logger_access]
level=INFO
handlers=file
propagate=0
qualname=gunicorn.access
[handler_file]
class=FileHandler
formatter=plain
args=("plain.log",)
[formatter_plain]
format=%(levelname)s|%(name)s|%(message)s
"""


def test_an_ini_file(folder):
    (folder / "log.ini").write_text(INI)
    append(folder, "logconfig = 'log.ini'\naccess_log_format = '%(r)s %(s)s'\n")
    with Server("web:app", cwd=folder, wait=False, bind="unix") as server:
        wait_until((server.folder / "licorne.sock").exists, "the socket")
        assert ask(server, "/bad") == 500
        server.stop()
    said = text(folder / "plain.log")
    assert "INFO|gunicorn.access|GET /bad HTTP/1.1 500\n" in said
    assert "ERROR|gunicorn.error|" in said and "no such luck" in said
    assert "INFO|gunicorn.error" not in said  # below its level


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_syslog_beside_the_error_log(folder, kind):
    with socket.socket(socket.AF_INET if kind == "udp" else socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0) if kind == "udp" else str(folder / "log"))
        daemon.settimeout(30)
        address = f"udp://127.0.0.1:{daemon.getsockname()[1]}" if kind == "udp" else f"unix://{folder}/log"
        arguments = ["--log-syslog", "--log-syslog-to", address, "--log-syslog-facility", "local3"]
        with Server("web:app", *arguments, "--log-syslog-prefix", "shop", cwd=folder) as server:
            assert ask(server, "/bad") == 500
            (worker,) = server.workers()
            seen: list[str] = []
            while not any(".access: " in line for line in seen) or not any("no such luck" in line for line in seen):
                seen.append(daemon.recv(65536).decode())
            assert "no such luck" in server.log
        access = next(line for line in seen if ".access: " in line)
        # RFC 3164 §4.1.1: local3 is 19, informational 6
        assert access.startswith(f"<{19 * 8 + 6}>gunicorn.shop.access: [{worker}] 127.0.0.1 - - [")
        assert any(line.startswith(f"<{19 * 8 + 3}>gunicorn.shop.error: [{worker}] ") for line in seen)


def test_accesses_may_stay_out_of_syslog(folder):
    append(folder, "syslog = True\ndisable_redirect_access_to_syslog = True\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(folder / "log"))
        daemon.settimeout(30)
        with Server("web:app", "--log-syslog-to", f"unix://{folder}/log", cwd=folder) as server:
            assert ask(server, "/bad") == 500
            assert ask(server, "/good") == 200
        seen = ""
        while "Stopped" not in seen:
            seen += daemon.recv(65536).decode() + "\n"
        assert "no such luck" in seen
        assert ".access" not in seen


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("logconfig = 'nowhere.ini'", "nowhere.ini"),
        ("logconfig_dict = {'version': 1, 'root': {'handlers': ['nobody']}}", "nobody"),
        ("logconfig_json = 'web.py'", "web.py: Expecting value"),
        ("syslog = True\nsyslog_addr = 'localhost'", "must be udp://HOST:PORT, tcp://HOST:PORT or unix://PATH"),
        ("syslog = True\nsyslog_facility = 'local8'", "must be one of "),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path, settings, said):
    (tmp_path / "web.py").write_text(ASGI)
    (tmp_path / "gunicorn.conf.py").write_text(settings + "\n")
    with Server("web:app", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 1
        assert said in server.log


def test_hooks_log_there_too(tmp_path):
    (tmp_path / "web.py").write_text(ASGI)
    hooks = "def when_ready(server):\n    server.log.info('hooked: %s', 1)\ndef post_fork(server, worker):\n"
    (tmp_path / "gunicorn.conf.py").write_text(FILE + hooks + "    worker.log.warning('forked')\n")
    with Server("web:app", cwd=tmp_path, wait=False):
        wait_until(lambda: [r for r in records(tmp_path, "gunicorn.error") if "Ready" in r["text"]], "the start")
        said = [(r["level"], r["text"]) for r in records(tmp_path, "gunicorn.error")]
    assert said.count(("INFO", "hooked: 1")) == 1 and said.count(("WARNING", "forked")) == 1


def test_a_handler_that_fails_harms_nobody(folder):
    method = "    def format(self, record):\n"
    append(folder, FILE.replace(method, method + "        raise KeyError(record.name)\n"))
    with Server("web:app", cwd=folder, wait=False, bind="unix") as server:
        wait_until((server.folder / "licorne.sock").exists, "the socket")
        for _ in range(20):
            assert ask(server) == 200
