"""What hooks and logger classes are given, with the attributes that code written for gunicorn looks at: the settings
(`cfg`), a request, a response. `licorne.hooks` and `licorne._logging` make them.
"""

from __future__ import annotations

import ast
import grp
import importlib
import os
import pwd
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

DEFAULT_LOGGERS = frozenset(("", "simple", "gunicorn.glogging.Logger", "gunicorn.instrument.statsd.Statsd"))


class Setting(NamedTuple):
    """One of `cfg.settings`."""

    name: str
    value: Any

    def get(self) -> Any:
        return self.value


class Config:
    """The settings by their names. Names that are not settings are looked up in the configuration file."""

    def __init__(self, text: str) -> None:
        """`text`: all of them, as --print-config writes them."""
        self._values: dict[str, Any] = {}
        for line in ast.parse(text).body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                self._values[line.targets[0].id] = ast.literal_eval(line.value)
        given = _of_file("logconfig_dict")
        if isinstance(given, dict):  # it may hold what no text can say
            self._values["logconfig_dict"] = given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        value = _of_file(name, self)
        if value is self:
            raise AttributeError(f"no such setting: {name}")
        return value

    def __str__(self) -> str:
        return "\n".join(f"{name:<33} = {value!r}" for name, value in sorted(self._values.items()))

    @property
    def settings(self) -> dict[str, Setting]:
        return {name: Setting(name, value) for name, value in self._values.items()}

    @property
    def address(self) -> list[tuple[str, int] | str]:
        return [_address(text) for text in self._values["bind"]]

    @property
    def wsgi_app(self) -> str | None:
        return self._values["app"]

    @property
    def worker_class_str(self) -> str:
        """As gunicorn has it: `sync` with threads is `gthread`."""
        name = self._values["worker_class"] or "sync"
        return "gthread" if name == "sync" and self._values["threads"] > 1 else name

    @property
    def logger_class(self) -> type:
        return logger_class(self._values["logger_class"])

    @property
    def is_ssl(self) -> bool:
        return bool(self._values.get("certfile") or self._values.get("keyfile"))

    @property
    def env(self) -> dict[str, str]:
        return dict(item.split("=", 1) for item in self._values["raw_env"])

    @property
    def default_proc_name(self) -> str:
        return self._values["app"] or "licorne"

    @property
    def proc_name(self) -> str:
        return self._values["proc_name"] or self.default_proc_name

    @property
    def umask(self) -> int:
        text = self._values["umask"]
        return int(text, 8 if str(text).startswith("0") else 0) if text else 0

    @property
    def uid(self) -> int:
        name = self._values["user"]
        return os.geteuid() if not name else int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid

    @property
    def gid(self) -> int:
        name = self._values["group"]
        return os.getegid() if not name else int(name) if name.isdigit() else grp.getgrnam(name).gr_gid

    @property
    def chdir(self) -> str:
        return self._values["chdir"] or os.getcwd()


def _of_file(name: str, otherwise: Any = None) -> Any:
    return getattr(sys.modules.get("__config__"), name, otherwise)


def _address(text: str) -> tuple[str, int] | str:
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() and "/" not in text else text


def named(path: str) -> Any:
    """ "package.module.Name" or "package.module:Name"."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise ImportError(f"{path!r} must be MODULE.NAME")
    return getattr(importlib.import_module(module), name)


def logger_class(name: str | None) -> type:
    """The configuration file's own object where it has one: its name may not lead to it."""
    given = _of_file("logger_class")
    if isinstance(given, type) and name == f"{given.__module__}.{given.__qualname__}":
        return given
    if (name or "") in DEFAULT_LOGGERS:
        from licorne.logging import Logger

        return Logger
    return named(name or "")


class Request:
    def __init__(self, method: str, path: str, query: str, uri: str) -> None:
        self.method, self.path, self.query, self.uri, self.fragment = method, path, query, uri, ""
        self.version = (1, 1)
        self.scheme = "http"
        self.headers: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] = []
        self.remote_addr: tuple[str, int] | str = ""
        self.peer_addr: tuple[str, int] | str = ""
        self.req_number = 1
        self.proxy_protocol_info: dict[str, Any] | None = None
        self.body: Any = None  # wsgi.input; an ASGI application receives it

    def get_header(self, name: str) -> str | None:
        wanted = name.upper()
        return next((value for given, value in self.headers if given == wanted), None)

    def should_close(self) -> bool:
        said = (self.get_header("CONNECTION") or "").lower().strip()
        return said == "close" or (said != "keep-alive" and self.version <= (1, 0))


class Response:
    def __init__(self, request: Request) -> None:
        self.req = request
        self.version = "licorne"
        self.status: Any = ""
        self.status_code: int | None = None
        self.headers: list[tuple[str, str]] = []
        self.sent = 0
        self.response_length: int | None = None
        self.headers_sent = self.must_close = self.upgrade = False

    @property
    def chunked(self) -> bool:
        return self.headers_sent and self.response_length is None

    def start(self, status: str, headers: Iterable[tuple[str, str]]) -> None:
        self.status, self.headers, self.headers_sent = status, list(headers), True
        self.status_code = int(status.split()[0])
        lengths = [value for name, value in self.headers if name.lower() == "content-length"]
        self.response_length = int(lengths[0]) if lengths and lengths[0].isdigit() else None

    def should_close(self) -> bool:
        return self.must_close or self.req.should_close()


_FIELDS = {"CONTENT_TYPE": "CONTENT-TYPE", "CONTENT_LENGTH": "CONTENT-LENGTH"}
_NAMES = {field: name for name, field in _FIELDS.items()}


def request_of_environ(environ: dict[str, Any]) -> Request:
    path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    uri = environ.get("RAW_URI") or environ.get("REQUEST_URI") or path + ("?" + query if query else "")
    request = Request(environ["REQUEST_METHOD"], path, query, uri)
    request.scheme = environ["wsgi.url_scheme"]
    request.version = (1, 0) if environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else (1, 1)
    request.remote_addr = request.peer_addr = (environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0))
    request.body = environ.get("wsgi.input")
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            request.headers.append((name[5:].replace("_", "-"), value))
        elif name in _FIELDS and value:
            request.headers.append((_FIELDS[name], value))
    return request


def request_of_scope(scope: dict[str, Any]) -> Request:
    query = scope["query_string"].decode("latin-1")
    uri = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    request = Request(scope["method"], scope["path"], query, uri + ("?" + query if query else ""))
    request.scheme = scope["scheme"]
    request.version = (1, 0) if scope["http_version"] == "1.0" else (1, 1)
    request.remote_addr = request.peer_addr = tuple(scope.get("client") or ("", 0))  # type: ignore[assignment]
    request.headers = [(name.decode("latin-1").upper(), value.decode("latin-1")) for name, value in scope["headers"]]
    return request


def environ_of(request: Request) -> dict[str, Any]:
    """As much of a WSGI environ as hooks and logger classes look at."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "REMOTE_ADDR": request.remote_addr[0] if request.remote_addr else "",
        "REMOTE_PORT": str(request.remote_addr[1]) if len(request.remote_addr) > 1 else "",
        "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
        "wsgi.url_scheme": request.scheme,
    }
    for name, value in request.headers:
        environ[_NAMES.get(name, "HTTP_" + name.replace("-", "_"))] = value
    return environ
