"""What applications and configuration files do to the loggers of gunicorn and uvicorn, as public projects have it; and
logger_class."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.support.server import Server, wait_until

PORT = r"127\.0\.0\.1:\d+"


def web(before: str = "", on_startup: str = "") -> str:
    """An ASGI application; `before` runs at import, `on_startup` in its lifespan."""
    return f"""
import logging
{before}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {on_startup or "pass"}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    if scope["path"] == "/bad":
        raise ValueError("no such luck")
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"x-shop", b"7")]}})
    await send({{"type": "http.response.body", "body": b"hi"}})
"""


def ask(server: Server, path: str, *fields: str) -> int:
    with server.connect() as client:
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode())
        return int(client.makefile("rb").read().split()[1])


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


HEALTH = """
class HealthFilter(logging.Filter):
    def filter(self, record):
        return "/health" not in record.getMessage()
"""
UVICORN_FILTER = HEALTH + 'logging.getLogger("uvicorn.access").addFilter(HealthFilter())\n'


# --- the application and the access log


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
@pytest.mark.parametrize("family", ["uvicorn", "gunicorn"])
def test_a_filter_on_the_access_logger(tmp_path, options, family):
    (tmp_path / "web.py").write_text(web(UVICORN_FILTER.replace("uvicorn", family)))
    with Server("web:app", "--access-log", "--access-logformat", "%(m)s %(U)s %(s)s", *options, cwd=tmp_path) as server:
        for path in ("/a", "/health", "/b"):
            assert ask(server, path) == 200
        server.stop()
        assert server.output == "GET /a 200\nGET /b 200\n"


def test_a_filter_that_is_added_at_start_up(tmp_path):
    (tmp_path / "web.py").write_text(web(HEALTH, 'logging.getLogger("uvicorn.access").addFilter(HealthFilter())'))
    with Server("web:app", "--access-logfile", "access.log", cwd=tmp_path) as server:
        for path in ("/health", "/b"):
            assert ask(server, path) == 200
        server.stop()
    assert re.fullmatch(r'127\.0\.0\.1 - - \[.*\] "GET /b HTTP/1.1" 200 2 "-" "-"\n', text(tmp_path / "access.log"))


@pytest.mark.parametrize(
    "statement",
    [
        'logging.getLogger("uvicorn.access").disabled = True',
        'logging.getLogger("gunicorn.access").disabled = True',
        'logging.getLogger("uvicorn.access").setLevel(logging.WARNING)',
    ],
)
def test_an_access_log_that_is_silenced(tmp_path, statement):
    (tmp_path / "web.py").write_text(web(statement))
    with Server("web:app", "--access-log", cwd=tmp_path) as server:
        assert ask(server, "/a") == 200
        server.stop()
        assert server.output == ""


def test_handlers_of_the_applications_own(tmp_path):
    """FastAPI's users: uvicorn's default is an access log, so that whoever adds a handler gets it without an option."""
    before = """
handler = logging.FileHandler("mine.log")
handler.setFormatter(logging.Formatter("%(levelname)s|%(name)s|%(message)s"))
logging.getLogger("uvicorn.access").addHandler(handler)
logging.getLogger("uvicorn").addHandler(handler)
"""
    (tmp_path / "web.py").write_text(web(before, 'logging.getLogger("uvicorn.error").info("hello from the app")'))
    with Server("web:app", cwd=tmp_path) as server:
        assert ask(server, "/a?b=c") == 200
        assert ask(server, "/bad") == 500
        server.stop()
        assert "[INFO] hello from the app" in server.log and "ValueError: no such luck" in server.log
    lines = text(tmp_path / "mine.log")
    assert re.search(rf'INFO\|uvicorn\.access\|{PORT} - "GET /a\?b=c HTTP/1\.1" 200\n', lines)
    assert "ERROR|uvicorn.error|" in lines and "INFO|uvicorn.error|hello from the app\n" in lines


def test_a_formatter_on_uvicorns_handler(tmp_path):
    before = """
for name in ("uvicorn", "uvicorn.access"):
    logging.getLogger(name).handlers[0].setFormatter(logging.Formatter("%(name)s <%(message)s>"))
