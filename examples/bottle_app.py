"""Bottle: JSON, signed cookies, uploads, streaming, server-sent events.

    pip install bottle
    licorne bottle_app:app --chdir examples --threads 8

Threads, because each open /feed occupies one; all else is as happy without.
"""

import hashlib
import itertools
import queue

from bottle import Bottle, HTTPError, request, response

app = Bottle()

SECRET = "change me"
BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[queue.SimpleQueue] = set()


@app.get("/")
def index():
    response.content_type = "text/plain; charset=utf-8"
    return "Hello from Bottle\n"


@app.get("/greet/<name>")
def greet(name: str):
    times = request.query.get("times", "1")
    if not times.isdigit():
        raise HTTPError(400, "times must be a number")
    return {"hello": name, "times": int(times)}


@app.post("/echo")
def echo():
    return request.json


@app.get("/visits")
def visits():
    count = int(request.get_cookie("visits", default="0", secret=SECRET)) + 1
    response.set_cookie("visits", str(count), secret=SECRET, path="/", httponly=True)
    return {"visits": count}


@app.post("/upload")
def upload():
    file = request.files["file"]
    digest = hashlib.sha256()
    size = 0
    while chunk := file.file.read(65536):
        digest.update(chunk)
        size += len(chunk)
    return {
        "name": file.raw_filename,
        "note": request.forms.get("note"),
        "size": size,
        "sha256": digest.hexdigest(),
    }


@app.get("/download/<mib:int>")
def download(mib: int):
    response.content_type = "application/octet-stream"
    return itertools.repeat(BLOCK, mib * 16)


@app.get("/feed")
def feed():
    response.content_type = "text/event-stream"
    mine: queue.SimpleQueue = queue.SimpleQueue()
    readers.add(mine)
    try:
        yield "data: welcome\n\n"
        while True:
            try:
                yield f"data: {mine.get(timeout=0.5)}\n\n"
            except queue.Empty:
                yield ": still here\n\n"  # a client that has left is noticed by writing to it
    finally:
        readers.discard(mine)


@app.post("/feed")
def publish():
    for reader in list(readers):
        reader.put(request.json["text"])
    response.status = 204


@app.get("/feed/readers")
def count_readers():
    return {"readers": len(readers)}


@app.get("/error")
def error():
    raise RuntimeError("on purpose")
