"""What configures Python's logging: logconfig and its like, and syslog. Imported only where these are set: by
licorne._logging, and by `licorne.logging.Logger` for a subclass of the user's.
"""

from __future__ import annotations

import configparser
import copy
import importlib.util
import json
import logging
import logging.config
import logging.handlers
import os
import socket
from typing import Any

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
DEFAULT_LOGGERS_CONFIG: dict[str, Any] = {
    "gunicorn.error": {"level": "INFO", "handlers": ["error_console"], "propagate": False},
    "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
}


def configure(cfg: Any) -> list[str] | None:
    """By logconfig and its like: the names of the loggers that were configured; None: there is no configuration."""
    path, json_path = cfg.logconfig, cfg.logconfig_json
    if cfg.logconfig_dict:
        given = cfg.logconfig_dict
        return _configure_dict(given if isinstance(given, dict) else json.loads(given))
    if json_path:
        return _configure_dict(_read_json(json_path))
    if not path:
        return None
    if path.endswith(".json"):
        return _configure_dict(_read_json(path))
    if path.endswith((".yaml", ".yml")):
        return _configure_dict(_read_yaml(path))
    return _configure_ini(path)


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
    names = {"here": os.path.dirname(os.path.abspath(path)), "__file__": path}
    logging.config.fileConfig(path, defaults=names, disable_existing_loggers=False)
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
        config["loggers"] = DEFAULT_LOGGERS_CONFIG
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


def add_syslog(cfg: Any, error: logging.Logger, access: logging.Logger, fmt: str) -> None:
    prefix = cfg.syslog_prefix or (cfg.proc_name or "").replace(":", ".")
    wanted = [(error, "error")]
    if not cfg.disable_redirect_access_to_syslog:
        wanted.append((access, "access"))
    for logger, name in wanted:
        handler = _syslog_handler(cfg.syslog_addr, _facility(cfg.syslog_facility))
        handler.setFormatter(logging.Formatter(f"gunicorn.{prefix}.{name}: {fmt}"))
        logger.addHandler(handler)


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
