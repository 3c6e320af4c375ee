"""licorne.run() with a server of its own processes. In the caller's process: test_embed*.py."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.server import children, command, wait_until

MAIN = """
    import licorne

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    if __name__ == "__main__":
        licorne.run(%s)
        print("after")
"""


def start(folder: Path, call: str, *words: str) -> subprocess.Popen[str]:
    (folder / "main.py").write_text(textwrap.dedent(MAIN % call))
    binary = Path(command()[0])
    path = f"{binary.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, *(words or ["main.py"])],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=(folder / "err").open("w"),
        text=True,
    )


@pytest.mark.parametrize("call", ['"main:app", port=0, reload=True', "app, port=0, workers=2, log_level=20"])
@pytest.mark.parametrize("words", [["main.py"], ["-m", "main"]], ids=["file", "module"])
def test_run(tmp_path, call, words):
    log = tmp_path / "err"
    with start(tmp_path, call, *words) as process:
        try:
            ready = wait_until(lambda: "] Ready: " in log.read_text() or process.poll() is not None, "the server")
            assert ready and process.poll() is None, log.read_text()
            address = re.search(r"Listening at: (http://\S+)", log.read_text())
            assert address
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=30)
            assert (process.returncode, out) == (0, "after\n"), log.read_text()
        finally:
            for pid in [*children(process.pid), process.pid]:
                if process.poll() is None:
                    os.kill(pid, signal.SIGKILL)


def test_the_exit_code_is_the_servers(tmp_path):
    with start(tmp_path, '"main:nope", port=0, workers=2') as process:
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (4, "")


def test_parameters_become_options():
    from licorne._run import options

    given = {
        "host": "::1",
        "port": 8000,
        "reload": False,
        "access_log": False,
        "proxy_headers": True,
        "uds": None,
        "log_level": 10,
        "forwarded_allow_ips": ["10.0.0.1", "10.0.0.2"],
        "reload_dirs": ["a"],
        "headers": [("X-A", "1")],
        "timeout_keep_alive": 5,
    }
    assert options(given) == [
        "--host=::1",
        "--port=8000",
        "--no-access-log",
        "--proxy-headers",
        "--log-level=debug",
        "--forwarded-allow-ips=10.0.0.1",
        "--forwarded-allow-ips=10.0.0.2",
        "--reload-dir=a",
        "--header=X-A:1",
        "--timeout-keep-alive=5",
    ]
    with pytest.raises(TypeError, match="http cannot be a dictionary"):
        options({"http": {"version": 1}})
