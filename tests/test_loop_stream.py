"""Socket transports: the standard loop is the oracle of what a transport does, in named cases and at random."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import sys
import threading
import weakref

import pytest

import licorne
from support.protocols import Buffered, Recorder

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]

LOOPS = [licorne.new_event_loop, asyncio.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["licorne", "asyncio"])
def loop(request):
    """Every test runs on the standard loop too: a test that it fails would be wrong."""
    loop = request.param()
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def connect(protocol=Recorder, send_buffer=None):
    """A transport's protocol, and the socket at the other end."""
    near, far = socket.socketpair()
    if send_buffer:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    near.setblocking(False)
    far.setblocking(False)
    _, made = await asyncio.get_running_loop().create_connection(protocol, sock=near)
    return made, far


async def read_all(sock):
    loop, data = asyncio.get_running_loop(), b""
    while chunk := await loop.sock_recv(sock, 100_000):
        data += chunk
    return data


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def test_sockets_get_a_native_transport():
    async def main():
        protocol, far = await connect()
        assert type(protocol.transport) is licorne.loop.SocketTransport
        assert isinstance(protocol.transport, asyncio.Transport)
        protocol.transport.close()
        await protocol.lost
        far.close()

    loop = licorne.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


def test_bytes_like_data_both_ways(loop):
    if sys.version_info >= (3, 12) and not isinstance(loop, licorne.Loop):
        pytest.skip("its writelines() keeps empty pieces, and stops at them")

    async def main():
        protocol, far = await connect()
        mutable = bytearray(b"two ")
        for piece in b"one ", mutable, memoryview(b"three "), b"":
            protocol.transport.write(piece)
        mutable[:] = b"xxxx"
        protocol.transport.writelines([b"four ", bytearray(b"five"), b""])
        for wrong in "text", 1, None:
            with pytest.raises(TypeError):
                protocol.transport.write(wrong)
        await loop.sock_sendall(far, b"hello")
        await until(lambda: protocol.data == b"hello")
        protocol.transport.close()
        assert await read_all(far) == b"one two three four five"
        assert await protocol.lost is None
        far.close()
        return protocol.events

    assert loop.run_until_complete(main()) == ["lost"]


def test_many_small_writes_in_one_turn_arrive_in_order(loop):
    async def main():
        protocol, far = await connect()
        expected = b""
        for i in range(1000):
            protocol.transport.write(b"%d," % i)
            expected += b"%d," % i
        protocol.transport.close()
        assert await read_all(far) == expected
        await protocol.lost
        far.close()

    loop.run_until_complete(main())


def test_flow_control(loop):
    async def main():
        protocol, far = await connect(send_buffer=4096)
        transport = protocol.transport
        transport.set_write_buffer_limits(high=10_000, low=2_000)
        blob = os.urandom(300_000)
        transport.write(blob[:200_000])
        transport.write(blob[200_000:])
        assert protocol.events == ["pause"]
        assert transport.get_write_buffer_size() > 10_000
        transport.close()
        assert transport.is_closing()
        assert await read_all(far) == blob
        await protocol.lost
        assert protocol.events == ["pause", "resume", "lost"]
        assert transport.get_write_buffer_size() == 0
        far.close()

    loop.run_until_complete(main())


def test_write_eof_after_what_was_written(loop):
    async def main():
        for size in 10, 500_000:
            protocol, far = await connect(send_buffer=4096)
            protocol.keep_open = True
            protocol.transport.write(b"x" * size)
            protocol.transport.write_eof()
            with pytest.raises(RuntimeError):
                protocol.transport.write(b"more")
            with pytest.raises(RuntimeError):
                protocol.transport.writelines([b"more"])
            assert len(await read_all(far)) == size
            await loop.sock_sendall(far, b"answer")
            far.shutdown(socket.SHUT_WR)
            await until(lambda protocol=protocol: "eof" in protocol.events)
            assert protocol.data == b"answer" and not protocol.transport.is_closing()
            protocol.transport.close()
            await protocol.lost
            far.close()

    loop.run_until_complete(main())


