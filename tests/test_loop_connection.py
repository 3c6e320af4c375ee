"""Connections, from create_connection() or a server to their end, and loop.sock_*(): beside the standard loop."""

import asyncio
import contextvars
import gc
import os
import socket
import sys

import pytest

import licorne
from support.loops import open_descriptors
from support.protocols import Recorder

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=[licorne.new_event_loop, asyncio.new_event_loop], ids=["licorne", "asyncio"])
def loop(request):
    """Every test runs on the standard loop too: a test that it fails would be wrong."""
    loop = request.param()
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
def ours():
    loop = licorne.new_event_loop()
    yield loop
    loop.close()


async def serve(protocol=Recorder, host="127.0.0.1"):
    """A server, its address, and a list of the protocols that it makes."""
    made = []

    def factory():
        made.append(protocol())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(factory, host, 0)
    return server, server.sockets[0].getsockname(), made


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def is_closed(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


# --- who is at its ends ---


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_both_ends_are_known_while_it_is_open_and_after(loop, host):
    async def main():
        server, address, made = await serve(host=host)
        transport, protocol = await loop.create_connection(Recorder, *address[:2])
        await until(lambda: made and made[0].transport)
        far = made[0].transport
        assert transport.get_extra_info("peername") == address == far.get_extra_info("sockname")
        assert transport.get_extra_info("sockname") == far.get_extra_info("peername")
        sock = transport.get_extra_info("socket")
        assert sock.getsockname() == transport.get_extra_info("sockname") and sock.type == socket.SOCK_STREAM
        assert sock.family == server.sockets[0].family and sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert far.get_extra_info("socket").getpeername() == transport.get_extra_info("sockname")
        assert transport.get_extra_info("other", 7) == transport.get_extra_info(name="other", default=7) == 7
        names = [end.get_extra_info(name) for end in (transport, far) for name in ("peername", "sockname")]
        transport.close()
        await protocol.lost
        await made[0].lost
        assert sock.fileno() == -1
        assert names == [end.get_extra_info(name) for end in (transport, far) for name in ("peername", "sockname")]
        server.close()

    loop.run_until_complete(main())


def test_socket_that_was_given_is_closed_with_it(loop):
    async def main():
        near, far = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        assert transport.get_extra_info("socket").fileno() == near.fileno()
        transport.close()
        await protocol.lost
        assert near.fileno() == -1 and transport.get_protocol() is None
        far.close()

    loop.run_until_complete(main())


def test_socket_that_is_closed_behind_its_back_stays_open_until_it_ends(ours):
    async def main():
        near, far = socket.socketpair()
        far.setblocking(False)
        number = near.fileno()
        transport, protocol = await ours.create_connection(Recorder, sock=near)
        near.close()
        with socket.socket() as other:
            assert other.fileno() != number
        transport.write(b"there")
        assert await ours.sock_recv(far, 10) == b"there"
        await ours.sock_sendall(far, b"and back")
        await until(lambda: protocol.data == b"and back")
        transport.close()
        await protocol.lost
        assert is_closed(number)
        far.close()

    ours.run_until_complete(main())


def test_limits_are_any_numbers(loop):
    async def main():
        near, far = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=1e6, low=10)
        assert transport.get_write_buffer_limits() == (10, 1e6)
        transport.set_write_buffer_limits(high=float("inf"), low=0)
        transport.write(b"x" * 3_000_000)
        assert "pause" not in protocol.events
        transport.set_write_buffer_limits(high=0)
        assert protocol.events == ["pause"]
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.abort(), far.close()
        await protocol.lost

    loop.run_until_complete(main())


def test_transport_takes_attributes_of_the_application(loop):
    async def main():
        near, far = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        transport.mine = 1
        assert isinstance(transport, asyncio.Transport) and transport.can_write_eof()
        assert "fd=" in repr(transport) and f"{near.fileno()}" in repr(transport)
        transport.close(), far.close()
        await protocol.lost
        assert "closed" in repr(transport)

    loop.run_until_complete(main())


