"""The servers beside which WebSockets are measured: each from PyPI in its own environment, with one worker, started
as its documentation advises for production, compression as the run asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Peer:
    REQUIREMENTS: list[str]
    command: Callable[[str, str, int, bool], list[str]]  # bin directory, MODULE:APP, port, deflate
    can_deflate: bool = True


def licorne(bin_dir: str, app: str, port: int, deflate: bool) -> list[str]:
    switch = str(deflate).lower()
    return [f"{bin_dir}/licorne", app, "-b", f"127.0.0.1:{port}", "--ws-per-message-deflate", switch]


def licorne_takeover(bin_dir: str, app: str, port: int, deflate: bool) -> list[str]:
    return [*licorne(bin_dir, app, port, deflate), "--ws-deflate-takeover", "--ws-deflate-window-bits", "12"]


def uvicorn(implementation: str) -> Callable[[str, str, int, bool], list[str]]:
    def command(bin_dir: str, app: str, port: int, deflate: bool) -> list[str]:
        options = ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"]
        compression = ["--ws-per-message-deflate", str(deflate).lower()]
        return [f"{bin_dir}/uvicorn", app, "--port", str(port), "--ws", implementation, *options, *compression]

    return command


def granian(bin_dir: str, app: str, port: int, deflate: bool) -> list[str]:
    options = ["--interface", "asgi", "--loop", "uvloop", "--workers", "1", "--log-level", "warning", "--ws"]
    return [f"{bin_dir}/granian", app, "--host", "127.0.0.1", "--port", str(port), *options]


def gunicorn(bin_dir: str, app: str, port: int, deflate: bool) -> list[str]:
    return [f"{bin_dir}/gunicorn", app, "-b", f"127.0.0.1:{port}", "-k", "asgi", "--log-level", "warning"]


def hypercorn(bin_dir: str, app: str, port: int, deflate: bool) -> list[str]:
    return [f"{bin_dir}/hypercorn", app, "-b", f"127.0.0.1:{port}", "-k", "uvloop", "--log-level", "warning"]


def socketify(bin_dir: str, app: str, port: int, deflate: bool) -> list[str]:
    options = ["--ws", "auto", "--ws-max-lifetime", "0", "--disable-listen-log"]
    return [f"{bin_dir}/python", "-m", "socketify", app, "--host", "127.0.0.1", "--port", str(port), *options]


UVICORN = ["uvicorn==0.54.0", "uvloop==0.23.0", "httptools"]

PEERS = {
    "licorne": Peer([], licorne),
    "licorne-takeover": Peer([], licorne_takeover),
    "uvicorn-websockets": Peer([*UVICORN, "websockets==17.4"], uvicorn("websockets")),
    "uvicorn-sansio": Peer([*UVICORN, "websockets==17.4"], uvicorn("websockets-sansio")),
    "uvicorn-wsproto": Peer([*UVICORN, "wsproto==1.3.2"], uvicorn("wsproto")),
    "granian": Peer(["granian==2.8.7", "uvloop==0.23.0"], granian, can_deflate=False),
    "gunicorn": Peer(["gunicorn==27.0.1", "uvloop==0.23.0"], gunicorn, can_deflate=False),
    "hypercorn": Peer(["hypercorn==0.18.0", "uvloop==0.23.0"], hypercorn),
    "socketify": Peer(["socketify==0.0.31"], socketify, can_deflate=False),
}
