"""Configuration files as people write them for gunicorn (tests/configs/): each is used unchanged.

What a file comes to is what --print-config shows; what hooks do is seen in a server that runs with it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.server import Server, command

CONFIGS = Path(__file__).resolve().parent / "configs"
CPUS = os.cpu_count() or 1

WEB = """
pool = None

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@dataclass
class Case:
    settings: dict[str, object] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    app: tuple[str, ...] = ("web:wsgi",)
    marks: tuple[str, ...] = ()  # in the log of a server that has served a request and ended
    refused: str = ""


CORPUS: dict[str, Case] = {
    "cpu_count": Case({"workers": CPUS * 2 + 1, "threads": 2, "timeout": 120}),
    "environment": Case({"bind": ["0.0.0.0:8000"], "workers": 3, "threads": 1, "reload": False, "accesslog": None}),
    "environment, set": Case(
        {"bind": ["0.0.0.0:9"], "workers": 5, "reload": True, "accesslog": "-"},
        env={"PORT": "9", "WEB_CONCURRENCY": "5", "WEB_RELOAD": "yes", "ACCESS_LOG": "1"},
    ),
    "environment_prefix": Case({"timeout": 90, "workers": 2}, env={"GUNICORN_TIMEOUT": "90", "GUNICORN_WORKERS": "2"}),
    "computed": Case(
        {"bind": ["0.0.0.0:80"], "workers": max(CPUS, 2), "graceful_timeout": 120, "keepalive": 5, "loglevel": "info"}
    ),
    "computed, set": Case(
        {"bind": ["127.0.0.1:1"], "workers": 2, "loglevel": "warning"},
        env={"BIND": "127.0.0.1:1", "MAX_WORKERS": "2", "WORKERS_PER_CORE": "8", "LOG_LEVEL": "warning"},
    ),
    "logging_dict": Case(marks=("[INFO] [gunicorn.error] Ready: ",)),
    "logging_dict_of_gunicorn": Case({"loglevel": "warning"}),
    "django": Case(
        {"raw_env": ["DJANGO_SETTINGS_MODULE=shop.settings.production", "DJANGO_DEBUG=0"], "preload_app": True},
        app=(),
    ),
    "uvicorn_worker": Case({"workers": 2, "forwarded_allow_ips": ["*"]}, app=()),
    "asgi_worker": Case({"lifespan": "off", "ws_max_size": 1024 * 1024}, app=()),
    "gevent": Case(refused="runs no greenlets"),
    "gthread": Case({"workers": 2, "threads": 8, "keepalive": 65, "worker_connections": 512, "max_requests": 1000}),
    "tls": Case(refused="TLS"),
    "statsd": Case({"workers": 1}),
    "unix_socket": Case({"backlog": 512}),
    "heroku": Case({"bind": ["0.0.0.0:8000"], "secure_scheme_headers": ["X-FORWARDED-PROTO:https"]}),
    "development": Case(
        {"reload": True, "reload_extra_files": [str(CONFIGS / "development.py")], "loglevel": "debug", "timeout": 0}
    ),
    "functions": Case({"workers": 4, "bind": ["127.0.0.1:8001", "127.0.0.1:8002"], "raw_env": ["A=1", "B=2"]}),
    "star": Case({"workers": 2, "threads": 4, "timeout": 90, "loglevel": "warning"}),
    "optional_agent": Case(marks=("Worker spawned (pid: ",)),
    "lambdas": Case(marks=("MARK starting",)),
    "paths": Case({"workers": 1}),
    "access_log": Case({"accesslog": "-", "capture_output": True}),
    "request_hooks": Case(marks=("MARK GET /a 200 OK True GET",)),
    "lifecycle_hooks": Case(
        marks=(
            "MARK starting 1",
            "MARK ready. Spawning workers at ",
            "MARK spawned True 1",
            "MARK init True",
            "MARK workers 1 None",
            "MARK exit False",
            "MARK exit of the server",
        )
    ),
    "json_file": Case({"workers": 2, "timeout": 45, "bind": ["127.0.0.1:0"], "preload_app": True}),
    "every_default": Case({"workers": 1, "backlog": 2048, "keepalive": 2, "worker_connections": 1000, "umask": "0"}),
    "timedelta": Case({"timeout": 120, "graceful_timeout": 45, "limit_request_line": 8190, "max_requests": 100000}),
    "database": Case({"preload_app": True}, marks=("MARK pool True", "MARK closing True")),
    "constants": Case({"workers": 3, "timeout": 30, "bind": ["127.0.0.1:8000"]}),
}


