"""An ASGI application of many small cases: the first segment of the path names one. What a case saw it writes down with
note(); GET /notes/<name> returns that as JSON, and waits until there are as many as ?count= says."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import resource
import sys
import time
import weakref
from collections import defaultdict
from typing import Any

NOTES: dict[str, list[Any]] = defaultdict(list)
KEPT: list[Any] = []  # what must outlive its request
CROWD: list[Any] = []  # the callbacks of /crowd that have run


def note(name: str, value: Any) -> None:
    NOTES[name].append(value)


def describe(error: BaseException) -> dict[str, Any]:
    return {"type": type(error).__name__, "bases": [c.__name__ for c in type(error).__mro__], "text": str(error)}


def plain(value: Any) -> Any:
    """As JSON can say it: what was bytes becomes {"bytes": latin-1}."""
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)


async def answer(send: Any, body: bytes | Any, status: int = 200, headers: Any = ()) -> None:
    if not isinstance(body, bytes):
        body = json.dumps(plain(body)).encode()
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


async def read_all(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        event = await receive()
        assert event["type"] == "http.request", event
        body += event["body"]
        more = event["more_body"]
    return body


def parameters(scope: Any) -> dict[str, str]:
    return dict(part.split("=", 1) for part in scope["query_string"].decode().split("&") if part)


# --- scope and notes


async def case_notes(scope, receive, send):
    _, _, name = scope["path"].lstrip("/").partition("/")
    count = int(parameters(scope).get("count", "1"))
    due = asyncio.get_running_loop().time() + 20
    while len(NOTES[name]) < count and asyncio.get_running_loop().time() < due:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await answer(send, NOTES[name])


async def case_scope(scope, receive, send):
    shown = plain(scope)
    shown["_type"] = type(scope).__name__
    shown["_types"] = {key: type(value).__name__ for key, value in scope.items()}
    scope["touched"] = True
    scope["headers"] = None
    await answer(send, shown)


async def case_state(scope, receive, send):
    seen = dict(scope["state"])
    scope["state"]["request"] = "mine"
    scope["state"].get("shared", []).append(1)
    await answer(send, {"seen": {k: plain(v) for k, v in seen.items()}})


# --- receive


async def case_events(scope, receive, send):
    events = []
    while True:
        event = await receive()
        events.append(plain(event))
        if event["type"] != "http.request" or not event["more_body"]:
            break
    await answer(send, events)


async def case_echo(scope, receive, send):
    await answer(send, await read_all(receive))


async def case_sum(scope, receive, send):
    """Streams the body in; answers its length and the greatest piece."""
    total, greatest, more = 0, 0, True
    while more:
        event = await receive()
        assert event["type"] == "http.request", event
        total, greatest = total + len(event["body"]), max(greatest, len(event["body"]))
        more = event["more_body"]
    await answer(send, {"total": total, "greatest": greatest})


async def case_mirror(scope, receive, send):
    """Streams each piece back as it comes."""
    await send({"type": "http.response.start", "status": 200})
    more = True
    while more:
        event = await receive()
        more = event.get("more_body", False)
        await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": True})
    await send({"type": "http.response.body"})


async def case_after_body(scope, receive, send):
    """receive() after the whole body waits until the response is complete, then says http.disconnect, ever again."""
    await read_all(receive)
    waiting = asyncio.create_task(receive())
    await asyncio.sleep(0.05)
    note("after_body", waiting.done())
    await answer(send, b"done")
    note("after_body", await waiting)
    note("after_body", await receive())


async def case_wait_disconnect(scope, receive, send):
    await read_all(receive)
    note("wait_disconnect", "waiting")
    note("wait_disconnect", await receive())
    note("wait_disconnect", await receive())
    await answer(send, b"too late")


async def case_half_body(scope, receive, send):
    """The client leaves in the middle of its body."""
    while True:
        event = await receive()
        note("half_body", plain(event))
        if event["type"] == "http.disconnect":
            return


async def case_wait_for_body(scope, receive, send):
    """A receive() that is cancelled loses nothing."""
    pieces = []
    cancelled = 0
    while True:
        try:
            event = await asyncio.wait_for(receive(), 0.005)
        except asyncio.TimeoutError:
            cancelled += 1
            continue
        pieces.append(event["body"])
        if not event["more_body"]:
            break
    await answer(send, {"body": b"".join(pieces), "cancelled": cancelled})


async def case_two_receivers(scope, receive, send):
    await read_all(receive)
    tasks = [asyncio.create_task(receive()) for _ in range(2)]
    await asyncio.sleep(0)
    await answer(send, b"done")
    note("two_receivers", [await task for task in tasks])


# --- send


async def case_raw(scope, receive, send):
    """Sends the events of the JSON body; notes which exceptions came out of send()."""
    name = scope["path"].rpartition("/")[2]
    for event in json.loads(await read_all(receive)):
        try:
            await send(revive(event))
            note(name, None)
        except Exception as error:
            note(name, describe(error))


def revive(value: Any) -> Any:
    if isinstance(value, dict):
        kinds = {"$bytes": lambda v: v.encode("latin-1"), "$bytearray": lambda v: bytearray(v, "latin-1")}
        kinds["$memoryview"] = lambda v: memoryview(v.encode("latin-1"))
        kinds["$tuple"] = lambda v: tuple(revive(item) for item in v)
        kinds["$iter"] = lambda v: iter([revive(item) for item in v])
        for key, make in kinds.items():
            if key in value:
                return make(value[key])
        return {key: revive(item) for key, item in value.items()}
    return [revive(item) for item in value] if isinstance(value, list) else value


async def case_hello(scope, receive, send):
    await answer(send, b"Hello, world!", headers=[(b"content-type", b"text/plain")])


async def case_stream(scope, receive, send):
    given = parameters(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(int(given.get("pieces", "3"))):
        await send({"type": "http.response.body", "body": b"piece %d\n" % number, "more_body": True})
        if "slow" in given:
            await asyncio.sleep(0.001)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def case_status(scope, receive, send):
    await answer(send, b"a body", int(scope["path"].rpartition("/")[2]))


async def case_held(scope, receive, send):
    """The head alone is not sent."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    note("held", "started")
    await asyncio.sleep(0.3)
    await send({"type": "http.response.body", "body": b"body"})