@pytest.mark.parametrize("protocol_type", [Recorder, Buffered])
def test_eof_closes_unless_the_protocol_keeps_it(loop, protocol_type):
    async def main():
        protocol, far = await connect(protocol_type)
        await loop.sock_sendall(far, b"a" * 50)
        far.close()
        assert await protocol.lost is None
        assert protocol.data == b"a" * 50
        return [event for event in protocol.events if event in ("eof", "lost")]

    assert loop.run_until_complete(main()) == ["eof", "lost"]


def test_pause_and_resume_reading(loop):
    async def main():
        protocol, far = await connect()
        protocol.transport.pause_reading()
        protocol.transport.pause_reading()
        assert not protocol.transport.is_reading()
        await loop.sock_sendall(far, b"hello")
        await asyncio.sleep(0.01)
        assert protocol.data == b""
        protocol.transport.resume_reading()
        assert protocol.transport.is_reading()
        await until(lambda: protocol.data == b"hello")
        protocol.transport.abort()
        await protocol.lost
        far.close()

    loop.run_until_complete(main())


def test_abort_throws_away_what_did_not_leave(loop):
    async def main():
        protocol, far = await connect(send_buffer=4096)
        protocol.transport.write(b"x" * 1_000_000)
        protocol.transport.abort()
        protocol.transport.abort()
        assert await protocol.lost is None
        assert len(await read_all(far)) < 1_000_000
        far.close()

    loop.run_until_complete(main())


def test_peer_that_is_gone(loop, caplog):
    async def main():
        protocol, far = await connect()
        protocol.transport.pause_reading()
        far.close()
        protocol.transport.write(b"x")
        error = await protocol.lost
        assert isinstance(error, ConnectionError)
        for _ in range(10):
            protocol.transport.write(b"x")

    loop.run_until_complete(main())
    assert any("socket.send() raised exception" in message for message in caplog.messages)


@pytest.mark.parametrize("end", ["close", "abort", "write_eof", "get_write_buffer_size"])
def test_connection_is_lost_once_if_the_last_write_fails(loop, end):
    failures = []
    loop.set_exception_handler(lambda _, context: failures.append(context))

    async def main():
        protocol, far = await connect()
        protocol.transport.pause_reading()
        far.close()
        protocol.transport.write(b"x")
        getattr(protocol.transport, end)()
        error = await protocol.lost
        await asyncio.sleep(0.001)
        assert protocol.events == ["lost"]
        return type(error)

    assert loop.run_until_complete(main()) is BrokenPipeError
    assert failures == []


@pytest.mark.parametrize("method", ["data_received", "eof_received", "get_buffer", "buffer_updated"])
def test_protocol_that_fails_loses_its_connection(loop, method):
    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    def fail(*_):
        raise ValueError("boom")

    async def main():
        buffered = method in ("get_buffer", "buffer_updated")
        protocol, far = await connect(Buffered if buffered else Recorder)
        setattr(protocol, method, fail)
        await loop.sock_sendall(far, b"x")
        far.close()
        assert str(await protocol.lost) == "boom"

    loop.run_until_complete(main())
    (context,) = contexts
    assert str(context["exception"]) == "boom" and method in context["message"] and context["transport"]


def test_empty_buffer_is_an_error(loop):
    loop.set_exception_handler(lambda *_: None)

    async def main():
        protocol, far = await connect(lambda: Buffered(0))
        await loop.sock_sendall(far, b"x")
        assert isinstance(await protocol.lost, RuntimeError)
        far.close()

    loop.run_until_complete(main())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_in_a_protocol_leaves_run_forever(loop, kind):
    def leave(data):
        raise kind

    async def main():
        protocol, far = await connect()
        protocol.data_received = leave
        await loop.sock_sendall(far, b"x")
        protocol.far = far
        kept.append(protocol)
        await protocol.lost

    kept = []
    task = loop.create_task(main())
    with pytest.raises(kind):
        loop.run_until_complete(task)
    task.cancel()
    kept[0].transport.abort()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    kept[0].far.close()


