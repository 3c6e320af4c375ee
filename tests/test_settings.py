"""Settings, seen from the command: what is printed, what is checked, what other servers' names and values do."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.server import Server, wait_until

WEB = """
    async def app(scope, receive, send):
        raise NotImplementedError
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in {"web.py": WEB, **files}.items():
        (folder / name).write_text(textwrap.dedent(text))


class Said(NamedTuple):
    log: str
    output: str


def end_of(folder: Path, *args: str, bind: str | None = None, env: dict[str, str] | None = None) -> tuple[int, Said]:
    with Server(*args, cwd=folder, wait=False, bind=bind, env=env) as server:
        return server.wait_exit(), Said(server.log, server.output)


# --- --print-config


def test_each_value_is_printed_with_its_origin(tmp_path):
    write(tmp_path, {"gunicorn.conf.py": "\nworkers = 2\ntimeout = 60\n"})
    env = {"WEB_CONCURRENCY": "7", "LICORNE_BACKLOG": "100"}
    code, said = end_of(tmp_path, "web:app", "--threads", "3", "--print-config", env=env)
    assert code == 0
    lines = dict(re.findall(r"^(\w+) += (.*)$", said.output, re.MULTILINE))
    assert lines["workers"] == "2  # gunicorn.conf.py:2"
    assert lines["timeout"] == "60  # gunicorn.conf.py:3"
    assert lines["backlog"] == "100  # $LICORNE_BACKLOG"
    assert lines["threads"] == "3  # --threads"
    assert lines["app"] == '"web:app"  # APP'
    assert lines["keepalive"].endswith("  # default")


def test_what_is_printed_is_a_configuration_file(tmp_path):
    write(tmp_path, {})
    args = ["--workers", "3", "--bind", "127.0.0.1:0", "--bind", "unix:x.sock", "--access-logfile", "-", "--chdir", "."]
    code, first = end_of(tmp_path, "web:app", *args, "--print-config")
    assert code == 0
    (tmp_path / "licorne.conf.py").write_text(first.output)
    code, second = end_of(tmp_path, "--print-config")
    assert code == 0

    def values(text: str) -> dict[str, str]:
        found = re.findall(r"^(\w+) += (.*?)  # ", text, re.MULTILINE)
        return {name: value for name, value in found if name not in ("config", "python")}

    assert values(first.output) == values(second.output)


def test_nothing_is_opened_to_print(tmp_path):
    write(tmp_path, {})
    with Server("web:app", cwd=tmp_path) as server:
        code, _ = end_of(tmp_path, "web:app", "--print-config", "--bind", f"127.0.0.1:{server.port}")
        assert code == 0


# Weakest first: where a value comes from, what it sets there, and what is printed then.
STEPS = [
    ("workers", {"variables": {"WEB_CONCURRENCY": "2"}}, "2  # $WEB_CONCURRENCY"),
    ("workers", {"file": "workers = 3\n"}, "3  # gunicorn.conf.py:1"),
    ("workers", {"variables": {"GUNICORN_CMD_ARGS": "-w 4"}}, "4  # -w in $GUNICORN_CMD_ARGS"),
    ("workers", {"variables": {"LICORNE_CMD_ARGS": "--workers=5"}}, "5  # --workers in $LICORNE_CMD_ARGS"),
    ("workers", {"arguments": ["-w", "6"]}, "6  # -w"),
    ("bind", {"variables": {"PORT": "1000"}}, '["0.0.0.0:1000"]  # $PORT'),
    ("bind", {"file": "bind = ':2'\n"}, '[":2"]  # gunicorn.conf.py:1'),
    ("bind", {"variables": {"UVICORN_PORT": "3"}}, '["127.0.0.1:3"]  # $UVICORN_PORT'),
    ("bind", {"arguments": ["--bind", ":4"]}, '[":4"]  # --bind'),
    ("forwarded_allow_ips", {"variables": {"FORWARDED_ALLOW_IPS": "10.0.0.1"}}, '["10.0.0.1"]  # $FORWARDED_ALLOW_IPS'),
    ("forwarded_allow_ips", {"file": "forwarded_allow_ips = '*'\n"}, '["*"]  # gunicorn.conf.py:1'),
    ("forwarded_allow_ips", {"variables": {"UVICORN_FORWARDED_ALLOW_IPS": "::1"}}, '["::1"]  # $UVICORN_FORWARDED'),
    ("forwarded_allow_ips", {"arguments": ["--forwarded-allow-ips", "::2"]}, '["::2"]  # --forwarded-allow-ips'),
    ("sendfile", {"variables": {"SENDFILE": "no"}}, "False  # $SENDFILE"),
    ("sendfile", {"file": "sendfile = True\n"}, "True  # gunicorn.conf.py:1"),
    ("sendfile", {"variables": {"GUNICORN_CMD_ARGS": "--no-sendfile"}}, "False  # --no-sendfile in $GUNICORN_CMD_ARGS"),
]


