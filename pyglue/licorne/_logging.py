"""Error log and access log in Python's logging.

They are written by C code, and that is how it stays as long as nobody asks for anything else. Who does:

* the configuration: `logconfig` and its like, `syslog`, `logger_class`;
* the application, which finds the loggers that it would find under gunicorn and uvicorn (`gunicorn.error`,
  `uvicorn.access`, ...) with handlers that write into the server's logs. If it has put filters, handlers or formatters
  there, the lines go through these loggers; if it has silenced one, or raised its level, C code is told.

pyglue/pylog.c calls `begin()` in the mold, `look()` when the application has been loaded and has started, and brings
the lines: in the mold at once, in a worker by a thread (`start()`). The records of accesses have the arguments that the
formatters written for these servers look at.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
import threading
from typing import Any, NamedTuple

from licorne import _core
from licorne._objects import DEFAULT_LOGGERS, Config, Request, Response, environ_of
from licorne.logging import Logger

LEVELS = (5, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # enum log_level's
METHODS = ("debug", "debug", "info", "warning", "error", "critical")
ACCESS = -1
FACTS = 11  # that come before the header fields: server/http/access_log.h
END_SECONDS = 5.0  # what handlers may take for the last lines; the end of the process has a limit besides

# Who writes lines: C code alone; Python instead of it; both; accesses: nobody (enum log_sharing).
ALONE, INSTEAD, BESIDE, NOBODY = range(4)


class Atoms(dict[str, Any]):
    """What an access log format asks for; what is not known is "-", as in gunicorn."""

    def __missing__(self, name: str) -> str:
        return self.get(name.lower(), "-") if name.startswith("{") and name != name.lower() else "-"


class Route(NamedTuple):
    """What C code is to do: the index of the least level that counts, and who writes which log."""

    level: int
    error: int
    access: int


class Loggers(NamedTuple):
    error: logging.Logger
    access: logging.Logger
    format: str | None  # of the access log; None: uvicorn's arguments


cfg: Config  # after begin(), as what follows
loggers: Loggers
log: Any  # an instance of the logger class: what hooks call server.log
_plain: _Plain | None = None  # nothing is configured
_custom = False  # `log` is of a class of the user's
_thread: threading.Thread | None = None
_swept = logging.getLogger("licorne")  # nobody uses it: see _undo_sweep()


# --- handlers that write into the server's own logs


class CoreHandler(logging.Handler):
    """The error log. With a formatter the line is the formatter's alone."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "written", False):
            return
        try:
            text = self.format(record)
            _core.log_line(record.levelno if self.formatter is None else -1, record.process or os.getpid(), text)
        except Exception:
            self.handleError(record)


