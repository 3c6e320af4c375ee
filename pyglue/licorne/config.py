"""`licorne.Config`: what a `licorne.Server` in the caller's process is to do, with the parameters of `uvicorn.Config`.

Beyond these it takes every other setting of docs/settings.md that concerns HTTP, WebSockets, limits and time limits, by
its name. What only a server of its own processes can do is refused here; `licorne.run()` starts one for it.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import importlib
import inspect
import json
import logging
import logging.config
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from licorne import _core
from licorne._lifespan import LifespanOff, LifespanOn

STARTUP_FAILURE = 3  # the exit code
TRACE_LOG_LEVEL = 5
LOG_LEVELS: dict[str, int] = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE_LOG_LEVEL,
}
LOOP_FACTORIES = {
    "auto": "licorne.loop:new_event_loop",
    "licorne": "licorne.loop:new_event_loop",
    "asyncio": "asyncio:new_event_loop",
    "uvloop": "uvloop:new_event_loop",
    "none": None,
}
INTERFACES = ("auto", "asgi3", "asgi2", "wsgi")
KINDS = {"ASGI": "asgi3", "ASGI 2": "asgi2", "WSGI": "wsgi"}
LIFESPANS: dict[str, Any] = {"auto": LifespanOn, "on": LifespanOn, "off": LifespanOff}
SETTING_GROUPS = ("HTTP", "Limits", "Time limits", "WebSocket")  # of what can be done in the caller's process
KEEPALIVE_SECONDS = 75

LOGGING_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {"()": "licorne.logging.DefaultFormatter", "fmt": "%(levelprefix)s %(message)s", "use_colors": None},
        "access": {
            "()": "licorne.logging.AccessFormatter",
            "fmt": '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
        },
    },
    "handlers": {
        "default": {"formatter": "default", "class": "logging.StreamHandler", "stream": "ext://sys.stderr"},
        "access": {"formatter": "access", "class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
    },
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"level": "INFO"},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}

logger = logging.getLogger("uvicorn.error")


class ImportFromStringError(Exception):
    """Text that should name something importable does not."""


def import_from_string(name: Any) -> Any:
    """The object behind "module:attribute"; anything else but text is returned as it is."""
    if not isinstance(name, str):
        return name
    module, _, attributes = name.partition(":")
    if not module or not attributes:
        raise ImportFromStringError(f'{name!r} must have the form "module:attribute"')
    try:
        found: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ImportFromStringError(f"{name!r} cannot be imported: {error}") from error
    return found


@contextlib.contextmanager
def core_logs() -> Iterator[None]:
    """What the C core has to say goes to Python's logging meanwhile."""
    _core.log_embed()
    try:
        yield
    finally:
        _core.log_leave()


