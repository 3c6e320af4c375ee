"""Pipe transports: the standard loop is the oracle."""

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import sys

import pytest

import licorne
from support.protocols import Recorder

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]


@pytest.fixture(params=[licorne.new_event_loop, asyncio.new_event_loop], ids=["licorne", "asyncio"])
def loop(request):
    loop = request.param()
    yield loop
    loop.close()


async def reading(fd):
    return (await asyncio.get_running_loop().connect_read_pipe(Recorder, os.fdopen(fd, "rb", 0)))[1]


async def writing(fd):
    return (await asyncio.get_running_loop().connect_write_pipe(Recorder, os.fdopen(fd, "wb", 0)))[1]


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def test_they_are_native():
    async def main():
        r, w = os.pipe()
        a, b = await reading(r), await writing(w)
        assert type(a.transport) is licorne.loop.ReadPipeTransport
        assert type(b.transport) is licorne.loop.WritePipeTransport
        a.transport.close(), b.transport.close()
        await a.lost, await b.lost

    loop = licorne.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


def test_through_and_to_its_end(loop):
    async def main():
        r, w = os.pipe()
        a, b = await reading(r), await writing(w)
        blob = os.urandom(500_000)
        b.transport.write(b"first,")
        b.transport.writelines([b"second,", bytearray(b"third,")])
        b.transport.write(blob)
        assert "pause" in b.events and b.transport.get_write_buffer_size() > 0
        b.transport.write_eof()
        b.transport.write(b"too late")
        assert await b.lost is None and await a.lost is None
        assert a.data == b"first,second,third," + blob
        assert a.events == ["eof", "lost"] and b.events == ["pause", "resume", "lost"]

    loop.run_until_complete(main())


def test_pause_and_resume_reading(loop):
    async def main():
        r, w = os.pipe()
        protocol = await reading(r)
        protocol.transport.pause_reading()
        os.write(w, b"hello")
        await asyncio.sleep(0.01)
        assert protocol.data == b""
        if sys.version_info >= (3, 11) or isinstance(loop, licorne.Loop):
            assert not protocol.transport.is_reading()
        protocol.transport.resume_reading()
        protocol.transport.resume_reading()
        await until(lambda: protocol.data == b"hello")
        protocol.transport.close()
        await protocol.lost
        os.close(w)

    loop.run_until_complete(main())


def test_reader_that_is_gone(loop):
    async def main():
        for size in 0, 1_000_000:
            r, w = os.pipe()
            protocol = await writing(w)
            if size:
                protocol.transport.write(b"x" * size)
            os.close(r)
            error = await asyncio.wait_for(protocol.lost, 10)
            assert type(error) is (BrokenPipeError if size else type(None))
            protocol.transport.write(b"x")

    loop.run_until_complete(main())


@pytest.mark.parametrize("end", ["close", "abort", "write_eof"])
def test_lost_once_if_the_last_write_fails(loop, end):
    async def main():
        near, far = socket.socketpair()  # a pipe transport takes sockets too; here nothing tells that the peer is gone
        protocol = await writing(near.detach())
        loop.remove_reader(protocol.transport.get_extra_info("pipe"))
        far.close()
        protocol.transport.write(b"x")
        getattr(protocol.transport, end)()
        error = await asyncio.wait_for(protocol.lost, 10)
        await asyncio.sleep(0.01)
        assert type(error) is BrokenPipeError and protocol.events == ["lost"]

    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    loop.run_until_complete(main())
    if isinstance(loop, licorne.Loop):
        assert contexts == []  # the standard loop ends it twice


def test_protocol_that_fails_is_reported_and_goes_on(loop):
    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    async def main():
        r, w = os.pipe()
        protocol = await reading(r)

        def fail(data):
            del protocol.data_received
            raise ValueError("boom")

        protocol.data_received = fail
        os.write(w, b"first")
        await until(lambda: contexts)
        os.write(w, b"second")
        await until(lambda: protocol.data == b"second")
        os.close(w)
        assert await protocol.lost is None

    loop.run_until_complete(main())
    assert [str(context["exception"]) for context in contexts] == ["boom"]


def test_what_is_no_pipe(loop, tmp_path):
    (tmp_path / "file").touch()

    async def main(file):
        for connect in loop.connect_read_pipe, loop.connect_write_pipe:
            with pytest.raises(ValueError):
                await connect(Recorder, file)

    with open(tmp_path / "file", "r+b", 0) as file:
        loop.run_until_complete(main(file))


