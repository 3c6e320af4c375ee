"""Flask: JSON, sessions, uploads, streaming, server-sent events.

    pip install flask
    licorne flask_app:app --chdir examples --threads 8

Threads, because each open /feed occupies one; all else is as happy without.
"""

import hashlib
import itertools
import queue

from flask import Flask, Response, abort, jsonify, request, session, stream_with_context

app = Flask(__name__)
app.secret_key = "change me"

BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[queue.SimpleQueue] = set()


@app.get("/")
def index():
    return Response("Hello from Flask\n", mimetype="text/plain")


@app.get("/greet/<name>")
def greet(name: str):
    times = request.args.get("times", "1")
    if not times.isdigit():
        abort(400, "times must be a number")
    return jsonify(hello=name, times=int(times))


@app.post("/echo")
def echo():
    return jsonify(request.get_json())


@app.get("/visits")
def visits():
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(visits=session["visits"])


@app.post("/upload")
def upload():
    file = request.files["file"]
    digest = hashlib.sha256()
    size = 0
    while chunk := file.stream.read(65536):
        digest.update(chunk)
        size += len(chunk)
    return jsonify(name=file.filename, note=request.form.get("note"), size=size, sha256=digest.hexdigest())


@app.get("/download/<int:mib>")
def download(mib: int):
    return Response(itertools.repeat(BLOCK, mib * 16), mimetype="application/octet-stream")


@app.get("/feed")
def feed():
    mine: queue.SimpleQueue = queue.SimpleQueue()

    def events():
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

    return Response(stream_with_context(events()), mimetype="text/event-stream")


@app.post("/feed")
def publish():
    for reader in list(readers):
        reader.put(request.get_json()["text"])
    return "", 204


@app.get("/feed/readers")
def count_readers():
    return jsonify(readers=len(readers))


@app.get("/error")
def error():
    raise RuntimeError("on purpose")
