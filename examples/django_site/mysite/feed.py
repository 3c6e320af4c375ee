"""Server-sent events: what is posted to /feed goes to all who read it. Views may run in any thread, on both sides."""

import asyncio
import json
import queue
from collections.abc import Callable

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

readers: set[Callable[[str], None]] = set()  # each takes a message, from any thread


async def events_asgi():
    loop = asyncio.get_running_loop()
    mine: asyncio.Queue[str] = asyncio.Queue()

    def put(text: str) -> None:
        loop.call_soon_threadsafe(mine.put_nowait, text)

    readers.add(put)
    try:
        yield "data: welcome\n\n"
        while True:
            yield f"data: {await mine.get()}\n\n"
    finally:
        readers.discard(put)


def events_wsgi():
    mine: queue.Queue[str] = queue.Queue()
    put = mine.put_nowait
    readers.add(put)
    try:
        yield "data: welcome\n\n"
        while True:
            try:
                yield f"data: {mine.get(timeout=0.5)}\n\n"
            except queue.Empty:
                yield ": still here\n\n"  # a client that has left is noticed by writing to it
    finally:
        readers.discard(put)


@csrf_exempt
def feed(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        text = json.loads(request.body)["text"]
        for put in list(readers):
            put(text)
        return HttpResponse(status=204)
    events = events_asgi() if isinstance(request, ASGIRequest) else events_wsgi()
    return StreamingHttpResponse(events, content_type="text/event-stream")


def count_readers(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"readers": len(readers)})
