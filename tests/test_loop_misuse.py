"""Wrong use of the loop: each case is run on the standard loop too, and the same must come of it."""

import asyncio
import os
import signal
import socket
import sys
import threading

import pytest

import licorne

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]


def in_another_thread(function):
    """The exception that it ends with there."""
    outcome = []

    def run():
        try:
            function()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if outcome:
        raise outcome[0]


def closed(loop):
    loop.close()
    return loop


def debugging(loop):
    loop.set_debug(True)
    return loop


def closed_descriptor():
    r, w = os.pipe()
    os.close(r), os.close(w)
    return r


def run(loop, coroutine):
    return loop.run_until_complete(asyncio.wait_for(coroutine, 10))


async def never():
    await asyncio.sleep(60)


async def connected_transport():
    near, far = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    return transport, far


async def use_of_a_descriptor_that_a_transport_has(method):
    transport, far = await connected_transport()
    try:
        getattr(asyncio.get_running_loop(), method)(transport.get_extra_info("socket"), print)
    finally:
        transport.abort()
        far.close()


async def server_closed_twice(loop):
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    server.close()
    server.close()
    await server.wait_closed()
    assert server.sockets == ()
    with pytest.raises(RuntimeError):
        await server.start_serving()


async def transport_ended_in_every_way():
    transport, far = await connected_transport()
    transport.close()
    transport.close()
    transport.abort()
    transport.pause_reading()
    transport.resume_reading()
    await asyncio.sleep(0.01)
    transport.close()
    assert transport.is_closing()
    far.close()


async def blocking_socket(loop, method, *args):
    a, b = socket.socketpair()
    try:
        await getattr(loop, method)(a, *args)
    finally:
        a.close(), b.close()


async def run_inside(loop):
    coroutine = asyncio.sleep(0)
    try:
        loop.run_until_complete(coroutine)
    finally:
        coroutine.close()


