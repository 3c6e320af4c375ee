"""What an application will turn out to speak, before it is loaded: whether the mold had better import asyncio, which
its workers then share. A wrong guess costs time and memory, nothing else. Called by pyglue/mold.c."""

from __future__ import annotations

import os
import sys

HINTS = (b"async ", b"asgi", b"asyncio", b"fastapi", b"starlette", b"quart", b"litestar", b"socketio", b"aiohttp")
ENOUGH = 256 * 1024


def speaks_asgi(app: str) -> bool:
    """`app`: MODULE:ATTRIBUTE. Its module is looked for and read, not imported. True: or nobody knows."""
    path = os.path.join(*app.partition(":")[0].split("."))
    for folder in sys.path:
        for file in (f"{path}.py", os.path.join(path, "__init__.py")):
            try:
                with open(os.path.join(folder, file), "rb") as source:
                    text = source.read(ENOUGH).lower()
            except OSError:
                continue
            return any(hint in text for hint in HINTS)
    return True
