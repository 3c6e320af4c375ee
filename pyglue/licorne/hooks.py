"""Server hooks of the configuration file, with gunicorn's names, signatures and objects.

What gunicorn runs in its master (`on_starting`, `pre_fork`, `child_exit`, ...) runs here in the mold, the process that
workers are forked from: the master has no Python. The rest runs in the workers. pyglue/hooks.c calls `begin()` once the
settings are known, and then one function for each event. Nothing of this is imported without hooks.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from licorne import _core
from licorne._objects import Config, Request, Response, environ_of, request_of_environ, request_of_scope

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


class Server:
    """gunicorn calls it the arbiter."""

    def __init__(self, cfg: Config) -> None:
        from licorne import _logging

        self.cfg = cfg
        self.log: Any = _logging.log
        self.pid = os.getppid()
        self.num_workers: int = cfg.workers
        self.worker_age = 0
        self.timeout, self.proc_name, self.address = cfg.timeout, cfg.proc_name, cfg.address
        self.WORKERS: dict[int, Worker] = {}
        self.master_name, self.master_pid, self.reexec_pid = "Master", 0, 0
        self.pidfile = cfg.pidfile
        self.systemd = "LISTEN_FDS" in os.environ
        self.dirty_arbiter_pid = 0

    @property
    def LISTENERS(self) -> list[Listener]:
        """What is bound; before the first worker is forked: what will be."""
        return [Listener(address) for address in _listening() or self.address]


class Listener:
    """A socket of the server's."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.cfg_addr = address

    def getsockname(self) -> tuple[str, int] | str:
        return self.cfg_addr

    def __str__(self) -> str:
        if isinstance(self.cfg_addr, str):
            return f"unix:{self.cfg_addr.removeprefix('unix:')}"
        host = f"[{self.cfg_addr[0]}]" if ":" in self.cfg_addr[0] else self.cfg_addr[0]
        return f"http://{host}:{self.cfg_addr[1]}"


def _listening() -> list[Any]:
    names = []
    for fd in _core.listening():
        with socket.socket(fileno=os.dup(fd)) as copy:
            name = copy.getsockname()
        names.append(name[:2] if isinstance(name, tuple) else name)
    return names


class Application:
    """`worker.app`: what is served."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.callable = cfg, None

    def wsgi(self) -> Any:
        return self.callable


class Heartbeat:
    """`worker.tmp`: workers report through shared memory here."""

    def notify(self) -> None:
        pass

    def last_update(self) -> float:
        return time.monotonic()


class Worker:
    def __init__(self, server: Server, age: int) -> None:
        self.age = age
        self.pid: int | str = "[booting]"
        self.ppid = server.pid
        self.cfg, self.log, self.timeout = server.cfg, server.log, server.timeout
        self.app = Application(server.cfg)
        self.booted = self.aborted = False
        self.alive = True
        self.reloader = None
        self.tmp = Heartbeat()
        self.max_requests = server.cfg.max_requests or sys.maxsize

    @property
    def wsgi(self) -> Any:
        return self.app.callable

    @property
    def sockets(self) -> list[Listener]:
        return server.LISTENERS

    def notify(self) -> None:
        self.tmp.notify()

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


def child_born(pid: int, age: int) -> None:
    born = _forked.get(age) or Worker(server, age)
    born.pid = pid
    server.WORKERS[pid] = born


def child_exited(pid: int, age: int) -> None:
    """The worker may be one that another mold has forked."""
    server.WORKERS.pop(pid, None)
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
    server.WORKERS[worker.pid] = worker
    _call("post_fork", server, worker)


def has_application(application: Any) -> None:
    worker.app.callable = application


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
        request = request_of_environ(environ)
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


def _asgi_start(response: Response, message: dict[str, Any]) -> None:
    fields = [(bytes(n).decode("latin-1"), bytes(v).decode("latin-1")) for n, v in message.get("headers", ())]
    response.start(str(message["status"]), fields)


def wrap_asgi(application: Any, version: int) -> Any:
    """Whatever version the application is of, the wrapper is of version 3."""

    async def call(scope: dict[str, Any], receive: Any, send: Any) -> None:
        target = application(scope) if version == 2 else None
        if scope["type"] != "http":
            return await (target(receive, send) if target else application(scope, receive, send))
        request = request_of_scope(scope)
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
            _post_request(request, environ_of(request), response)

    return call
