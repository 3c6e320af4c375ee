"""Server hooks of the configuration file, with gunicorn's names, signatures and objects.

What gunicorn runs in its master (`on_starting`, `pre_fork`, `child_exit`, ...) runs here in the mold, the process that
workers are forked from: the master has no Python. The rest runs in the workers. pyglue/hooks.c calls `begin()` once the
settings are known, and then one function for each event. Nothing of this is imported without hooks.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from licorne import _core

# How many arguments each takes; gunicorn refuses others too.
ARITIES: dict[str, tuple[int, ...]] = {
    "on_starting": (1,),
    "on_reload": (1,),
    "when_ready": (1,),
    "pre_fork": (2,),
    "post_fork": (2,),
    "post_worker_init": (1,),
    "worker_int": (1,),
    "worker_abort": (1,),
    "pre_request": (2,),
    "post_request": (2, 3, 4),
    "child_exit": (2,),
    "worker_exit": (2,),
    "nworkers_changed": (3,),
    "pre_exec": (1,),
    "on_exit": (1,),
}

Hook = Callable[..., Any]

_hooks: dict[str, Hook] = {}


def add(name: str, value: object) -> None:
    """Raises what is wrong with it. `value`: a function, or its name as "module.function"."""
    hook = _imported(value) if isinstance(value, str) else value
    if not callable(hook):
        raise TypeError(f"{name} must be a function")
    count = arity(hook)
    if count is not None and count not in ARITIES[name]:
        allowed = " or ".join(map(str, ARITIES[name]))
        raise TypeError(f"{name} must take {allowed} argument{'s' if allowed != '1' else ''}, not {count}")
    _hooks[name] = hook


def _imported(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def arity(hook: Hook) -> int | None:
    """Positional parameters; None: any number, or nobody knows."""
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


# --- what hooks are given


class _CoreHandler(logging.Handler):
    """Into the server's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _core.log_message(record.levelno, self.format(record))
        except Exception:
            self.handleError(record)


def _logger(name: str) -> logging.Logger:
    """The applications' way to gunicorn's log is its name: they take its handlers and its level."""
    if "licorne._logging" in sys.modules:  # the log goes there
        from licorne import _logging

        return _logging.loggers.access if name.endswith("access") else _logging.loggers.error
    log = logging.getLogger(name)
    if not any(isinstance(handler, _CoreHandler) for handler in log.handlers):
        log.addHandler(_CoreHandler())
    log.propagate = False
    return log


class Config:
    """The settings by their names. Names that are not settings are looked up in the configuration file."""

    def __init__(self, text: str) -> None:
        for line in ast.parse(text).body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                setattr(self, line.targets[0].id, ast.literal_eval(line.value))

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(sys.modules["__config__"], name)
        except (KeyError, AttributeError):
            raise AttributeError(f"no such setting: {name}") from None

    @property
    def address(self) -> list[tuple[str, int] | str]:
        return [_address(text) for text in self.bind]

    @property
    def worker_class_str(self) -> str:
        return self.worker_class or "sync"

    @property
    def is_ssl(self) -> bool:
        return False


def _address(text: str) -> tuple[str, int] | str:
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() and "/" not in text else text


