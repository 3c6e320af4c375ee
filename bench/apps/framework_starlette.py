"""A Starlette application."""

import os

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route


async def hello(request):
    return JSONResponse({"message": "Hello, World!"})


async def file(request):
    return FileResponse(os.path.join(os.environ["BENCH_FILES"], request.path_params["size"]))


app = Starlette(routes=[Route("/json", hello), Route("/file/{size}", file)])