async def case_download(scope, receive, send):
    given = parameters(scope)
    size, piece = int(given["size"]), int(given.get("piece", 65536))
    await send({"type": "http.response.start", "status": 200, "headers": [[b"content-length", b"%d" % size]]})
    sent = 0
    block = bytes(range(256)) * (piece // 256 + 1)
    while sent < size:
        n = min(piece, size - sent)
        await send({"type": "http.response.body", "body": block[:n], "more_body": sent + n < size})
        sent += n
        NOTES["download"] = [sent]
        NOTES["download_rss"] = [rss()]


async def case_endless(scope, receive, send):
    """Streams until send() raises."""
    await send({"type": "http.response.start", "status": 200})
    note("endless", "started")
    try:
        while True:
            await send({"type": "http.response.body", "body": b"x" * 10000, "more_body": True})
            await asyncio.sleep(0)
    except OSError as error:
        note("endless", describe(error))
        if "raise" in parameters(scope):
            raise RuntimeError("a framework's own exception") from error
        raise


async def case_send_late(scope, receive, send):
    event = await receive()
    while event["type"] != "http.disconnect":
        event = await receive()
    await asyncio.sleep(0.05)
    for _ in range(2):
        try:
            await answer(send, b"nobody reads this")
            note("send_late", None)
        except OSError as error:
            note("send_late", describe(error))
    await send({"type": "http.response.start", "status": 200})


async def case_after_end(scope, receive, send):
    """After the final body everything is ignored, whatever it is."""
    await answer(send, b"all")
    events = [{"type": "http.response.body", "body": b"more"}, {"type": "http.response.start", "status": 500}]
    for event in [*events, {"type": "no.such.event"}]:
        await send(event)
    note("after_end", "ignored")


# --- failures


async def case_boom(scope, receive, send):
    raise ValueError("boom before the head")


async def case_boom_held(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-secret", b"1")]})
    raise ValueError("boom while the head is held")


async def case_boom_after(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    raise ValueError("boom after the head")


async def case_boom_later(scope, receive, send):
    await asyncio.sleep(0.001)
    raise ValueError("boom in a later step")


async def case_boom_done(scope, receive, send):
    await answer(send, b"fine")
    raise ValueError("boom after the response")


async def case_nothing(scope, receive, send):
    pass


async def case_only_start(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def case_unfinished(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})


async def case_cancel_self(scope, receive, send):
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


async def case_exit(scope, receive, send):
    if "later" in parameters(scope):
        await asyncio.sleep(0.001)
    raise SystemExit("not the worker's end") if "keyboard" not in parameters(scope) else KeyboardInterrupt


# --- asyncio

SEEN_TASKS: list[weakref.ref] = []


async def case_task(scope, receive, send):
    task = asyncio.current_task()
    SEEN_TASKS.append(weakref.ref(task))
    found = {
        "real": type(task) is asyncio.Task,
        "unique": len({id(ref()) for ref in SEEN_TASKS if ref() is not None}),
        "in_all_tasks": task in asyncio.all_tasks(),
        "hashable": isinstance(hash(task), int),
        "weak_key": bool(weakref.WeakKeyDictionary({task: 1})),
        "coro": getattr(task.get_coro(), "__qualname__", None),
        "loop": type(asyncio.get_running_loop()).__module__,
        "done": task.done(),
        "name": task.get_name(),
    }
    if hasattr(task, "cancelling"):
        found["cancelling"] = task.cancelling()
    if "later" in parameters(scope):
        await asyncio.sleep(0.001)
        found["same"] = asyncio.current_task() is task
    if "gate" in parameters(scope):
        note("gate-" + parameters(scope)["gate"], True)
        await GATE.setdefault(parameters(scope)["gate"], asyncio.Event()).wait()
    await answer(send, found)


async def case_dead_tasks(scope, receive, send):
    """How many of the tasks that case_task saw are still alive."""
    gc.collect()
    await answer(send, sum(ref() is not None for ref in SEEN_TASKS))


VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="unset")


async def case_context(scope, receive, send):
    before = VAR.get()
    VAR.set(scope["path"])
    if "later" in parameters(scope):
        await asyncio.sleep(0.001)
    await answer(send, {"before": before, "after": VAR.get()})


GATE: dict[str, asyncio.Event] = {}


async def case_gate(scope, receive, send):
    """/gate/<name> waits until /open/<name>."""
    name = scope["path"].rpartition("/")[2]
    event = GATE.setdefault(name, asyncio.Event())
    note("gate-" + name, True)
    await event.wait()
    await answer(send, b"through")


async def case_open(scope, receive, send):
    GATE.setdefault(scope["path"].rpartition("/")[2], asyncio.Event()).set()
    await answer(send, b"opened")


async def case_timeout(scope, receive, send):
    try:
        if "with" in parameters(scope):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        else:
            await asyncio.wait_for(asyncio.sleep(10), 0.001)
    except (TimeoutError, asyncio.TimeoutError):
        await answer(send, {"cancelling": getattr(asyncio.current_task(), "cancelling", int)()})


async def case_task_group(scope, receive, send):
    async def part(number: int) -> int:
        await asyncio.sleep(0.001 * number)
        return number

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part(n)) for n in range(5)]
    failed = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(part(1))
            group.create_task(failing())
            await asyncio.sleep(10)
    except BaseException as error:
        failed = [type(inner).__name__ for inner in error.exceptions]
    await answer(send, {"results": [task.result() for task in tasks], "failed": failed})