"""
    (tmp_path / "web.py").write_text(web(before))
    with Server("web:app", "--access-log", cwd=tmp_path) as server:
        ask(server, "/a")
        ask(server, "/bad")
        server.stop()
        assert re.search(rf'^uvicorn\.access <{PORT} - "GET /a HTTP/1\.1" 200>$', server.output, re.MULTILINE)
        assert re.search(r"^uvicorn\.error <Error in the ASGI application: GET /bad$", server.log, re.MULTILINE)


def test_dictconfig_in_the_application(tmp_path):
    """Django's LOGGING and its like: all loggers that it does not name are disabled, but the server is not silent."""
    before = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"plain": {"format": "%(name)s %(levelname)s %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "mine.log", "formatter": "plain"}},
    "loggers": {"shop": {"handlers": ["file"], "level": "INFO"}},
})
"""
    (tmp_path / "web.py").write_text(web(before))
    with Server("web:app", "--access-log", cwd=tmp_path) as server:
        ask(server, "/a")
        ask(server, "/bad")
        server.stop()
        assert "no such luck" in server.log and '"GET /a HTTP/1.1" 200' in server.output
    assert text(tmp_path / "mine.log") == ""


@pytest.mark.parametrize("family", ["gunicorn", "uvicorn"])
def test_dictconfig_that_names_the_servers_loggers(tmp_path, family):
    before = f"""
import logging.config
logging.config.dictConfig({{
    "version": 1,
    "formatters": {{"plain": {{"format": "%(name)s %(levelname)s %(message)s"}}}},
    "handlers": {{"file": {{"class": "logging.FileHandler", "filename": "mine.log", "formatter": "plain"}}}},
    "loggers": {{
        "{family}.error": {{"handlers": ["file"], "level": "INFO", "propagate": False}},
        "{family}.access": {{"handlers": ["file"], "level": "INFO", "propagate": False}},
    }},
}})
"""
    (tmp_path / "web.py").write_text(web(before))
    with Server("web:app", "--access-log", cwd=tmp_path) as server:
        ask(server, "/a")
        ask(server, "/bad")
        server.stop()
        assert "no such luck" not in server.log and server.output == ""
    lines = text(tmp_path / "mine.log")
    assert f"{family}.access INFO " in lines and "GET /a HTTP/1.1" in lines
    assert f"{family}.error ERROR " in lines and "no such luck" in lines


def test_flasks_idiom(tmp_path):
    """app.logger takes gunicorn's handlers and level: the application's lines are in the error log, in its form."""
    (tmp_path / "web.py").write_text("""
import logging

log = logging.getLogger("shop")
gunicorn_logger = logging.getLogger("gunicorn.error")
log.handlers = gunicorn_logger.handlers
log.setLevel(gunicorn_logger.level)

def app(environ, start_response):
    log.debug("not this")
    log.warning("this: %s", environ["PATH_INFO"])
    start_response("200 OK", [])
    return [b"hi"]
