"""The event loop as a whole: memory, fork, asyncio's interface."""

import asyncio
import gc
import os
import socket
import sys
import threading
import weakref

import pytest

import licorne
from support.loops import run_in_python, start, turn

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]

# --- memory ---


def test_a_dropped_loop_is_collected_with_all_that_waits_in_it(pair):
    class Argument:
        pass

    def make():
        loop = licorne.new_event_loop()
        argument = Argument()
        argument.loop = loop
        argument.handle = loop.call_soon(print, argument)
        loop.call_later(60, print, argument, 1, 2, 3)
        loop.add_reader(pair[0], print, argument)
        loop.set_task_factory(lambda *a, **k: argument)
        loop.set_debug(False)
        return weakref.ref(loop), weakref.ref(argument)

    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        loop, argument = make()
        gc.collect()
        gc.collect()
    assert loop() is None and argument() is None


def test_no_reference_is_leaked(loop, pair):
    a, _ = pair
    arguments = [object() for _ in range(5)]

    def callback(*_):
        pass

    def fail(*_):
        raise ValueError

    loop.set_exception_handler(lambda *_: None)

    async def nothing():
        pass

    def everything():
        loop.call_soon(callback, *arguments)
        loop.call_soon(callback, *arguments[:2]).cancel()
        loop.call_soon(fail, *arguments)
        loop.call_later(0, callback, *arguments)
        loop.call_later(60, callback, *arguments).cancel()
        loop.call_soon_threadsafe(callback, arguments[0])
        loop.add_reader(a, callback, *arguments)
        loop.add_reader(a, callback, *arguments)
        loop.remove_reader(a)
        loop.add_writer(a, callback, *arguments)
        turn(loop, 2)
        loop.remove_writer(a)
        start(loop, nothing())
        start(loop, 1)

    for _ in range(3):
        everything()
    gc.collect()
    before = [sys.getrefcount(x) for x in (*arguments, callback, fail, loop)], len(gc.get_objects())
    for _ in range(50):
        everything()
    gc.collect()
    after = [sys.getrefcount(x) for x in (*arguments, callback, fail, loop)], len(gc.get_objects())
    assert after[0] == before[0]
    assert after[1] - before[1] < 20


# --- fork ---


def test_child_of_a_fork_has_a_loop_of_its_own(loop, pair):
    a, b = pair
    seen = []
    loop.add_reader(a, lambda: seen.append(a.recv(10)))
    turn(loop)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            loop.remove_reader(a)  # is not felt in the parent
            turn(loop)
            own = licorne.new_event_loop()
            own.run_until_complete(asyncio.sleep(0.001))
            own.close()
            x, y = socket.socketpair()
            loop.add_reader(x, loop.stop)
            threading.Timer(0.01, y.send, (b"x",)).start()
            loop.run_forever()
            loop.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    b.send(b"hello")
    loop.call_soon_threadsafe(print)
    turn(loop, 2)
    assert seen == [b"hello"]
    loop.remove_reader(a)


# --- as asyncio's loop ---


def test_install_makes_asyncios_loops_ours():
    out = run_in_python(
        "import asyncio, licorne, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "licorne.install()\n"
        "async def main(): return type(asyncio.get_running_loop()).__module__\n"
        "print(asyncio.run(main()))\n"
        "print(isinstance(asyncio.get_event_loop_policy(), licorne.EventLoopPolicy))\n"
    )
    assert out.split() == ["licorne.loop", "True"]


def test_importing_the_package_does_not_import_asyncio():
    assert run_in_python("import sys, licorne; print('asyncio' in sys.modules)").strip() == "False"


def test_everyday_use(loop):
    async def handle(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert (await process.communicate(b"text"))[0] == b"text"
        assert await asyncio.to_thread(lambda: 5) == 5
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.01)

        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                closed.append(True)

        async for _ in numbers():
            break
        await asyncio.sleep(0)

    closed = []
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert closed == [True]