class Config:
    """What to serve, where and how: the parameters of `uvicorn.Config`, and by name the settings of licorne that
    concern HTTP, WebSockets, limits and time limits. ValueError and TypeError say what is wrong.

    Where uvicorn's parameter names an implementation (`http`, `ws`) it is accepted without an effect. `loop` says which
    loop `Server.run()` makes: "auto" is licorne's; `Server.serve()` takes the one it runs on."""

    def __init__(
        self,
        app: Any,
        host: str | None = "127.0.0.1",
        port: int = 8000,
        uds: str | None = None,
        fd: int | None = None,
        loop: str | Callable[[], asyncio.AbstractEventLoop] = "auto",
        http: Any = "auto",
        ws: Any = "auto",
        ws_max_size: int = 16 * 1024 * 1024,
        ws_max_queue: int = 32,
        ws_ping_interval: float | None = 20.0,
        ws_ping_timeout: float | None = 20.0,
        ws_per_message_deflate: bool = True,
        lifespan: str = "auto",
        env_file: str | os.PathLike[str] | None = None,
        log_config: Mapping[str, Any] | str | os.PathLike[str] | configparser.RawConfigParser | IO[Any] | None = (
            LOGGING_CONFIG
        ),
        log_level: str | int | None = None,
        access_log: bool = True,
        use_colors: bool | None = None,
        interface: str = "auto",
        reload: bool = False,
        reload_dirs: list[str] | str | None = None,
        reload_delay: float = 0.25,
        reload_includes: list[str] | str | None = None,
        reload_excludes: list[str] | str | None = None,
        workers: int | None = None,
        proxy_headers: bool = True,
        server_header: bool = True,
        date_header: bool = True,
        forwarded_allow_ips: list[str] | str | None = None,
        root_path: str = "",
        limit_concurrency: int | None = None,
        limit_max_requests: int | None = None,
        limit_max_requests_jitter: int = 0,
        backlog: int = 2048,
        timeout_keep_alive: float = KEEPALIVE_SECONDS,
        timeout_notify: int = 30,
        timeout_graceful_shutdown: float | None = None,
        timeout_worker_healthcheck: int = 5,
        callback_notify: Callable[..., Awaitable[None]] | None = None,
        ssl_keyfile: str | os.PathLike[str] | None = None,
        ssl_certfile: str | os.PathLike[str] | None = None,
        ssl_keyfile_password: str | None = None,
        ssl_version: int | None = None,
        ssl_cert_reqs: int = 0,
        ssl_ca_certs: str | os.PathLike[str] | None = None,
        ssl_ciphers: str | None = None,
        ssl_context_factory: Callable[..., Any] | None = None,
        headers: list[tuple[str, str]] | None = None,
        factory: bool = False,
        h11_max_incomplete_event_size: int | None = None,
        reset_contextvars: bool = False,
        http2: bool = False,
        **settings: Any,
    ) -> None:
        self.app = app
        self.host = host
        self.port = port
        self.uds = uds
        self.fd = fd
        self.loop = loop
        self.http = http
        self.ws = ws
        self.ws_max_size = ws_max_size
        self.ws_max_queue = ws_max_queue
        self.ws_ping_interval = ws_ping_interval
        self.ws_ping_timeout = ws_ping_timeout
        self.ws_per_message_deflate = ws_per_message_deflate
        self.lifespan = lifespan
        self.log_config = log_config
        self.log_level = log_level
        self.access_log = access_log
        self.use_colors = use_colors
        self.interface = interface
        self.reload = reload
        self.reload_dirs = _listed(reload_dirs)
        self.reload_delay = reload_delay
        self.reload_includes = _listed(reload_includes)
        self.reload_excludes = _listed(reload_excludes)
        self.workers = workers or int(os.environ.get("WEB_CONCURRENCY") or 1)
        self.proxy_headers = proxy_headers
        self.server_header = server_header
        self.date_header = date_header
        self.root_path = root_path
        self.limit_concurrency = limit_concurrency
        self.limit_max_requests = limit_max_requests
        self.limit_max_requests_jitter = limit_max_requests_jitter
        self.backlog = backlog
        self.timeout_keep_alive = timeout_keep_alive
        self.timeout_notify = timeout_notify
        self.timeout_graceful_shutdown = timeout_graceful_shutdown
        self.timeout_worker_healthcheck = timeout_worker_healthcheck
        self.callback_notify = callback_notify
        self.ssl_keyfile = ssl_keyfile
        self.ssl_certfile = ssl_certfile
        self.ssl_keyfile_password = ssl_keyfile_password
        self.ssl_version = ssl_version
        self.ssl_cert_reqs = ssl_cert_reqs
        self.ssl_ca_certs = ssl_ca_certs
        self.ssl_ciphers = ssl_ciphers
        self.ssl_context_factory = ssl_context_factory
        self.headers: list[tuple[str, str]] = headers or []
        self.factory = factory
        self.h11_max_incomplete_event_size = h11_max_incomplete_event_size
        self.reset_contextvars = reset_contextvars
        self.http2 = http2
        self.settings = settings
        self.ssl = None
        self.loaded = False
        self.loaded_app: Any = None
        self.lifespan_class: Any = None

        if env_file is not None:
            from dotenv import load_dotenv

            load_dotenv(dotenv_path=env_file)
        allowed = os.environ.get("FORWARDED_ALLOW_IPS") if forwarded_allow_ips is None else forwarded_allow_ips
        self.forwarded_allow_ips: list[str] | str = "127.0.0.1,::1" if allowed is None else allowed
        self._check()
        self.configure_logging()

    def _check(self) -> None:
        if self.is_ssl:
            raise ValueError("ssl_*: TLS is not supported yet: let a proxy in front of it do that")
        if self.http2:
            raise ValueError("http2: HTTP/2 is not supported yet")
        for name, allowed in (("interface", INTERFACES), ("lifespan", tuple(LIFESPANS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(allowed)}")
        for name in self.settings:
            group = _core.setting_group(name)
            if group is None:
                raise TypeError(f"Config() got an unexpected keyword argument {name!r}")
            if group not in SETTING_GROUPS:
                raise TypeError(f"{name}: in the caller's process this has no meaning; licorne.run() takes it")
        _core.check_settings(self.core_settings())

    # --- what the core is told

    def core_settings(self) -> list[tuple[str, str | None]]:
        """The settings of the C core that follow from all this, as text."""
        given: dict[str, Any] = {
            "ws_max_size": self.ws_max_size,
            "ws_max_queue": self.ws_max_queue,
            "ws_ping_interval": self.ws_ping_interval or 0,
            "ws_ping_timeout": self.ws_ping_timeout or 0,
            "ws_per_message_deflate": self.ws_per_message_deflate,
            "proxy_headers": self.proxy_headers,
            "server_header": self.server_header,
            "date_header": self.date_header,
            "forwarded_allow_ips": _listed(self.forwarded_allow_ips),
            "root_path": self.root_path,
            "limit_concurrency": self.limit_concurrency or 0,
            "backlog": self.backlog,
            "keepalive": self.timeout_keep_alive,
            "headers": [f"{name}:{value}" for name, value in self.headers],
            "limit_request_head": self.h11_max_incomplete_event_size,
            **self.settings,
        }
        return [pair for name, value in given.items() if value is not None for pair in _pairs(name, value)]

    # --- logging

    def configure_logging(self) -> None:
        """What `log_config`, `log_level` and `access_log` say, by Python's logging: the loggers are uvicorn's."""
        logging.addLevelName(TRACE_LOG_LEVEL, "TRACE")
        if self.log_config is not None:
            self._apply_log_config(self.log_config)
        if self.log_level is not None:
            level = self.log_level
            if isinstance(level, str):
                level = LOG_LEVELS[level.lower()]
            for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
                logging.getLogger(name).setLevel(level)
        if self.access_log is False:
            access = logging.getLogger("uvicorn.access")
            access.handlers = []
            access.propagate = False

    def _apply_log_config(self, given: Any) -> None:
        if isinstance(given, os.PathLike):
            given = os.fspath(given)
        if isinstance(given, Mapping):
            self._apply_dict(dict(given))
        elif isinstance(given, str) and given.endswith(".json"):
            with open(given, encoding="utf-8") as file:
                self._apply_dict(json.load(file))
        elif isinstance(given, str) and given.endswith((".yaml", ".yml")):
            import yaml

            with open(given, encoding="utf-8") as file:
                self._apply_dict(yaml.safe_load(file))
        else:
            logging.config.fileConfig(given, disable_existing_loggers=False)

    def _apply_dict(self, given: dict[str, Any]) -> None:
        from licorne._embed_log import own_formatters

        formatters = own_formatters(given.get("formatters", {}))
        if self.use_colors is not None:
            for name in {"default", "access"} & set(formatters):
                formatters[name] = {**formatters[name], "use_colors": self.use_colors}
        logging.config.dictConfig({**given, "formatters": formatters})

    # --- the application

    def load_app(self) -> Any:
        """The application that `app` names, or is. SystemExit(3) when there is none: the log says why."""
        if not isinstance(self.app, str):
            return self._made(self.app) if self.factory else self.app
        try:
            with core_logs():
                application, _ = _core.load_application(self.app, self.factory, INTERFACES.index(self.interface))
        except ImportError as error:
            logger.error("Error loading ASGI app. %s", error)
            sys.exit(STARTUP_FAILURE)
        return application

    def _made(self, factory: Callable[[], Any]) -> Any:
        try:
            return factory()
        except TypeError as error:
            logger.error("Error loading ASGI app factory: %s", error)
            sys.exit(STARTUP_FAILURE)

    def load(self) -> None:
        """Makes ready for `Server`: imports the application and finds out what it speaks."""
        assert not self.loaded
        application = self.load_app()
        if not self.factory and _is_factory(application):
            logger.warning("ASGI app factory detected. Using it, but please consider passing factory=True.")
            application = self._made(application)
        if self.interface == "auto":
            self.interface = KINDS[_core.application_kind(application)]
        self.lifespan_class = LIFESPANS[self.lifespan]
        if self.interface == "wsgi":
            from licorne._wsgi_adapter import WsgiAdapter

            application = WsgiAdapter(application)
            self.lifespan_class = LifespanOff
        self.loaded_app = application
        self.loaded = True

    @property
    def asgi_version(self) -> str:
        return "2.0" if self.interface == "asgi2" else "3.0"

    @property
    def is_ssl(self) -> bool:
        return bool(self.ssl_keyfile or self.ssl_certfile or self.ssl_context_factory)

    @property
    def should_reload(self) -> bool:
        return isinstance(self.app, str) and self.reload

    @property
    def use_subprocess(self) -> bool:
        return bool(self.reload or self.workers > 1)

    # --- loop and socket

    def setup_event_loop(self) -> None:
        """Makes the loop that `loop` names that of `asyncio.new_event_loop()`: what uvicorn before 0.36 did.
        `Server.run()` needs it not."""
        factory = self.get_loop_factory()
        if factory is None or factory is asyncio.new_event_loop:
            return

        class Policy(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return factory()

        asyncio.set_event_loop_policy(Policy())

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """What makes the loop of `Server.run()`; None: asyncio's policy."""
        name = LOOP_FACTORIES.get(self.loop, self.loop) if isinstance(self.loop, str) else self.loop
        try:
            return import_from_string(name)
        except ImportFromStringError as error:
            logger.error("Error loading custom loop setup function. %s", error)
            sys.exit(STARTUP_FAILURE)

    def bind_socket(self) -> socket.socket:
        """A bound socket for `Server.run(sockets=[...])`. SystemExit(3) when it cannot be."""
        try:
            sock, where = self._bind()
        except OSError as error:
            logger.error(error)
            sys.exit(STARTUP_FAILURE)
        logger.info("licorne running on %s (Press CTRL+C to quit)", where)
        sock.set_inheritable(True)
        return sock

    def _bind(self) -> tuple[socket.socket, str]:
        if self.uds is not None:
            return unix_socket(self.uds), f"unix socket {self.uds}"
        if self.fd is not None:
            sock = socket.socket(fileno=os.dup(self.fd))
            return sock, f"socket {sock.getsockname()}"
        host = self.host or ""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = tcp_socket(family, (host, self.port))
        return sock, f"http://{url_host(host)}:{sock.getsockname()[1]}"


# --- helpers


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return value.split(",") if isinstance(value, str) else [os.fspath(item) for item in value]


def _pairs(name: str, value: Any) -> Iterable[tuple[str, str | None]]:
    if isinstance(value, Mapping):
        return [(name, f"{key}:{text}") for key, text in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(name, str(item)) for item in value] or [(name, None)]
    if isinstance(value, bool):
        return [(name, "true" if value else "false")]
    return [(name, str(value))]


def _is_factory(application: Any) -> bool:
    """A plain function without parameters is no application."""
    if not inspect.isfunction(application) or inspect.iscoroutinefunction(application):
        return False
    return not inspect.signature(application).parameters


def url_host(host: str) -> str:
    host = host or "0.0.0.0"
    return f"[{host}]" if ":" in host else host


def tcp_socket(family: int, address: tuple[Any, ...], proto: int = 0) -> socket.socket:
    """Bound, not yet listening."""
    sock = socket.socket(family, socket.SOCK_STREAM, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        text = f"error while attempting to bind on address {address!r}: {(error.strerror or str(error)).lower()}"
        raise OSError(error.errno, text) from None
    return sock


def unix_socket(path: str) -> socket.socket:
    """Bound, not yet listening; everybody may connect. A socket that an earlier server has left there gives way."""
    mode = 0o666
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path).st_mode
        if stat.S_ISSOCK(found):
            mode = stat.S_IMODE(found)
            os.remove(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, mode)
    except OSError:
        sock.close()
        raise
    return sock