class Server:
    """gunicorn calls it the arbiter."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.log: logging.Logger = _logger("gunicorn.error")
        if "licorne._logging" not in sys.modules:  # else it has a level of its own
            self.log.setLevel(max(logging.DEBUG, getattr(logging, str(cfg.loglevel).upper(), logging.DEBUG)))
        self.log.error_log = self.log  # type: ignore[attr-defined]
        self.log.access_log = _logger("gunicorn.access")  # type: ignore[attr-defined]
        self.pid = os.getppid()
        self.num_workers: int = cfg.workers
        self.worker_age = 0
        self.timeout = cfg.timeout
        self.proc_name = cfg.app
        self.address = cfg.address
        self.WORKERS: dict[int, Worker] = {}


class Worker:
    def __init__(self, server: Server, age: int) -> None:
        self.age = age
        self.pid: int | str = "[booting]"
        self.ppid = server.pid
        self.cfg, self.log, self.timeout = server.cfg, server.log, server.timeout
        self.booted = self.aborted = False
        self.alive = True
        self.max_requests = server.cfg.max_requests or sys.maxsize

    @property
    def nr(self) -> int:
        """Requests so far."""
        return _core.requests_served()

    def __str__(self) -> str:
        return f"<Worker {self.pid}>"


server: Server
_forked: dict[int, Worker] = {}  # in the mold, by age
worker: Worker  # the one that is being forked; in a worker: this process


def _call(name: str, *args: object) -> None:
    hook = _hooks.get(name)
    if hook is not None:
        hook(*args)


# --- events in the mold


def begin(settings: str) -> None:
    """`settings`: all of them, as --print-config writes them."""
    global server
    server = Server(Config(settings))


def forking(age: int) -> None:
    global worker
    server.worker_age = age
    worker = _forked[age] = Worker(server, age)
    _call("pre_fork", server, worker)


def workers_changed(new: int, old: int) -> None:
    """`old`: 0 if this is the first word of it."""
    server.num_workers = new
    _call("nworkers_changed", server, new, old or None)


def starting() -> None:
    _call("on_starting", server)


def ready() -> None:
    _call("when_ready", server)


def reloaded() -> None:
    _call("on_reload", server)


def child_exited(pid: int, age: int) -> None:
    """The worker may be one that another mold has forked."""
    gone = _forked.pop(age, None) or Worker(server, age)
    gone.pid, gone.alive = pid, False
    _call("child_exit", server, gone)


def upgrades() -> None:
    _call("pre_exec", server)


def server_exits() -> None:
    _call("on_exit", server)


# --- events in a worker


def forked() -> None:
    worker.pid = os.getpid()
    _call("post_fork", server, worker)


def loaded() -> None:
    worker.booted = True
    if "worker_abort" in _hooks:
        signal.signal(signal.SIGABRT, _aborted)
    _call("post_worker_init", worker)


def _aborted(number: int, frame: object) -> NoReturn:
    worker.alive, worker.aborted = False, True
    try:
        _call("worker_abort", worker)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def interrupted() -> None:
    worker.alive = False
    _call("worker_int", worker)


def exiting() -> None:
    worker.alive = False
    _call("worker_exit", server, worker)


# --- requests: the application is wrapped, and only if a hook wants to know


class Request:
    def __init__(self, method: str, path: str, query: str, uri: str) -> None:
        self.method, self.path, self.query, self.uri, self.fragment = method, path, query, uri, ""
        self.version = (1, 1)
        self.scheme = "http"
        self.headers: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] = []
        self.remote_addr: tuple[str, int] | str = ""


class Response:
    def __init__(self, request: Request) -> None:
        self.req = request
        self.status = ""
        self.status_code: int | None = None
        self.headers: list[tuple[str, str]] = []
        self.sent = 0
        self.response_length: int | None = None
        self.headers_sent = False

    def start(self, status: str, headers: Iterable[tuple[str, str]]) -> None:
        self.status, self.headers, self.headers_sent = status, list(headers), True
        self.status_code = int(status.split()[0])
        lengths = [value for name, value in self.headers if name.lower() == "content-length"]
        self.response_length = int(lengths[0]) if lengths and lengths[0].isdigit() else None


def wants_requests() -> bool:
    return "pre_request" in _hooks or "post_request" in _hooks


def _post_request(request: Request, environ: dict[str, Any], response: Response) -> None:
    hook = _hooks.get("post_request")
    if hook is None:
        return
    try:
        hook(*(worker, request, environ, response)[: arity(hook) or 4])
    except Exception:
        worker.log.exception("Exception in post_request hook")


_FIELDS = {"CONTENT_TYPE": "CONTENT-TYPE", "CONTENT_LENGTH": "CONTENT-LENGTH"}


def _request_of_environ(environ: dict[str, Any]) -> Request:
    path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    uri = environ.get("RAW_URI") or environ.get("REQUEST_URI") or path + ("?" + query if query else "")
    request = Request(environ["REQUEST_METHOD"], path, query, uri)
    request.scheme = environ["wsgi.url_scheme"]
    request.version = (1, 0) if environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else (1, 1)
    request.remote_addr = (environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0))
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            request.headers.append((name[5:].replace("_", "-"), value))
        elif name in _FIELDS and value:
            request.headers.append((_FIELDS[name], value))
    return request


class _Body:
    """The application's iterable, whose end is known."""

    def __init__(self, body: Any, response: Response, end: Callable[[], None]) -> None:
        self._body, self._response, self._end = body, response, end

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body:
            self._response.sent += len(part)
            yield part

    def close(self) -> None:
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._end()


def wrap_wsgi(application: Any) -> Any:
    def call(environ: dict[str, Any], start_response: Any) -> Any:
        request = _request_of_environ(environ)
        response = Response(request)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            write = start_response(status, headers, exc_info) if exc_info else start_response(status, headers)
            response.start(status, headers)
            return write

        _call("pre_request", worker, request)
        try:
            body = application(environ, start)
        except BaseException:
            _post_request(request, environ, response)
            raise
        if type(body) in (list, tuple):  # the server sends it as a whole, with its length: nothing may come between
            response.sent = sum(map(len, body))
            _post_request(request, environ, response)
            return body
        return _Body(body, response, lambda: _post_request(request, environ, response))

    return call


def _request_of_scope(scope: dict[str, Any]) -> Request:
    query = scope["query_string"].decode("latin-1")
    uri = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    request = Request(scope["method"], scope["path"], query, uri + ("?" + query if query else ""))
    request.scheme = scope["scheme"]
    request.version = (1, 0) if scope["http_version"] == "1.0" else (1, 1)
    request.remote_addr = tuple(scope.get("client") or ("", 0))  # type: ignore[assignment]
    request.headers = [(name.decode("latin-1").upper(), value.decode("latin-1")) for name, value in scope["headers"]]
    return request


def _environ_of(request: Request) -> dict[str, Any]:
    """As much of a WSGI environ as post_request hooks look at."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "REMOTE_ADDR": request.remote_addr[0],
        "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
        "wsgi.url_scheme": request.scheme,
    }
    names = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}
    for name, value in request.headers:
        environ[names.get(name, "HTTP_" + name.replace("-", "_"))] = value
    return environ


def _asgi_start(response: Response, message: dict[str, Any]) -> None:
    fields = [(bytes(n).decode("latin-1"), bytes(v).decode("latin-1")) for n, v in message.get("headers", ())]
    response.start(str(message["status"]), fields)


def wrap_asgi(application: Any, version: int) -> Any:
    """Whatever version the application is of, the wrapper is of version 3."""

    async def call(scope: dict[str, Any], receive: Any, send: Any) -> None:
        target = application(scope) if version == 2 else None
        if scope["type"] != "http":
            return await (target(receive, send) if target else application(scope, receive, send))
        request = _request_of_scope(scope)
        response = Response(request)

        async def watch(message: dict[str, Any]) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                _asgi_start(response, message)
            elif message["type"] == "http.response.body":
                response.sent += len(message.get("body", b""))

        _call("pre_request", worker, request)
        try:
            await (target(receive, watch) if target else application(scope, receive, watch))
        finally:
            _post_request(request, _environ_of(request), response)

    return call
