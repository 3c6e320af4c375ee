"""The application, from its name: what is found, what it speaks, and what is said when it is not there."""

from __future__ import annotations

import functools
import http.client
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from licorne import _core
from tests.support.server import Server, wait_until


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def get(server: Server, path: str = "/") -> str:
    assert not isinstance(server.address, str)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return body
    finally:
        connection.close()


def end_of(folder: Path, *args: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and log of a server that cannot start; nothing is left behind."""
    with Server(*args, cwd=folder, env=env, wait=False) as server:
        code = server.wait_exit()
        return code, server.log


# --- what is found

SITE = """
    import os

    class Site:
        def __init__(self, name):
            self.name = name
        def __call__(self, environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [self.name.encode()]
        def nested(self, *args, **keywords):
            return Site(f"{self.name} nested {args} {keywords}")

    application = Site("the application")
    app = Site("the app")
    site = Site("the site")
    site.inner = Site("the inner site")

    def create(*args, **keywords):
        return Site(f"made of {args} {keywords}")

    def create_app():
        return Site("made")
"""


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["web"], "the application"),
        (["web:app"], "the app"),
        (["web:site.inner"], "the inner site"),
        (["web:create()"], "made of () {}"),
        (["web:create('a', -1, key={'b': [1.5, None, True]})"], "made of ('a', -1) {'key': {'b': [1.5, None, True]}}"),
        (["web:site.nested(2)"], "the site nested (2,) {}"),
        (["web:create", "--factory"], "made of () {}"),
        (["web", "--factory"], "made"),
        (["web:create(1)", "--factory"], "made of (1,) {}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_application_is_found(tmp_path, args, answer):
    write(tmp_path, {"web.py": SITE})
    with Server(*args, cwd=tmp_path) as server:
        assert get(server) == answer


def test_app_is_the_second_default(tmp_path):
    write(tmp_path, {"shop/__init__.py": "", "shop/web.py": SITE + "\n    del application"})
    with Server("shop.web", cwd=tmp_path) as server:
        assert get(server) == "the app"


def test_chdir_comes_first_on_the_path_and_is_the_working_directory(tmp_path):
    shows = """
        import os, sys
        def app(environ, start_response):
            start_response("200 OK", [])
            return [f"{os.getcwd()} {sys.path[0]} {'' in sys.path} {sys.argv}".encode()]
    """
    write(tmp_path, {"web.py": "raise RuntimeError('the wrong one')", "inner/web.py": shows})
    with Server("web:app", "--chdir", "inner", cwd=tmp_path) as server:
        assert get(server) == f"{tmp_path}/inner {tmp_path}/inner False ['licorne']"


def test_pythonpath_goes_before_the_working_directory_in_its_order(tmp_path):
    shows = """
        import sys
        def app(environ, start_response):
            start_response("200 OK", [])
            return ["\\n".join(sys.path[:3]).encode()]
    """
    write(tmp_path, {"a/web.py": shows, "b/web.py": "", "web.py": ""})
    with Server("web:app", "--pythonpath", "a,b", cwd=tmp_path) as server:
        assert get(server).split("\n") == [f"{tmp_path}/a", f"{tmp_path}/b", f"{tmp_path}"]


def test_a_log_with_a_relative_path_lies_where_chdir_leads(tmp_path):
    write(tmp_path, {"inner/web.py": SITE})
    log = tmp_path / "inner" / "error.log"
    with Server("web", "--chdir", "inner", "--error-logfile", "error.log", cwd=tmp_path, wait=False):
        wait_until(lambda: log.exists() and "Ready: " in log.read_text(), "the server")
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


# --- what it speaks


async def asgi3(scope, receive, send):
    pass


def wsgi(environ, start_response):
    return []


class Asgi3:
    async def __call__(self, scope, receive, send):
        pass

    async def method(self, scope, receive, send):
        pass


class Asgi3Sync:
    def __call__(self, scope, receive, send):
        return asgi3(scope, receive, send)


class Asgi3InSlot:
    __slots__ = ("__call__",)

    def __init__(self):
        self.__call__ = self.run

    async def run(self, scope, receive, send):
        pass


class Asgi2:
    def __init__(self, scope):
        pass

    async def __call__(self, receive, send):
        pass


class Asgi2Sync:
    def __init__(self, scope):
        pass

    def __call__(self, receive, send):
        return asgi3(None, receive, send)


class Wsgi:
    def __call__(self, environ, start_response):
        return []


class WsgiClass:
    def __init__(self, environ, start_response):
        pass

    def __iter__(self):
        return iter(())


class AwaitableClass:
    def __init__(self, scope, receive, send):
        pass

    def __await__(self):
        yield


def asgi2(scope):
    async def instance(receive, send):
        pass

    return instance


@functools.wraps(asgi3)
def decorated_asgi(*args, **keywords):
    return asgi3(*args, **keywords)


@functools.wraps(wsgi)
def decorated_wsgi(*args, **keywords):
    return wsgi(*args, **keywords)


async def asgi_with_settings(settings, scope, receive, send):
    pass


def wsgi_with_settings(settings, environ, start_response):
    return []


def marked(scope, receive, send=None):
    return asgi3(scope, receive, send)


marked._is_coroutine = True


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("kind", "application"),
    [
        ("ASGI", asgi3),
        ("ASGI", Asgi3()),
        ("ASGI", Asgi3().method),
        ("ASGI", Asgi3Sync()),
        ("ASGI", Asgi3InSlot()),
        ("ASGI", AwaitableClass),
        ("ASGI", functools.partial(asgi_with_settings, {})),
        ("ASGI", functools.partial(Asgi3())),
        ("ASGI", functools.partial(functools.partial(asgi3))),
        ("ASGI", decorated_asgi),
        ("ASGI", lambda scope, receive, send: asgi3(scope, receive, send)),
        ("ASGI", marked),
        ("ASGI 2", Asgi2),
        ("ASGI 2", Asgi2Sync),
        ("ASGI 2", asgi2),
        ("WSGI", wsgi),
        ("WSGI", Wsgi()),
        ("WSGI", WsgiClass),
        ("WSGI", decorated_wsgi),
        ("WSGI", functools.partial(wsgi_with_settings, {})),
        ("WSGI", lambda environ, start_response: []),
        ("WSGI", lambda *args: []),
        ("WSGI", print),
    ],
)
def test_the_kind_of_an_application(kind, application):
    assert _core.application_kind(application) == kind


def test_interface_overrides_the_shape(tmp_path):
    files = {
        "web.py": """
            def app(*args):
                if len(args) == 3:
                    return serve(*args)
                args[1]("200 OK", [])
                return [b"as WSGI"]

            async def serve(scope, receive, send):
                if scope["type"] == "http":
                    await send({"type": "http.response.start", "status": 200})
                    await send({"type": "http.response.body", "body": b"as ASGI"})
        """
    }
    write(tmp_path, files)
    with Server("web:app", cwd=tmp_path) as server:
        assert get(server) == "as WSGI"
    with Server("web:app", "--interface", "asgi3", "--lifespan", "off", cwd=tmp_path) as server:
        assert get(server) == "as ASGI"


# --- what is not there

BROKEN = {
    "nosuch": ({}, 'No module named "nosuch" (looked in {cwd} first).'),
    "wbe:app": ({"web.py": ""}, 'No module named "wbe" (looked in {cwd} first). Did you mean "web"?'),
    "shop.wbe:app": ({"shop/__init__.py": "", "shop/web.py": ""}, 'Did you mean "shop.web"?'),
    "web.py:app": ({"web.py": ""}, "Write the module's name, \"web\", not the file's."),
    "src/web.py": ({"src/web.py": ""}, "Write the module's name, \"src.web\", not the file's."),
    "hidden:app": ({"src/hidden.py": ""}, "There is one in src: add --pythonpath src."),
    "web:aplication": ({"web.py": SITE}, '"web" has no attribute "aplication". Did you mean web:application?'),
    "web:site.iner": ({"web.py": SITE}, '"web:site" has no attribute "iner". Did you mean web:site.inner?'),
    "empty": ({"empty.py": ""}, '"empty" has neither "application" nor "app". The module is empty ({cwd}/empty.py).'),
    "only": ({"only.py": "def create_app(): pass"}, "Did you mean 'only:create_app()'?"),
    "odd": ({"odd.py": "async def serve(scope, receive, send): pass"}, "Did you mean odd:serve?"),
    "number:app": ({"number.py": "app = 3"}, '"number:app" is an int, not an application: it cannot be called.'),
    "web:make()": ({"web.py": "def make(): pass"}, '"web:make()" returned None, not an application'),
    "web:make(name)": ({"web.py": SITE}, '"web:make(name)" is no name of an application. Write MODULE, MODULE:NAME,'),
    "web:1+1": ({"web.py": SITE}, '"web:1+1" is no name of an application.'),
    "web:a b": ({"web.py": SITE}, '"web:a b" is no name of an application.'),
    "web:make(1)": (
        {"web.py": "def make(): pass"},
        'Calling "web:make(1)" failed: TypeError: make() takes 0 positional arguments but 1 was given',
    ),
}


@pytest.mark.parametrize("app", BROKEN)
def test_the_line_for_what_cannot_be_loaded(tmp_path, app):
    files, line = BROKEN[app]
    write(tmp_path, files)
    code, log = end_of(tmp_path, app)
    assert code == 4
    assert line.format(cwd=tmp_path) in log
    assert "Traceback" not in log


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["in the worker", "preloaded"])
def test_a_traceback_shows_the_users_frames_alone(tmp_path, preload):
    files = {
        "web.py": "from shop import models\n",
        "shop/__init__.py": "",
        "shop/models.py": "def connect():\n    raise ValueError('no such host:\\nfirst')\nconnect()\n",
    }
    write(tmp_path, files)
    code, log = end_of(tmp_path, "web:app", *preload)
    assert code == 4
    assert f'File "{tmp_path}/web.py", line 1' in log
    assert f'File "{tmp_path}/shop/models.py", line 2, in connect' in log
    assert "importlib" not in log
    assert "licorne/" not in log
    line = f'Importing "web" failed: ValueError: no such host: first ({tmp_path}/shop/models.py:2).'
    assert line in log
    assert log.count("Traceback") == 1


def test_a_missing_dependency_is_told_from_a_missing_application(tmp_path):
    write(tmp_path, {"web.py": "import nosuchlibrary\n"})
    code, log = end_of(tmp_path, "web:app")
    assert code == 4
    assert f"No module named 'nosuchlibrary' ({tmp_path}/web.py:1). Is it installed in " in log
    assert "looked in" not in log


def test_a_syntax_error_shows_the_line(tmp_path):
    write(tmp_path, {"web.py": "x = (3\napp = 1\n"})
    code, log = end_of(tmp_path, "web:app")
    assert code == 4
    assert f'File "{tmp_path}/web.py", line 1\n    x = (3\n' in log
    assert "(web.py, line 1)" in log
    assert "importlib" not in log


@pytest.mark.parametrize("statement", ["import sys; sys.exit(5)", "raise KeyboardInterrupt", "exit()"])
def test_a_module_that_exits_is_a_failure(tmp_path, statement):
    write(tmp_path, {"web.py": statement})
    code, log = end_of(tmp_path, "web:app")
    assert code == 4
    assert 'Importing "web" failed: ' in log


def test_what_a_factory_raises_is_logged_with_its_cause(tmp_path):
    files = {
        "web.py": """
            def create_app():
                try:
                    {}["DATABASE"]
                except KeyError as error:
                    raise RuntimeError("the settings are incomplete") from error
        """
    }
    write(tmp_path, files)
    code, log = end_of(tmp_path, "web:create_app()")
    assert code == 4
    assert "KeyError: 'DATABASE'" in log
    assert "The above exception was the direct cause" in log
    assert 'Calling "web:create_app()" failed: RuntimeError: the settings are incomplete' in log


def test_a_very_long_traceback_keeps_its_end(tmp_path):
    write(tmp_path, {"web.py": "raise ValueError('x' * 50_000 + 'the end')"})
    code, log = end_of(tmp_path, "web:app")
    assert code == 4
    assert "the end\n" in log
    assert "bytes left out" in log


def test_a_lifespan_that_fails_is_a_worker_that_cannot_boot(tmp_path):
    files = {
        "web.py": """
            async def app(scope, receive, send):
                assert scope["type"] == "lifespan"
                await receive()
                await send({"type": "lifespan.startup.failed", "message": "no database"})
        """
    }
    write(tmp_path, files)
    code, log = end_of(tmp_path, "web:app")
    assert code == 3
    assert "no database" in log


def test_python_m_licorne_uses_the_interpreter_that_runs_it(tmp_path):
    from licorne.__main__ import executable

    if executable() is None:
        pytest.skip("the command is not installed beside this interpreter")
    write(tmp_path, {"web.py": "import sys\nraise SystemExit(sys.executable)"})
    result = subprocess.run(
        [sys.executable, "-m", "licorne", "web", "--bind", "127.0.0.1:0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 4
    assert f"SystemExit: {sys.executable}" in result.stderr