async def failing() -> None:
    await asyncio.sleep(0)
    raise KeyError("part")


async def case_anyio(scope, receive, send):
    import anyio.lowlevel
    import sniffio

    found: dict[str, Any] = {"library": sniffio.current_async_library()}
    with anyio.move_on_after(0.01) as timed:
        await anyio.sleep(10)
    found["timed_out"] = timed.cancelled_caught if hasattr(timed, "cancelled_caught") else timed.cancel_called
    results = []

    async def part(number: int) -> None:
        await anyio.sleep(0.001)
        results.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(part, number)
    found["results"] = sorted(results)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 10)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    found["thread"] = await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(lambda: 42))
    found["host"] = anyio.get_current_task().name
    await answer(send, found)


async def case_anyio_threads(scope, receive, send):
    """The pool's threads live longer than a request, if anyio finds a root task to tie them to."""
    import threading

    import anyio

    await answer(send, await anyio.to_thread.run_sync(threading.get_ident))


async def case_disconnect_scope(scope, receive, send):
    """What Starlette's streaming does: a group whose one task waits for the disconnect and cancels the other."""
    import anyio

    async def wait_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        note("disconnect_scope", "disconnect")
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(wait_disconnect)
        try:
            note("disconnect_scope", "started")
            await anyio.sleep(30)
        finally:
            note("disconnect_scope", "cancelled")


async def case_background(scope, receive, send):
    """Goes on after the response."""
    await answer(send, b"soon")
    await asyncio.sleep(0.05)
    note("background", (await receive())["type"])