def path_of(name: str) -> str:
    return str(CONFIGS / f"{name.partition(',')[0]}.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web.py").write_text(WEB)
    return tmp_path


def environment(case: Case) -> dict[str, str]:
    given = ("PORT", "HOST", "BIND", "WEB_CONCURRENCY", "LOG_LEVEL", "TIMEOUT", "MAX_WORKERS", "WORKERS")
    return {name: value for name, value in os.environ.items() if name not in given} | case.env | {"PYTHONPATH": "."}


def run(args: list[str], folder: Path, env: dict[str, str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        args, cwd=folder, env=env, input=text, capture_output=True, text=True, timeout=60, check=False
    )


def printed(text: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec("\n".join(re.findall(r"(?m)^\w+ += .*", text)), names)
    return names


def test_every_file_is_here():
    files = {path.stem for path in CONFIGS.glob("*.py")} - {"star_base"}
    assert files == {name.partition(",")[0] for name in CORPUS}
    assert len(files) >= 25


@pytest.mark.parametrize("name", CORPUS)
def test_what_a_file_comes_to(folder, name):
    case = CORPUS[name]
    args = [*command(), "--print-config", "--config", path_of(name), *case.app]
    done = subprocess.run(
        args, cwd=folder, env=environment(case), capture_output=True, text=True, timeout=60, check=False
    )
    if case.refused:
        assert done.returncode == 1
        assert case.refused in done.stderr
        return
    assert done.returncode == 0, done.stderr
    settings = printed(done.stdout)
    assert {setting: settings.get(setting, "not there") for setting in case.settings} == case.settings


@pytest.mark.parametrize("name", [name for name, case in CORPUS.items() if case.marks])
def test_what_its_hooks_do(folder, name):
    case = CORPUS[name]
    args = ("--config", path_of(name), *case.app)
    with Server(*args, "--log-level", "info", cwd=folder, env={**case.env, "PYTHONPATH": "."}) as server:
        with urllib.request.urlopen(f"{server.url}/a", timeout=20) as response:
            assert response.read() == b"ok"
        server.stop()
        missing = [mark for mark in case.marks if mark not in server.log + server.output]
        assert missing == [], server.log


# --- gunicorn's own reading of them

READER = """
import json, os, sys
from gunicorn.app.wsgiapp import WSGIApplication

names, files = json.load(sys.stdin)
found = {}
for key, (path, env) in files.items():
    os.environ.update(env)
    sys.argv = ["gunicorn", "--config", path, "web:wsgi"]
    sys.modules.pop("__config__", None)
    settings = WSGIApplication("gunicorn").cfg.settings
    found[key] = {name: settings[name].get() for name in names}
    for name in env:
        del os.environ[name]
print("\\n" + json.dumps(found, default=str))
"""
COMMON = (
    "bind backlog workers threads timeout graceful_timeout keepalive worker_connections max_requests accesslog reload "
    "raw_env preload_app limit_request_line loglevel"
).split()


def test_gunicorn_reads_the_same(folder):
    """What is expected above is what gunicorn makes of the same file."""
    pytest.importorskip("gunicorn")
    files = {name: (path_of(name), case.env) for name, case in CORPUS.items() if not case.refused}
    args = [sys.executable, "-c", READER]
    question = json.dumps([COMMON, files])
    env = {name: value for name, value in environment(Case()).items() if not name.startswith("GUNICORN")}
    done = run(args, folder, env, question)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in files:
        expected = {key: value for key, value in CORPUS[name].settings.items() if key in COMMON}
        theirs = {key: value.lower() if key == "loglevel" else value for key, value in found[name].items()}
        assert {key: theirs[key] for key in expected} == expected, name