class AccessHandler(logging.Handler):
    """The access log. A request's line is as the setting access_log_format wants it."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "written", False):
            return
        try:
            line = getattr(record, "access_line", None) if self.formatter is None else None
            _core.access_line(self.format(record) if line is None else line)
        except Exception:
            self.handleError(record)


class ForwardHandler(logging.Handler):
    """To where the configuration sends the lines."""

    def __init__(self, access: bool) -> None:
        super().__init__()
        self._access = access

    def emit(self, record: logging.LogRecord) -> None:
        (loggers.access if self._access else loggers.error).handle(record)


# --- configuring


def begin(text: str) -> Route:
    """`text`: all settings, as --print-config has them. ValueError says what is wrong."""
    global cfg
    cfg = Config(text)
    logging.addLevelName(LEVELS[0], "TRACE")
    try:
        return _begin()
    except Exception as error:
        raise ValueError(f"{_source()}: {_chain(error)}") from None


def _source() -> str:
    """What was to be used."""
    if (cfg.settings["logger_class"].value or "") not in DEFAULT_LOGGERS:
        return "logger_class"
    if cfg.logconfig_dict:
        return "logconfig_dict"
    return cfg.logconfig_json or cfg.logconfig or "syslog"


def _chain(error: BaseException | None) -> str:
    """dictConfig says where it was wrong, and in the cause what."""
    words = []
    while error is not None:
        words.append(str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}")
        error = error.__cause__
    return ": ".join(words)


def _begin() -> Route:
    global log, loggers, _plain, _custom
    gunicorn = Loggers(logging.getLogger("gunicorn.error"), logging.getLogger("gunicorn.access"), cfg.access_log_format)
    uvicorn = Loggers(logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn.access"), None)
    name = cfg.settings["logger_class"].value or ""
    if name not in DEFAULT_LOGGERS:
        _custom = True
        loggers = gunicorn
        log = cfg.logger_class(cfg)
        _forward("uvicorn")
        return look()
    names = _configure()
    if names is None:
        loggers = gunicorn
        _plain = _Plain(gunicorn, uvicorn)
    else:
        theirs = any(_belongs(n, "uvicorn") for n in names) and not any(_belongs(n, "gunicorn") for n in names)
        loggers = uvicorn if theirs else gunicorn
        _forward("gunicorn" if theirs else "uvicorn")
    if cfg.syslog:
        _add_syslog(gunicorn.error, gunicorn.access)
    log = Statsd(cfg) if cfg.statsd_host else ServerLogger(cfg)
    if _plain is not None:
        _plain.remember()
    return look()


def _forward(family: str) -> None:
    """What is said to the loggers of the family that is not used goes where the others' lines go."""
    for name, access in (("error", False), ("access", True)):
        logger = logging.getLogger(f"{family}.{name}")
        if not logger.handlers and not (logger.parent and logger.parent.handlers and logger.parent.name == family):
            logger.addHandler(ForwardHandler(access))
            logger.propagate = False
            logger.setLevel(_number(cfg.loglevel))


def look() -> Route:
    """The application may have changed something."""
    _undo_sweep()
    if _plain is not None:
        return _plain.route()
    error = getattr(log, "error_log", loggers.error) if _custom else loggers.error
    level = _index(error.getEffectiveLevel() if isinstance(error, logging.Logger) else _number(cfg.loglevel))
    if _custom:
        return Route(level, INSTEAD, INSTEAD if cfg.accesslog or _overrides("access") else NOBODY)
    wanted = loggers.access.isEnabledFor(logging.INFO) and loggers.access.hasHandlers()
    return Route(level, INSTEAD, INSTEAD if wanted else ALONE)


def _undo_sweep() -> None:
    """dictConfig() disables all loggers that it does not name, unless it is told not to: that silences the server by
    accident. The logger that nobody uses shows that it happened."""
    if not _swept.disabled:
        return
    names = ("gunicorn.error", "gunicorn.access", "uvicorn", "uvicorn.error", "uvicorn.access")
    for logger in (_swept, *map(logging.getLogger, names)):
        logger.disabled = False


def _number(name: str) -> int:
    return LEVELS[0] if name == "trace" else logging.getLevelName(name.upper())


def _index(number: int) -> int:
    return next((i for i, level in enumerate(LEVELS) if level >= number), len(LEVELS) - 1)


def _overrides(name: str) -> bool:
    """Whether the user's logger class has a method of its own."""
    bases = [kind for kind in type(log).__mro__ if kind.__module__ in ("licorne.logging", "gunicorn.glogging")]
    return not bases or getattr(type(log), name) is not getattr(bases[0], name)