async def case_child_tasks(scope, receive, send):
    """receive() and send() called from other tasks, as coroutines."""
    event = await asyncio.create_task(receive())
    await asyncio.create_task(send({"type": "http.response.start", "status": 200}))
    await asyncio.gather(send({"type": "http.response.body", "body": event["body"]}))


async def case_crowd(scope, receive, send):
    """Seconds of callbacks, until somebody looks how many have run."""
    CROWD.clear()
    for _ in range(10_000):
        asyncio.get_running_loop().call_soon(lambda: CROWD.append(None) or "seen" in CROWD or time.sleep(0.001))
    await answer(send, b"begun")


async def case_crowd_seen(scope, receive, send):
    await answer(send, str(len(CROWD)).encode())
    CROWD.append("seen")


async def case_stop_loop(scope, receive, send):
    await answer(send, b"stopping")
    asyncio.get_running_loop().stop()


async def case_cancel_all(scope, receive, send):
    await answer(send, b"cancelling")
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def case_exit_task(scope, receive, send):
    async def leave() -> None:
        sys.exit(7)

    KEPT.append(asyncio.create_task(leave()))
    await answer(send, b"leaving")


async def case_leave_task(scope, receive, send):
    """A task that nobody ends."""
    KEPT.append(asyncio.create_task(asyncio.sleep(1000), name="forgotten"))
    await answer(send, b"left")


# --- resources


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def case_stats(scope, receive, send):
    gc.collect()
    found = {
        "pid": os.getpid(),
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "total_refs": getattr(sys, "gettotalrefcount", int)(),
        "rss": rss(),
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
    }
    await answer(send, found)


async def case_forget(scope, receive, send):
    NOTES.clear()
    SEEN_TASKS.clear()
    await answer(send, b"forgotten")


CASES = {name.removeprefix("case_"): case for name, case in list(globals().items()) if name.startswith("case_")}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    case = CASES.get(scope["path"].split("/")[1])
    if case is None:
        return await answer(send, b"no such case", 404)
    await case(scope, receive, send)


async def lifespan(scope, receive, send):
    VAR.set("lifespan")
    assert (await receive()) == {"type": "lifespan.startup"}
    scope["state"]["number"] = 1
    scope["state"]["shared"] = []
    await send({"type": "lifespan.startup.complete"})
    assert (await receive()) == {"type": "lifespan.shutdown"}
    await send({"type": "lifespan.shutdown.complete"})


# --- other shapes of an application


class Asgi2:
    """The legacy double callable."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        if self.scope["type"] != "http":
            raise ValueError("http only")
        await answer(send, {"asgi": self.scope["asgi"]["version"]})


class Instance:
    async def __call__(self, scope, receive, send):
        await app(scope, receive, send)


instance = Instance()


def plain_callable(scope, receive, send):
    """No coroutine function: what it does before it returns its coroutine belongs to the request too."""
    if scope["type"] == "http" and scope["path"] == "/sync_part":
        found = {"before": VAR.get(), "task": asyncio.current_task() is not None}
        VAR.set("leaked")
        return answer(send, found)
    return app(scope, receive, send)


async def http_only(scope, receive, send):
    assert scope["type"] == "http", "only http here"
    await app(scope, receive, send)


async def startup_fails(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is away"})


async def startup_raises(scope, receive, send):
    await receive()
    raise RuntimeError("no startup today")


async def startup_returns(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await app(scope, receive, send)


async def shutdown_notes(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown begins", flush=True)
        await asyncio.sleep(0.05)
        print("shutdown ends", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/slow":
        print("request begins", flush=True)
        await asyncio.sleep(0.5)
        await answer(send, b"slow")
        print("request ends", flush=True)
        return
    await app(scope, receive, send)


async def shutdown_fails(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "could not flush"})
        return
    await app(scope, receive, send)


async def shutdown_hangs(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(1000)
    await app(scope, receive, send)


async def wrong_lifespan(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        for event in ({"type": "lifespan.shutdown.complete"}, {"type": "http.response.start"}, {"type": 3}, "text"):
            try:
                await send(event)
            except Exception as error:
                note("wrong_lifespan", describe(error))
        await send({"type": "lifespan.startup.complete", "surplus": 1})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await app(scope, receive, send)


try:
    import asgion
except ImportError:  # it needs Python 3.12
    pass
else:

    def violated(violation: Any) -> None:
        if violation.severity in (asgion.Severity.WARNING, asgion.Severity.ERROR):
            note("violations", f"{violation.rule_id} {violation.path} {violation.message}")

    checked = asgion.inspect(app, on_violation=violated)