# --- connecting ---


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1"])
def test_numbers_are_no_names(ours, host):
    def no_thread(*_):
        raise AssertionError("the executor is asked")

    ours.run_in_executor = no_thread
    options = {"type": socket.SOCK_STREAM}
    assert ours.run_until_complete(ours.getaddrinfo(host, 80, **options)) == socket.getaddrinfo(host, 80, **options)
    with pytest.raises(socket.gaierror):
        ours.run_until_complete(ours.getaddrinfo(host, 80, family=socket.AF_UNIX))
    with pytest.raises(AssertionError):
        ours.run_until_complete(ours.getaddrinfo("localhost", 80))


def test_refused(loop):
    port = closed_port()
    with pytest.raises(ConnectionRefusedError) as info:
        loop.run_until_complete(loop.create_connection(Recorder, "127.0.0.1", port))
    assert f"Connect call failed ('127.0.0.1', {port})" in str(info.value)


def test_options_that_change_nothing_and_those_that_are_unknown(loop):
    async def main():
        server, address, _ = await serve()
        same = {"ssl": None, "family": 0, "local_addr": None, "happy_eyeballs_delay": None}
        transport, protocol = await loop.create_connection(Recorder, *address, **same)
        transport.close()
        await protocol.lost
        transport, protocol = await loop.create_connection(Recorder, *address, local_addr=("127.0.0.1", 0))
        transport.close()
        await protocol.lost
        with pytest.raises(TypeError):
            await loop.create_connection(Recorder, *address, colour="red")
        with pytest.raises(ValueError):
            await loop.create_connection(Recorder, *address, server_hostname="x")
        server.close()

    loop.run_until_complete(main())


def test_protocol_factory_that_fails(loop):
    async def main():
        server, address, _ = await serve()
        before = open_descriptors()
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(lambda: 1 / 0, *address)
        with pytest.raises(AttributeError):
            await loop.create_connection(lambda: None, *address)
        await asyncio.sleep(0.01)
        server.close()
        return before

    if isinstance(loop, licorne.Loop):
        before = loop.run_until_complete(main())
        assert open_descriptors() <= before
    else:
        with pytest.warns(ResourceWarning):  # it forgets the socket
            loop.run_until_complete(main())


def test_giving_up_while_it_connects_leaves_nothing(loop):
    async def main():
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            others = [socket.socket() for _ in range(3)]
            for other in others:  # the backlog is full
                other.setblocking(False)
                other.connect_ex(listener.getsockname())
            before = open_descriptors()
            task = loop.create_task(loop.create_connection(Recorder, *listener.getsockname()))
            await asyncio.sleep(0.01)
            assert len(open_descriptors()) == len(before) + 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert open_descriptors() == before
            for other in others:
                other.close()

    loop.run_until_complete(main())


def test_server_goes_on_when_a_protocol_cannot_be_made(loop):
    async def main():
        failures = 2

        def factory():
            nonlocal failures
            failures -= 1
            return Recorder() if failures < 0 else 1 / 0

        server = await loop.create_server(factory, "127.0.0.1", 0)
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10)

    loop.run_until_complete(main())


def test_a_crowd_of_connections(loop):
    async def main():
        server, address, made = await serve()
        clients = await asyncio.gather(*(loop.create_connection(Recorder, *address) for _ in range(150)))
        for i, (transport, _) in enumerate(clients):
            transport.write(b"%d" % i)
            transport.write_eof()
        await asyncio.gather(*(protocol.lost for _, protocol in clients))
        assert sorted(int(protocol.data) for protocol in made) == list(range(150))
        server.close()

    loop.run_until_complete(main())


