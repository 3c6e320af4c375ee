"""Event loops side by side: CPU time per operation, interleaved rounds, medians.

    python bench/loop.py [--rounds 7] [--only call_soon sleep] [--loops asyncio uvloop licorne]

Each measurement runs in a process of its own. CPU time is that of the process, all threads together: on a shared
machine it is steady where wall time is not. A row's last column is uvloop's time over ours (or asyncio's, without
uvloop).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

FACTORIES = {
    "asyncio": ("asyncio", "new_event_loop"),
    "uvloop": ("uvloop", "new_event_loop"),
    "licorne": ("licorne.loop", "new_event_loop"),
}

Bench = Callable[[asyncio.AbstractEventLoop, int], None]
BENCHES: dict[str, tuple[int, Bench]] = {}


def bench(count: int) -> Callable[[Bench], Bench]:
    def register(function: Bench) -> Bench:
        BENCHES[function.__name__] = (count, function)
        return function

    return register


def nothing() -> None:
    pass


# --- callbacks ---


@bench(400_000)
def call_soon(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """Queue 1000, run them, again."""

    def batch(left: int) -> None:
        soon = loop.call_soon
        for _ in range(999):
            soon(nothing)
        if left:
            soon(batch, left - 1)
        else:
            loop.stop()

    loop.call_soon(batch, count // 1000)
    loop.run_forever()


@bench(300_000)
def turn(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """One callback that queues itself: a turn each."""
    left = count

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(again)
        else:
            loop.stop()

    loop.call_soon(again)
    loop.run_forever()


@bench(300_000)
def threadsafe(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """call_soon_threadsafe from the loop's own thread."""
    left = count

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon_threadsafe(again)
        else:
            loop.stop()

    loop.call_soon(again)
    loop.run_forever()