@pytest.mark.parametrize("name", ["workers", "bind", "forwarded_allow_ips", "sendfile"])
def test_which_source_is_stronger(tmp_path, name):
    """Each step leaves the weaker ones where they are, except a variable that another of the same strength precedes."""
    write(tmp_path, {})
    variables: dict[str, str] = {}
    arguments: list[str] = []
    for _, said, expected in (step for step in STEPS if step[0] == name):
        variables |= said.get("variables", {})
        arguments += said.get("arguments", [])
        if "file" in said:
            write(tmp_path, {"gunicorn.conf.py": said["file"]})
        code, printed = end_of(tmp_path, "web:app", *arguments, "--print-config", env=variables)
        assert code == 0, printed.log
        assert re.search(rf"^{name} += {re.escape(expected)}", printed.output, re.MULTILINE), expected


# --- unknown variables


@pytest.mark.parametrize("strict", [None, "variable", "file"])
def test_a_variable_that_is_none(tmp_path, strict):
    write(tmp_path, {"gunicorn.conf.py": "strict_config = True\n" if strict == "file" else ""})
    variables = {"LICORNE_WORKER": "3", "UVICORN_LOG_LEVELS": "info"}
    variables |= {"LICORNE_STRICT_CONFIG": "1"} if strict == "variable" else {}
    code, said = end_of(tmp_path, "web:app", "--check-config", env=variables)
    assert code == (1 if strict else 0)
    assert "$LICORNE_WORKER: no such setting; did you mean $LICORNE_WORKERS?" in said.log
    assert "$UVICORN_LOG_LEVELS: no such setting; did you mean $UVICORN_LOG_LEVEL?" in said.log


# --- --check-config


@pytest.mark.parametrize(
    ("files", "app", "code", "message"),
    [
        ({}, "web:app", 0, ""),
        ({}, "web:nope", 4, 'has no attribute "nope"'),
        ({"broken.py": "1 / 0"}, "broken:app", 4, "ZeroDivisionError"),
        ({"gunicorn.conf.py": "workers = 0"}, "web:app", 1, "workers = '0'"),
        ({"gunicorn.conf.py": "workers ="}, "web:app", 1, "gunicorn.conf.py:1: invalid syntax"),
        ({"gunicorn.conf.py": "worker_class = 'gevent'"}, "web:app", 1, "runs no greenlets"),
    ],
    ids=["good", "attribute", "import", "value", "syntax", "worker class"],
)
def test_check(tmp_path, files, app, code, message):
    write(tmp_path, files)
    ended, said = end_of(tmp_path, app, "--check-config")
    assert (ended, message in said.log) == (code, True)
    assert "Listening" not in said.log


# --- the allocator


@pytest.mark.parametrize("where", ["option", "variable", "file"])
@pytest.mark.parametrize("which", ["jemalloc", "system"])
def test_the_allocator(tmp_path, where, which):
    write(tmp_path, {"gunicorn.conf.py": f"malloc = '{which}'" if where == "file" else ""})
    arguments = ["--malloc", which] if where == "option" else []
    # What is weaker says the opposite.
    other = "system" if which == "jemalloc" else "jemalloc"
    variables = {"variable": which, "option": other, "file": ""}[where]
    with Server("web:app", *arguments, cwd=tmp_path, env={"LICORNE_MALLOC": variables}) as server:
        (worker,) = server.workers()
        mapped = Path(f"/proc/{worker}/maps").read_text()
        assert ("jemalloc" in mapped) == (which == "jemalloc")
        assert server.log.count("Starting") == 1 and "ERROR" not in server.log


# --- mistakes


def test_all_mistakes_come_out_at_once(tmp_path):
    write(tmp_path, {"gunicorn.conf.py": "threads = 'many'\nkeepalive = -1\n"})
    code, said = end_of(tmp_path, "web:app", "--workers", "x", "--port", "y", env={"LICORNE_BACKLOG": "z"})
    assert code == 1
    for part in (
        "workers = 'x' (from --workers)",
        "port = 'y' (from --port)",
        "backlog = 'z' (from $LICORNE_BACKLOG)",
        "threads = 'many' (from gunicorn.conf.py:1)",
        "keepalive = '-1' (from gunicorn.conf.py:2)",
    ):
        assert part in said.log


# --- names and values of other servers


def test_an_old_command_line_serves(tmp_path):
    write(tmp_path, {})
    args = [
        "-k",
        "uvicorn.workers.UvicornWorker",
        "--worker-tmp-dir",
        "/dev/shm",
        "--loop",
        "uvloop",
        "--spew",
    ]
    with Server("web:app", *args, cwd=tmp_path) as server:
        assert server.log.count("has no effect") == 3


