"""The Flask example, and beside it what tests want to know of the process."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from flask import Response, jsonify
from flask_app import BLOCK, app
from process_facts import facts


@app.get("/facts")
def show_facts():
    return jsonify(facts())


@app.get("/blob/<int:kib>")
def blob(kib: int):
    """In one piece, so the application is done with it at once."""
    return Response(BLOCK * (kib // 64), mimetype="application/octet-stream")


@app.get("/late/<way>")
def late(way: str):
    return Response("too late", 504)
