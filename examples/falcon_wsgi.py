"""Falcon, its WSGI side: JSON, cookies, uploads, streaming, server-sent events.

    pip install falcon
    licorne falcon_wsgi:app --chdir examples --threads 8

Threads, because each open /feed occupies one; all else is as happy without.
"""

import hashlib
import itertools
import queue

import falcon
from falcon import Request, Response

BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[queue.SimpleQueue] = set()


class Index:
    def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = "Hello from Falcon (WSGI)\n"


class Greet:
    def on_get(self, req: Request, resp: Response, name: str) -> None:
        resp.media = {"hello": name, "times": req.get_param_as_int("times", default=1)}


class Echo:
    def on_post(self, req: Request, resp: Response) -> None:
        resp.media = req.get_media()


class Visits:
    def on_get(self, req: Request, resp: Response) -> None:
        count = int(req.cookies.get("visits", "0")) + 1
        resp.set_cookie("visits", str(count), path="/", secure=False)
        resp.media = {"visits": count}


class Upload:
    def on_post(self, req: Request, resp: Response) -> None:
        answer: dict = {"note": None}
        for part in req.get_media():
            if part.name == "note":
                answer["note"] = part.get_text()
            elif part.name == "file":
                digest = hashlib.sha256()
                size = 0
                while chunk := part.stream.read(65536):
                    digest.update(chunk)
                    size += len(chunk)
                answer |= {"name": part.filename, "size": size, "sha256": digest.hexdigest()}
        resp.media = answer


class Download:
    def on_get(self, req: Request, resp: Response, mib: int) -> None:
        resp.content_type = "application/octet-stream"
        resp.stream = itertools.repeat(BLOCK, mib * 16)


class Feed:
    def on_get(self, req: Request, resp: Response) -> None:
        def events():
            mine: queue.SimpleQueue = queue.SimpleQueue()
            readers.add(mine)
            try:
                yield b"data: welcome\n\n"
                while True:
                    try:
                        yield f"data: {mine.get(timeout=0.5)}\n\n".encode()
                    except queue.Empty:
                        yield b": still here\n\n"  # a client that has left is noticed by writing to it
            finally:
                readers.discard(mine)

        resp.content_type = "text/event-stream"
        resp.stream = events()

    def on_post(self, req: Request, resp: Response) -> None:
        text = req.get_media()["text"]
        for reader in list(readers):
            reader.put(text)
        resp.status = falcon.HTTP_204

    def on_get_readers(self, req: Request, resp: Response) -> None:
        resp.media = {"readers": len(readers)}


class Error:
    def on_get(self, req: Request, resp: Response) -> None:
        raise RuntimeError("on purpose")


app = falcon.App()
app.add_route("/", Index())
app.add_route("/greet/{name}", Greet())
app.add_route("/echo", Echo())
app.add_route("/visits", Visits())
app.add_route("/upload", Upload())
app.add_route("/download/{mib:int}", Download())
app.add_route("/feed", feed := Feed())
app.add_route("/feed/readers", feed, suffix="readers")
app.add_route("/error", Error())
