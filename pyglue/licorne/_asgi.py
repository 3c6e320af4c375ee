"""The cold parts of serving ASGI, called by the extension: what runs once per worker rather than once per request."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

Application = Callable[..., Any]


def adapt(application: Application, version: int) -> Application:
    """The application as one coroutine function of (scope, receive, send).

    What already is one is called directly. Any other callable runs code of its own before there is a coroutine: it gets
    a coroutine around it, so that this code runs in the request's own task and context too.
    """
    if version == 2:

        async def asgi2(scope: Any, receive: Any, send: Any) -> None:
            await application(scope)(receive, send)

        return asgi2
    if is_coroutine_function(application):
        return application

    async def asgi3(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)

    return asgi3


def is_coroutine_function(application: Application) -> bool:
    """True only for `async def` itself; functions that are merely marked as coroutine functions are not."""
    if not (inspect.isfunction(application) or inspect.ismethod(application)):
        application = type(application).__call__
    code = getattr(application, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_COROUTINE)


def contain(application: Application) -> Application:
    """In the caller's process SystemExit and KeyboardInterrupt cost a request, not the loop that he lives on."""

    async def contained(scope: Any, receive: Any, send: Any) -> None:
        try:
            await application(scope, receive, send)
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"the application raised {type(error).__name__}") from error

    return contained


EAGER = sys.version_info >= (3, 12, 5)  # before, get_coro() of a task that is done at once crashes


def start(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """The task of a request on a loop that is not ours; it has taken its first step where Python can do that."""
    if EAGER and loop.get_task_factory() is None:
        return asyncio.Task(coroutine, loop=loop, name=name, eager_start=True)
    task = loop.create_task(coroutine)
    task.set_name(name)
    return task


async def serve(stopped: asyncio.Event) -> None:
    """The root task: what run_until_complete() runs while the worker serves. anyio ties its worker threads to it."""
    await stopped.wait()


async def wait(future: asyncio.Future[Any], timeout: float) -> bool:
    """Waits for it without cancelling it; whether it is done."""
    await asyncio.wait([future], timeout=timeout)
    return future.done()


async def finish(timeout: float) -> list[str]:
    """Ends what the application left behind: tasks, async generators, threads. Returns the tasks that it cancelled."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=max(deadline - loop.time(), 0.1))
    for task in tasks:
        report(loop, task)
    await bounded(loop.shutdown_asyncgens(), deadline)
    await bounded(shutdown_executor(loop), deadline)
    return [repr(task) for task in tasks]


def report(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """As asyncio.run() does."""
    if task.done() and not task.cancelled() and (exception := task.exception()) is not None:
        context = {"message": "unhandled exception during shutdown", "exception": exception, "task": task}
        loop.call_exception_handler(context)


async def bounded(awaitable: Awaitable[Any], deadline: float) -> None:
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait([task], timeout=max(deadline - asyncio.get_running_loop().time(), 0.1))
    if not task.done():
        task.cancel()


async def shutdown_executor(loop: asyncio.AbstractEventLoop) -> None:
    """loop.shutdown_default_executor(), but cancelling it does not join the threads (3.10 and 3.11 would)."""
    executor = getattr(loop, "_default_executor", None)
    if executor is None:
        return
    loop._executor_shutdown_called = True  # type: ignore[attr-defined]
    joined = loop.create_future()

    def join() -> None:
        executor.shutdown(wait=True)
        with contextlib.suppress(RuntimeError):  # too late: the loop is closed
            loop.call_soon_threadsafe(lambda: joined.done() or joined.set_result(None))

    threading.Thread(target=join, daemon=True).start()
    await joined