CASES = {
    "call_soon after close": lambda loop: closed(loop).call_soon(print),
    "call_soon_threadsafe after close": lambda loop: closed(loop).call_soon_threadsafe(print),
    "call_later after close": lambda loop: closed(loop).call_later(1, print),
    "call_at after close": lambda loop: closed(loop).call_at(1, print),
    "add_reader after close": lambda loop: closed(loop).add_reader(0, print),
    "remove_reader after close": lambda loop: closed(loop).remove_reader(0),
    "run_forever after close": lambda loop: closed(loop).run_forever(),
    "run_in_executor after close": lambda loop: closed(loop).run_in_executor(None, print),
    "close twice": lambda loop: closed(loop).close(),
    "stop after close": lambda loop: closed(loop).stop(),
    "call_soon from another thread": lambda loop: debugging(loop).call_soon(print),
    "run while it runs": lambda loop: run(loop, run_inside(loop)),
    "close while it runs": lambda loop: loop.run_until_complete(asyncio.to_thread(loop.close)),
    "run in two threads": lambda loop: run(loop, asyncio.to_thread(lambda: loop.run_forever())),
    "no callable": lambda loop: debugging(loop).call_soon("print"),
    "a coroutine function as a callback": lambda loop: debugging(loop).call_soon(never),
    "a coroutine function in another thread": lambda loop: debugging(loop).call_soon_threadsafe(never),
    "no callback": lambda loop: loop.call_soon(),
    "call_later without time": lambda loop: loop.call_later(None, print),
    "call_later with text": lambda loop: loop.call_later("soon", print),
    "call_at without time": lambda loop: loop.call_at(None, print),
    "unknown keyword": lambda loop: loop.call_soon(print, later=1),
    "run_until_complete of a number": lambda loop: loop.run_until_complete(1),
    "create_task of a number": lambda loop: loop.create_task(1),
    "a descriptor that is closed": lambda loop: loop.add_reader(closed_descriptor(), print),
    "a negative descriptor": lambda loop: loop.add_reader(-1, print),
    "no descriptor": lambda loop: loop.add_reader("stdin", print),
    "remove what was not added": lambda loop: loop.remove_writer(0),
    "add_reader on a transport's socket": lambda loop: run(
        loop, use_of_a_descriptor_that_a_transport_has("add_reader")
    ),
    "add_writer on a transport's socket": lambda loop: run(
        loop, use_of_a_descriptor_that_a_transport_has("add_writer")
    ),
    "remove_reader on a transport's socket": lambda loop: run(
        loop, use_of_a_descriptor_that_a_transport_has("remove_reader")
    ),
    "server closed twice": lambda loop: run(loop, server_closed_twice(loop)),
    "transport ended in every way": lambda loop: run(loop, transport_ended_in_every_way()),
    "sock_recv on a blocking socket": lambda loop: run(debugging(loop), blocking_socket(loop, "sock_recv", 1)),
    "sock_sendall on a blocking socket": lambda loop: run(debugging(loop), blocking_socket(loop, "sock_sendall", b"")),
    "a signal that cannot be caught": lambda loop: loop.add_signal_handler(signal.SIGKILL, print),
    "a signal that does not exist": lambda loop: loop.add_signal_handler(1000, print),
    "a coroutine for a signal": lambda loop: loop.add_signal_handler(signal.SIGUSR1, never),
    "a signal in another thread": lambda loop: in_another_thread(
        lambda: loop.add_signal_handler(signal.SIGUSR1, print)
    ),
    "a task factory that cannot be called": lambda loop: loop.set_task_factory(1),
    "an exception handler that cannot be called": lambda loop: loop.set_exception_handler(1),
    "start_tls without context": lambda loop: run(loop, loop.start_tls(None, None, None)),
    "connection without address": lambda loop: run(loop, loop.create_connection(asyncio.Protocol)),
    "connection to address and socket": lambda loop: run(
        loop, loop.create_connection(asyncio.Protocol, "127.0.0.1", 1, sock=socket.socket())
    ),
    "server without address": lambda loop: run(loop, loop.create_server(asyncio.Protocol)),
    "datagrams to nowhere": lambda loop: run(loop, loop.create_datagram_endpoint(asyncio.DatagramProtocol)),
    "a stream of datagrams": lambda loop: run(
        loop, loop.create_connection(asyncio.Protocol, sock=socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    ),
    "subprocess of a number": lambda loop: run(loop, loop.subprocess_exec(asyncio.SubprocessProtocol, 1)),
    "subprocess that is not there": lambda loop: run(loop, asyncio.create_subprocess_exec("/nonexistent/program")),
}

if sys.version_info < (3, 11):
    del CASES["call_at without time"]  # AssertionError there


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_what_comes_of_it(case):
    outcomes = []
    for make in licorne.new_event_loop, asyncio.new_event_loop:
        loop = make()
        try:
            if case == "call_soon from another thread":
                task = loop.create_task(asyncio.to_thread(CASES[case], debugging(loop)))
                loop.run_until_complete(task)
            else:
                CASES[case](loop)
            outcomes.append(None)
        except Exception as error:
            outcomes.append(type(error))
        finally:
            if not loop.is_closed():
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()
    ours, standard = outcomes
    assert ours is standard


def test_callback_that_fails_does_not_end_the_loop():
    loop, contexts = licorne.new_event_loop(), []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    r, w = os.pipe()
    loop.add_reader(r, lambda: (os.read(r, 1), 1 / 0))
    loop.call_soon(lambda: 1 / 0)
    loop.call_later(0.001, lambda: 1 / 0)
    loop.call_soon_threadsafe(lambda: 1 / 0)
    os.write(w, b"x")
    loop.run_until_complete(asyncio.sleep(0.02))
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError] * 4
    loop.remove_reader(r)
    os.close(r), os.close(w)
    loop.close()


def test_exception_handler_that_fails_itself(caplog):
    loop = licorne.new_event_loop()
    loop.set_exception_handler(lambda *_: 1 / 0)
    loop.call_soon(lambda: [][1])
    loop.run_until_complete(asyncio.sleep(0))
    assert "Unhandled error in exception handler" in caplog.text
    loop.close()