def test_write_outside_a_turn_leaves_at_once(loop):
    """Whoever reads the other end may not run the loop before."""
    r, w = os.pipe()
    protocol = loop.run_until_complete(writing(w))
    protocol.transport.write(b"hello")
    assert os.read(r, 100) == b"hello"
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)
    os.close(r)


# --- at random: the same steps on both loops, the same outcome ---

WRITER_STEPS = ["write"] * 3 + [
    "writelines",
    "big",
    "eof",
    "close",
    "abort",
    "turn",
    "far_read",
    "far_read",
    "far_close",
]
READER_STEPS = ["pause", "resume", "close", "turn"] + ["far_write"] * 3 + ["far_close"]


async def let_it_turn():
    for _ in range(40):  # so that each loop has polled twice, and done what follows
        await asyncio.sleep(0)


async def walk_writing(rng):
    """Random steps of a transport that writes, and of who reads. What both saw, where timing does not matter."""
    r, w = os.pipe()
    fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(r, False)
    protocol = await writing(w)
    transport, far = protocol.transport, os.fdopen(r, "rb", 0)
    read, outcomes, cut = b"", [], False

    def attempt(function, *args):
        try:
            function(*args)
        except RuntimeError as error:
            outcomes.append(type(error).__name__)

    for _ in range(rng.randrange(5, 30)):
        step = rng.choice(WRITER_STEPS)
        if step == "write":
            attempt(transport.write, bytes([rng.randrange(256)]) * rng.randrange(1, 300))
        elif step == "writelines":
            attempt(transport.writelines, [bytes([rng.randrange(256)]) * rng.randrange(90) for _ in range(5)])
        elif step == "big":
            attempt(transport.write, rng.randbytes(rng.randrange(1, 30_000)))
        elif step == "eof":
            attempt(transport.write_eof)
        elif step == "close":
            transport.close()
        elif step == "abort" and rng.random() < 0.3:
            transport.abort()
            cut = True
        elif step == "far_read" and not far.closed:
            with contextlib.suppress(BlockingIOError):
                read += far.read(2_000) or b""
        elif step == "far_close" and rng.random() < 0.2:
            far.close()
            cut = True
        await let_it_turn()
        outcomes.append(transport.is_closing())
    transport.close()
    while not protocol.lost.done():
        read += (not far.closed and far.read(10_000)) or b""
        await asyncio.sleep(0)
    while not far.closed and (chunk := far.read(100_000)):
        read += chunk
    far.close()
    error = type(await protocol.lost).__name__
    return outcomes, None if cut else (read, error), protocol.events.count("lost")


async def walk_reading(rng):
    r, w = os.pipe()
    os.set_blocking(w, False)
    protocol = await reading(r)
    transport, far, sent, outcomes = protocol.transport, os.fdopen(w, "wb", 0), b"", []
    for _ in range(rng.randrange(5, 30)):
        step = rng.choice(READER_STEPS)
        if step == "pause" and not transport.is_closing():
            with contextlib.suppress(RuntimeError):  # Python 3.10 refuses a second one
                transport.pause_reading()
        elif step == "resume" and not transport.is_closing():
            with contextlib.suppress(RuntimeError):
                transport.resume_reading()
        elif step == "close" and rng.random() < 0.3:
            transport.close()
        elif step == "far_write" and not far.closed:
            with contextlib.suppress(BrokenPipeError):
                data = rng.randbytes(rng.randrange(1, 500))
                sent += data[: far.write(data)]
        elif step == "far_close" and rng.random() < 0.3:
            far.close()
        await let_it_turn()
        outcomes.append((transport.is_closing(), bytes(protocol.data) == sent))
    transport.close()
    await protocol.lost
    far.close()
    return outcomes, sent.startswith(bytes(protocol.data)), protocol.events


@pytest.mark.parametrize("walk", [walk_writing, walk_reading])
def test_random_walks_end_as_on_the_standard_loop(walk):
    ours, standard = licorne.new_event_loop(), asyncio.new_event_loop()
    for seed in range(100):
        try:
            expected = standard.run_until_complete(asyncio.wait_for(walk(random.Random(seed)), 20))
        except AttributeError:  # it does not know that it is closed
            continue
        assert ours.run_until_complete(asyncio.wait_for(walk(random.Random(seed)), 20)) == expected, f"seed {seed}"
    ours.close()
    standard.close()