class _Plain:
    """No configuration: both families' loggers write into the server's logs; it is seen who has touched them."""

    def __init__(self, gunicorn: Loggers, uvicorn: Loggers) -> None:
        self._families = (gunicorn, uvicorn)
        self._tops = {uvicorn.error: logging.getLogger("uvicorn")}
        self._state: dict[logging.Logger, tuple[Any, ...]] = {}
        for family in self._families:
            top = self._tops.get(family.error, family.error)
            self._prepare(top, CoreHandler(), _number(cfg.loglevel))
            self._prepare(family.access, AccessHandler(), logging.INFO)
            family.error.setLevel(_number(cfg.loglevel))

    def _prepare(self, logger: logging.Logger, handler: logging.Handler, level: int) -> None:
        logger.propagate = False
        logger.setLevel(level)
        logger.addHandler(handler)

    def _all(self) -> list[logging.Logger]:
        return [logger for family in self._families for logger in family[:2]] + list(self._tops.values())

    def remember(self) -> None:
        self._state = {logger: self._look_at(logger) for logger in self._all()}

    def _look_at(self, logger: logging.Logger) -> tuple[Any, ...]:
        handlers = [(handler, handler.formatter, handler.level, *handler.filters) for handler in logger.handlers]
        return (*logger.filters, logger.propagate, *handlers)

    def _touched(self, logger: logging.Logger | None) -> bool:
        return logger is not None and self._look_at(logger) != self._state[logger]

    def _level(self) -> int:
        levels = [
            logger.level
            for family in self._families
            for logger in (family.error, self._tops.get(family.error))
            if logger
        ]
        ours = _number(cfg.loglevel)
        return next((level for level in levels if level not in (ours, logging.NOTSET)), ours)

    def route(self) -> Route:
        global loggers
        gunicorn = self._families[0]
        error = next(
            (f for f in self._families if self._touched(f.error) or self._touched(self._tops.get(f.error))), None
        )
        access = next((f for f in self._families if self._touched(f.access)), None)
        told, asked = error or gunicorn, access or gunicorn
        loggers = Loggers(told.error, asked.access, asked.format)
        log.error_log, log.access_log = loggers[:2]
        if error is None:
            shared = BESIDE if cfg.syslog else ALONE
        else:
            shared = INSTEAD
        return Route(_index(self._level()), shared, self._access(access))

    def _access(self, touched: Loggers | None) -> int:
        silent = any(f.access.disabled or not f.access.isEnabledFor(logging.INFO) for f in self._families)
        own = touched is not None and any(not isinstance(h, AccessHandler) for h in touched.access.handlers)
        if silent:
            return NOBODY
        if touched is not None and (cfg.accesslog or (own and touched.format is None)):
            return INSTEAD
        return BESIDE if cfg.syslog and not cfg.disable_redirect_access_to_syslog else ALONE


class ServerLogger(Logger):
    """What hooks find as `server.log`: it logs where the server does, and changes nothing of what was configured."""

    def __init__(self, cfg: Config) -> None:
        configured = [(logger, logger.propagate) for logger in loggers[:2]]
        super().__init__(cfg)
        for logger, propagates in configured:
            logger.propagate = propagates

    def setup(self, cfg: Config) -> None:
        self.loglevel = _number(cfg.loglevel)
        self.error_log, self.access_log = loggers[:2]


COUNTED = ("critical", "error", "warning", "exception")
METRIC_KINDS = {"counter": "c", "gauge": "g", "histogram": "ms"}


class Statsd(ServerLogger):
    """With statsd_host: what is logged with `extra={"metric": ..., "value": ..., "mtype": ...}` is a metric, whatever
    the level; without a message it is no line."""

    @staticmethod
    def _takes(msg: Any, extra: Any) -> bool:
        if not isinstance(extra, dict) or not extra.get("metric") or extra.get("value") is None:
            return False
        _core.metric(str(extra["metric"]), str(extra["value"]), METRIC_KINDS.get(extra.get("mtype", ""), "c"))
        return not msg


def _metered(name: str) -> Any:
    """A method of Logger that looks at `extra` first."""
    plain = getattr(Logger, name)

    def say(self: Statsd, *args: Any, **kwargs: Any) -> None:
        if name in COUNTED:
            _core.metric(f"gunicorn.log.{name}", "1", "c")
        if not self._takes(args[name == "log"], kwargs.get("extra")):
            plain(self, *args, **kwargs)

    return say


for _name in ("critical", "error", "warning", "info", "debug", "exception", "log"):
    setattr(Statsd, _name, _metered(_name))


def _belongs(name: str, family: str) -> bool:
    return name == family or name.startswith(family + ".")


def _configure() -> list[str] | None:
    """By logconfig and its like: the names of the loggers that were configured; None: there is no configuration."""
    if not (cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json):
        return None
    from licorne import _logconfig

    return _logconfig.configure(cfg)


