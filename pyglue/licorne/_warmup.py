"""The warm-up: what is to be run once before workers are forked (or, without preload, before a worker is ready).

So lazy imports, caches and specialised bytecode are there, and shared. pyglue/warmup.c calls run() for each item of the
setting `warmup`, then settle().

An item is a path ("/", "/search?q=x"), a URL ("https://shop.example/": scheme and host are the request's), or
"module:callable": called without arguments, and awaited if it returns a coroutine. Requests get no lifespan state.
"""

from __future__ import annotations

import importlib
import inspect
import io
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

SETTLE_S = 1.0  # threads of pools that the warm-up has ended may need a moment
USER_AGENT = "licorne-warmup"

_threads = set(threading.enumerate())


class WarmUpError(Exception):
    pass


# --- a loop of its own, of which nothing is left: asyncio.run() would change what get_event_loop() says


async def _finish(loop: Any) -> None:
    import asyncio

    tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _await(work: Coroutine[Any, Any, Any]) -> None:
    import asyncio

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(work)
        loop.run_until_complete(_finish(loop))
    finally:
        loop.close()


# --- one request


def _split(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"http://localhost{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WarmUpError("is neither a path nor a URL")
    return parts


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


async def _ask_asgi(application: Callable[..., Any], version: int, url: SplitResult, root_path: str) -> int:
    import asyncio

    path = url.path or "/"
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": f"{version}.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": url.scheme,
        "path": root_path + unquote(path),
        "raw_path": (root_path + path).encode(),
        "query_string": url.query.encode(),
        "root_path": root_path,
        "headers": [(b"host", url.netloc.encode()), (b"user-agent", USER_AGENT.encode()), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 0),
        "server": (url.hostname, _port(url)),
    }
    status = 0
    body_is_read = False
    done = asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal body_is_read
        if not body_is_read:
            body_is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            done.set()

    call: Awaitable[None] = application(scope)(receive, send) if version == 2 else application(scope, receive, send)
    await call
    return status


def _ask_wsgi(application: Callable[..., Any], url: SplitResult, root_path: str) -> int:
    status = 0

    def write(data: bytes) -> None:
        pass

    def start_response(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        nonlocal status
        status = int(line[:3])
        return write

    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": root_path,
        "PATH_INFO": unquote(url.path or "/", "latin-1"),
        "QUERY_STRING": url.query,
        "SERVER_NAME": url.hostname,
        "SERVER_PORT": str(_port(url)),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": url.netloc,
        "HTTP_USER_AGENT": USER_AGENT,
        "HTTP_ACCEPT": "*/*",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": url.scheme,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    body = application(environ, start_response)
    try:
        for _ in body:
            pass
    finally:
        if hasattr(body, "close"):
            body.close()
    return status


def _ask(application: Callable[..., Any], version: int, url: SplitResult, root_path: str) -> int:
    """The status. `version`: of ASGI; 0: WSGI."""
    if version == 0:
        return _ask_wsgi(application, url, root_path)
    status = 0

    async def ask() -> None:
        nonlocal status
        status = await _ask_asgi(application, version, url, root_path)

    _await(ask())
    return status


# --- what pyglue/warmup.c calls


def _call(item: str) -> None:
    module, _, name = item.partition(":")
    if not module or not name:
        raise WarmUpError("is neither a path, nor a URL, nor module:callable")
    target: Any = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    result = target()
    if inspect.iscoroutine(result):
        _await(result)


def run(item: str, application: Callable[..., Any], version: int, root_path: str) -> str | None:
    """Raises what ends the boot; returns what is only to be logged."""
    if not item.startswith("/") and "://" not in item:
        _call(item)
        return None
    status = _ask(application, version, _split(item), root_path)
    if status == 0 or status >= 500:
        raise WarmUpError(f"was answered with {status}" if status else "was not answered")
    return f"was answered with {status}" if status >= 400 else None


def settle() -> None:
    """Waits for the threads that the warm-up has started and ended."""
    new = [thread for thread in threading.enumerate() if thread not in _threads]
    for thread in new:
        thread.join(SETTLE_S / len(new))
