"""Falcon, its ASGI side: JSON, cookies, uploads, streaming, server-sent events.

pip install falcon
licorne falcon_asgi:app --chdir examples
"""

import asyncio
import hashlib

import falcon
import falcon.asgi
from falcon.asgi import Request, Response, SSEvent

BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[asyncio.Queue] = set()


class Index:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = "Hello from Falcon (ASGI)\n"


class Greet:
    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        resp.media = {"hello": name, "times": req.get_param_as_int("times", default=1)}


class Echo:
    async def on_post(self, req: Request, resp: Response) -> None:
        resp.media = await req.get_media()


class Visits:
    async def on_get(self, req: Request, resp: Response) -> None:
        count = int(req.cookies.get("visits", "0")) + 1
        resp.set_cookie("visits", str(count), path="/", secure=False)
        resp.media = {"visits": count}


class Upload:
    async def on_post(self, req: Request, resp: Response) -> None:
        answer: dict = {"note": None}
        async for part in await req.get_media():
            if part.name == "note":
                answer["note"] = await part.get_text()
            elif part.name == "file":
                digest = hashlib.sha256()
                size = 0
                while chunk := await part.stream.read(65536):
                    digest.update(chunk)
                    size += len(chunk)
                answer |= {"name": part.filename, "size": size, "sha256": digest.hexdigest()}
        resp.media = answer


class Download:
    async def on_get(self, req: Request, resp: Response, mib: int) -> None:
        async def blocks():
            for _ in range(mib * 16):
                yield BLOCK

        resp.content_type = "application/octet-stream"
        resp.stream = blocks()


class Feed:
    async def on_get(self, req: Request, resp: Response) -> None:
        async def events():
            mine: asyncio.Queue[str] = asyncio.Queue()
            readers.add(mine)
            try:
                yield SSEvent(text="welcome")
                while True:
                    try:
                        yield SSEvent(text=await asyncio.wait_for(mine.get(), 0.5))
                    except asyncio.TimeoutError:
                        yield SSEvent(comment="still here")  # Falcon looks between events if the client has left
            finally:
                readers.discard(mine)

        resp.sse = events()

    async def on_post(self, req: Request, resp: Response) -> None:
        text = (await req.get_media())["text"]
        for reader in readers:
            reader.put_nowait(text)
        resp.status = falcon.HTTP_204

    async def on_get_readers(self, req: Request, resp: Response) -> None:
        resp.media = {"readers": len(readers)}


class Error:
    async def on_get(self, req: Request, resp: Response) -> None:
        raise RuntimeError("on purpose")


app = falcon.asgi.App()
app.add_route("/", Index())
app.add_route("/greet/{name}", Greet())
app.add_route("/echo", Echo())
app.add_route("/visits", Visits())
app.add_route("/upload", Upload())
app.add_route("/download/{mib:int}", Download())
app.add_route("/feed", feed := Feed())
app.add_route("/feed/readers", feed, suffix="readers")
app.add_route("/error", Error())
