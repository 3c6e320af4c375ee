"""`licorne.run()`: the server from a program, with the parameter names of `uvicorn.run()`.

One process, and nothing that needs more: the server is `licorne.Server`, in the caller's process. Several workers,
reload, or a setting that concerns processes: the server is the command `licorne` in a process of its own, told to use
this interpreter; the caller waits for its end and passes signals on. There the application is named, not handed over:
what is given as an object is looked up among the globals of the module that calls.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from licorne import _core
from licorne.__main__ import executable
from licorne.config import SETTING_GROUPS, STARTUP_FAILURE, Config
from licorne.server import Server

RENAMED = {"reload_dirs": "reload-dir", "reload_includes": "reload-include", "reload_excludes": "reload-exclude"}
ON_BY_DEFAULT = frozenset(("access_log", "date_header", "proxy_headers", "server_header", "use_colors"))
LOG_LEVELS = {5: "trace", 10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}


def options(parameters: Mapping[str, Any]) -> list[str]:
    """The command line that says the same."""
    words: list[str] = []
    for name, value in parameters.items():
        words += _option(name, value)
    return words


def _option(name: str, value: Any) -> list[str]:
    option = "--" + RENAMED.get(name, name.replace("_", "-"))
    if name == "headers":
        return [f"--header={key}:{text}" for key, text in value or ()]
    if name == "log_level":
        value = LOG_LEVELS.get(value, value)
    if value is None or value is False:
        return ["--no-" + option[2:]] if value is False and name in ON_BY_DEFAULT else []
    if value is True:
        return [option]
    if isinstance(value, Mapping):
        raise TypeError(f"{name} cannot be a dictionary here: write it in a configuration file")
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [f"{option}={item}" for item in value]
    return [f"{option}={os.fspath(value) if isinstance(value, os.PathLike) else value}"]


def _named(app: object, names: Mapping[str, Any]) -> tuple[str, str | None]:
    """ "main:app", and the folder to import it from."""
    attribute = next((name for name, value in names.items() if value is app), None)
    spec, path = names.get("__spec__"), names.get("__file__")
    if attribute is None or (spec is None and path is None):
        raise TypeError('licorne.run() needs the name of the application, for example: licorne.run("main:app")')
    if spec is not None:
        return f"{spec.name}:{attribute}", None
    module, _ = os.path.splitext(os.path.basename(path))
    return f"{module}:{attribute}", os.path.dirname(os.path.abspath(path))


def run(app: object, **parameters: Any) -> None:
    """Serves until it is told to end: `uvicorn.run()`, with its parameters.

    Other settings of licorne may be given by name as well. Returns after an interrupt from the keyboard; SystemExit has
    the server's exit code when it could not start (3), or when a server of its own processes has ended with another
    than 0."""
    if _needs_processes(parameters):
        _run_processes(app, sys._getframe(1).f_globals, parameters)
        return
    folder = parameters.pop("app_dir", None)
    if folder is not None:
        sys.path.insert(0, os.fspath(folder))
    config = Config(app, **parameters)
    config.load()
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _needs_processes(parameters: Mapping[str, Any]) -> bool:
    workers = parameters.get("workers") or os.environ.get("WEB_CONCURRENCY") or 1
    if parameters.get("reload") or workers == "auto" or int(workers) > 1:
        return True
    known = {*inspect.signature(Config).parameters, "app_dir"}
    groups = {_core.setting_group(name) for name in parameters if name not in known}
    return not groups <= {None, *SETTING_GROUPS}


def _run_processes(app: object, names: Mapping[str, Any], parameters: dict[str, Any]) -> None:
    name, folder = app, None
    if not isinstance(app, str):
        name, folder = _named(app, names)
    if folder is not None:
        parameters.setdefault("app_dir", folder)
    program = executable()
    if program is None:
        raise FileNotFoundError("the executable `licorne` is not installed in this environment")
    environment = dict(os.environ)
    if isinstance(parameters.get("log_config"), Mapping):
        environment["LICORNE_LOGCONFIG_DICT"] = json.dumps(parameters.pop("log_config"))
    code = _wait([program, "--python", sys.executable, str(name), *options(parameters)], environment)
    if code != 0:
        sys.exit(code)


def _wait(command: list[str], environment: dict[str, str]) -> int:
    # A session of its own: a terminal's ^C would reach it twice, once from the terminal and once from here.
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:

        def forward(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        if threading.current_thread() is not threading.main_thread():
            return process.wait()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, forward) for number in numbers}
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