def test_set_protocol(loop):
    async def main():
        first, far = await connect()
        second = Buffered()
        first.transport.set_protocol(second)
        assert first.transport.get_protocol() is second
        await loop.sock_sendall(far, b"for the second")
        await until(lambda: second.data == b"for the second")
        first.transport.close()
        await second.lost
        far.close()
        assert first.data == b""

    loop.run_until_complete(main())


def test_close_inside_callbacks(loop):
    """From data_received, and from resume_writing while the writer's callback runs."""

    async def main():
        protocol, far = await connect(send_buffer=4096)
        protocol.data_received = lambda data: (protocol.transport.write(data), protocol.transport.close())
        await loop.sock_sendall(far, b"echo")
        assert await read_all(far) == b"echo"
        await protocol.lost
        far.close()

        protocol, far = await connect(send_buffer=4096)
        protocol.resume_writing = lambda: (protocol.transport.write(b"end"), protocol.transport.close())
        protocol.transport.set_write_buffer_limits(high=0)
        protocol.transport.write(b"x" * 300_000)
        data = await read_all(far)
        assert len(data) == 300_003 and data.endswith(b"end")
        await protocol.lost
        far.close()

    loop.run_until_complete(main())


def test_write_before_the_loop_runs_again(loop):
    protocol, far = loop.run_until_complete(connect())
    protocol.transport.write(b"hello")
    assert loop.run_until_complete(loop.sock_recv(far, 100)) == b"hello"
    protocol.transport.write(b"bye")
    protocol.transport.close()
    assert loop.run_until_complete(read_all(far)) == b"bye"
    far.close()


def test_write_after_the_connection_is_lost_reaches_nobody():
    """Not even the one who got the descriptor's number. (The standard loop raises AttributeError.)"""

    async def main():
        protocol, far = await connect(send_buffer=4096)
        transport = protocol.transport
        protocol.connection_lost = lambda exc: (transport.write(b"too late"), Recorder.connection_lost(protocol, exc))
        number = transport.get_extra_info("socket").fileno()
        transport.write(b"x" * 200_000)
        transport.close()
        assert len(await read_all(far)) == 200_000
        await protocol.lost
        a, b = socket.socketpair()
        assert number in (a.fileno(), b.fileno())
        transport.write(b"too late")
        transport.writelines([b"too late"])
        await asyncio.sleep(0.001)
        for end in a, b:
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(10)
        a.close(), b.close(), far.close()

    loop = licorne.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


def test_write_from_another_thread_leaves_though_the_loop_waits(loop):
    """It is not allowed, but with the standard loop it works."""

    async def main():
        protocol, far = await connect()
        threading.Timer(0.02, protocol.transport.write, (b"x",)).start()
        assert await asyncio.wait_for(loop.sock_recv(far, 1), 10) == b"x"
        protocol.transport.close()
        await protocol.lost
        far.close()

    loop.run_until_complete(main())


def test_sendfile(loop, tmp_path):
    blob = os.urandom(500_000)
    (tmp_path / "file").write_bytes(blob)
    file = open(tmp_path / "file", "rb")  # closed below

    async def main():
        server_side = loop.create_future()

        async def serve(reader, writer):
            server_side.set_result(await reader.read(-1))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"head")
        with file:
            assert await loop.sendfile(writer.transport, file) == len(blob)
        writer.write(b"tail")
        writer.close()
        assert await server_side == b"head" + blob + b"tail"
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_transport_is_freed_when_it_is_closed():
    loop = licorne.new_event_loop()

    async def main():
        protocol, far = await connect()
        protocol.transport.write(b"x")
        protocol.transport.close()
        await protocol.lost
        far.close()
        return weakref.ref(protocol.transport)

    gc.collect()
    gc.disable()
    try:
        transport = loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0))
        assert transport() is None  # without the collector
    finally:
        gc.enable()
        loop.close()


def test_dropped_transport_warns(loop):
    async def main():
        protocol, far = await connect()
        protocol.transport.pause_reading()
        far.close()

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        loop.run_until_complete(main())
        for _ in range(3):
            gc.collect()
            loop.run_until_complete(asyncio.sleep(0))


