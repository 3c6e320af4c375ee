"""TLS over the loop's transports: the standard loop is the oracle."""

import asyncio
import gc
import os
import random
import ssl
import sys
import weakref

import pytest
import trustme

import licorne
from support.protocols import Buffered, Recorder

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the standard library's older protocol is used")


@pytest.fixture(params=[licorne.new_event_loop, asyncio.new_event_loop], ids=["licorne", "asyncio"])
def loop(request):
    loop = request.param()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture(scope="module", params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def contexts(request):
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    client.maximum_version = client.minimum_version = request.param
    return server, client


async def connect(contexts, near=Recorder, far=Recorder):
    """The client's protocol and the server's."""
    loop, accepted = asyncio.get_running_loop(), asyncio.Queue()

    class Accepted(far):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.put_nowait(self)

    server = await loop.create_server(Accepted, "127.0.0.1", 0, ssl=contexts[0])
    address = server.sockets[0].getsockname()
    _, client = await loop.create_connection(near, *address, ssl=contexts[1], server_hostname="localhost")
    other = await accepted.get()
    server.close()
    return client, other


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 20
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def run(loop, coroutine):
    return loop.run_until_complete(asyncio.wait_for(coroutine, 60))


@pytest.mark.parametrize("protocol", [Recorder, Buffered])
def test_every_size_arrives(loop, contexts, protocol):
    async def main():
        client, server = await connect(contexts, protocol, protocol)
        sent = {client: b"", server: b""}
        sizes = [1, 2, 1000, 16383, 16384, 16385, 32768, 65535, 65536, 100_000, 1_000_000, 7]
        for size in sizes:
            for sender, receiver in (client, server), (server, client):
                data = os.urandom(size)
                sender.transport.write(data)
                sent[sender] += data
                await until(lambda s=sender, r=receiver: len(r.data) == len(sent[s]))
                assert receiver.data == sent[sender]
        client.transport.close()
        assert await client.lost is None and await server.lost is None
        assert server.events == ["eof", "lost"] or server.events[-2:] == ["eof", "lost"]

    run(loop, main())


def test_kinds_of_data(loop, contexts):
    async def main():
        client, server = await connect(contexts)
        mutable = bytearray(b"two,")
        for data in b"one,", mutable, memoryview(b"three,"), b"":
            client.transport.write(data)
        mutable[:] = b"xxxx"
        client.transport.writelines([b"four,", bytearray(b"five")])
        for wrong in "text", 1, None:
            with pytest.raises(TypeError):
                client.transport.write(wrong)
        await until(lambda: server.data == b"one,two,three,four,five")
        client.transport.close()
        await server.lost

    run(loop, main())


def test_flow_control(loop, contexts):
    async def main():
        client, server = await connect(contexts)
        server.transport.pause_reading()
        blob = os.urandom(30_000_000)
        for start in range(0, len(blob), 500_000):
            client.transport.write(blob[start : start + 500_000])
        assert "pause" in client.events
        client.transport.write(b"end")
        await asyncio.sleep(0.05)
        assert server.data == b""
        server.transport.resume_reading()
        await until(lambda: len(server.data) == len(blob) + 3)
        assert server.data == blob + b"end"
        await until(lambda: "resume" in client.events)
        client.transport.close()
        await server.lost

    run(loop, main())


@pytest.mark.parametrize("who", ["the writer", "its peer"])
def test_what_was_written_before_the_goodbye_arrives(contexts, who):
    """(The standard library drops what waits.)"""

    async def main():
        client, server = await connect(contexts)
        server.transport.pause_reading()
        blob = os.urandom(10_000_000)
        for start in range(0, len(blob), 500_000):
            client.transport.write(blob[start : start + 500_000])
        assert "pause" in client.events
        ender = client if who == "the writer" else server
        ender.transport.close()
        if who == "the writer":
            server.transport.resume_reading()
            assert await server.lost is None
            assert server.data == blob
        else:
            await server.lost
            assert not server.data
        await client.lost

    loop = licorne.new_event_loop()
    run(loop, main())
    loop.close()


def test_application_pauses_between_records(loop, contexts):
    async def main():
        client, server = await connect(contexts)

        def received(data):
            server.data += data
            server.transport.pause_reading()
            loop.call_later(0.001, server.transport.resume_reading)

        server.data_received = received
        blob = os.urandom(400_000)
        for start in range(0, len(blob), 40_000):
            client.transport.write(blob[start : start + 40_000])
            await asyncio.sleep(0)
        await until(lambda: len(server.data) == len(blob))
        assert server.data == blob
        client.transport.close()
        await server.lost

    run(loop, main())


def test_close_inside_data_received_sends_what_was_written(loop, contexts):
    async def main():
        client, server = await connect(contexts)
        server.data_received = lambda data: (server.transport.write(b"y" * 50_000), server.transport.close())
        client.transport.write(b"x")
        await client.lost
        assert client.data == b"y" * 50_000
        await server.lost
        for protocol in client, server:
            for _ in range(3):
                protocol.transport.write(b"too late")
            assert protocol.transport.is_closing()

    run(loop, main())


def test_abort_and_protocols_that_fail(loop, contexts):
    failures = []
    loop.set_exception_handler(lambda _, context: failures.append(type(context["exception"])))

    async def main():
        client, server = await connect(contexts)
        client.transport.abort()
        await client.lost
        await server.lost
        client, server = await connect(contexts)

        def fail(data):
            raise ZeroDivisionError

        server.data_received = fail
        client.transport.write(b"x")
        assert isinstance(await server.lost, ZeroDivisionError)
        await client.lost

    run(loop, main())
    assert failures == [ZeroDivisionError]


def test_start_tls(loop, contexts):
    async def main():
        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go ahead\n")
            protocol = Recorder()
            transport = await loop.start_tls(writer.transport, protocol, contexts[0], server_side=True)
            await until(lambda: protocol.data)
            transport.write(protocol.data[::-1])
            transport.close()
            await protocol.lost

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, plain = await loop.create_connection(Recorder, *address)
        transport.write(b"STARTTLS\n")
        await until(lambda: plain.data == b"go ahead\n")
        secure = Recorder()
        upgraded = await loop.start_tls(transport, secure, contexts[1], server_hostname="localhost")
        upgraded.write(b"secret")
        await until(lambda: secure.data == b"terces")
        assert upgraded.get_extra_info("cipher") and plain.data == b"go ahead\n"
        upgraded.close()
        await secure.lost
        server.close()

    run(loop, main())


def test_at_random(loop, contexts):
    """Both ends write pieces of any size, pause and resume."""

    async def main():
        rng = random.Random(7)
        client, server = await connect(contexts, rng.choice([Recorder, Buffered]), Recorder)
        sent = {client: bytearray(), server: bytearray()}
        for _ in range(300):
            protocol = rng.choice([client, server])
            step = rng.random()
            if step < 0.5:
                data = rng.randbytes(rng.choice([1, 100, 5_000, 20_000, 90_000]))
                protocol.transport.write(data)
                sent[protocol] += data
            elif step < 0.65:
                protocol.transport.pause_reading()
            elif step < 0.85:
                protocol.transport.resume_reading()
            else:
                await asyncio.sleep(0)
        client.transport.resume_reading()
        server.transport.resume_reading()
        await until(lambda: len(server.data) == len(sent[client]) and len(client.data) == len(sent[server]))
        assert server.data == sent[client] and client.data == sent[server]
        client.transport.close()
        await server.lost

    run(loop, main())


def test_nothing_is_left_of_a_connection(contexts):
    loop = licorne.new_event_loop()

    async def main():
        client, server = await connect(contexts)
        client.transport.write(b"x")
        await until(lambda: server.data)
        client.transport.close()
        await client.lost
        await server.lost
        return [weakref.ref(end.transport) for end in (client, server)]

    ended = run(loop, main())
    for _ in range(3):
        gc.collect()
        loop.run_until_complete(asyncio.sleep(0))
    assert [transport() for transport in ended] == [None, None]
    loop.close()