def test_callbacks_of_a_connection_share_a_context(ours):
    """Those of different connections do not. (In asyncio they have copies.)"""
    seen = []

    class Noting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            assert variable.get() == "maker"
            variable.set(f"made {len(seen)}")
            seen.append([])
            self.seen = seen[-1]

        def note(self):
            self.seen.append(variable.get())

        def data_received(self, data):
            self.note()

        def pause_writing(self):
            self.note()

        def connection_lost(self, exc):
            self.note()
            super().connection_lost(exc)

    async def main():
        variable.set("maker")
        server, address, made = await serve(Noting)
        transport, _ = await ours.create_connection(Recorder, *address)
        other, _ = await ours.create_connection(Recorder, *address)
        await until(lambda: len(made) == 2 and made[1].transport)
        transport.write(b"x")
        await until(lambda: made[0].seen)
        made[0].transport.set_write_buffer_limits(high=0)
        while len(made[0].seen) < 2:
            made[0].transport.write(b"x" * 100_000)
        made[0].transport.abort(), other.abort(), transport.abort()
        await asyncio.gather(*(protocol.lost for protocol in made))
        server.close()
        assert variable.get() == "maker"

    ours.run_until_complete(main())
    assert seen == [["made 0"] * 3, ["made 1"]]


def test_nothing_is_leaked(ours):
    """Neither memory nor descriptors: by all ways to begin and to end."""

    blob = b"x" * 1_000_000

    async def main():
        server, address, made = await serve()
        for end in "close", "abort", "write_eof":
            transport, protocol = await ours.create_connection(Recorder, *address)
            for name in "socket", "peername", "sockname":
                transport.get_extra_info(name)
            transport.write(b"x" * 100)
            getattr(transport, end)()
            await protocol.lost
        with pytest.raises(ConnectionRefusedError):
            await ours.create_connection(Recorder, "127.0.0.1", port)
        with pytest.raises(ZeroDivisionError):
            await ours.create_connection(lambda: 1 / 0, *address)
        await until(lambda: len(made) == 4 and all(protocol.lost.done() for protocol in made))
        server.close()
        await server.wait_closed()
        a, b = socket.socketpair()
        a.setblocking(False), b.setblocking(False)
        for wait in (
            ours.sock_recv(a, 10),
            ours.sock_sendall(a, blob),
            ours.sock_recv_into(b, bytearray(9)),
        ):
            task = ours.create_task(wait)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(OSError):
            await ours.sock_accept(a)
        protocol = (await ours.create_connection(Recorder, sock=a))[1]
        b.close()
        await protocol.lost

    def used():
        gc.collect()
        return sys.getallocatedblocks(), open_descriptors()

    port, rounds, growth = closed_port(), 10, []
    while not growth or growth[-1] >= 2 * rounds:  # a round makes and ends ten connections
        assert len(growth) < 12, growth  # lists of spare objects fill themselves for some time
        blocks, descriptors = used()
        for _ in range(rounds):
            ours.run_until_complete(main())
        more, now = used()
        assert now == descriptors
        growth.append(more - blocks)


# --- sock_*() ---


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False), b.setblocking(False)
    with a, b:
        yield a, b


def test_sockets(loop, pair):
    a, b = pair

    async def main():
        reading = loop.create_task(loop.sock_recv(b, 3))
        await asyncio.sleep(0)
        await loop.sock_sendall(a, bytearray(b"hello"))
        assert await reading == b"hel" and await loop.sock_recv(b, 100) == b"lo"
        buffer = bytearray(10)
        reading = loop.create_task(loop.sock_recv_into(b, buffer))
        await asyncio.sleep(0)
        await loop.sock_sendall(a, memoryview(b"into"))
        assert await reading == 4 and buffer.startswith(b"into\0")
        blob = os.urandom(2_000_000)
        sending, data = loop.create_task(loop.sock_sendall(a, blob)), b""
        while len(data) < len(blob):
            data += await loop.sock_recv(b, 1_000_000)
        assert data == blob and await sending is None
        await loop.sock_sendall(a, b"")
        a.close()
        assert await loop.sock_recv(b, 10) == b""

    loop.run_until_complete(main())