def _add_syslog(error: logging.Logger, access: logging.Logger) -> None:
    from licorne import _logconfig

    _logconfig.add_syslog(cfg, error, access, "[%(process)d] %(message)s")


# --- lines


def emit(level: int, pid: int, when: float, text: bytes, written: bool) -> None:
    """A line of the error log. `written`: C code has it in the file already."""
    message = text.decode("utf-8", "backslashreplace")
    error_log = getattr(log, "error_log", None) if _custom else loggers.error
    if _custom and (_overrides(METHODS[level]) or not isinstance(error_log, logging.Logger)):
        getattr(log, METHODS[level])(message)
        return
    number = LEVELS[level]
    if not error_log.isEnabledFor(number):
        return
    record = error_log.makeRecord(error_log.name, number, "licorne", 0, message, (), None)
    record.process, record.written = pid, written
    record.created, record.msecs = when, when % 1 * 1000
    _deliver(error_log, record)


def _deliver(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Handlers that pass records on look for the caller some frames up: as many as under Logger.info()."""
    _handle(logger, record)


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    logger.handle(record)


def emit_access(text: bytes, written: bool) -> None:
    words = text.decode("ascii", "backslashreplace").split("\0")
    atoms = Atoms(zip(words[0::2], words[1::2], strict=False))
    for name in "BDMT":
        atoms[name] = int(atoms[name])
    if loggers.format is not None:
        message: str = loggers.format
        args: Any = (atoms,)
    else:
        message = '%s - "%s %s HTTP/%s" %d'
        args = _uvicorn_arguments(atoms)
    if not loggers.access.isEnabledFor(logging.INFO):
        return
    record = loggers.access.makeRecord(loggers.access.name, logging.INFO, "licorne", 0, message, args, None)
    record.written, record.access_line = written, atoms.get("line")
    _deliver(loggers.access, record)


def _uvicorn_arguments(atoms: Atoms) -> tuple[str, str, str, str, int]:
    method, _, rest = atoms["r"].partition(" ")
    target, _, protocol = rest.rpartition(" ")
    return atoms["client"], method, target, protocol.partition("/")[2], int(atoms["s"])


def tell_access(text: bytes) -> None:
    """To a logger class of the user's: (name, value) pairs, as they are."""
    words = text.decode("latin-1").split("\0")
    pairs = list(zip(words[0::2], words[1::2], strict=False))
    facts = dict(pairs[:FACTS])
    from urllib.parse import unquote_to_bytes

    path = unquote_to_bytes(facts["path"].encode("latin-1")).decode("latin-1")
    request = Request(facts["method"], path, facts["query"], facts["target"])
    request.version = (1, int(facts["minor"]))
    request.scheme = facts["scheme"]
    request.remote_addr = request.peer_addr = (facts["host"], int(facts["port"]))
    request.headers = [(name[1:].upper(), value) for name, value in pairs[FACTS:] if name[0] == "<"]
    response = Response(request)
    response.start(facts["status"] or "499", [(name[1:], value) for name, value in pairs[FACTS:] if name[0] == ">"])
    response.sent = int(facts["sent"])
    took = datetime.timedelta(microseconds=int(facts["micros"]))
    log.access(response, request, environ_of(request), took)


def reopen() -> None:
    """USR1: the files were moved away."""
    log.reopen_files()


def start() -> None:
    """In a worker: from now on a thread takes the lines."""
    global _thread
    if _thread is None:
        _thread = threading.Thread(target=_pump, name="licorne-logs", daemon=True)
        _thread.start()


def _take(level: int, pid: int, when: float, text: bytes, written: bool) -> None:
    if level != ACCESS:
        emit(level, pid, when, text, written)
    elif _custom:
        tell_access(text)
    else:
        emit_access(text, written)


def _pump() -> None:
    pid = os.getpid()
    while (lines := _core.log_take()) is not None:
        for level, when, text, written in lines:
            try:
                _take(level, pid, when, text, written)
            except Exception:
                logging.lastResort and sys.excepthook(*sys.exc_info())


def end() -> None:
    if _thread is not None:
        _core.log_close()
        _thread.join(END_SECONDS)