def test_an_old_file_serves(tmp_path):
    text = """
        import multiprocessing
        class Worker:
            pass
        Worker.__module__ = "uvicorn.workers"
        worker_class = Worker
        workers = min(multiprocessing.cpu_count() * 2 + 1, 2)
        worker_tmp_dir = "/dev/shm"
        dirty_workers = 2
    """
    write(tmp_path, {"gunicorn.conf.py": text})
    with Server("web:app", cwd=tmp_path) as server:
        assert 'gunicorn.conf.py:8: "worker_tmp_dir" has no effect' in server.log
        assert 'gunicorn.conf.py:9: "dirty_workers" has no effect: licorne has no dirty arbiters' in server.log
        assert "WARNING" not in server.log


# --- the application's surroundings


def test_environment_mask_and_output(tmp_path):
    app = """
        import os, subprocess
        print("printed", os.environ["SHOP"], os.environ["TILL"], flush=True)
        subprocess.run(["sh", "-c", "echo child $SHOP"])
        open("made", "w").close()

        async def app(scope, receive, send):
            raise NotImplementedError
    """
    write(tmp_path, {"web.py": app, "gunicorn.conf.py": 'raw_env = ["SHOP=lisbon=1", "TILL="]\numask = 0o027\n'})
    with Server("web:app", "--capture-output", "--log-file", "err.log", cwd=tmp_path, wait=False) as server:
        wait_until(
            lambda: (tmp_path / "err.log").exists() and "Ready" in (tmp_path / "err.log").read_text(), "the start"
        )
        lines = (tmp_path / "err.log").read_text().splitlines()
        assert {"printed lisbon=1 ", "child lisbon=1"} <= set(lines)
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o640
        assert server.output == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-m", "8"], ""),
        (["-m", "08"], "umask = '08' (from -m): must be an octal number"),
        (["-m", "0o1000"], "umask = '0o1000'"),
        (["-e", "SHOP"], "raw_env = 'SHOP' (from -e): must be NAME=VALUE"),
    ],
)
def test_masks_and_variables_are_checked(tmp_path, args, message):
    write(tmp_path, {})
    code, said = end_of(tmp_path, "web:app", "--check-config", *args)
    assert (code, message in said.log) == (1 if message else 0, True)


# --- every setting of gunicorn 27

GUNICORN = """
    config wsgi_app bind backlog workers worker_class threads worker_connections max_requests
    max_requests_jitter timeout graceful_timeout keepalive asgi_loop asgi_lifespan asgi_disconnect_grace_period
    http_parser limit_request_line limit_request_fields limit_request_field_size reload reload_engine
    reload_extra_files spew check_config print_config preload_app sendfile reuse_port chdir daemon raw_env
    pidfile worker_tmp_dir user group umask initgroups tmp_upload_dir secure_scheme_headers forwarded_allow_ips
    pythonpath paste proxy_protocol proxy_allow_ips protocol uwsgi_allow_ips raw_paste_global_conf
    permit_obsolete_folding strip_header_spaces permit_unconventional_http_method
    permit_unconventional_http_version casefold_http_method forwarder_headers header_map root_path accesslog
    disable_redirect_access_to_syslog access_log_format errorlog loglevel capture_output logger_class logconfig
    logconfig_dict logconfig_json syslog_addr syslog syslog_prefix syslog_facility enable_stdio_inheritance
    statsd_host dogstatsd_tags statsd_prefix enable_backlog_metric proc_name default_proc_name keyfile certfile
    ssl_version cert_reqs ca_certs suppress_ragged_eofs do_handshake_on_connect ciphers http_protocols
    http2_cleartext http2_max_concurrent_streams http2_initial_window_size http2_max_frame_size
    http2_max_header_list_size dirty_apps dirty_workers dirty_timeout dirty_threads dirty_graceful_timeout
    control_socket control_socket_mode control_socket_disable websocket_max_message_size
"""
HOOKS = """
    on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int worker_abort pre_exec pre_request
    post_request child_exit worker_exit nworkers_changed on_exit ssl_context on_dirty_starting dirty_post_fork
    dirty_worker_init dirty_worker_exit
"""


NOT_ANY_TEXT = ("check_config", "print_config", "errorlog", "chdir", "paste")


def test_every_setting_of_gunicorn_is_known_or_explained(tmp_path):
    names = GUNICORN.split()
    assert len(names) + len(HOOKS.split()) == 120
    # A value that no typed setting takes: what is known is refused or read, what is not known is mentioned.
    lines = [f"{name} = 'x y'" for name in names if name not in NOT_ANY_TEXT]
    write(tmp_path, {"gunicorn.conf.py": "\n".join([*lines, "loglevel = 'debug'"])})
    _, said = end_of(tmp_path, "web:app", "--log-level", "debug", "--print-config")
    unknown = re.findall(r'"(\w+)" is no setting', said.log)
    assert unknown == []
    assert len(re.findall(r'"\w+" has no effect: ', said.log)) >= 15
