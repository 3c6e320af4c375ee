"""PasteDeploy's ini files, as Pyramid's projects have them: --paste, [server:main], logging, pserve's way in."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.server import Server, command, wait_until

pytest.importorskip("paste.deploy")

# As `cookiecutter pyramid` writes it, with the application where no package has to be installed.
INI = """
    [app:main]
    use = call:shop:main
    pyramid.reload_templates = true
    sqlalchemy.url = sqlite:///%(here)s/shop.sqlite
    greeting = %(hello)s

    [app:admin]
    use = call:shop:main
    greeting = admin

    [filter:shout]
    use = call:shop:shout

    [pipeline:loud]
    pipeline = shout main

    [DEFAULT]
    hello = good day

    [server:main]
    use = egg:gunicorn#main
    host = 127.0.0.1
    port = 0
    workers = 2
    timeout = 77
    proc_name = shop

    [loggers]
    keys = root, shop

    [handlers]
    keys = console, file

    [formatters]
    keys = generic

    [logger_root]
    level = INFO
    handlers = console

    [logger_shop]
    level = DEBUG
    handlers = file
    qualname = shop

    [handler_console]
    class = StreamHandler
    args = (sys.stderr,)
    level = NOTSET
    formatter = generic

    [handler_file]
    class = FileHandler
    args = ('%(here)s/shop.log',)
    formatter = generic

    [formatter_generic]
    format = %(asctime)s %(levelname)-5.5s [%(name)s:%(lineno)s][%(threadName)s] %(message)s
"""

SHOP = """
    import logging

    log = logging.getLogger("shop")

    def main(global_config, **settings):
        def app(environ, start_response):
            log.debug("asked for %s", environ["PATH_INFO"])
            said = "|".join((settings["greeting"], settings.get("sqlalchemy.url", "")))
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [said.encode()]
        return app

    def shout(global_config):
        def wrap(app):
            return lambda environ, start: [part.upper() for part in app(environ, start)]
        return wrap
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "development.ini").write_text(textwrap.dedent(INI))
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    return tmp_path


def ask(server: Server) -> str:
    with server.connect() as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return client.makefile("rb").read().decode().partition("\r\n\r\n")[2]


def shown(folder: Path, *arguments: str) -> dict[str, str]:
    line = [*command(), *arguments, "--print-config"]
    ran = subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True)
    return dict(line.split(maxsplit=2)[::2] for line in ran.stdout.splitlines() if " = " in line)


def test_an_ini_file_serves(folder):
    with Server("--paste", "development.ini", bind=None, cwd=folder) as server:
        assert ask(server) == f"good day|sqlite:///{folder}/shop.sqlite"
        assert "Serving development.ini with 2 workers" in server.log
        wait_until(lambda: "asked for /x" in (folder / "shop.log").read_text(), "the application's line")
        assert "INFO  [gunicorn.error:" in server.log  # the server's, in the format of the file


@pytest.mark.parametrize(
    ("name", "said"), [("admin", "admin|"), ("loud", "GOOD DAY|SQLITE:///{}/SHOP.SQLITE")], ids=["app", "pipeline"]
)
def test_one_of_its_applications(folder, name, said):
    with Server("--paste", f"development.ini#{name}", "-w", "1", bind=None, cwd=folder) as server:
        assert ask(server) == said.format(str(folder).upper())


def test_global_variables(folder):
    text = (folder / "development.ini").read_text()
    text = text.replace("greeting = admin", "greeting = %(who)s").replace("77", "%(limit)s")
    (folder / "development.ini").write_text(text)
    arguments = ["--paste", "development.ini#admin", "--paste-global", "who=a\\=b = c", "--paste-global=limit=5"]
    assert shown(folder, *arguments)["timeout"].startswith("5  #")
    with Server(*arguments, "--workers", "1", bind=None, cwd=folder) as server:
        assert ask(server).startswith("a=b = c|")


