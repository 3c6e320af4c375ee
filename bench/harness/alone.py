"""An application without a server: python -m harness.alone KIND MODULE:ATTRIBUTE TARGET EXPECTED_BODY

Calls it again and again in one task (ASGI) or one thread (WSGI), and prints CPU µs a request: what no server can save.
It gets what servers give it at least; the answer is compared."""

from __future__ import annotations

import asyncio
import importlib
import io
import sys
import time
from collections.abc import Callable
from typing import Any

SECONDS, WARM_UP = 0.5, 200


def measure(once: Callable[[], Any]) -> float:
    for _ in range(WARM_UP):
        once()
    count, began, until = 0, time.process_time(), time.monotonic() + SECONDS
    while time.monotonic() < until:
        for _ in range(20):
            once()
        count += 20
    return (time.process_time() - began) / count * 1e6


def wsgi(app: Any, target: str, expected: bytes) -> float:
    path, _, query = target.partition("?")
    template = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "bench",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }

    def once() -> bytes:
        answer = app(template.copy(), lambda status, headers, exc_info=None: None)
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return body

    assert once() == expected, once()
    return measure(once)


def asgi(app: Any, target: str, expected: bytes) -> float:
    path, _, query = target.partition("?")
    template = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"bench")],
    }
    bodies: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.body":
            bodies.append(event.get("body", b""))

    def once() -> bytes:
        bodies.clear()
        try:
            app(template.copy(), receive, send).send(None)
        except StopIteration:
            return b"".join(bodies)
        raise SystemExit("the application waits for something: it cannot be measured alone")

    async def main() -> float:
        assert once() == expected, once()
        return measure(once)

    return asyncio.run(main())


def main() -> None:
    kind, name, target, expected = sys.argv[1:]
    module, _, attribute = name.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    print((asgi if kind == "asgi" else wsgi)(app, target, expected.encode()))


if __name__ == "__main__":
    main()