def test_accepting_and_connecting(loop):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False), client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await asyncio.sleep(0)
            await loop.sock_connect(client, listener.getsockname())
            conn, address = await accepting
            assert address == client.getsockname() and conn.gettimeout() == 0 and conn.family == listener.family
            with conn, socket.socket() as refused:
                refused.setblocking(False)
                port = closed_port()
                with pytest.raises(ConnectionRefusedError, match=rf"Connect call failed \('127.0.0.1', {port}\)"):
                    await loop.sock_connect(refused, ("127.0.0.1", port))

    loop.run_until_complete(main())


def test_datagrams_of_sockets(loop):
    if not hasattr(loop, "sock_recvfrom") or not hasattr(asyncio, "Runner"):
        pytest.skip("from Python 3.11")

    async def main():
        with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
            for sock in a, b:
                sock.setblocking(False), sock.bind(("127.0.0.1", 0))
            receiving = loop.create_task(loop.sock_recvfrom(b, 100))
            await asyncio.sleep(0)
            assert await loop.sock_sendto(a, b"hello", b.getsockname()) == 5
            assert await receiving == (b"hello", a.getsockname())
            buffer = bytearray(100)
            await loop.sock_sendto(a, b"hello", b.getsockname())
            assert await loop.sock_recvfrom_into(b, buffer) == (5, a.getsockname()) and buffer.startswith(b"hello\0")
            await loop.sock_sendto(a, b"hello", b.getsockname())
            assert (await loop.sock_recvfrom_into(b, buffer, 3))[0] == 3
            with pytest.raises(ValueError):
                await loop.sock_recvfrom_into(b, buffer, 101)

    loop.run_until_complete(main())


def test_giving_up_watches_no_more(loop, pair):
    a, b = pair

    async def main():
        for wait in loop.sock_recv(a, 10), loop.sock_sendall(a, b"x" * 10_000_000):
            task = loop.create_task(wait)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert not loop.remove_reader(a) and not loop.remove_writer(a)
        await loop.sock_sendall(b, b"for the next")
        assert await loop.sock_recv(a, 100) == b"for the next"

    loop.run_until_complete(main())


def test_wrong_use_of_sockets(loop, pair):
    a, b = pair

    async def raised(awaitable):
        try:
            await awaitable
        except Exception as error:
            return type(error)

    async def main():
        assert await raised(loop.sock_recv(a, "x")) is TypeError
        assert await raised(loop.sock_recv(a, -1)) is ValueError
        assert await raised(loop.sock_recv_into(a, b"constant")) is TypeError
        assert await raised(loop.sock_sendall(a, "text")) is TypeError
        assert await raised(loop.sock_accept(a)) is OSError
        transport, protocol = await loop.create_connection(Recorder, sock=b)
        assert await raised(loop.sock_recv(b, 10)) is RuntimeError
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(b, print)
        transport.abort()
        await protocol.lost
        a.close()
        assert await raised(loop.sock_recv(a, 10)) is OSError
        assert await raised(loop.sock_sendall(a, b"x")) is OSError

    loop.run_until_complete(main())


def test_socket_stays_open_while_an_operation_waits(ours, pair):
    """So the operation ends, and its descriptor cannot become somebody else's meanwhile."""
    a, b = pair

    async def main():
        reading = ours.create_task(ours.sock_recv(a, 10))
        await asyncio.sleep(0)
        number = a.fileno()
        a.close()
        with socket.socket() as other:
            assert other.fileno() != number
        await ours.sock_sendall(b, b"hello")
        assert await reading == b"hello"
        assert a.fileno() == -1 and is_closed(number)

        near, far = socket.socketpair()
        near.setblocking(False)
        reading = ours.create_task(ours.sock_recv(near, 10))
        await asyncio.sleep(0)
        number = near.fileno()
        near.close()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert is_closed(number)
        far.close()

    ours.run_until_complete(main())


def test_closed_loop_lets_go_of_sockets(pair):
    loop = licorne.new_event_loop()
    a, _ = pair
    task = loop.create_task(loop.sock_recv(a, 10))
    loop.call_soon(loop.stop)
    loop.run_forever()
    number = a.fileno()
    a.close()
    loop.close()
    assert is_closed(number)
    task._log_destroy_pending = False
