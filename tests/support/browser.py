"""A headless Chromium, driven by its DevTools protocol: `with Browser(url) as page: page.run("1 + 1")`."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

from .server import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"]


def browser_command() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page, on `url`."""

    def __init__(self, url: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="licorne-browser-", ignore_cleanup_errors=True)
        command = browser_command()
        assert command is not None
        self.process = subprocess.Popen(
            [command, *OPTIONS, f"--user-data-dir={self.folder.name}", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.asked = 0
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Browser:
        port_file = Path(self.folder.name) / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and port_file.read_text().count("\n") > 0, "the browser", 60)
        port = port_file.read_text().split()[0]

        def page() -> str | None:
            with urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [row for row in json.load(answer) if row["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"] if pages else None

        self.socket = self.stack.enter_context(connect(wait_until(page, "its page"), max_size=None))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        self.asked += 1
        parameters = {"expression": expression, "returnByValue": True}
        self.socket.send(json.dumps({"id": self.asked, "method": "Runtime.evaluate", "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=30))
            if answer.get("id") == self.asked:
                return answer["result"]["result"].get("value")