def test_streams_over_a_unix_socket(loop):
    async def main():
        async def serve(reader, writer):
            async for line in reader:
                writer.write(line.upper())
                await writer.drain()
            writer.close()

        path = f"\0licorne-test-{os.getpid()}-{id(loop)}"
        server = await asyncio.start_unix_server(serve, path)
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(3):
            writer.write(b"hello\n")
            await writer.drain()
            assert await reader.readline() == b"HELLO\n"
        writer.close()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


# --- at random: the same steps on both loops, the same outcome ---

OFTEN = {
    "write": 3,
    "writelines": int(sys.version_info < (3, 12)),
    "big": 1,
    "pause": 1,
    "resume": 1,
    "turn": 2,
    "eof": 1,
    "close": 1,
    "abort": 1,
    "far_send": 2,
    "far_read": 1,
    "far_eof": 1,
}
STEPS = [step for step, times in OFTEN.items() for _ in range(times)]


async def walk(seed):
    """Random steps at both ends of a connection. Returns what both ends saw, where that does not depend on timing."""
    rng = random.Random(seed)
    protocol, far = await connect(rng.choice([Recorder, lambda: Buffered(100_000)]), send_buffer=8192)
    transport, loop = protocol.transport, asyncio.get_running_loop()
    protocol.keep_open = rng.random() < 0.5
    sent, read, outcomes, aborted = b"", b"", [], False

    def attempt(function, *args):
        try:
            function(*args)
        except (RuntimeError, ConnectionError) as error:
            outcomes.append(type(error).__name__)

    def read_some():
        nonlocal read
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            read += far.recv(30_000)

    for _ in range(rng.randrange(5, 40)):
        step = rng.choice(STEPS)
        if step == "write":
            attempt(transport.write, bytes([rng.randrange(256)]) * rng.randrange(200))
        elif step == "writelines":
            attempt(transport.writelines, [bytes([rng.randrange(256)]) * rng.randrange(90) for _ in range(5)])
        elif step == "big":
            attempt(transport.write, rng.randbytes(rng.randrange(150_000)))
        elif step == "pause":
            transport.pause_reading()
        elif step == "resume":
            transport.resume_reading()
        elif step == "eof":
            attempt(transport.write_eof)
        elif step == "close":
            transport.close()
        elif step == "abort" and rng.random() < 0.3:
            transport.abort()
            aborted = True
        elif step == "far_send" and len(sent) < 100_000:
            data = rng.randbytes(rng.randrange(1, 5000))
            with contextlib.suppress(OSError):
                sent += data[: far.send(data)]
        elif step == "far_read":
            read_some()
        elif step == "far_eof":
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)
        outcomes.append((transport.is_closing() or aborted, transport.is_reading() and not transport.is_closing()))
        for _ in range(40):  # so that each loop has polled twice, and done what follows
            await asyncio.sleep(0)

    transport.resume_reading()
    transport.close()
    while not protocol.lost.done():
        read_some()
        await asyncio.sleep(0)
    with contextlib.suppress(ConnectionResetError):  # what came after the last read was never read
        while chunk := await loop.sock_recv(far, 100_000):
            read += chunk
    far.close()
    events = [event for event in protocol.events if event in ("eof", "lost")]
    return {
        "events": events,
        "outcomes": outcomes,
        "read": None if aborted else read,
        "data": sent.startswith(bytes(protocol.data)),
        "error": type(await protocol.lost).__name__,
    }


@pytest.mark.parametrize("block", range(8))
def test_random_walks_end_as_on_the_standard_loop(block):
    ours, standard = licorne.new_event_loop(), asyncio.new_event_loop()
    for seed in range(block * 25, block * 25 + 25):
        try:
            expected = standard.run_until_complete(asyncio.wait_for(walk(seed), 20))
        except AttributeError:  # it does not know that a connection is lost if that came with the last write
            continue
        assert ours.run_until_complete(asyncio.wait_for(walk(seed), 20)) == expected, f"seed {seed}"
    ours.close()
    standard.close()
