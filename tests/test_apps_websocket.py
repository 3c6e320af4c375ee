"""WebSockets under the frameworks that people use them with, by those frameworks' own clients where they have one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
import socketio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.browser import Browser, browser_command
from support.server import Server, wait_until

HERE = Path(__file__).parent
APPS = HERE / "apps"
NODE = HERE.parent / "build" / "node"
NO_GRACE = ["--graceful-timeout", "0.1"]  # with these a request goes on when its client has left


def test_starlette_with_server_sent_events() -> None:
    with Server("chat_starlette:app", "--chdir", str(APPS), *NO_GRACE) as server:
        url = f"ws://127.0.0.1:{server.port}/chat"
        heard: list[str] = []

        def listen() -> None:
            with httpx.stream("GET", f"{server.url}/events", timeout=30) as events:
                assert events.headers["content-type"].startswith("text/event-stream")
                for line in events.iter_lines():
                    heard.append(line)
                    if line == "data: three":
                        return

        listener = threading.Thread(target=listen)
        listener.start()
        with connect(url) as ann, connect(url) as bob:
            wait_until(lambda: httpx.get(f"{server.url}/count").text == "2 1")
            for text in ("one", "two", "three"):
                ann.send(text)
                assert ann.recv() == bob.recv() == text
            listener.join(30)
        assert [line for line in heard if line] == ["data: one", "data: two", "data: three"]
        wait_until(lambda: httpx.get(f"{server.url}/count").text.startswith("0 "))
        assert "[ERROR]" not in server.log


def test_django_channels() -> None:
    with Server("chat_channels:app", "--chdir", str(APPS)) as server:
        base = f"ws://127.0.0.1:{server.port}"
        assert httpx.get(f"{server.url}/hello").text == "hello"
        with connect(f"{base}/room/a", subprotocols=["chat"]) as ann, connect(f"{base}/room/b") as elsewhere:
            assert ann.subprotocol == "chat"
            with connect(f"{base}/room/a") as bob:
                bob.send("hé")
                assert ann.recv() == bob.recv() == "hé"
                bob.close(4000)
            assert json.loads(ann.recv()) == {"left": 4000}
            with pytest.raises(TimeoutError):
                elsewhere.recv(timeout=0)
        with connect(f"{base}/sum") as adder:
            adder.send("[1, 2, 3]")
            assert adder.recv() == "6"
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{base}/sum", origin="http://elsewhere.example", additional_headers={"Host": "*bad"})
        assert refused.value.response.status_code in (400, 403)
        assert "[ERROR]" not in server.log


def test_socket_io() -> None:
    async def talk(url: str) -> None:
        said: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        ann, bob = socketio.AsyncClient(), socketio.AsyncClient()
        for client in (ann, bob):
            client.on("said", said.put)
            await client.connect(url)  # by polling; then it upgrades
            assert client.transport() == "websocket"
        assert await ann.call("say", "hello", timeout=30) == "websocket: 5"
        assert await asyncio.wait_for(said.get(), 30) == await asyncio.wait_for(said.get(), 30)
        assert await bob.call("say", "x" * 100_000, timeout=30) == "websocket: 100000"
        assert await bob.call("mirror", b"\0\xff", timeout=30) == b"\0\xff"
        poller = socketio.AsyncClient()
        await poller.connect(url, transports=["polling"])
        assert await poller.call("say", "slowly", timeout=30) == "polling: 6"
        with pytest.raises(socketio.exceptions.ConnectionError):
            await socketio.AsyncClient().connect(url, namespaces=["/closed"])
        await poller.eio.disconnect(abort=True)  # a polite end would wait for the poll under way, 25 s
        for client in (ann, bob):
            await client.disconnect()

    with Server("chat_socketio:app", "--chdir", str(APPS), *NO_GRACE) as server:
        asyncio.run(talk(server.url))
        assert "[ERROR]" not in server.log


def test_graphql_subscription() -> None:
    with Server("chat_graphql:app", "--chdir", str(APPS)) as server:
        answer = httpx.post(f"{server.url}/", json={"query": "{ hello }"}).json()
        assert answer == {"data": {"hello": "hello"}}
        with connect(f"ws://127.0.0.1:{server.port}/", subprotocols=["graphql-transport-ws"]) as client:

            def say(**message: object) -> None:
                client.send(json.dumps(message))

            say(type="connection_init")
            assert json.loads(client.recv())["type"] == "connection_ack"
            for id in ("1", "2"):
                say(id=id, type="subscribe", payload={"query": "subscription { count(target: 5) }"})
            got: dict[str, list[object]] = {"1": [], "2": []}
            while any(row[-1:] != ["complete"] for row in got.values()):
                message = json.loads(client.recv(timeout=30))
                end = message["type"] == "complete"
                got[message["id"]].append("complete" if end else message["payload"]["data"]["count"])
            assert got["1"] == got["2"] == [0, 1, 2, 3, 4, "complete"]
        assert "[ERROR]" not in server.log


def node_modules() -> Path:
    """The npm packages of tests/node, whose lock file has their hashes."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node.js with npm")
    lock = (HERE / "node" / "package-lock.json").read_bytes()
    made = NODE / "made"
    if not made.exists() or made.read_bytes() != lock:
        shutil.rmtree(NODE, ignore_errors=True)
        shutil.copytree(HERE / "node", NODE)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        installed = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=100)
        if installed.returncode != 0:
            pytest.skip(f"npm ci failed: {installed.stderr[-300:]}")
        made.write_bytes(lock)
    return NODE / "node_modules"


@pytest.mark.parametrize("mode", ["deflate", "plain"])
def test_node_ws(mode: str) -> None:
    env = {**os.environ, "NODE_PATH": str(node_modules())}
    with Server("websocket_cases:app", "--chdir", str(APPS)) as server:
        command = ["node", str(HERE / "node" / "client.js"), f"ws://127.0.0.1:{server.port}/", mode]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    extensions = "permessage-deflate" if mode == "deflate" else ""
    assert json.loads(done.stdout) == {
        "extensions": extensions,
        "echoed": 6,
        "pong": True,
        "code": 4002,
        "reason": "",  # the answer has the code alone
    }


@pytest.mark.soak
@pytest.mark.skipif(browser_command() is None, reason="no Chromium: scripts/setup soak installs it")
def test_browser_reconnects_over_a_reload() -> None:
    """A page that chats, and listens to server-sent events; after a reload (1012) both come back by themselves."""
    with Server("chat_starlette:app", "--chdir", str(APPS), *NO_GRACE) as server, Browser(f"{server.url}/") as page:

        def say(text: str) -> None:
            wait_until(lambda: page.run("socket.readyState") == 1, "an open WebSocket")
            wait_until(lambda: httpx.get(f"{server.url}/count").text == "1 1", "the page")
            page.run(f"socket.send({text!r})")
            wait_until(lambda: page.run("got[got.length - 1]") == text, f"{text} by WebSocket")
            wait_until(lambda: page.run("heard[heard.length - 1]") == text, f"{text} as an event")

        say("before")
        assert "permessage-deflate" in page.run("socket.extensions")
        say("x" * 100_000)
        for round in range(3):
            opened = page.run("opened")
            server.send_signal(signal.SIGHUP)
            wait_until(lambda opened=opened: page.run("opened") > opened, "the page's new WebSocket")
            say(f"after reload {round}")
        assert page.run("codes") == [1012] * 3
        assert "[ERROR]" not in server.log
