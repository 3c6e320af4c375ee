"""`licorne convert`: what becomes of a uWSGI ini file, and what is said of the lines that nothing stands for."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import textwrap
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from licorne import _uwsgi_options as table
from licorne.convert import RULES, main
from tests.support.server import Server, command

LICORNE = command()[0]
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def convert(folder: Path, ini: str, *args: str) -> Done:
    """In this process: a table of a hundred options would else start a hundred interpreters."""
    (folder / "uwsgi.ini").write_text(textwrap.dedent(ini))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["uwsgi.ini", *args])
    return Done(code, out.getvalue(), err.getvalue())


def names_of(text: str, **environment: str) -> dict[str, object]:
    """What the file sets, run with just these variables."""
    names: dict[str, object] = {}
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        exec(compile(text, "licorne.conf.py", "exec"), names)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {name: value for name, value in names.items() if not name.startswith("__") and name != "os"}


def settings_of(folder: Path, lines: str, **environment: str) -> dict[str, object]:
    done = convert(folder, "[uwsgi]\n" + textwrap.dedent(lines))
    assert done.returncode == 0, done.stderr
    return names_of(done.stdout, **environment)


# --- options

OPTIONS = [
    ("module = shop.wsgi", {"wsgi_app": "shop.wsgi:application"}),
    ("wsgi = shop.wsgi:app", {"wsgi_app": "shop.wsgi:app"}),
    ("callable = app\nmodule = shop", {"wsgi_app": "shop:app"}),
    ("wsgi-file = web.py\ncallable = app", {"wsgi_app": "web:app"}),
    ("wsgi-file = src/web.py", {"wsgi_app": "web:application", "pythonpath": "src"}),
    ("pp = a\npythonpath = b", {"pythonpath": "a,b"}),
    ("mount = /shop=shop.wsgi:app", {"wsgi_app": "shop.wsgi:app", "root_path": "/shop"}),
    ("paste = config:site.ini", {"paste": "site.ini"}),
    ("ini-paste = site.ini", {"paste": "site.ini"}),
    ("http = :8080", {"bind": [":8080"]}),
    ("http-socket = a.sock\nhttp = 127.0.0.1:80", {"bind": ["unix:a.sock", "127.0.0.1:80"]}),
    ("socket = /run/a.sock", {"bind": ["unix:/run/a.sock"], "protocol": "uwsgi"}),
    ("protocol = http\nsocket = :80", {"bind": [":80"]}),
    ("http = :80\nsocket = /run/a.sock", {"bind": [":80"]}),
    ("socket = :3031\nchmod-socket = 660", {"umask": "007"}),
    ("chmod-socket = 666", {"umask": "000"}),
    ("chmod-socket = 644", {"umask": "022"}),
    ("listen = 512", {"backlog": 512}),
    ("processes = 4", {"workers": 4}),
    ("workers = %k", {"workers": os.cpu_count()}),
    ("processes = %(%k * 2)", {"workers": 2 * (os.cpu_count() or 1)}),
    ("workers = 8\ncheaper = 2", {"workers": 2, "workers_min": 2, "workers_max": 8}),
    ("cheaper = 1\ncheaper-initial = 3\nprocesses = 9", {"workers": 3, "workers_min": 1, "workers_max": 9}),
    ("threads = 4", {"threads": 4}),
    ("harakiri = 30", {"request_timeout": 30, "timeout": 40}),
    ("harakiri = 30\nharakiri-graceful-timeout = 5", {"timeout": 35, "request_timeout_grace": 5}),
    ("", {"timeout": 0, "preload_app": True, "accesslog": "-"}),
    ("lazy-apps = true", {"preload_app": False}),
    ("lazy-apps = false", {"preload_app": True}),
    ("max-requests = 1000\nmax-requests-delta = 50", {"max_requests": 1000, "max_requests_jitter": 50}),
    ("max-worker-lifetime = 3600", {"max_worker_lifetime": 3600}),
    ("reload-on-rss = 200\nevil-reload-on-rss = 400", {"max_worker_memory": "200M", "max_worker_memory_hard": "400M"}),
    ("worker-reload-mercy = 20", {"graceful_timeout": 20}),
    ("buffer-size = 32768", {"limit_request_head": 32768, "limit_request_line": 32768}),
    ("limit-post = 1000000", {"limit_request_body": 1000000}),
    ("socket-timeout = 30", {"body_timeout": 30, "write_timeout": 30}),
    ("http-keepalive = 20", {"keepalive": 20}),
    ("add-header = A: b\nadd-header = C: d", {"headers": ["A: b", "C: d"]}),
    ("enable-proxy-protocol = true", {"proxy_protocol": "auto"}),
    ("wsgi-disable-file-wrapper = true", {"sendfile": False}),
    ("uid = web\ngid = www", {"user": "web", "group": "www"}),
    ("env = A=1\nenv = B=x y", {"raw_env": ["A=1", "B=x y"]}),
    ("pidfile = /run/a.pid\nprocname-prefix = shop", {"pidfile": "/run/a.pid", "proc_name": "shop"}),
    ("disable-logging = true", {"accesslog": None}),
    ("logto = /var/a.log", {"errorlog": "/var/a.log", "accesslog": "/var/a.log"}),
    ("logto = a.log\ndisable-logging", {"errorlog": "a.log", "accesslog": None}),
    ("logger = file:a.log\nreq-logger = file:b.log", {"errorlog": "a.log", "accesslog": "b.log"}),
    ("logger = syslog:shop,local0", {"syslog": True, "syslog_prefix": "shop"}),
    ("log-syslog", {"syslog": True, "syslog_addr": "unix:///dev/log"}),
    ('log-format = %(addr) "%(method)" %(msecs)', {"access_log_format": '%(h)s "%(m)s" %(M)s'}),
    ("log-slow = 250", {"slow_request": 0.25}),
    ("py-autoreload = 2", {"reload": True}),
    ("max-fd = 4096", {"open_files": 4096}),
    ("strict = true", {"strict_config": True}),
]


IDS = [lines.replace("\n", " ")[:40] or "-" for lines, _ in OPTIONS]


@pytest.mark.parametrize(("lines", "expected"), OPTIONS, ids=IDS)
def test_an_option_becomes_a_setting(tmp_path, lines, expected):
    settings = settings_of(tmp_path, lines)
    assert {name: settings.get(name, "not there") for name in expected} == expected


def test_every_setting_is_one_of_licornes(tmp_path):
    """Nothing that convert writes is refused by who reads it."""
    lines = "\n".join(["[uwsgi]", *(line for lines, _ in OPTIONS for line in lines.splitlines())])
    done = convert(tmp_path, re.sub(r"(?m)^(ini-)?paste.*\n|^uid.*\n|^gid.*\n", "", lines))
    (tmp_path / "licorne.conf.py").write_text(done.stdout)
    command = [LICORNE, "--print-config", "--strict-config"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert shown.returncode == 0, shown.stderr


ANYWAY = ["master = true", "vacuum", "die-on-term = 1", "enable-threads = true", "plugins = python3"]


@pytest.mark.parametrize("line", ANYWAY)
def test_what_is_so_anyway_is_named_with_the_reason(tmp_path, line):
    done = convert(tmp_path, f"[uwsgi]\n{line}\n")
    name = line.partition(" ")[0]
    assert re.search(rf"(?m)^#   {name}: \w", done.stdout)
    assert "without a counterpart" not in done.stderr


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("home = /srv/venv", "/srv/venv/bin/licorne"),
        ("static-map = /static=/srv/static", "nginx"),
        ("cron = 0 3 -1 -1 -1 backup", "systemd timer"),
        ("mule = jobs.py", "task queue"),
        ("gevent = 100", "threads"),
        ("stats = 127.0.0.1:9191", "licorne ctl status"),
        ("touch-reload = /srv/reload", "licorne ctl reload"),
        ("hook-master-start = exec:date", "when_ready"),
        ("route = ^/a last:", "nginx"),
        ("daemonize = /var/log/a.log", "--daemon"),
        ("https = :443,a.crt,a.key", "HAProxy"),
        ("plugins = python3,gevent", "no plugins"),
        ("threads = many", "a number is wanted"),
        ("proceses = 3", "processes?"),
        ("log-format = %(addr) %(wid)", "no atom stands for wid"),
        ("mount = /a=a.py\nmount = /b=b.py", "DispatcherMiddleware"),
    ],
)
def test_what_has_no_counterpart_stays_as_a_comment(tmp_path, line, instead):
    done = convert(tmp_path, f"[uwsgi]\n{line}\n")
    comment = re.search(r"(?m)^# uwsgi\.ini:(\d): (.*)\n#     -> (.*)$", done.stdout)
    assert comment, done.stdout
    assert (comment[2], int(comment[1])) == (line.splitlines()[int(comment[1]) - 2], int(comment[1]))
    assert instead in comment[3]
    assert "1 without a counterpart" in done.stderr


# --- the ini file's own language


def test_placeholders_are_resolved_wherever_they_stand(tmp_path):
    lines = "name = shop\nchdir = %(root)/src\nroot = /srv/%(name)\nprocname = %(name)-%n-%e-%c\nname = other"
    settings = settings_of(tmp_path, lines)
    assert settings["chdir"] == "/srv/shop/src"
    assert settings["proc_name"] == f"shop-uwsgi-ini-{tmp_path.name}"


def test_arithmetic(tmp_path):
    assert settings_of(tmp_path, "n = 4\nprocesses = %(n * 3)")["workers"] == 12


def test_what_a_placeholder_is_made_of_is_not_reported(tmp_path):
    done = convert(tmp_path, "[uwsgi]\nroot = /srv\nchdir = %(root)\n")
    assert "without a counterpart" not in done.stderr


def test_variables_of_the_environment_stay_open(tmp_path):
    lines = "http-socket = :$(PORT)\nprocesses = $(WORKERS)\nenv = URL=http://$(HOST)/"
    settings = settings_of(tmp_path, lines, PORT="81", WORKERS="3", HOST="h")
    assert settings["bind"] == [":81"] and settings["workers"] == 3 and settings["raw_env"] == ["URL=http://h/"]


def test_conditions_become_ifs(tmp_path):
    lines = """
        env = A=1
        if-env = DSN
        env = DSN=%(_)
        processes = 7
        endif =
        if-not-exists = /nonexistent
        threads = 2
        endif =
    """
    with_it, without = settings_of(tmp_path, lines, DSN="x"), settings_of(tmp_path, lines)
    assert (with_it["raw_env"], with_it["workers"], with_it["threads"]) == (["A=1", "DSN=x"], 7, 2)
    assert (without["raw_env"], without.get("workers"), without["threads"]) == (["A=1"], None, 2)


def test_a_list_that_begins_in_a_condition(tmp_path):
    lines = "if-env = DSN\nenv = DSN=%(_)\nendif ="
    assert settings_of(tmp_path, lines)["raw_env"] == []
    assert settings_of(tmp_path, lines, DSN="x")["raw_env"] == ["DSN=x"]


def test_loops(tmp_path):
    lines = "for = 3031 3032\nhttp-socket = 127.0.0.1:%(_)\nendfor =\nfor-times = 2\nenv = N%(_)=1\nendfor ="
    settings = settings_of(tmp_path, lines)
    assert settings["bind"] == ["127.0.0.1:3031", "127.0.0.1:3032"]
    assert settings["raw_env"] == ["N1=1", "N2=1"]


def test_other_files_and_sections(tmp_path):
    (tmp_path / "base.ini").write_text("[uwsgi]\nthreads = 3\n[more]\nlisten = 9\n")
    lines = "ini = base.ini\nini = base.ini:more\nini = :own\n[own]\nprocesses = 2\n[never]\nprocesses = 5"
    settings = settings_of(tmp_path, lines)
    assert (settings["threads"], settings["backlog"], settings["workers"]) == (3, 9, 2)


def test_a_section_can_be_named(tmp_path):
    (tmp_path / "a.ini").write_text("[uwsgi]\nthreads = 1\n[live]\nthreads = 8\n")
    done = subprocess.run([LICORNE, "convert", "a.ini:live"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert names_of(done.stdout)["threads"] == 8


def test_characters_that_python_treats_differently(tmp_path):
    settings = settings_of(tmp_path, 'env = A="x" \\n {y} é\nenv = B="{z}" $(V)', V="v")
    assert settings["raw_env"] == ['A="x" \\n {y} é', 'B="{z}" v']


# --- mistakes


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        ("[other]\nthreads = 1\n", "there is no section [uwsgi]"),
        ("", "there is no section [uwsgi]"),
        ("[uwsgi]\nini = uwsgi.ini\n", "files include each other"),
        ("[uwsgi]\nini = gone.ini\n", "gone.ini: No such file or directory"),
        ("[uwsgi]\nfor-times = x\n", "for-times wants a number"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, ini, message):
    done = convert(tmp_path, ini)
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_malformed_command_line_and_help(tmp_path):
    assert subprocess.run([LICORNE, "convert"], capture_output=True, check=False).returncode == 2
    shown = subprocess.run([LICORNE, "convert", "--help"], capture_output=True, text=True, check=True)
    assert "uWSGI ini file" in shown.stdout


def test_an_existing_file_is_not_replaced(tmp_path):
    assert convert(tmp_path, "[uwsgi]\nthreads = 2\n", "-o", "out.py").returncode == 0
    written = (tmp_path / "out.py").read_text()
    done = convert(tmp_path, "[uwsgi]\nthreads = 3\n", "-o", "out.py")
    assert done.returncode == 1 and "out.py: File exists" in done.stderr
    assert (tmp_path / "out.py").read_text() == written


def test_as_a_module(tmp_path):
    python = os.environ.get("LICORNE_PYTHON", sys.executable)
    (tmp_path / "a.ini").write_text("[uwsgi]\nthreads = 8\n")
    command = [python, "-m", "licorne", "convert", "a.ini"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert names_of(done.stdout)["threads"] == 8


# --- the whole


def test_what_was_converted_serves(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "shop.py").write_text(
        "import os\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [os.environ['SHOP'].encode(), environ['SCRIPT_NAME'].encode()]\n"
    )
    done = convert(
        tmp_path,
        """
        [uwsgi]
        ; the shop
        base = %d
        chdir = %(base)/src
        mount = /shop=shop:app
        master = true
        http-socket = $(BIND)
        processes = 2
        threads = 2
        harakiri = 20
        env = SHOP=open
        vacuum = true
        disable-logging = true
        """,
    )
    (tmp_path / "licorne.conf.py").write_text(done.stdout)
    with Server(cwd=tmp_path, bind=None, env={"BIND": "127.0.0.1:0"}) as server:
        with urllib.request.urlopen(f"{server.url}/shop/a", timeout=20) as response:
            assert response.read() == b"open/shop"


def test_the_page_names_the_options_that_convert_knows():
    """docs/from-uwsgi.md is for reading; what it promises is what the tables hold."""
    known = {*RULES, *table.CARRIED_OVER, *table.NOT_NEEDED, *table.NOT_HERE, *table.ALIASES}
    page = (ROOT / "docs" / "from-uwsgi.md").read_text()
    rows = re.findall(r"(?m)^\| (`[a-z].*?) \|", page)
    named = {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)}
    families = tuple(table.NOT_HERE_FAMILIES)
    assert len(named) > 60
    assert [name for name in sorted(named) if name not in known and not name.startswith(families)] == []
