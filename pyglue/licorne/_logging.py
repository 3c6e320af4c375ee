"""Error log and access log in Python's logging, where `logconfig` (or its like) or `syslog` asks for it.

pyglue/pylog.c calls `begin()` in the mold, `start()` in each worker, and brings the lines. The loggers have gunicorn's
names, `gunicorn.error` and `gunicorn.access`, or uvicorn's where the configuration names those; the records of accesses
have the arguments that the formatters written for these servers look at.
"""

from __future__ import annotations

import ast
import configparser
import copy
import importlib.util
import json
import logging
import logging.config
import logging.handlers
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from licorne import _core

LEVELS = (5, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # enum log_level's
ACCESS = -1
END_SECONDS = 5.0  # what handlers may take for the last lines; the end of the process has a limit besides

DEFAULT_HANDLERS: dict[str, Any] = {
    "console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stdout"},
    "error_console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stderr"},
}
DEFAULT_FORMATTERS: dict[str, Any] = {
    "generic": {
        "format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
        "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
    }
}
DEFAULT_LOGGERS: dict[str, Any] = {
    "gunicorn.error": {"level": "INFO", "handlers": ["error_console"], "propagate": False},
    "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
}


class Atoms(dict[str, Any]):
    """What an access log format asks for; what is not known is "-", as in gunicorn."""

    def __missing__(self, name: str) -> str:
        return self.get(name.lower(), "-") if name.startswith("{") and name != name.lower() else "-"


class Loggers(NamedTuple):
    error: logging.Logger
    access: logging.Logger
    format: str | None  # of the access log; None: uvicorn's arguments


loggers: Loggers  # after begin()
_thread: threading.Thread | None = None


# --- configuring


def begin(text: str) -> tuple[int, bool, bool]:
    """`text`: all settings, as --print-config has them. Answers the index of the least level that counts, whether the
    lines go to the error log's file too, and whether anybody wants accesses. ValueError says what is wrong."""
    settings = _settings(text)
    try:
        return _begin(settings)
    except Exception as error:
        raise ValueError(f"{_source(settings)}: {_chain(error)}") from None


def _source(settings: Mapping[str, Any]) -> str:
    """What was to be used."""
    if settings["logconfig_dict"]:
        return "logconfig_dict"
    return settings["logconfig_json"] or settings["logconfig"] or "syslog"


def _chain(error: BaseException | None) -> str:
    """dictConfig says where it was wrong, and in the cause what."""
    words = []
    while error is not None:
        words.append(str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}")
        error = error.__cause__
    return ": ".join(words)


def _begin(settings: Mapping[str, Any]) -> tuple[int, bool, bool]:
    global loggers
    logging.addLevelName(LEVELS[0], "TRACE")
    configured = _configure(settings)
    names = configured or []
    theirs = any(_belongs(name, "uvicorn") for name in names) and not any(_belongs(name, "gunicorn") for name in names)
    family = "uvicorn" if theirs else "gunicorn"
    error, access = logging.getLogger(f"{family}.error"), logging.getLogger(f"{family}.access")
    loggers = Loggers(error, access, None if theirs else settings["access_log_format"])
    if settings["syslog"]:
        _add_syslog(settings, configured=configured is not None)
    level = next((i for i, number in enumerate(LEVELS) if error.isEnabledFor(number)), len(LEVELS) - 1)
    return level, configured is None, access.isEnabledFor(logging.INFO) and access.hasHandlers()


def _settings(text: str) -> dict[str, Any]:
    assigns = (line for line in ast.parse(text).body if isinstance(line, ast.Assign))
    return {line.targets[0].id: ast.literal_eval(line.value) for line in assigns}  # type: ignore[attr-defined]


def _belongs(name: str, family: str) -> bool:
    return name == family or name.startswith(family + ".")


def _configure(settings: Mapping[str, Any]) -> list[str] | None:
    """The names of the loggers that were configured; None: there is no configuration."""
    path, json_path = settings["logconfig"], settings["logconfig_json"]
    if settings["logconfig_dict"]:
        return _configure_dict(_given_dict(settings["logconfig_dict"]))
    if json_path:
        return _configure_dict(_read_json(json_path))
    if not path:
        return None
    if path.endswith(".json"):
        return _configure_dict(_read_json(path))
    if path.endswith((".yaml", ".yml")):
        return _configure_dict(_read_yaml(path))
    return _configure_ini(path)


def _given_dict(text: str) -> dict[str, Any]:
    """The configuration file's own object: it may hold what no text can say."""
    given = getattr(sys.modules.get("__config__"), "logconfig_dict", None)
    return given if isinstance(given, dict) and given else json.loads(text)


