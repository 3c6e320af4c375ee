"""What configurations of logging that were written for other servers stand on.

Formatters with uvicorn's names and fields: `uvicorn.logging.DefaultFormatter` and `AccessFormatter` are taken from here
where uvicorn is not installed. And `Logger`, the base for `logger_class`, with gunicorn's names.
"""

from __future__ import annotations

import base64
import datetime
import http
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import IO, Any, ClassVar, Literal

COLOURS = {logging.DEBUG: "36", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "91"}
STATUS_COLOURS = {1: "97", 2: "32", 3: "33", 4: "31", 5: "91"}


def _painted(text: str, colour: str | None) -> str:
    return f"\033[{colour}m{text}\033[0m" if colour else text


def _has_colours() -> bool:
    """As C code decides it, for what it writes itself (server/base/log.c)."""
    if os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("FORCE_COLOR", "0") not in ("", "0") or sys.stdout.isatty()


class ColourizedFormatter(logging.Formatter):
    """Adds `levelprefix`, the level's name with a colon, padded; in colour where that can be seen."""

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        self.use_colors = use_colors if use_colors in (True, False) else _has_colours()
        super().__init__(fmt, datefmt, style)

    def should_use_colors(self) -> bool:
        return True

    def formatMessage(self, record: logging.LogRecord) -> str:
        record = copy(record)
        colour = COLOURS.get(record.levelno) if self.use_colors else None
        padding = " " * (8 - len(record.levelname))
        record.__dict__["levelprefix"] = _painted(record.levelname, colour) + ":" + padding
        if self.use_colors and "color_message" in record.__dict__:
            record.msg = record.__dict__["color_message"]
            record.__dict__["message"] = record.getMessage()
        return super().formatMessage(record)


class DefaultFormatter(ColourizedFormatter):
    def should_use_colors(self) -> bool:
        return sys.stderr.isatty()


