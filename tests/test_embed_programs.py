"""licorne.run() and licorne.Server in programs as people write them for uvicorn, with the import changed alone; each
also runs as it was written, with uvicorn: the oracle."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.embedded import get
from tests.support.server import DEADLINE, command, wait_until

APP = """
import asyncio, contextlib, os, signal, sys, threading
import uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            print(kind, flush=True)
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        print("slow", flush=True)
        await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

def make():
    return app
"""

LIFE = ["lifespan.startup", "lifespan.shutdown"]


@pytest.fixture(params=["licorne", "uvicorn"])
def lib(request):
    return request.param if request.param == "licorne" else pytest.importorskip("uvicorn").__name__


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class Program:
    """main.py, with PORT in the place of a free one."""

    def __init__(self, folder: Path, lib: str, text: str, environ: dict[str, str] | None = None) -> None:
        self.port = free_port()
        text = APP + textwrap.dedent(text)
        if lib != "uvicorn":
            text = re.sub(r"\buvicorn\.(?=Config|Server|run)", f"{lib}.", text)
            text = text.replace("import uvicorn", f"import {lib}")
        (folder / "main.py").write_text(text.replace("PORT", str(self.port)))
        self.out, self.err = folder / "out", folder / "err"
        path = f"{Path(command()[0]).parent}{os.pathsep}{os.environ['PATH']}"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "main.py"],
                cwd=folder,
                env={**os.environ, "PATH": path, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def answer(self, path: str = "/") -> int:
        """Once it serves: the process that answered."""

        def ask() -> int:
            if self.process.poll() is not None:
                raise AssertionError(f"it has ended: {self.err.read_text()}")
            with contextlib.suppress(OSError):
                status, body = get(self.port, path)
                assert status == 200
                return int(body)
            time.sleep(0.02)
            return 0

        return wait_until(ask, "an answer")

    def end(self, *numbers: int) -> tuple[int, list[str]]:
        """Its exit code and what it printed, but for accesses."""
        for number in numbers:
            self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        lines = self.out.read_text().splitlines()
        return code, [line for line in lines if "HTTP/1.1" not in line]


RUN = """
    if __name__ == "__main__":
        uvicorn.run(%s, port=PORT)
        print("after")
"""


@pytest.mark.parametrize("app", ["app", '"main:app"', '"main:make", factory=True'])
def test_run(tmp_path, lib, app):
    """In the caller's process; ^C ends it, and run() returns. (A module that is named is imported once more.)"""
    with Program(tmp_path, lib, RUN % app) as program:
        assert program.answer() == program.process.pid
        assert program.end(signal.SIGINT) == (0, [*LIFE, "after"])
        log = program.err.read_text()
        assert re.search(rf"INFO:     .+ running on http://127.0.0.1:{program.port} \(Press CTRL\+C to quit\)", log)
        assert re.search(r'INFO:     127.0.0.1:\d+ - "GET / HTTP/1.1" 200 OK', program.out.read_text())


