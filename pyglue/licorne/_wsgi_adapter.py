"""A WSGI application on the caller's event loop (`licorne.Server`): it runs in threads, and an ASGI application waits
for it. In workers the extension serves WSGI without all this (pyglue/wsgi.h).
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS = 10  # as many as uvicorn's
BODY_IN_MEMORY = 1024 * 1024  # of a request; a larger one is kept in a file

Environ = dict[str, Any]


class WsgiAdapter:
    """`async (scope, receive, send)` around an application of PEP 3333."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        with tempfile.SpooledTemporaryFile(max_size=BODY_IN_MEMORY) as body:
            if not await _read_body(receive, body):
                return
            call = _Call(self._application, send)
            run = contextvars.copy_context().run
            await self._loop_threads(run, call, _environ(scope, body))

    async def _loop_threads(self, *call: Any) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="licorne-wsgi")
        await asyncio.get_running_loop().run_in_executor(self._threads, *call)

    def close(self) -> None:
        """The threads end when they have nothing left to do."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)


async def _read_body(receive: Any, body: Any) -> bool:
    """False: the client has left before it was complete."""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return False
        body.write(event.get("body", b""))
        if not event.get("more_body", False):
            body.seek(0)
            return True


def _environ(scope: Any, body: Any) -> Environ:
    root = scope.get("root_path", "").encode().decode("latin-1")
    path = scope["path"].encode().decode("latin-1")
    host, port = scope.get("server") or ("localhost", 80)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root,
        "PATH_INFO": path[len(root) :] if root and path.startswith(root) else path,
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port if port is not None else 80),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = scope["client"][0], str(scope["client"][1])
    for name, value in scope["headers"]:
        _add_header(environ, name.decode("latin-1"), value.decode("latin-1"))
    return environ


def _add_header(environ: Environ, name: str, value: str) -> None:
    key = name.upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = f"HTTP_{key}"
    if key in environ:
        value = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
    environ[key] = value


class _Call:
    """One request, in its thread: the application, and what it is called with."""

    def __init__(self, application: Callable[..., Iterable[bytes]], send: Any) -> None:
        self._application = application
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._head: dict[str, Any] | None = None
        self._head_sent = False

    def __call__(self, environ: Environ) -> None:
        result = self._application(environ, self._start_response)
        try:
            for chunk in result:
                if chunk:
                    self._write(chunk)
            self._tell({"type": "http.response.body"})
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self._head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise RuntimeError("start_response() was called twice")
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._head = {"type": "http.response.start", "status": int(status.split(" ", 1)[0]), "headers": fields}
        return self._write

    def _write(self, data: bytes) -> None:
        self._tell({"type": "http.response.body", "body": data, "more_body": True})

    def _tell(self, event: dict[str, Any]) -> None:
        """The head goes along with the first byte. Waits for the loop: so a slow client slows its own thread down."""
        if self._head is None:
            raise RuntimeError("start_response() was not called")
        head = [] if self._head_sent else [self._head]
        self._head_sent = True
        asyncio.run_coroutine_threadsafe(self._send_all([*head, event]), self._loop).result()

    async def _send_all(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            await self._send(event)