""")
    with Server("web:app", "--error-logfile", "error.log", cwd=tmp_path, wait=False, bind="unix") as server:
        wait_until(lambda: "Ready: " in text(tmp_path / "error.log"), "the start")
        (pid,) = map(int, re.findall(r"Booting worker with pid: (\d+)", text(tmp_path / "error.log")))
        assert ask(server, "/a") == 200
        server.stop()
    lines = text(tmp_path / "error.log")
    assert (
        re.search(rf"^\[[-\d: +]+\] \[{pid}\] \[WARNING\] this: /a$", lines, re.MULTILINE) and "not this" not in lines
    )


def test_without_anything_python_has_no_part(tmp_path):
    (tmp_path / "web.py").write_text(web("", "import threading; print(threading.enumerate(), flush=True)"))
    with Server("web:app", "--access-logfile", "access.log", cwd=tmp_path) as server:
        ask(server, "/a")
        server.stop()
        assert "licorne-logs" not in server.output
    assert "GET /a" in text(tmp_path / "access.log")


def test_loguru_intercepts(tmp_path):
    """loguru's recipe for the loggers of servers: its handler looks for the caller six frames up."""
    before = """
import logging, sys

class InterceptHandler(logging.Handler):
    def emit(self, record):
        frame, depth = sys._getframe(6), 6
        while frame and frame.f_code.co_filename == logging.__file__:
            frame, depth = frame.f_back, depth + 1
        with open("intercepted.log", "a") as file:
            file.write(f"{record.name}|{record.levelname}|{record.getMessage()}\\n")

logging.root.handlers = [InterceptHandler()]
for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn", "gunicorn.error", "gunicorn.access"):
    logging.getLogger(name).handlers = [InterceptHandler()]
    logging.getLogger(name).propagate = False
"""
    (tmp_path / "web.py").write_text(web(before))
    with Server("web:app", "--access-log", "--preload", cwd=tmp_path, wait=False, bind="unix") as server:
        wait_until(lambda: "Ready: " in text(tmp_path / "intercepted.log"), "the start")
        ask(server, "/a")
        ask(server, "/bad")
        server.stop()
        assert "no such luck" not in server.log
    lines = text(tmp_path / "intercepted.log")
    assert "gunicorn.error|INFO|Ready: 1 worker" in lines  # the master's line, by the mold
    assert "gunicorn.access|INFO|- - - [" in lines and "GET /a HTTP/1.1" in lines
    assert "gunicorn.error|ERROR|" in lines and "no such luck" in lines


# --- the configuration file and the start-up lines


def test_the_first_lines_are_in_pythons_log_too(tmp_path):
    (tmp_path / "web.py").write_text(web('logging.getLogger("gunicorn.error").info("imported")'))
    (tmp_path / "gunicorn.conf.py").write_text("""
logconfig_dict = {
    "version": 1,
    "formatters": {"plain": {"format": "%(created)f %(process)d %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "all.log", "formatter": "plain"}},
    "loggers": {"gunicorn.error": {"level": "DEBUG", "handlers": ["file"], "propagate": False}},
}
""")
    with Server("web:app", "--preload", cwd=tmp_path, wait=False, bind="unix") as server:
        wait_until(lambda: "Ready: " in text(tmp_path / "all.log"), "the start")
        server.stop()
        assert server.log == ""
    lines = [line.split(" ", 2) for line in text(tmp_path / "all.log").splitlines()]
    said = [line[2] for line in lines]
    marks = ["Starting licorne", "Listening at", "Serving web:app", "imported", "Booting worker", "Ready: ", "Stopped"]
    places = [next(i for i, s in enumerate(said) if s.startswith(mark)) for mark in marks[:-1]]
    assert places == sorted(places)
    assert int(lines[places[0]][1]) == server.pid
    assert [float(line[0]) for line in lines[: places[2] + 1]] == sorted(
        float(line[0]) for line in lines[: places[2] + 1]
    )


@pytest.mark.parametrize(("named", "other"), [("uvicorn", "gunicorn"), ("gunicorn", "uvicorn")])
def test_the_family_that_is_not_configured_follows(tmp_path, named, other):
    """An application that logs to gunicorn.error under a configuration for uvicorn, and the reverse."""
    (tmp_path / "web.py").write_text(web(f'logging.getLogger("{other}.error").warning("from the application")'))
    config = {
        "version": 1,
        "formatters": {"plain": {"format": "%(name)s %(levelname)s %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": "all.log", "formatter": "plain"}},
        "loggers": {
            named: {"level": "INFO", "handlers": ["file"], "propagate": False},
            f"{named}.error": {"level": "INFO", "handlers": [] if named == "uvicorn" else ["file"]},
        },
    }
    if named == "gunicorn":
        config["loggers"]["gunicorn.error"]["propagate"] = False
    (tmp_path / "log.json").write_text(json.dumps(config))
    with Server("web:app", "--log-config", "log.json", cwd=tmp_path, wait=False, bind="unix") as server:
        wait_until(lambda: "Ready: " in text(tmp_path / "all.log"), "the start")
        server.stop()
        assert server.log == ""
    lines = text(tmp_path / "all.log").splitlines()
    assert f"{other}.error WARNING from the application" in lines
    assert any(line.startswith(f"{named}.error INFO Ready: ") for line in lines)


