"""UDP and unix datagram transports: the standard loop is the oracle."""

import asyncio
import gc
import os
import random
import socket
import weakref

import pytest

import licorne

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]


@pytest.fixture(params=[licorne.new_event_loop, asyncio.new_event_loop], ids=["licorne", "asyncio"])
def loop(request):
    loop = request.param()
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Recorder(asyncio.DatagramProtocol):
    def __init__(self):
        self.received, self.errors = asyncio.Queue(), asyncio.Queue()
        self.events = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.received.put_nowait((data, address))

    def error_received(self, exc):
        self.errors.put_nowait(exc)

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def endpoint(**options):
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Recorder, **options)
    return protocol


async def closed(*protocols):
    for protocol in protocols:
        protocol.transport.close()
        assert await protocol.lost is None


def soon(awaitable):
    return asyncio.wait_for(awaitable, 10)


def test_it_is_native():
    async def main():
        protocol = await endpoint(local_addr=("127.0.0.1", 0))
        assert type(protocol.transport) is licorne.loop.DatagramTransport
        assert isinstance(protocol.transport, asyncio.DatagramTransport)
        await closed(protocol)

    loop = licorne.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_there_and_back(loop, host):
    async def main():
        server = await endpoint(local_addr=(host, 0))
        address = server.transport.get_extra_info("sockname")
        connected, free = await endpoint(remote_addr=address[:2]), await endpoint(local_addr=(host, 0))
        for client, to in (connected, None), (connected, address), (free, address), (free, address[:2]):
            for data in b"x", bytearray(b"mutable"), memoryview(b"view"), os.urandom(9_000):
                client.transport.sendto(data, to)
                received, sender = await soon(server.received.get())
                assert received == bytes(data) and type(received) is bytes
                assert sender == client.transport.get_extra_info("sockname")
                server.transport.sendto(received[::-1], sender)
                assert await soon(client.received.get()) == (received[::-1], address)
        with pytest.raises(ValueError):
            connected.transport.sendto(b"x", (host, 1))
        with pytest.raises(TypeError):
            connected.transport.sendto("text")
        await closed(server, connected, free)

    loop.run_until_complete(main())


def test_a_flood_arrives_in_order_and_others_get_their_turn(loop):
    async def main():
        server = await endpoint(local_addr=("127.0.0.1", 0))
        client = await endpoint(remote_addr=server.transport.get_extra_info("sockname"))
        for i in range(100):
            client.transport.sendto(b"%d" % i)
        assert [(await soon(server.received.get()))[0] for _ in range(100)] == [b"%d" % i for i in range(100)]
        await closed(server, client)

    loop.run_until_complete(main())


def test_close_inside_datagram_received(loop):
    async def main():
        server = await endpoint(local_addr=("127.0.0.1", 0))
        client = await endpoint(remote_addr=server.transport.get_extra_info("sockname"))
        seen = []
        server.datagram_received = lambda data, address: (seen.append(data), server.transport.close())
        for _ in range(20):
            client.transport.sendto(b"x")
        await soon(server.lost)
        assert seen == [b"x"]
        await closed(client)

    loop.run_until_complete(main())


def test_nobody_listens(loop):
    async def main():
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.bind(("127.0.0.1", 0))
        client = await endpoint(remote_addr=probe.getsockname())
        probe.close()
        client.transport.sendto(b"x")
        assert isinstance(await soon(client.errors.get()), ConnectionRefusedError)
        assert not client.transport.is_closing()
        await closed(client)

    loop.run_until_complete(main())


def test_too_long_is_an_error_of_that_datagram(loop):
    async def main():
        server = await endpoint(local_addr=("127.0.0.1", 0))
        client = await endpoint(remote_addr=server.transport.get_extra_info("sockname"))
        client.transport.sendto(b"x" * 70_000)
        assert isinstance(await soon(client.errors.get()), OSError)
        client.transport.sendto(b"short")
        assert (await soon(server.received.get()))[0] == b"short"
        await closed(server, client)

    loop.run_until_complete(main())


def test_protocol_that_fails_is_reported_and_goes_on(loop):
    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    async def main():
        server = await endpoint(local_addr=("127.0.0.1", 0))
        client = await endpoint(remote_addr=server.transport.get_extra_info("sockname"))

        def fail(data, address):
            del server.datagram_received
            raise ValueError("boom")

        server.datagram_received = fail
        client.transport.sendto(b"first")
        client.transport.sendto(b"second")
        assert (await soon(server.received.get()))[0] == b"second"
        await closed(server, client)

    loop.run_until_complete(main())
    assert [str(context["exception"]) for context in contexts] == ["boom"]


def test_names_are_looked_up(loop):
    async def main():
        server = await endpoint(local_addr=("127.0.0.1", 0))
        client = await endpoint(local_addr=("127.0.0.1", 0))
        port = server.transport.get_extra_info("sockname")[1]
        client.transport.sendto(b"by name", ("localhost", port))
        assert (await soon(server.received.get()))[0] == b"by name"
        await closed(server, client)

    loop.run_until_complete(main())


