"""The Starlette example, and beside it what tests want to know of the process, and to do to it."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from process_facts import facts
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette_app import app


async def show_facts(request: Request) -> Response:
    return JSONResponse({**facts(), "tasks": len(asyncio.all_tasks())})


async def late(request: Request) -> Response:
    """Three ways to be cancelled: by a time limit, by a sibling that fails, by the client that leaves."""
    way = request.path_params["way"]
    if way == "limit":
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        except asyncio.TimeoutError:
            return PlainTextResponse("too late", 504)
    if way == "sibling":
        waiting = asyncio.ensure_future(asyncio.sleep(3600))
        waiting.cancel()
        (error,) = await asyncio.gather(waiting, return_exceptions=True)
        return PlainTextResponse(type(error).__name__)
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()


app.router.routes += [Route("/facts", show_facts), Route("/late/{way}", late)]
