"""What a stuck or slow worker tells of its asyncio tasks. Called by the extension, in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from licorne import _asgi

TASKS_MAX = 100
TASK_NAME = "licorne-request"  # as asgi_runtime.c has it
DEPTH_MAX = 50

KNOWN = {"licorne._core.Awaitable": "receive() or send()", "_asyncio.FutureIter": "an asyncio.Future"}

# Tasks that have suspended, each with its request.
Requests = list[tuple["asyncio.Task[Any]", str]]


def tasks(known: tuple[asyncio.AbstractEventLoop, Requests]) -> str:
    """All tasks of the loop: those that serve requests first, oldest first."""
    loop, requests = known
    serving = {id(task): request for task, request in requests}
    others = [task for task in asyncio.all_tasks(loop) if id(task) not in serving and not _is_ours(task)]
    everything = [task for task, _ in requests] + others
    lines = [""]
    for task in everything[:TASKS_MAX]:
        lines.append(_title(task, serving.get(id(task)) or _request(task), task is asyncio.current_task(loop)))
        lines += _stack(task)
    if len(everything) > TASKS_MAX:
        lines.append(f"and {len(everything) - TASKS_MAX} more tasks")
    return "\n".join(lines) + "\n"


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """The root task, which waits as long as the worker serves."""
    return getattr(task.get_coro(), "cr_code", None) is _asgi.serve.__code__


def _request(task: asyncio.Task[Any]) -> str | None:
    """What it serves, by the application's scope: of a WebSocket, whose request is over once it is accepted, and of a
    request whose first step has not ended."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    if frame is None or task.get_name() != TASK_NAME:
        return None
    arguments = (frame.f_locals.get(name) for name in frame.f_code.co_varnames[: frame.f_code.co_argcount])
    scope = next((value for value in arguments if isinstance(value, dict) and "asgi" in value), {})
    kind = "WebSocket" if scope.get("type") == "websocket" else scope.get("method")
    return f"{kind} {scope.get('path')}" if kind else None


def _title(task: asyncio.Task[Any], request: str | None, runs: bool) -> str:
    serves = f" serves {request}" if request else f" {task.get_name()!r}"
    return f"Task{serves}{', runs now' if runs else ''} (most recent call first):"


def _stack(task: asyncio.Task[Any]) -> list[str]:
    steps = list(_steps(task.get_coro()))
    lines = [_line(step) for step in reversed(steps) if isinstance(step, tuple)]
    if steps and isinstance(steps[-1], str):
        lines.insert(0, f"  waits for {steps[-1]}")
    return lines or ["  <not started>"]


def _steps(awaited: Any) -> Iterator[tuple[CodeType, FrameType | None] | str]:
    """Outermost first; what is no coroutine comes last, by its type's name."""
    for _ in range(DEPTH_MAX):
        for kind, follow in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            code = getattr(awaited, f"{kind}_code", None)
            if isinstance(code, CodeType):
                yield code, getattr(awaited, f"{kind}_frame", None)
                awaited = getattr(awaited, follow, None)
                break
        else:
            break
    if awaited is not None:
        name = f"{type(awaited).__module__}.{type(awaited).__qualname__}"
        yield KNOWN.get(name, name)


def _line(step: tuple[CodeType, FrameType | None]) -> str:
    code, frame = step
    line = frame.f_lineno if frame is not None and frame.f_lineno else code.co_firstlineno
    return f'  File "{code.co_filename}", line {line} in {code.co_name}'
