"""The event loop and threads: waking it, sharing the interpreter, loops in many threads."""

import asyncio
import functools
import threading

import pytest

import licorne
from support.loops import open_descriptors, turn

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]


def test_threadsafe_wakes_the_loop(loop):
    seen = []
    threads = [threading.Thread(target=loop.call_soon_threadsafe, args=(seen.append, i)) for i in range(50)]

    def start():
        for thread in threads:
            thread.start()
        threading.Thread(target=finish).start()

    def finish():
        for thread in threads:
            thread.join()
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(start)
    loop.run_forever()
    assert sorted(seen) == list(range(50))


def test_threadsafe_call_from_a_waiting_thread_is_not_lost(loop):
    count, ran = 2000, threading.Semaphore(0)

    def other():
        for _ in range(count):
            loop.call_soon_threadsafe(ran.release)
            ran.acquire()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join()


def test_turns_of_c_callbacks_do_not_starve_other_threads(loop):
    """A callback in C that queues itself runs no bytecode: the interpreter never switches threads on its own."""
    again = functools.partial(print)
    again.__setstate__((loop.call_soon, (again,), {}, {}))
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(loop.stop))
    loop.call_soon(again)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


def test_loops_in_many_threads():
    results = []

    async def main(number):
        await asyncio.sleep(0.001 * (number % 3))
        assert asyncio.get_running_loop() is not None
        return await asyncio.to_thread(lambda: number)

    def body(number):
        loop = licorne.new_event_loop()
        results.append(loop.run_until_complete(main(number)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    threads = [threading.Thread(target=body, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(8))


def test_many_loops_leave_no_descriptors():
    licorne.new_event_loop().close()
    before = open_descriptors()
    loops = [licorne.new_event_loop() for _ in range(100)]
    for loop in loops:
        turn(loop)
    for loop in loops:
        loop.close()
        loop.close()
    assert open_descriptors() == before