def test_what_the_socket_does_not_take_waits(loop):
    """A unix datagram socket refuses when the reader is slow: what waits is counted, and leaves in order."""

    async def main():
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)
        far.setblocking(False)
        name = b"\0licorne-datagram-%d" % random.getrandbits(60)
        far.close()
        far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        far.setblocking(False)
        far.bind(name)
        near.connect(name)
        protocol = await endpoint(sock=near)
        protocol.transport.set_write_buffer_limits(high=20_000)
        sent = [b"%05d" % i * 200 for i in range(100)]
        for data in sent:
            protocol.transport.sendto(data)
        assert protocol.transport.get_write_buffer_size() > 0 and protocol.events == ["pause"]
        protocol.transport.close()
        got = [await soon(loop.sock_recv(far, 5_000)) for _ in sent]
        assert got == sent
        assert await protocol.lost is None and protocol.events == ["pause", "resume"]
        far.close()

    loop.run_until_complete(main())


def test_unix_datagrams_of_any_size():
    """(The standard loop cannot send over a pair of sockets without names.)"""

    async def main():
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one, other = await endpoint(sock=near), await endpoint(sock=far)
        for data in b"x", os.urandom(150_000):
            one.transport.sendto(data)
            assert (await soon(other.received.get()))[0] == data
        await closed(one, other)

    loop = licorne.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


def test_after_the_end(loop, caplog):
    if not isinstance(loop, licorne.Loop):
        pytest.skip("it raises AttributeError")

    async def main():
        protocol = await endpoint(local_addr=("127.0.0.1", 0))
        transport = protocol.transport
        transport.close()
        transport.close()
        transport.abort()
        await protocol.lost
        for _ in range(3):
            transport.sendto(b"x", ("127.0.0.1", 1))
        assert transport.is_closing()

    loop.run_until_complete(main())
    assert caplog.messages


def test_transport_is_freed_when_it_is_closed():
    loop = licorne.new_event_loop()

    async def main():
        protocol = await endpoint(local_addr=("127.0.0.1", 0))
        protocol.transport.sendto(b"x", protocol.transport.get_extra_info("sockname"))
        await soon(protocol.received.get())
        await closed(protocol)
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


# --- at random: the same steps on both loops, the same outcome ---

STEPS = ["send"] * 4 + [
    "burst",
    "wrong type",
    "wrong address",
    "turn",
    "far_send",
    "far_send",
    "far_burst",
    "close",
    "abort",
]


async def walk(seed):
    """Random steps of a transport, connected or not, and of a socket that is its peer."""
    rng = random.Random(seed)
    connected = rng.random() < 0.5
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far.setblocking(False)
    far.bind(("127.0.0.1", 0))
    options = {"remote_addr": far.getsockname()} if connected else {"local_addr": ("127.0.0.1", 0)}
    protocol = await endpoint(**options)
    transport, target = protocol.transport, None if connected else far.getsockname()
    near = transport.get_extra_info("sockname")
    outcomes, over, numbers, expected = [], False, iter(range(1_000_000)), 0

    def attempt(*args):
        try:
            transport.sendto(*args)
        except (TypeError, ValueError) as error:
            outcomes.append(type(error).__name__)

    for _ in range(rng.randrange(5, 30)):
        step = rng.choice(STEPS)
        if over:  # the standard loop raises AttributeError then
            break
        if step in ("send", "burst"):
            for _ in range(1 if step == "send" else 20):
                data = rng.choice([bytes, bytearray, memoryview])(b"%d" % next(numbers) * rng.randrange(1, 50))
                attempt(data, target)
        elif step == "wrong type":
            attempt("text", target)
        elif step == "wrong address" and connected:
            attempt(b"x", ("127.0.0.1", 1))
        elif step in ("far_send", "far_burst"):
            for _ in range(1 if step == "far_send" else 50):
                far.sendto(b"%d" % next(numbers), near)
                expected += 1
        elif step in ("close", "abort") and rng.random() < 0.3:
            getattr(transport, step)()
            over = True
        while not over and protocol.received.qsize() < expected:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(40):  # so that each loop has polled twice, and done what follows
            await asyncio.sleep(0)
        for _ in range(rng.randrange(3)):
            try:
                data, source = far.recvfrom(1000)
                outcomes.append((data, source == near))
            except BlockingIOError:
                outcomes.append("nothing")
        outcomes.append((transport.is_closing(), protocol.received.qsize()))
    transport.close()
    outcomes.append(type(await protocol.lost).__name__)
    far.close()
    received = [protocol.received.get_nowait() for _ in range(protocol.received.qsize())]
    return outcomes, [(data, address[0]) for data, address in received], protocol.events, protocol.errors.qsize()


def test_random_walks_end_as_on_the_standard_loop():
    ours, standard = licorne.new_event_loop(), asyncio.new_event_loop()
    for seed in range(150):
        expected = standard.run_until_complete(asyncio.wait_for(walk(seed), 20))
        assert ours.run_until_complete(asyncio.wait_for(walk(seed), 20)) == expected, f"seed {seed}"
    ours.close()
    standard.close()