def test_it_is_found_in_chdir_too(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    arguments = ["--paster", "development.ini", "--chdir", str(folder), "--workers", "1"]
    with Server(*arguments, bind=None, cwd=elsewhere) as server:
        assert ask(server).startswith("good day|")


def test_what_is_stronger(folder):
    rows = shown(folder, "--paste", "development.ini")
    assert rows["workers"] == "2  # development.ini [server:main]"
    assert rows["bind"] == '["127.0.0.1:0"]  # development.ini [server:main]'
    assert rows["timeout"].startswith("77  #") and rows["proc_name"].startswith('"shop"')
    assert rows["logconfig"] == f'"{folder}/development.ini"  # development.ini [server:main]'
    (folder / "gunicorn.conf.py").write_text("workers = 3\nbind = 'unix:x.sock,127.0.0.1:1'\n")
    rows = shown(folder, "--paste", "development.ini", "--timeout", "5")
    assert rows["workers"] == "3  # gunicorn.conf.py:1" and rows["timeout"] == "5  # --timeout"
    assert rows["bind"] == '["unix:x.sock", "127.0.0.1:1"]  # gunicorn.conf.py:2'


def test_the_file_may_be_named_in_the_configuration(folder):
    (folder / "gunicorn.conf.py").write_text("paste = 'development.ini'\nworkers = 1\n")
    with Server(bind=None, cwd=folder) as server:
        assert ask(server).startswith("good day|")


def test_the_section_of_another_server_is_not_ours(folder):
    text = (folder / "development.ini").read_text().replace("egg:gunicorn#main", "egg:waitress#main")
    (folder / "development.ini").write_text(text.replace("workers = 2", "listen = *:6543"))
    assert shown(folder, "--paste", "development.ini")["workers"] == "1  # default"


@pytest.mark.parametrize(
    ("ini", "arguments", "code", "message"),
    [
        (None, [], 1, "paste = 'development.ini' cannot be read: No such file or directory"),
        ("[server:main\n", [], 1, "paste = 'development.ini' cannot be read: File contains no section headers"),
        ("[server:main]\nuse = egg:gunicorn\nworker = 2\n", [], 1, "'worker' (from development.ini [server:main])"),
        ("[app:main]\nuse = call:nowhere:main\n", [], 4, "No module named 'nowhere'"),
        ("[app:main]\nuse = call:shop:main\n", ["--paste", "development.ini#x"], 4, "No section 'x'"),
    ],
    ids=["missing", "malformed", "setting", "module", "name"],
)
def test_mistakes(folder, ini, arguments, code, message):
    (folder / "development.ini").unlink() if ini is None else (folder / "development.ini").write_text(ini)
    line = [*command(), "--paste", "development.ini", *arguments, "--check-config"]
    ran = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    assert (ran.returncode, message in ran.stderr) == (code, True), ran.stderr


def test_without_the_package(folder):
    (folder / "gunicorn.conf.py").write_text("import sys\nsys.modules['paste.deploy'] = None\n")
    line = [*command(), "--paste", "development.ini", "--check-config"]
    ran = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 4
    assert "cannot be loaded: ImportError: it needs the package PasteDeploy: pip install PasteDeploy" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_other_programs_find_it(folder):
    """What pserve does with `use = egg:licorne#main`."""
    (main,) = [entry for entry in entry_points(group="paste.server_runner") if entry.value.startswith("licorne.")]
    assert main.name == "main"
    text = (folder / "development.ini").read_text().replace("egg:gunicorn#main", "egg:licorne#main")
    (folder / "development.ini").write_text(text)
    program = "from paste.deploy import loadapp, loadserver\nimport sys\nuri = 'config:' + sys.argv[1]\n"
    program += "loadserver(uri)(loadapp(uri))\n"
    pserve = [sys.executable, "-c", program, str(folder / "development.ini")]
    with Server(bind=None, cwd=folder, program=pserve) as server:
        assert ask(server).startswith("good day|")
