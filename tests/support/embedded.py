"""What the tests of licorne.Server share: the application they serve, clients, and the libraries that are compared."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.server import wait_until


def library(name: str) -> Any:
    """licorne, or uvicorn as the oracle where it is installed."""
    return importlib.import_module(name) if name == "licorne" else pytest.importorskip(name)


def loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if kind == "asyncio":
        return asyncio.new_event_loop
    module = importlib.import_module("licorne") if kind == "licorne" else pytest.importorskip(kind)
    return module.new_event_loop


def run(kind: str, main: Any) -> Any:
    """asyncio.run() on that kind of loop, on every Python."""
    loop = loop_factory(kind)()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, 60))
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class App:
    """Answers with the path; a few paths do something else. Keeps notes of what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.release = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self.echo(receive, send)
            return
        body = scope["path"].encode()
        status = 200
        match scope["path"]:
            case "/sleep":
                await asyncio.sleep(0.05)
            case "/held":
                self.notes.append("held")
                try:
                    await until(self.release.is_set)
                except asyncio.CancelledError:
                    self.notes.append("cancelled")
                    raise
            case "/error":
                raise ValueError("no such luck")
            case "/exit":
                raise SystemExit(7)
            case "/state":
                body = repr(sorted(scope["state"].items())).encode()
            case "/count":
                body = str(await count(receive)).encode()
            case "/many":
                await stream(send, 64, 65536)
                return
            case "/task":
                task = asyncio.current_task()
                loop = asyncio.get_running_loop()
                body = f"{type(task).__name__} {task in asyncio.all_tasks()} {type(loop).__module__}".encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})

    async def lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["colour"] = "white"
        while True:
            kind = (await receive())["type"]
            self.notes.append(kind)
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    async def echo(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        self.notes.append(f"websocket {event['code']}")


async def count(receive: Any) -> int:
    total, more = 0, True
    while more:
        event = await receive()
        total += len(event.get("body", b""))
        more = event.get("more_body", False)
        await asyncio.sleep(0)
    return total


async def stream(send: Any, chunks: int, size: int) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(chunks):
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
    await send({"type": "http.response.body"})


def get(port: int, path: str = "/", body: bytes | None = None, timeout: float = 30) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


async def fetch(port: int, path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
    """The same without standing in the way of the loop that serves."""
    return await asyncio.get_running_loop().run_in_executor(None, get, port, path, body)


def port_of(server: Any) -> int:
    return server.servers[0].sockets[0].getsockname()[1]


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), seconds)


@contextlib.contextmanager
def in_thread(server: Any, **arguments: Any) -> Iterator[Any]:
    """As fixtures do it."""
    thread = threading.Thread(target=server.run, kwargs=arguments)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the start")
        assert server.started
        yield server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