def test_run_is_terminated(tmp_path, lib):
    """TERM does in the end what it does to every process, after a shutdown in good order."""
    with Program(tmp_path, lib, RUN % "app") as program:
        program.answer()
        assert program.end(signal.SIGTERM) == (-signal.SIGTERM, LIFE)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('"main:nope", port=PORT', "nope"),
        ('"nowhere:app", port=PORT', "nowhere"),
        ("failing, port=PORT", "no database"),
        ("app, port=int(sys.argv[0] == 'main.py' and TAKEN)", "address already in use"),
    ],
)
def test_run_cannot_start(tmp_path, lib, call, said):
    program = """
        async def failing(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})

        if __name__ == "__main__":
            uvicorn.run(%s)
            print("after")
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = program % call.replace("TAKEN", str(taken.getsockname()[1]))
        with Program(tmp_path, lib, text) as started:
            code, lines = started.end()
    assert (code, "after" in lines) == (3, False)
    assert said in started.err.read_text()


@pytest.mark.parametrize("runner", ["asyncio.run(main())", "asyncio.run(server.serve())", "server.run()"])
def test_the_callers_handlers(tmp_path, lib, runner):
    """Who handled the signals before handles them again, and hears of those that came meanwhile."""
    text = f"""
        def mine(number, frame):
            print("mine", signal.Signals(number).name)

        if __name__ == "__main__":
            signal.signal(signal.SIGINT, mine)
            signal.signal(signal.SIGTERM, mine)
            server = uvicorn.Server(uvicorn.Config(app, port=PORT))

            async def main():
                task = asyncio.create_task(server.serve())
                await task

            {runner}
            print("after", signal.getsignal(signal.SIGTERM) is mine, signal.getsignal(signal.SIGINT) is mine)
    """
    with Program(tmp_path, lib, text) as program:
        program.answer()
        assert program.end(signal.SIGTERM) == (0, [*LIFE, "mine SIGTERM", "after True True"])


def test_a_thread_leaves_signals_alone(tmp_path, lib):
    text = """
        if __name__ == "__main__":
            server = uvicorn.Server(uvicorn.Config(app, port=PORT))
            thread = threading.Thread(target=server.run)
            thread.start()
            try:
                signal.pause()
            except KeyboardInterrupt:
                print("interrupted")
            server.should_exit = True
            thread.join()
            print("after")
    """
    with Program(tmp_path, lib, text) as program:
        program.answer()
        code, lines = program.end(signal.SIGINT)
        assert (code, sorted(lines)) == (0, sorted([*LIFE, "interrupted", "after"]))


def test_the_second_interrupt_is_impatient(tmp_path, lib):
    text = """
        if __name__ == "__main__":
            server = uvicorn.Server(uvicorn.Config(app, port=PORT))
            try:
                server.run()
            except KeyboardInterrupt:
                print("interrupted")
    """
    with Program(tmp_path, lib, text.replace("0.3", "300")) as program:
        main = (tmp_path / "main.py").read_text()
        assert "sleep(0.3)" in main
        program.answer()
        with socket.create_connection(("127.0.0.1", program.port)) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: "slow" in program.out.read_text(), "the request")
            program.process.send_signal(signal.SIGINT)
            wait_until(lambda: "Shutting down" in program.err.read_text(), "the end")
            code, lines = program.end(signal.SIGINT)
    assert code == 0 and lines[-1] == "interrupted"


def test_beside_a_bot(tmp_path, lib):
    """Two programs in one loop, which share what they have."""
    text = """
        async def bot(queue, server):
            while not server.started:
                await asyncio.sleep(0.01)
            async def handler(scope, receive, send):
                pass
            print("bot", await queue.get())
            server.should_exit = True

        async def main():
            queue = asyncio.Queue()

            async def web(scope, receive, send):
                if scope["type"] == "http":
                    queue.put_nowait(scope["path"])
                await app(scope, receive, send)

            server = uvicorn.Server(config=uvicorn.Config(web, port=PORT, log_level="info"))
            await asyncio.gather(server.serve(), bot(queue, server))
            print("done")

        asyncio.run(main())
    """
    with Program(tmp_path, lib, text) as program:
        program.answer("/x")
        code, lines = program.end()
    assert (code, sorted(lines)) == (0, sorted([*LIFE, "bot /x", "done"]))


def test_a_process_of_multiprocessing(tmp_path, lib):
    text = """
        import multiprocessing

        if __name__ == "__main__":
            multiprocessing.set_start_method("fork")
            process = multiprocessing.Process(target=uvicorn.run, args=(app,), kwargs={"port": PORT}, daemon=True)
            process.start()
            try:
                signal.pause()
            except KeyboardInterrupt:
                process.terminate()
                process.join()
                print("after", process.exitcode)
    """
    with Program(tmp_path, lib, text) as program:
        assert program.answer() != program.process.pid
        code, lines = program.end(signal.SIGINT)
        assert (code, lines[-1]) == (0, "after -15")


LOGGING = """
        import logging

        if __name__ == "__main__":
            from uvicorn.config import LOGGING_CONFIG
            LOGGING_CONFIG["formatters"]["access"]["fmt"] = "ACCESS %(client_addr)s %(request_line)s %(status_code)s"
            LOGGING_CONFIG["formatters"]["default"]["fmt"] = "LOG %(levelprefix)s %(message)s"
            logging.getLogger("uvicorn.access").addFilter(lambda record: record.args[2] != "/health")
            uvicorn.run(app, port=PORT, log_config=LOGGING_CONFIG, use_colors=False)
"""


def test_a_log_config(tmp_path, lib):
    text = LOGGING if lib == "uvicorn" else LOGGING.replace("uvicorn.config", "licorne.config")
    with Program(tmp_path, lib, text) as program:
        program.answer("/health")
        program.answer("/x")
        program.end(signal.SIGINT)
        accesses = [line for line in program.out.read_text().splitlines() if line.startswith("ACCESS")]
        assert [re.sub(r":\d+", "", line) for line in accesses] == ["ACCESS 127.0.0.1 GET /x HTTP/1.1 200 OK"]
        assert "LOG INFO:     Application startup complete." in program.err.read_text().splitlines()


def test_an_idle_server_sleeps(tmp_path):
    """Nothing ticks: on any loop, in the main thread or in another."""
    text = """
        if __name__ == "__main__":
            server = uvicorn.Server(uvicorn.Config(app, port=PORT, loop=sys.argv[0] and "%s"))
            threading.Thread(target=server.run).start() if %s else server.run()
    """
    for loop, thread in (("auto", False), ("asyncio", True)):
        with Program(tmp_path, "licorne", text % (loop, thread)) as program:
            program.answer()

            def switches() -> int:
                tasks = Path(f"/proc/{program.process.pid}/task").glob("*/status")
                return sum(
                    int(n) for t in tasks for n in re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", t.read_text(), re.M)
                )

            def rests() -> bool:
                before = switches()
                time.sleep(0.5)
                return switches() == before

            wait_until(rests, "half a second of peace")
            program.process.kill()
