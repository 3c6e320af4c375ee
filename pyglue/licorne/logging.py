"""Formatters with uvicorn's names and fields, for logging configurations that were written for it:
`uvicorn.logging.DefaultFormatter` and `AccessFormatter` are taken from here where uvicorn is not installed.
"""

from __future__ import annotations

import http
import logging
import sys
from copy import copy
from typing import Literal

COLOURS = {logging.DEBUG: "36", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "91"}
STATUS_COLOURS = {1: "97", 2: "32", 3: "33", 4: "31", 5: "91"}


def _painted(text: str, colour: str | None) -> str:
    return f"\033[{colour}m{text}\033[0m" if colour else text


class ColourizedFormatter(logging.Formatter):
    """Adds `levelprefix`, the level's name with a colon, padded; in colour where that can be seen."""

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        self.use_colors = use_colors if use_colors in (True, False) else sys.stdout.isatty()
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
