"""The configuration file: where it is found, what its values become, and what is said about mistakes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.server import Server, wait_until

WEB = """
    async def app(scope, receive, send):
        raise NotImplementedError
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in {"web.py": WEB, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def end_of(folder: Path, *args: str) -> tuple[int, str]:
    with Server(*args, cwd=folder, wait=False) as server:
        code = server.wait_exit()
        return code, server.log


# --- where it is found


@pytest.mark.parametrize(
    ("args", "workers"),
    [
        ([], 2),
        (["--config", "other.py"], 3),
        (["-c", "file:other.py"], 3),
        (["-c", "python:shop.settings"], 4),
        (["--workers", "5"], 5),
    ],
    ids=["default", "path", "file", "module", "command line"],
)
def test_the_file_is_found(tmp_path, args, workers):
    files = {
        "gunicorn.conf.py": "workers = 2",
        "other.py": "workers = 3",
        "shop/__init__.py": "",
        "shop/settings.py": "workers = 4",
    }
    write(tmp_path, files)
    with Server("web:app", *args, cwd=tmp_path) as server:
        assert f"Serving web:app with {workers} workers" in server.log


def test_the_own_name_goes_before_gunicorns(tmp_path):
    write(tmp_path, {"licorne.conf.py": "workers = 2", "gunicorn.conf.py": "workers = 3"})
    with Server("web:app", cwd=tmp_path) as server:
        assert "with 2 workers" in server.log


def test_without_a_file_the_defaults_hold(tmp_path):
    write(tmp_path, {})
    with Server("web:app", cwd=tmp_path) as server:
        assert "with 1 worker\n" in server.log


# --- what its values become


def test_a_file_as_gunicorns_users_write_them(tmp_path):
    path = tmp_path / "s.sock"
    text = f"""
        import json
        import multiprocessing
        import os
        from datetime import timedelta
        from pathlib import Path

        wsgi_app = "web:app"
        host = os.environ.get("HOST", "0.0.0.0")
        port = os.environ.get("PORT", "80")
        bind = [f"unix:{{Path({str(path)!r})}}"]
        cores = multiprocessing.cpu_count()
        workers_per_core = "0.5"
        workers = max(int(float(workers_per_core) * cores), 2) and 2
        WORKERS_MAX = None
        Timeout = 120
        graceful_timeout = timedelta(seconds=20)
        keepalive = 5.0
        preload_app = True
        accesslog = None
        errorlog = os.fspath(Path("-"))
        loglevel = "debug"
        worker_tmp_dir = "/dev/shm"
        secure_scheme_headers = {{"X-FORWARDED-PROTO": "https"}}

        class Helper:
            workers = 99

        def helper():
            global workers
            return workers

        print(json.dumps({{"file": __file__, "name": __name__}}))
    """
    write(tmp_path, {"gunicorn.conf.py": text})
    with Server(bind=None, cwd=tmp_path, env={"PYTHONUNBUFFERED": ""}) as server:
        assert server.addresses == [f"unix:{path}"]
        assert "Serving web:app with 2 workers" in server.log
        wait_until(lambda: f'{{"file": "{tmp_path}/gunicorn.conf.py", "name": "__config__"}}' in server.output)
        assert "worker_tmp_dir" in server.log  # at debug: it is no setting here


def test_a_list_is_taken_item_by_item(tmp_path):
    one, two = tmp_path / "a,b.sock", tmp_path / "c.sock"
    write(tmp_path, {"licorne.conf.py": f"bind = ('unix:{one}', 'unix:{two}')"})
    with Server("web:app", bind=None, cwd=tmp_path) as server:
        assert server.addresses == [f"unix:{one}", f"unix:{two}"]


def test_the_file_runs_once_and_imports_from_the_working_directory(tmp_path):
    files = {"licorne.conf.py": "import numbers_of_ours\nworkers = numbers_of_ours.N\nprint('ran')", "x": ""}
    write(tmp_path, {**files, "numbers_of_ours.py": "N = 3"})
    with Server("web:app", cwd=tmp_path) as server:
        assert "with 3 workers" in server.log
    # its own folder is left as it was: no compiled file beside it
    assert not list(tmp_path.glob("__pycache__/licorne*"))


def test_a_hook_is_said_not_to_be_called(tmp_path):
    names = ["ssl_context", "on_dirty_starting", "dirty_post_fork", "dirty_worker_init", "dirty_worker_exit"]
    write(tmp_path, {"gunicorn.conf.py": "".join(f"def {name}(*args):\n    raise SystemExit\n" for name in names)})
    with Server("web:app", cwd=tmp_path) as server:
        for i, name in enumerate(names):
            assert f'gunicorn.conf.py:{2 * i + 1}: the hook "{name}" is not called' in server.log


def test_a_slip_is_answered_with_the_nearest_name(tmp_path):
    write(tmp_path, {"gunicorn.conf.py": "timeot = 3\nDATABASE_URL = 'x'\n_workers = 3\n"})
    with Server("web:app", cwd=tmp_path) as server:
        assert 'gunicorn.conf.py:1: "timeot" is no setting: ignored. Did you mean "timeout"?' in server.log
        assert "database_url" not in server.log


def test_what_only_other_servers_have_is_said_to_have_no_effect(tmp_path):
    text = """
        http2_cleartext = "both"
        metrics = True
        reload = False
        certfile = None
    """
    write(tmp_path, {"gunicorn.conf.py": text})
    with Server("web:app", cwd=tmp_path) as server:
        said = [line for line in server.log.splitlines() if "[WARNING]" in line]
        assert len(said) == 2
        assert 'gunicorn.conf.py:2: "http2_cleartext" has no effect: ' in said[0]
        assert 'gunicorn.conf.py:3: "metrics" has no effect: ' in said[1]


# --- mistakes


def test_all_bad_values_are_told_with_their_lines(tmp_path):
    write(tmp_path, {"gunicorn.conf.py": "workers = 0\n\ntimeout = 'soon'\nkeepalive = 2\n"})
    code, log = end_of(tmp_path, "web:app")
    assert code == 1
    assert "gunicorn.conf.py:1" in log
    assert "gunicorn.conf.py:3" in log
    assert "gunicorn.conf.py:4" not in log
    assert "gunicorn.conf.py: 2 settings cannot be used: see above" in log


def test_one_bad_value_is_one_line(tmp_path):
    write(tmp_path, {"gunicorn.conf.py": "workers = 'many'\n"})
    code, log = end_of(tmp_path, "web:app")
    assert code == 1
    assert log.count("[ERROR]") == 1
    assert "workers = 'many' (from gunicorn.conf.py:1)" in log


def test_what_the_file_raises_is_logged_with_its_own_frames(tmp_path):
    files = {
        "gunicorn.conf.py": "from helpers import count\n\nworkers = count()\n",
        "helpers.py": "def count():\n    return 1 / 0\n",
    }
    write(tmp_path, files)
    code, log = end_of(tmp_path, "web:app")
    assert code == 1
    assert f'File "{tmp_path}/gunicorn.conf.py", line 3' in log
    assert f'File "{tmp_path}/helpers.py", line 2, in count' in log
    assert "licorne/" not in log
    assert "gunicorn.conf.py:3 failed: ZeroDivisionError: division by zero" in log


@pytest.mark.parametrize("statement", ["raise SystemExit(7)", "raise KeyboardInterrupt"])
def test_a_file_that_exits_is_a_failure(tmp_path, statement):
    write(tmp_path, {"gunicorn.conf.py": statement})
    code, log = end_of(tmp_path, "web:app")
    assert code == 1
    assert "gunicorn.conf.py:1 failed: " in log


@pytest.mark.parametrize(
    ("files", "args", "line"),
    [
        ({"gunicorn.conf.py": "wor kers = 2"}, [], "gunicorn.conf.py:1: invalid syntax"),
        ({}, ["-c", "missing.py"], "missing.py cannot be read: No such file or directory"),
        ({"folder.py/x": ""}, ["-c", "folder.py"], "folder.py cannot be read: Is a directory"),
        ({}, ["-c", "python:nosuch.settings"], "No module named 'nosuch'"),
    ],
    ids=["syntax", "missing", "folder", "module"],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, files, args, line):
    write(tmp_path, files)
    code, log = end_of(tmp_path, "web:app", *args)
    assert code == 1
    assert line in log
    assert "frozen" not in log
