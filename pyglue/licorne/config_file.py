"""The configuration file: Python that is run once, by the mold, before anything else of the application.

`read()` runs it as the module `__config__` and hands its settings back as text; pyglue/config_file.c puts them into the
table (config/settings.def), which knows what is allowed. Its hooks go to licorne.hooks. The module stays in
`sys.modules`.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from licorne import _paste

DEFAULT_FILES = ("licorne.conf.py", "gunicorn.conf.py")
PROJECT_FILE = "pyproject.toml"  # its table [tool.licorne]

HOOKS = frozenset(
    "on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int worker_abort pre_request "
    "post_request child_exit worker_exit nworkers_changed pre_exec on_exit".split()
)
UNSUPPORTED_HOOKS = frozenset(
    ("ssl_context", "on_dirty_starting", "dirty_post_fork", "dirty_worker_init", "dirty_worker_exit")
)

# Lists that gunicorn takes apart where they are one text.
SPLIT = frozenset(("bind", "raw_env", "raw_paste_global_conf"))

# Other ways to say `bind`. In a file that has `bind`, names like these are its own variables.
BIND_PARTS = frozenset(("host", "port", "uds", "fd"))


class Mistake(Exception):
    """What cannot be used: a hook, an ini file. The message says where and why."""


class Setting(NamedTuple):
    name: str
    values: list[str | None]  # a list's items one by one; None: the default
    place: str  # "gunicorn.conf.py:3"


class File(NamedTuple):
    where: str
    settings: list[Setting]
    unknown: list[tuple[str, str]]  # names that are no settings but look like values, with their places
    hooks: list[tuple[str, str]]  # those that are not called
    functions: list[tuple[str, str]]  # those that are


def find(config: str | None) -> str | None:
    if config:
        return config
    return next((name for name in (*DEFAULT_FILES, PROJECT_FILE) if os.path.isfile(name)), None)


def read(
    config: str | None,
    paste: str | None,
    paste_globals: list[str],
    chdir: str | None,
    known: Callable[[str], bool],
    named: Callable[[str], str | None],
) -> File | None:
    """The settings of the named file, or of the default one; None: there is no file. Raises what the file raises.

    `paste`, `paste_globals`, `chdir`: the settings that are given elsewhere. `known`: is this the name of a setting?
    `named`: the setting that a name, or an option's, means.
    """
    ini = _read_ini(paste, paste_globals, chdir) if paste else None
    if ini is not None:
        config = config or ini.settings.pop("config", None)
    file = _read_file(find(config), known, named)
    if ini is None and file is not None:
        values = [setting.values[0] for setting in file.settings if setting.name == "paste"]
        ini = _read_ini(values[0], paste_globals, chdir) if values and values[0] else None
    return file if ini is None else _with_ini(ini, file)


def _read_file(found: str | None, known: Callable[[str], bool], named: Callable[[str], str | None]) -> File | None:
    if found is None:
        return None
    if found.endswith(".toml"):
        return _read_toml(found, named)
    if found.startswith("python:"):
        module = importlib.import_module(found[len("python:") :])
        where, source = found, _source_of(module)
    else:
        path = found[len("file:") :] if found.startswith("file:") else found
        where = os.path.normpath(path)
        module, source = _run(path)
    return _sort(where, vars(module), _lines(source), known)


def _read_ini(uri: str, raw_global_conf: list[str], chdir: str | None) -> _paste.Ini:
    import configparser

    from licorne import _paste

    try:
        return _paste.read(uri, raw_global_conf, chdir)
    except OSError as error:
        raise Mistake(f"paste = '{uri}' cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise Mistake(f"paste = '{uri}' cannot be read: {' '.join(str(error).split())}") from error


def _with_ini(ini: _paste.Ini, file: File | None) -> File:
    """What the file says is stronger."""
    file = file or File(ini.where, [], [], [], [])
    said = {setting.name for setting in file.settings}
    if said & {"bind", *BIND_PARTS}:
        said |= {"bind", *BIND_PARTS}
    if ini.has_logging and not said & {"logconfig", "logconfig_dict", "logconfig_json"}:
        file.settings.append(Setting("logconfig", [ini.path], ini.where))
    for name, value in ini.settings.items():
        if name not in said:
            file.settings.append(Setting(name, [value], ini.where))
    return file


def _read_toml(path: str, named: Callable[[str], str | None]) -> File | None:
    """Its table holds settings and nothing else: no name is the file's own, and options' names are good ones."""
    with open(path, "rb") as file:
        source = file.read()
    if b"licorne" not in source:
        return None
    table = _parse_toml(source).get("tool", {}).get("licorne", {})
    plain = ((name.replace("-", "_"), value) for name, value in table.items())
    names = {named(name) or name: value for name, value in plain}
    return _sort(f"{path} [tool.licorne]", names, {}, lambda name: True)


def _parse_toml(source: bytes) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # before Python 3.11
        import tomli as tomllib
    return tomllib.loads(source.decode())


def load_env_file(path: str) -> None:
    """Raises what is wrong, for one line in the log."""
    try:
        import dotenv
    except ImportError:
        raise ImportError("it needs the package python-dotenv: pip install python-dotenv") from None
    with open(path, encoding="utf-8") as stream:
        dotenv.load_dotenv(stream=stream)


def _run(path: str) -> tuple[types.ModuleType, bytes]:
    with open(path, "rb") as file:
        source = file.read()
    module = types.ModuleType("__config__")
    module.__file__ = os.path.abspath(path)
    sys.modules["__config__"] = module
    exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
    return module, source


def _source_of(module: types.ModuleType) -> bytes:
    path = getattr(module, "__file__", None)
    if path is None or not path.endswith(".py"):
        return b""
    with open(path, "rb") as file:
        return file.read()


def _lines(source: bytes) -> dict[str, int]:
    """Where each global name was last bound."""
    import ast

    lines: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
        else:
            continue
        for name in names:
            lines[name] = max(node.lineno, lines.get(name, 0))  # type: ignore[attr-defined]
    return lines


def _sort(where: str, names: dict[str, Any], lines: dict[str, int], known: Callable[[str], bool]) -> File:
    file = File(where, [], [], [], [])
    has_bind = "bind" in names
    for name, value in list(names.items()):
        place = f"{where}:{lines[name]}" if name in lines else where
        if name in HOOKS and (callable(value) or isinstance(value, str)):
            _add_hook(name, value, place)
            file.functions.append((name, place))
        elif name in UNSUPPORTED_HOOKS and callable(value):
            file.hooks.append((name, place))
        elif name in ("worker_class", "logger_class") and isinstance(value, type):
            file.settings.append(Setting(name, [f"{value.__module__}.{value.__qualname__}"], place))
        elif name.startswith("_") or name != name.lower() or not _is_plain(value):
            continue  # imports, functions, objects: the file's own
        elif (name in BIND_PARTS and has_bind) or name == "config":
            continue
        elif name == "control_socket_disable":  # gunicorn's; the command line's --no-control-socket
            file.settings.extend([Setting("control_socket", [""], place)] if value else [])
        elif known(name):
            file.settings.append(Setting(name, _texts(name, value), place))
        elif value:  # None, False, "": what it is without licorne's help
            file.unknown.append((name, place))
    return file


def _add_hook(name: str, value: object, place: str) -> None:
    from licorne import hooks

    try:
        hooks.add(name, value)
    except (TypeError, ImportError, AttributeError) as error:
        raise Mistake(f"{place}: {error}") from error


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(item) for item in value)
    plain = (str, bytes, int, float, dict, os.PathLike, _class("datetime.timedelta"), _class("enum.Enum"))
    return value is None or (isinstance(value, plain) and not isinstance(value, type))


def _class(name: str) -> Any:
    """That class, for isinstance(): nothing is of it while nobody has imported its module."""
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module), attribute, ())


def _texts(name: str, value: Any) -> list[str | None]:
    if name == "logconfig_dict" and isinstance(value, dict):
        import json

        return [json.dumps(value, default=repr, skipkeys=True) if value else None]
    if name == "headers" and isinstance(value, (list, tuple)):  # also pairs, as uvicorn takes them
        return [":".join(map(_plain, item)) if isinstance(item, (list, tuple)) else _text(item) for item in value]
    if isinstance(value, dict):  # headers, secure_scheme_headers
        return [f"{_text(key)}:{_text(item)}" for key, item in value.items()] or [None]
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, str) and name in SPLIT:
        value = [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, (list, tuple)):
        return [_text(item) for item in value] or [None]
    return [_text(value)]


def _plain(value: Any) -> str:
    return _text(value) or ""


def _text(value: Any) -> str | None:
    if isinstance(value, _class("enum.Enum")):
        value = value.value
    if isinstance(value, _class("datetime.timedelta")):
        value = value.total_seconds()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, dict):
        import json

        return json.dumps(value)
    if isinstance(value, (bytes, os.PathLike)):
        return os.fsdecode(value)
    return str(value)


def describe(error: BaseException, config: str | None) -> str:
    """The one line for an error that `read()` raised."""
    name = find(config) or "the configuration"
    if isinstance(error, OSError) and error.filename and os.path.basename(str(error.filename)) in name:
        return f"{name} cannot be read: {error.strerror}"
    if isinstance(error, Mistake):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{name}:{error.lineno}: {error.msg}"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{_innermost(error, name)} failed: {text}{_advice(error)}"


def _advice(error: BaseException) -> str:
    """Files written for gunicorn import its logger class."""
    if isinstance(error, ModuleNotFoundError) and error.name == "gunicorn":
        return ". gunicorn is not installed: licorne.logging.Logger is its logger class"
    return ""


def _innermost(error: BaseException, name: str) -> str:
    """The line of the file itself that was running."""
    place, step = name, error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_name == "<module>" and code.co_filename.endswith(os.path.normpath(name.removeprefix("file:"))):
            place = f"{name}:{step.tb_lineno}"
        step = step.tb_next
    return place


__all__: Iterable[str] = ("File", "Setting", "describe", "read")