def test_what_was_held_is_not_lost_when_logging_fails(tmp_path):
    (tmp_path / "web.py").write_text(web())
    conf = "logconfig_dict = {'version': 1, 'root': {'handlers': ['nobody']}}\n"
    (tmp_path / "gunicorn.conf.py").write_text(conf)
    with Server("web:app", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 1
        assert re.search(
            r"Starting licorne[^$]*Listening at[^$]*Logging cannot be configured: .*logconfig_dict: ", server.log
        )


def test_a_file_of_pythons_is_opened_anew(tmp_path):
    (tmp_path / "web.py").write_text(web())
    (tmp_path / "gunicorn.conf.py").write_text("""
logconfig_dict = {
    "version": 1,
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "all.log"}},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["file"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["file"], "propagate": False},
    },
}
""")
    with Server("web:app", cwd=tmp_path, wait=False, bind="unix") as server:
        wait_until(lambda: "Ready: " in text(tmp_path / "all.log"), "the start")
        (tmp_path / "all.log").rename(tmp_path / "old.log")
        server.send_signal(signal.SIGUSR1)
        wait_until(lambda: "Reopened the logs" in text(tmp_path / "all.log") + text(tmp_path / "old.log"), "USR1")
        wait_until(lambda: ask(server, "/x") and "GET /x" in text(tmp_path / "all.log"), "the new file")


# --- logger_class

LOGGER = """
import json, logging, sys
from licorne.logging import Logger

class HealthLogger(Logger):
    def access(self, resp, req, environ, request_time):
        if req.path == "/health":
            return
        assert environ["HTTP_X_B"] == "2" and environ["RAW_URI"] == "/a%20b" and 0 < request_time.total_seconds() < 60
        assert ("X-B", "2") in req.headers and ("x-shop", "7") in resp.headers and resp.status == "200 OK"
        super().access(resp, req, environ, request_time)

class JsonFormatter(logging.Formatter):
    def format(self, record):
        return json.dumps({"level": record.levelname, "text": record.getMessage(), "pid": record.process})

class JsonLogger(Logger):
    def setup(self, cfg):
        super().setup(cfg)
        self._set_handler(self.error_log, cfg.errorlog, fmt=JsonFormatter())
        self._set_handler(self.access_log, cfg.accesslog, fmt=JsonFormatter(), stream=sys.stdout)

class AtomLogger(Logger):
    error_fmt = "!%(levelname)s! %(message)s"

    def atoms(self, resp, req, environ, request_time):
        atoms = super().atoms(resp, req, environ, request_time)
        atoms["shop"] = "no. " + dict(resp.headers)["x-shop"]
        return atoms

    def info(self, msg, *args, **kwargs):
        super().info("(info) " + msg, *args, **kwargs)

class StubbedGunicornLogger(Logger):
    def setup(self, cfg):
        handler = logging.NullHandler()
        self.error_logger = logging.getLogger("gunicorn.error")
        self.error_logger.addHandler(handler)
        self.access_logger = logging.getLogger("gunicorn.access")
        self.access_logger.addHandler(handler)
        self.error_logger.setLevel(logging.INFO)
        self.access_logger.setLevel(logging.INFO)

class Replaced(Logger):
    def setup(self, cfg):
        log = logging.getLogger("mine")
        log.addHandler(logging.FileHandler("mine.log"))
        log.setLevel(logging.INFO)
        self.access_log = self.error_log = log
"""


def serve_with(folder: Path, name: str, *options: str, by_option: bool = False, **more) -> Server:
    (folder / "web.py").write_text(web())
    (folder / "shop_log.py").write_text(LOGGER)
    conf = "" if by_option else f"from shop_log import {name}\nlogger_class = {name}\n"
    (folder / "gunicorn.conf.py").write_text(conf + "def when_ready(server):\n    server.log.info('hooked %s', 1)\n")
    given = ["--logger-class", f"shop_log.{name}"] if by_option else []
    env = {"PYTHONPATH": str(folder)}
    return Server("web:app", "--access-log", *options, *given, cwd=folder, env=env, wait=False, bind="unix", **more)


def wait_ready(server: Server, log: Path | None = None) -> None:
    wait_until(lambda: "Ready: " in (text(log) if log else server.log), "the start")


@pytest.mark.parametrize("by_option", [False, True], ids=["class", "path"])
def test_a_health_filter(tmp_path, by_option):
    with serve_with(
        tmp_path, "HealthLogger", "--access-logformat", "%(U)s %(s)s %({x-b}i)s %({x-shop}o)s", by_option=by_option
    ) as server:
        wait_ready(server)
        for path in ("/health", "/a%20b"):
            assert ask(server, path, "X-B: 2") == 200
        server.stop()
        assert server.output == "/a b 200 2 7\n"
        assert server.log.count("[INFO] Starting licorne") == 1 and "[INFO] hooked 1" in server.log


def test_a_json_formatter_in_setup(tmp_path):
    with serve_with(tmp_path, "JsonLogger", "--access-logformat", "%(r)s %(s)s %(L)s") as server:
        wait_ready(server)
        assert ask(server, "/bad") == 500
        assert ask(server, "/a") == 200
        server.stop()
        errors = [json.loads(line) for line in server.log.splitlines()]
        accesses = [json.loads(line) for line in server.output.splitlines()]
    assert errors[0]["text"].startswith("Starting licorne") and errors[0]["pid"] == server.pid
    assert any(e["level"] == "ERROR" and "no such luck" in e["text"] for e in errors)
    assert {"level": "INFO", "text": "hooked 1"}.items() <= next(e for e in errors if "hooked" in e["text"]).items()
    assert [re.sub(r"\d\.\d{6}$", "T", a["text"]) for a in accesses] == [
        "GET /bad HTTP/1.1 500 T",
        "GET /a HTTP/1.1 200 T",
    ]


def test_atoms_formats_and_methods_of_a_subclass(tmp_path):
    with serve_with(tmp_path, "AtomLogger", "--access-logformat", "%(m)s %(shop)s %({x-y}i)s %({raw_uri}e)s") as server:
        wait_ready(server)
        assert ask(server, "/a?b", 'X-Y: "q"') == 200
        server.stop()
        assert server.output == 'GET no. 7 \\"q\\" /a?b\n'
        assert "!INFO! (info) Starting licorne" in server.log and "!INFO! (info) hooked 1" in server.log


def test_the_stub_of_a_well_known_blog(tmp_path):
    with serve_with(tmp_path, "StubbedGunicornLogger") as server:
        wait_until((server.folder / "licorne.sock").exists, "the socket")
        assert ask(server, "/a") == 200
        server.stop()
        assert server.log == server.output == ""


def test_loggers_that_setup_replaces(tmp_path):
    with serve_with(tmp_path, "Replaced", "--access-logformat", "%(r)s") as server:
        wait_ready(server, tmp_path / "mine.log")
        assert ask(server, "/a") == 200
        server.stop()
    lines = text(tmp_path / "mine.log").splitlines()
    assert "GET /a HTTP/1.1" in lines and "hooked 1" in lines


@pytest.mark.parametrize("name", ["simple", "gunicorn.glogging.Logger"])
def test_the_usual_logger_is_ours(tmp_path, name):
    (tmp_path / "web.py").write_text(web())
    with Server("web:app", "--logger-class", name, "--access-log", cwd=tmp_path) as server:
        assert ask(server, "/a") == 200
        server.stop()
        assert '"GET /a HTTP/1.1" 200' in server.output and "Ready: " in server.log


# As if it were not installed.
NOWHERE = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name == "gunicorn":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nowhere())
"""


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        (
            NOWHERE + "from gunicorn.glogging import Logger\n",
            "gunicorn is not installed: licorne.logging.Logger is its logger class",
        ),
        ("logger_class = 'nowhere.Logger'\n", "logger_class: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "from licorne.logging import Logger\nclass Mine(Logger):\n    def setup(self, cfg): 1 / 0\n"
            "logger_class = Mine\n",
            "logger_class: ZeroDivisionError",
        ),
    ],
    ids=["no gunicorn", "no module", "setup"],
)
def test_what_cannot_be_used_is_explained(tmp_path, conf, said):
    (tmp_path / "web.py").write_text(web())
    (tmp_path / "gunicorn.conf.py").write_text(conf)
    with Server("web:app", cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == 1
        assert said in server.log
