"""Starlette's FileResponse and StaticFiles, beneath the middleware that people have."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

FOLDER = os.environ["FILES"]


async def one(request):
    return FileResponse(os.path.join(FOLDER, request.path_params["name"]))


async def add_header(request, call_next):
    response = await call_next(request)
    response.headers["x-seen"] = "yes"
    return response


app = Starlette(
    routes=[Route("/one/{name}", one), Mount("/all", StaticFiles(directory=FOLDER))],
    middleware=[Middleware(BaseHTTPMiddleware, dispatch=add_header), Middleware(GZipMiddleware, minimum_size=500)],
)
