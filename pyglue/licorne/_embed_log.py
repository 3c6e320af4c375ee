"""What the core has to say while it serves in the caller's process (`licorne.Server`), in Python's logging: the loggers
are those that programs for uvicorn configure. pyglue/embed_log.c calls this; in workers it is licorne/_logging.py.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

LEVELS = (5, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # enum log_level's

errors = logging.getLogger("uvicorn.error")
accesses = logging.getLogger("uvicorn.access")


def level() -> int:
    """The index of the least level that counts."""
    return next((i for i, number in enumerate(LEVELS) if errors.isEnabledFor(number)), len(LEVELS) - 1)


def emit(level: int, message: str) -> None:
    errors.log(LEVELS[level], message)


def emit_exception(level: int, message: str, exception: BaseException) -> None:
    errors.log(LEVELS[level], message, exc_info=(type(exception), exception, exception.__traceback__))


def emit_access(facts: bytes) -> None:
    words = facts.decode("ascii", "backslashreplace").split("\0")
    atoms = dict(zip(words[0::2], words[1::2], strict=False))
    method, _, rest = atoms["r"].partition(" ")
    target, _, protocol = rest.rpartition(" ")
    version = protocol.partition("/")[2]
    accesses.info('%s - "%s %s HTTP/%s" %d', atoms["client"], method, target, version, int(atoms["s"]))


def own_formatters(formatters: dict[str, Any]) -> dict[str, Any]:
    """Of a configuration: uvicorn's formatters are ours where uvicorn is not installed."""
    if importlib.util.find_spec("uvicorn") is not None:
        return dict(formatters)
    return {name: {key: _own(value) for key, value in given.items()} for name, given in formatters.items()}


def _own(value: Any) -> Any:
    theirs = isinstance(value, str) and value.startswith("uvicorn.logging.")
    return value.replace("uvicorn", "licorne", 1) if theirs else value