@bench(20_000)
def threadsafe_wake(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """Another thread wakes the loop from its poll, and waits until it ran."""
    ran = threading.Semaphore(0)

    def other() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(ran.release)
            ran.acquire()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


# --- timers ---


@bench(300_000)
def call_later_cancel(loop: asyncio.AbstractEventLoop, count: int) -> None:
    left = count // 100

    def again() -> None:
        nonlocal left
        for _ in range(100):
            loop.call_later(60, nothing).cancel()
        left -= 1
        loop.call_soon(again) if left else loop.stop()

    loop.call_soon(again)
    loop.run_forever()


@bench(100_000)
def call_later_fired(loop: asyncio.AbstractEventLoop, count: int) -> None:
    left = count

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    for i in range(count):
        loop.call_later(i * 1e-7, fire)
    loop.run_forever()


# --- tasks ---


def run(loop: asyncio.AbstractEventLoop, coro) -> None:
    loop.run_until_complete(coro)


@bench(200_000)
def sleep_0(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def main() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    run(loop, main())


@bench(100_000)
def create_task_await(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def child() -> None:
        pass

    async def main() -> None:
        for _ in range(count):
            await loop.create_task(child())

    run(loop, main())


@bench(150_000)
def future_round(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def main() -> None:
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    run(loop, main())


@bench(60_000)
def task_ping_pong(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def player(mine: asyncio.Queue, other: asyncio.Queue) -> None:
        for _ in range(count):
            await mine.get()
            other.put_nowait(None)

    async def main() -> None:
        a, b = asyncio.Queue(), asyncio.Queue()
        a.put_nowait(None)
        await asyncio.gather(player(a, b), player(b, a))

    run(loop, main())


@bench(8_000)
def executor(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def main() -> None:
        for _ in range(count):
            await loop.run_in_executor(None, nothing)

    run(loop, main())


# --- input and output: both ends in one loop ---


@bench(60_000)
def reader(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """add_reader on a socketpair that always has a byte to read."""
    a, b = socket.socketpair()
    a.setblocking(False)
    left = count

    def on_readable() -> None:
        nonlocal left
        a.recv(1)
        left -= 1
        b.send(b"x") if left else loop.stop()

    loop.add_reader(a, on_readable)
    b.send(b"x")
    loop.run_forever()
    loop.remove_reader(a)
    a.close(), b.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Client(Echo):
    def __init__(self, payload: bytes, rounds: int, done: asyncio.Future) -> None:
        self.payload, self.rounds, self.done, self.missing = payload, rounds, done, 0

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.missing = len(self.payload)
        self.transport.write(self.payload)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        self.rounds -= 1
        if self.rounds:
            self.send()
        elif not self.done.done():
            self.transport.close()
            self.done.set_result(None)


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server, and for a client that asks for no more than the encryption."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate"), Path(folder, "key")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        server.load_cert_chain(certificate, key)
    return server, client


def protocol_echo(
    loop: asyncio.AbstractEventLoop, count: int, connections: int, size: int, secure: bool = False
) -> None:
    server_tls, client_tls = tls_contexts() if secure else (None, None)

    async def main() -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_tls)
        port = server.sockets[0].getsockname()[1]
        done = [loop.create_future() for _ in range(connections)]
        for future in done:
            await loop.create_connection(
                lambda f=future: Client(b"x" * size, count // connections, f), "127.0.0.1", port, ssl=client_tls
            )
        await asyncio.gather(*done)
        server.close()

    run(loop, main())


for connections in 1, 64:
    for size, count in (64, 30_000), (1024, 30_000), (65536, 4_000):
        name = f"protocol_echo_{size}_c{connections}"
        BENCHES[name] = (count, lambda loop, n, c=connections, s=size: protocol_echo(loop, n, c, s))

for size, count in (1024, 12_000), (65536, 2_000):
    BENCHES[f"tls_echo_{size}_c1"] = (count, lambda loop, n, s=size: protocol_echo(loop, n, 1, s, secure=True))


@bench(4_000)
def connect_close(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """Connect, one byte there and back, close: a server's accept and a client's connect."""

    async def main() -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for _ in range(count):
            done = loop.create_future()
            await loop.create_connection(lambda f=done: Client(b"x", 1, f), "127.0.0.1", port)
            await done
        server.close()

    run(loop, main())


def streams_echo(loop: asyncio.AbstractEventLoop, count: int, connections: int) -> None:
    async def serve(r: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
        while data := await r.read(65536):
            w.write(data)
            await w.drain()
        w.close()

    async def client(port: int) -> None:
        r, w = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count // connections):
            w.write(b"x" * 1024)
            await r.readexactly(1024)
        w.close()
        await w.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(client(port) for _ in range(connections)))
        server.close()

    run(loop, main())


BENCHES["streams_echo_1024_c1"] = (15_000, lambda loop, n: streams_echo(loop, n, 1))
BENCHES["streams_echo_1024_c64"] = (15_000, lambda loop, n: streams_echo(loop, n, 64))


@bench(10_000)
def sock_echo_1024(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def main() -> None:
        a, b = socket.socketpair()
        a.setblocking(False), b.setblocking(False)

        async def serve() -> None:
            while data := await loop.sock_recv(b, 65536):
                await loop.sock_sendall(b, data)

        task = loop.create_task(serve())
        for _ in range(count):
            await loop.sock_sendall(a, b"x" * 1024)
            await loop.sock_recv(a, 65536)
        a.close()
        await task
        b.close()

    run(loop, main())


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address) -> None:
        self.transport.sendto(data, address)


class DatagramClient(asyncio.DatagramProtocol):
    def __init__(self, rounds: int, done: asyncio.Future) -> None:
        self.rounds, self.done = rounds, done

    def connection_made(self, transport) -> None:
        self.transport = transport
        transport.sendto(b"x" * 1024)

    def datagram_received(self, data: bytes, address) -> None:
        self.rounds -= 1
        if self.rounds:
            self.transport.sendto(data)
        else:
            self.done.set_result(None)


@bench(20_000)
def udp_echo_1024(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def main() -> None:
        server, _ = await loop.create_datagram_endpoint(DatagramEcho, ("127.0.0.1", 0))
        done = loop.create_future()
        address = server.get_extra_info("sockname")
        client, _ = await loop.create_datagram_endpoint(lambda: DatagramClient(count, done), remote_addr=address)
        await done
        server.close(), client.close()

    run(loop, main())


@bench(10_000)
def pipe_echo_1024(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A protocol that reads from a pipe what it writes into it."""
    done = loop.create_future()

    class Reading(asyncio.Protocol):
        left = count

        def data_received(self, data: bytes) -> None:
            self.left -= 1
            if self.left:
                self.other.write(data)
            elif not done.done():
                done.set_result(None)

    async def main() -> None:
        r, w = os.pipe()
        reading, protocol = await loop.connect_read_pipe(Reading, os.fdopen(r, "rb", 0))
        protocol.other, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(w, "wb", 0))
        protocol.other.write(b"x" * 1024)
        await done
        reading.close(), protocol.other.close()

    run(loop, main())


@bench(1_000)
def subprocess_spawn(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """The parent's own time."""

    async def main() -> None:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec("/bin/true")
            await process.wait()

    run(loop, main())


# --- the runner ---


def child(loop_name: str, name: str, scale: float) -> None:
    module, factory = FACTORIES[loop_name]
    loop = getattr(importlib.import_module(module), factory)()
    asyncio.set_event_loop(loop)
    count, function = BENCHES[name]
    count = max(1000, int(count * scale) // 1000 * 1000)
    function(loop, max(1000, count // 10 // 1000 * 1000))
    start = time.process_time_ns()
    function(loop, count)
    print((time.process_time_ns() - start) / count)
    loop.run_until_complete(loop.shutdown_default_executor())


def measure(loop_name: str, name: str, scale: float) -> float:
    command = [sys.executable, __file__, "--child", loop_name, name, str(scale)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def available(loop_name: str) -> bool:
    try:
        importlib.import_module(FACTORIES[loop_name][0])
    except ImportError:
        return False
    return True


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--scale", type=float, default=1.0, help="of the number of operations")
    p.add_argument("--loops", nargs="+", default=[name for name in FACTORIES if available(name)])
    p.add_argument("--only", nargs="+", default=[""], help="names that contain one of these")
    args = p.parse_args()
    print(f"Python {sys.version.split()[0]}, ns of CPU time an operation, median of {args.rounds} interleaved rounds")
    print(f"{'':24}" + "".join(f"{name:>10}" for name in args.loops))
    for name in BENCHES:
        if not any(part in name for part in args.only):
            continue
        times: dict[str, list[float]] = {loop: [] for loop in args.loops}
        for _ in range(args.rounds):
            for loop in args.loops:
                times[loop].append(measure(loop, name, args.scale))
        medians = [statistics.median(times[loop]) for loop in args.loops]
        ratio = f"{medians[-2] / medians[-1]:8.2f}x" if len(medians) > 1 else ""
        print(f"{name:24}" + "".join(f"{m:10.0f}" for m in medians) + ratio, flush=True)


if __name__ == "__main__":
    main()