def _read_json(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ImportError(f"{path} needs the package PyYAML: pip install pyyaml") from None
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def _configure_ini(path: str) -> list[str]:
    parser = configparser.RawConfigParser()
    with open(path, encoding="utf-8") as file:
        parser.read_file(file)
    logging.config.fileConfig(path, disable_existing_loggers=False)
    keys = [key.strip() for key in parser.get("loggers", "keys").split(",")]
    return [parser.get(f"logger_{key}", "qualname", fallback=key) for key in keys if key and key != "root"]


def _configure_dict(given: dict[str, Any]) -> list[str]:
    """What is not given is as in gunicorn: two loggers that write to the console."""
    config = {"version": 1, "disable_existing_loggers": False, **copy.copy(given)}
    if config.get("incremental"):
        logging.config.dictConfig(config)
        return list(config.get("loggers", ()))
    config["handlers"] = {**DEFAULT_HANDLERS, **config.get("handlers", {})}
    config["formatters"] = _formatters({**DEFAULT_FORMATTERS, **config.get("formatters", {})})
    if not config.get("loggers") and "root" not in config:
        config["loggers"] = DEFAULT_LOGGERS
    logging.config.dictConfig(config)
    return list(config.get("loggers", ()))


def _formatters(formatters: dict[str, Any]) -> dict[str, Any]:
    """uvicorn's formatters are ours where uvicorn is not installed."""
    if importlib.util.find_spec("uvicorn") is not None:
        return formatters
    ours = {"uvicorn.logging": "licorne.logging"}
    changed = {}
    for name, formatter in formatters.items():
        changed[name] = dict(formatter)
        for key in ("()", "class"):
            module, _, kind = str(formatter.get(key, "")).rpartition(".")
            if module in ours:
                changed[name][key] = f"{ours[module]}.{kind}"
    return changed


# --- syslog


def _add_syslog(settings: Mapping[str, Any], configured: bool) -> None:
    prefix = settings["syslog_prefix"] or (settings["proc_name"] or settings["app"] or "").replace(":", ".")
    wanted = [(loggers.error, "error")]
    if not settings["disable_redirect_access_to_syslog"]:
        wanted.append((loggers.access, "access"))
    for logger, name in wanted:
        handler = _syslog_handler(settings["syslog_addr"], _facility(settings["syslog_facility"]))
        handler.setFormatter(logging.Formatter(f"gunicorn.{prefix}.{name}: [%(process)d] %(message)s"))
        logger.addHandler(handler)
        if not configured:
            logger.propagate = False
            logger.setLevel(_level(settings["loglevel"]))


def _level(name: str) -> int:
    return LEVELS[0] if name == "trace" else logging.getLevelName(name.upper())


def _facility(name: str) -> int:
    codes = logging.handlers.SysLogHandler.facility_names
    if name.lower() not in codes:
        raise ValueError(f"syslog_facility = {name!r}: must be one of {', '.join(codes)}")
    return codes[name.lower()]


def _syslog_handler(address: str, facility: int) -> logging.Handler:
    scheme, colon, rest = address.partition("://")
    if scheme == "unix" and colon:
        path, _, kind = rest.partition("#")
        return logging.handlers.SysLogHandler(path, facility, _socket_type(address, kind or "dgram"))
    host, _, port = rest.rpartition(":")
    if scheme not in ("udp", "tcp") or not host or not port.isdigit():
        raise ValueError(f"syslog_addr = {address!r}: must be udp://HOST:PORT, tcp://HOST:PORT or unix://PATH")
    kind = socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM
    return logging.handlers.SysLogHandler((host.strip("[]"), int(port)), facility, kind)


def _socket_type(address: str, kind: str) -> socket.SocketKind:
    if kind not in ("dgram", "stream"):
        raise ValueError(f"syslog_addr = {address!r}: what follows # must be dgram or stream")
    return socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM


# --- lines


def emit(level: int, pid: int, text: bytes) -> None:
    logger, number = loggers.error, LEVELS[level]
    if not logger.isEnabledFor(number):
        return
    message = text.decode("utf-8", "backslashreplace")
    record = logger.makeRecord(logger.name, number, "licorne", 0, message, (), None)
    record.process = pid
    logger.handle(record)


def emit_access(record: bytes) -> None:
    words = record.decode("ascii", "backslashreplace").split("\0")
    atoms = Atoms(zip(words[0::2], words[1::2], strict=False))
    for name in "BDMT":
        atoms[name] = int(atoms[name])
    if loggers.format is not None:
        loggers.access.info(loggers.format, atoms)
        return
    method, _, rest = atoms["r"].partition(" ")
    target, _, protocol = rest.rpartition(" ")
    version = protocol.partition("/")[2]
    client, status = atoms["client"], int(atoms["s"])
    loggers.access.info('%s - "%s %s HTTP/%s" %d', client, method, target, version, status)


def start() -> None:
    """In a worker: from now on a thread takes the lines."""
    global _thread
    _thread = threading.Thread(target=_pump, name="licorne-logs", daemon=True)
    _thread.start()


def _pump() -> None:
    pid = os.getpid()
    while (lines := _core.log_take()) is not None:
        for level, text in lines:
            try:
                if level == ACCESS:
                    emit_access(text)
                else:
                    emit(level, pid, text)
            except Exception:
                logging.lastResort and sys.excepthook(*sys.exc_info())


def end() -> None:
    if _thread is not None:
        _core.log_close()
        _thread.join(END_SECONDS)