class AccessFormatter(ColourizedFormatter):
    """Adds `client_addr`, `request_line`, `status_code` (with its phrase) and the arguments of an access record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record = copy(record)
        client, method, target, version, status = record.args  # type: ignore[misc]
        line = f"{method} {target} HTTP/{version}"
        record.__dict__.update(
            client_addr=client,
            method=method,
            full_path=target,
            http_version=version,
            request_line=_painted(line, "1") if self.use_colors else line,
            status_code=self._status(int(status)),  # type: ignore[arg-type]
        )
        return super().formatMessage(record)

    def _status(self, status: int) -> str:
        try:
            text = f"{status} {http.HTTPStatus(status).phrase}"
        except ValueError:
            text = str(status)
        return _painted(text, STATUS_COLOURS.get(status // 100) if self.use_colors else None)


# --- gunicorn's logger class


class SafeAtoms(dict[str, Any]):
    """The atoms of an access log line: quotes are escaped, what is not known is "-"."""

    def __init__(self, atoms: Mapping[str, Any]) -> None:
        super().__init__()
        for name, value in atoms.items():
            self[name] = value.replace('"', '\\"') if isinstance(value, str) else value

    def __getitem__(self, name: str) -> Any:
        lower = name.lower() if name.startswith("{") else name
        return super().__getitem__(lower) if lower in self else "-"


class Logger:
    """The base for `logger_class`: `gunicorn.glogging.Logger` with its names, for those who have no gunicorn installed.

    A subclass may override any method. `setup()` gives the loggers `gunicorn.error` and `gunicorn.access` their
    handlers; the server's lines come to `info()` and its like, finished requests to `access()`, if the access log is on
    or `access()` is overridden. In workers both are called by a thread for this purpose.
    """

    LOG_LEVELS: ClassVar[dict[str, int]] = {
        "critical": logging.CRITICAL,
        "error": logging.ERROR,
        "warning": logging.WARNING,
        "info": logging.INFO,
        "debug": logging.DEBUG,
        "trace": 5,
    }
    loglevel = logging.INFO
    error_fmt = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
    access_fmt = "%(message)s"
    syslog_fmt = "[%(process)d] %(message)s"
    datefmt = "[%Y-%m-%d %H:%M:%S %z]"
    atoms_wrapper_class: Callable[[Mapping[str, Any]], Mapping[str, Any]] = SafeAtoms

    def __init__(self, cfg: Any) -> None:
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        self.error_log.propagate = self.access_log.propagate = False
        self.error_handlers: list[logging.Handler] = []
        self.access_handlers: list[logging.Handler] = []
        self.logfile = None
        self.lock = threading.Lock()
        self.cfg = cfg
        self.setup(cfg)

    def setup(self, cfg: Any) -> None:
        self.loglevel = self.LOG_LEVELS.get(str(cfg.loglevel).lower(), logging.INFO)
        self.error_log.setLevel(self.loglevel)
        self.access_log.setLevel(logging.INFO)
        self._set_handler(self.error_log, cfg.errorlog, logging.Formatter(self.error_fmt, self.datefmt))
        if cfg.accesslog:
            self._set_handler(self.access_log, cfg.accesslog, logging.Formatter(self.access_fmt), sys.stdout)
        from licorne import _logconfig

        _logconfig.configure(cfg)
        if cfg.syslog:
            _logconfig.add_syslog(cfg, self.error_log, self.access_log, self.syslog_fmt)

    def _get_gunicorn_handler(self, log: logging.Logger) -> logging.Handler | None:
        return next((handler for handler in log.handlers if getattr(handler, "_gunicorn", False)), None)

    def _set_handler(
        self, log: logging.Logger, output: str | None, fmt: logging.Formatter, stream: IO[str] | None = None
    ) -> None:
        """In place of the one that was set before."""
        before = self._get_gunicorn_handler(log)
        if before is not None:
            log.removeHandler(before)
        if output is None:
            return
        handler = logging.StreamHandler(stream) if output == "-" else logging.FileHandler(output)
        handler.setFormatter(fmt)
        handler._gunicorn = True  # type: ignore[attr-defined]
        log.addHandler(handler)

    def critical(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.critical(msg, *args, **kwargs)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.error(msg, *args, **kwargs)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.warning(msg, *args, **kwargs)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.info(msg, *args, **kwargs)

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.debug(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.exception(msg, *args, **kwargs)

    def log(self, lvl: int | str, msg: Any, *args: Any, **kwargs: Any) -> None:
        level = self.LOG_LEVELS.get(lvl.lower(), logging.INFO) if isinstance(lvl, str) else lvl
        self.error_log.log(level, msg, *args, **kwargs)

    def atoms(
        self, resp: Any, req: Any, environ: Mapping[str, Any], request_time: datetime.timedelta
    ) -> dict[str, Any]:
        """`resp`, `req`: objects, or their headers."""
        status = str(resp.status).split(None, 1)[0] if resp.status else "499"
        micros = request_time // datetime.timedelta(microseconds=1)
        sent = getattr(resp, "sent", None)
        atoms: dict[str, Any] = {
            "h": environ.get("REMOTE_ADDR") or "-",
            "l": "-",
            "u": self._get_user(environ) or "-",
            "t": self.now(),
            "r": f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}",
            "s": status,
            "m": environ.get("REQUEST_METHOD"),
            "U": environ.get("PATH_INFO"),
            "q": environ.get("QUERY_STRING"),
            "H": environ.get("SERVER_PROTOCOL"),
            "b": str(sent) if sent is not None else "-",
            "B": sent,
            "f": environ.get("HTTP_REFERER", "-"),
            "a": environ.get("HTTP_USER_AGENT", "-"),
            "T": micros // 1_000_000,
            "M": micros // 1000,
            "D": micros,
            "L": f"{micros // 1_000_000}.{micros % 1_000_000:06}",
            "p": f"<{os.getpid()}>",
        }
        for kind, source in (
            ("i", getattr(req, "headers", req)),
            ("o", getattr(resp, "headers", resp)),
            ("e", environ),
        ):
            pairs = source.items() if hasattr(source, "items") else source
            atoms.update((f"{{{name.lower()}}}{kind}", value) for name, value in pairs)
        return atoms

    def access(self, resp: Any, req: Any, environ: Mapping[str, Any], request_time: datetime.timedelta) -> None:
        cfg = self.cfg
        to_syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
        if not (cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or to_syslog):
            return
        atoms = self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
        try:
            self.access_log.info(cfg.access_log_format, atoms)
        except Exception:
            self.error_log.exception("The access log's line cannot be made")

    def now(self) -> str:
        return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")

    def _get_user(self, environ: Mapping[str, Any]) -> str | None:
        kind, _, credentials = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            return base64.b64decode(credentials.strip()).decode("utf-8", "replace").partition(":")[0]
        except ValueError:
            return None

    def _file_handlers(self) -> Iterator[logging.FileHandler]:
        for log in (self.error_log, self.access_log):
            yield from (handler for handler in log.handlers if isinstance(handler, logging.FileHandler))

    def reopen_files(self) -> None:
        """The files were moved away (USR1)."""
        for handler in self._file_handlers():
            handler.acquire()  # type: ignore[no-untyped-call]
            try:
                if handler.stream is not None:
                    handler.close()
                    handler.stream = handler._open()
            finally:
                handler.release()  # type: ignore[no-untyped-call]

    def close_on_exec(self) -> None:
        """Python's files are closed by an exec anyway."""
        for handler in self._file_handlers():
            if handler.stream is not None:
                os.set_inheritable(handler.stream.fileno(), False)
