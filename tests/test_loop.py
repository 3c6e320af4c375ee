"""The event loop alone, as an application or a driver sees it: licorne.new_event_loop() without a server."""

import asyncio
import contextvars
import functools
import gc
import logging
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest

import licorne

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def loop():
    loop = licorne.new_event_loop()
    yield loop
    if not loop.is_closed():
        loop.close()


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def turn(loop, times=1):
    for _ in range(times):
        loop.call_soon(loop.stop)
        loop.run_forever()


def run_in_python(code, *arguments, status=0):
    """Runs `code` in an interpreter of its own; returns what it printed."""
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == status, result.stderr
    return result.stdout


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


# --- the ready queue ---


def test_callbacks_run_in_order(loop):
    seen = []
    for i in range(1000):
        loop.call_soon(seen.append, i)
    turn(loop)
    assert seen == list(range(1000))


@pytest.mark.parametrize("count", range(7))
def test_arguments(loop, count):
    seen = []
    loop.call_soon(lambda *args: seen.append(args), *range(count))
    turn(loop)
    assert seen == [tuple(range(count))]


def test_what_a_callback_queues_waits_for_the_next_turn(loop):
    seen = []

    def first():
        loop.call_soon(seen.append, "inner")
        loop.stop()

    loop.call_soon(first)
    loop.call_soon(seen.append, "outer")
    loop.run_forever()
    assert seen == ["outer"]
    turn(loop)
    assert seen == ["outer", "inner"]


def test_stop_before_run_makes_one_turn(loop):
    seen = []
    loop.stop()
    loop.call_soon(seen.append, 1)
    loop.run_forever()
    assert seen == [1]


def spin():
    until = time.monotonic() + 0.001
    while time.monotonic() < until:
        pass


def test_a_crowd_of_callbacks_keeps_its_order(loop, pair):
    """It takes several turns, with polls between them: what those find is told once, behind it."""
    a, b = pair
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(context))
    loop.add_reader(b, lambda: seen.append(b.recv(10)))
    loop.call_soon(a.send, b"event")
    for i in range(100):
        loop.call_soon(lambda i=i: (spin(), seen.append(i)))
    while len(seen) < 101:
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert seen == [*range(100), b"event"]


def test_a_loop_that_stops_runs_the_whole_crowd(loop):
    seen = []
    loop.call_soon(loop.stop)
    for i in range(20):
        loop.call_soon(lambda i=i: (spin(), seen.append(i)))
    loop.run_forever()
    assert seen == list(range(20))


def test_context(loop):
    seen = []
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    variable_token = variable.set("current")
    loop.call_soon(lambda: seen.append(variable.get()))
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    loop.call_later(0, lambda: seen.append(variable.get()), context=context)
    loop.call_soon(lambda: seen.append(variable.get()), context=None)
    variable.reset(variable_token)
    turn(loop, 2)
    assert sorted(seen) == ["current", "current", "given", "given"]


def test_wrong_calls(loop):
    for wrong in (
        lambda: loop.call_soon(),
        lambda: loop.call_soon(print, contxt=None),
        lambda: loop.call_soon(print, context=1),
        lambda: loop.call_later(1),
        lambda: loop.call_later(None, print),
        lambda: loop.call_at(None, print),
        lambda: loop.call_later("1", print),
        lambda: loop._add_reader(0),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="NaN"):
        loop.call_later(float("nan"), print)


def test_cancel_before_it_runs(loop):
    seen = []
    handles = [loop.call_soon(seen.append, i) for i in range(3)]
    handles[1].cancel()
    assert handles[1].cancelled() and not handles[0].cancelled()
    turn(loop)
    assert seen == [0, 2]


def test_cancel_by_an_earlier_callback_of_the_turn(loop):
    seen = []
    loop.call_soon(lambda: handle.cancel())
    handle = loop.call_soon(seen.append, 1)
    turn(loop)
    assert seen == []


def test_handle_cancelled_while_it_runs_keeps_its_arguments_until_then(loop):
    class Argument:
        pass

    def callback(argument):
        handle.cancel()
        gc.collect()
        assert isinstance(argument, Argument)

    argument = Argument()
    alive = weakref.ref(argument)
    handle = loop.call_soon(callback, argument)
    del argument
    turn(loop)
    gc.collect()
    assert alive() is None and handle._callback is None and handle._args is None


def test_handle_shows_itself(loop):
    def callback():
        pass

    handle = loop.call_soon(callback)
    assert "callback" in repr(handle) and repr(handle).startswith("<Handle ")
    assert weakref.ref(handle)() is handle
    timer = loop.call_later(10, callback, 1)
    assert f"when={timer.when()}" in repr(timer)
    timer.cancel()
    assert repr(timer) == f"<TimerHandle cancelled when={timer.when()}>"
    assert handle.get_context() is not None


def test_foreign_handles_run_in_order(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop._add_callback(asyncio.Handle(seen.append, (2,), loop))
    cancelled = asyncio.Handle(seen.append, (3,), loop)
    loop._add_callback(cancelled)
    cancelled.cancel()
    loop.call_soon(seen.append, 4)
    turn(loop)
    assert seen == [1, 2, 4]


def test_busy_callbacks_do_not_starve_input(loop, pair):
    a, b = pair
    turns = 0

    def busy():
        nonlocal turns
        turns += 1
        loop.call_soon(busy)

    loop.add_reader(a, loop.stop)
    loop.call_soon(busy)
    b.send(b"x")
    loop.run_forever()
    assert turns <= 20
    loop.remove_reader(a)


# --- timers ---


def test_timer_is_never_early_and_soon(loop):
    late = []

    def fired(due):
        late.append(loop.time() - due)

    async def main():
        for delay in (0.0002, 0.0005, 0.0011, 0.003, 0.0101):
            for _ in range(5):
                due = loop.time() + delay
                loop.call_at(due, fired, due)
                await asyncio.sleep(delay + 0.002)

    loop.run_until_complete(main())
    assert len(late) == 25
    assert min(late) >= 0
    assert sorted(late)[5] < 0.0012  # most, on an idle machine; some, on a busy one


def test_timers_fire_in_the_order_of_their_times(loop):
    rng = random.Random(4)
    fired, expected = [], []
    base = loop.time()
    timers = [loop.call_at(base + rng.random() / 20, fired.append, i) for i in range(2000)]
    for i, timer in enumerate(timers):
        if rng.random() < 0.5:
            timer.cancel()
            assert not timer._scheduled
        else:
            expected.append((timer.when(), i))
    assert len(loop._scheduled) == len(expected)
    loop.call_at(base + 0.06, loop.stop)
    loop.run_forever()
    assert fired == [i for _, i in sorted(expected)]


def test_cancelled_timer_leaves_nothing(loop):
    class Argument:
        pass

    argument = Argument()
    alive = weakref.ref(argument)
    timer = loop.call_later(3600, print, argument)
    del argument
    timer.cancel()
    timer.cancel()
    assert alive() is None and loop._scheduled == []


def test_timer_cancelled_by_another_that_is_due(loop):
    seen = []
    loop.call_later(0, lambda: second.cancel())
    second = loop.call_later(0.000001, seen.append, 1)
    time.sleep(0.001)
    turn(loop, 2)
    assert seen == []


def test_far_and_endless_timers(loop):
    loop.call_later(float("inf"), print)
    loop.call_later(1e12, print)
    loop.call_later(-5, loop.stop)
    loop.run_forever()
    assert len(loop._scheduled) == 2


def test_timers_compare(loop):
    a, b = loop.call_at(1, print), loop.call_at(2, print)
    assert a < b and b > a and a <= b and b >= a and a != b and a == a
    assert a == loop.call_at(1, print) and a != loop.call_at(1, len) and a != loop.call_at(1, print, 1)
    assert hash(a) == hash(1.0)


def test_an_idle_loop_does_not_wake_up(loop):
    loop.call_later(60, print)
    cancelled = loop.call_later(0.05, print)
    loop.call_soon(cancelled.cancel)
    loop.call_later(0.3, loop.stop)
    before = resource.getrusage(resource.RUSAGE_THREAD)
    loop.run_forever()
    after = resource.getrusage(resource.RUSAGE_THREAD)
    assert after.ru_nvcsw - before.ru_nvcsw <= 5


# --- threads ---


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


# --- descriptors ---


def test_reader_and_writer(loop, pair):
    a, b = pair
    seen = []

    def readable(*args):
        seen.append((a.recv(10), args))
        loop.stop()

    loop.add_reader(a, readable, 1, 2)
    b.send(b"hello")
    loop.run_forever()
    assert seen == [(b"hello", (1, 2))]
    loop.add_writer(a.fileno(), loop.stop)
    loop.run_forever()
    assert loop.remove_writer(a) and not loop.remove_writer(a)
    assert loop.remove_reader(a) and not loop.remove_reader(a)


def test_reader_stays_until_it_is_removed_or_replaced(loop, pair):
    a, b = pair
    seen = []
    b.send(b"x")
    loop.add_reader(a, seen.append, 1)
    turn(loop, 3)
    assert seen == [1, 1, 1]
    loop.add_reader(a, seen.append, 2)
    turn(loop)
    assert seen == [1, 1, 1, 2]
    loop.remove_reader(a)
    turn(loop, 3)
    assert len(seen) == 4


def test_reader_removed_by_a_callback_of_the_same_turn(loop, pair):
    a, b = pair
    other, far = socket.socketpair()
    seen = []

    def only_one(mine, theirs):
        seen.append(mine)
        loop.remove_reader(theirs)

    loop.add_reader(a, only_one, a, other)
    loop.add_reader(other, only_one, other, a)
    b.send(b"x"), far.send(b"x")
    turn(loop, 3)
    assert len(set(seen)) == 1
    other.close(), far.close()


def test_files_that_cannot_be_polled(loop, tmp_path):
    with open(tmp_path / "file", "w+") as file, open("/dev/null") as null:
        for thing in file, null:
            with pytest.raises(PermissionError):
                loop.add_reader(thing, print)
            with pytest.raises(PermissionError):
                loop.add_writer(thing, print)
    read, write = os.pipe()
    os.close(write)
    os.close(read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_reader(read, print)
    with pytest.raises(ValueError):
        loop.add_reader(object(), print)


def test_descriptor_closed_before_the_next_turn(loop, pair):
    a, _ = pair
    seen = []
    loop.add_reader(a, seen.append, 1)
    a.close()
    turn(loop, 3)
    assert seen == []


def test_descriptor_closed_while_it_is_watched_and_its_number_used_again(loop):
    seen = []
    for _ in range(20):
        a, b = socket.socketpair()
        number = a.fileno()
        b.send(b"x")
        loop.add_reader(number, seen.append, number)
        turn(loop)
        a.close()  # not removed first
        turn(loop)
        c, d = socket.socketpair()
        assert c.fileno() == number
        loop.add_reader(number, seen.append, "new")
        turn(loop, 2)
        assert "new" not in seen
        d.send(b"x")
        turn(loop)
        assert seen == [number, "new"]
        seen.clear()
        loop.remove_reader(number)
        b.close(), c.close(), d.close()


def test_descriptor_of_which_a_copy_lives_on(loop):
    """The kernel goes on reporting a closed descriptor while a duplicate is open."""
    a, b = socket.socketpair()
    copy = os.dup(a.fileno())
    seen = []
    loop.add_reader(a, seen.append, 1)
    turn(loop)
    number = a.fileno()
    a.close()
    b.send(b"x")
    loop._remove_reader(number)
    turn(loop, 5)
    assert seen == []
    c, d = socket.socketpair()
    assert c.fileno() == number
    loop.add_reader(c, seen.append, 2)
    turn(loop, 5)
    assert seen == []
    d.send(b"x")
    turn(loop)
    assert seen == [2]
    loop.remove_reader(c)
    os.close(copy)
    b.close(), c.close(), d.close()


def test_another_thread_changes_what_a_waiting_loop_watches(loop, pair):
    a, b = pair
    b.send(b"x")
    thread = threading.Timer(0.02, lambda: loop.add_reader(a, loop.stop))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.remove_reader(a)


# --- signals ---


def test_keyboard_interrupt_leaves_the_loop_usable(loop):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not loop.is_running()
    turn(loop)


def test_signal_handler_of_the_loop(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert seen == [1]
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_python_signal_handler_runs_while_the_loop_waits(loop):
    """Even if the kernel delivers the signal to another thread, which does not interrupt the poll."""
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    sender = threading.Timer(0.05, signal.pthread_kill, (thread.ident, signal.SIGUSR1))
    try:
        loop.call_soon(sender.start)
        loop.run_forever()
    finally:
        release.set()
        thread.join(), sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_wakeup_descriptor_of_someone_else_is_fed_and_put_back(loop, pair):
    a, b = pair
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    old = signal.set_wakeup_fd(b.fileno())
    try:
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
        assert signal.set_wakeup_fd(old) == b.fileno()
        assert a.recv(10) == bytes([signal.SIGUSR1])
    finally:
        signal.set_wakeup_fd(old)
        signal.signal(signal.SIGUSR1, before)


# --- failures ---


def test_exception_goes_to_the_handler_with_its_context(loop):
    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append((context, variable.get())))

    def fail():
        variable.set("of the callback")
        raise ValueError("boom")

    handle = loop.call_soon(fail)
    seen = []
    loop.call_soon(seen.append, 1)
    turn(loop)
    (context, value), *rest = contexts
    assert not rest and seen == [1]
    assert str(context["exception"]) == "boom" and context["handle"] is handle
    assert "fail" in context["message"]
    if sys.version_info >= (3, 12):
        assert value == "of the callback"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_leaves_run_forever_and_what_was_queued_stays(loop, kind):
    def leave():
        raise kind

    seen = []
    loop.call_soon(leave)
    loop.call_soon(seen.append, 1)
    with pytest.raises(kind):
        loop.run_forever()
    assert seen == []
    turn(loop)
    assert seen == [1]


def test_a_context_that_is_entered_already_is_an_error_of_the_callback(loop, caplog):
    context = contextvars.copy_context()
    loop.call_soon(print, context=context)
    context.run(turn, loop)
    assert "cannot enter context" in caplog.text and "Exception in callback print()" in caplog.text


def test_closed_loop(loop, pair):
    handle = loop.call_later(1, print)
    loop.close()
    assert loop.is_closed() and not loop.remove_reader(pair[0])
    for use in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.add_reader(pair[0], print),
        lambda: loop.run_forever(),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    handle.cancel()
    assert "closed=True" in repr(loop)


def test_running_loop_is_not_run_again_nor_closed(loop):
    errors = []

    def attempt(function):
        try:
            function()
        except RuntimeError as error:
            errors.append(str(error))

    loop.call_soon(attempt, loop.run_forever)
    loop.call_soon(attempt, loop._run_once)
    loop.call_soon(attempt, loop.close)
    loop.call_soon(attempt, loop._poller_close)
    turn(loop)
    assert len(errors) == 4


# --- debug mode ---


def test_debug_mode_checks(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    errors = []

    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.call_soon(coroutine)
    with pytest.raises(TypeError, match="callable object was expected"):
        loop.call_later(1, None)

    def elsewhere():
        try:
            loop.call_soon(print)
        except RuntimeError as error:
            errors.append(str(error))

    def in_thread():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    loop.call_soon(in_thread)
    loop.call_soon(time.sleep, 0.02)
    with caplog.at_level(logging.WARNING, "asyncio"):
        turn(loop)
    assert errors and "Non-thread-safe" in errors[0]
    assert any("took 0.0" in message for message in caplog.messages)


def test_debug_mode_notes_where_handles_and_tasks_were_made(loop, caplog):
    loop.set_debug(True)

    async def main():
        pass

    handle = loop.call_soon(lambda: 1 / 0)
    assert handle._source_traceback[-1].name == "test_debug_mode_notes_where_handles_and_tasks_were_made"
    task = loop.create_task(main())
    assert task._source_traceback[-1].name == "test_debug_mode_notes_where_handles_and_tasks_were_made"
    assert "created at" in repr(handle)
    turn(loop, 2)
    assert any("Object created at" in message for message in caplog.messages)


# --- tasks ---


def test_create_task_takes_what_asyncio_takes(loop):
    async def name():
        return asyncio.current_task().get_name(), variable.get()

    async def main():
        assert await loop.create_task(name(), name="x") == ("x", "unset")
        assert (await loop.create_task(name(), name=None))[0].startswith("Task-")
        with pytest.raises(TypeError):
            loop.create_task(1)
        with pytest.raises(TypeError):
            loop.create_task()
        if sys.version_info >= (3, 11):
            context = contextvars.copy_context()
            context.run(variable.set, "mine")
            assert (await loop.create_task(name(), context=context))[1] == "mine"
            assert (await loop.create_task(name(), name="y", context=context)) == ("y", "mine")

    loop.run_until_complete(main())


def test_task_factory_is_used(loop):
    made = []

    def factory(loop, coro, **kwargs):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def nothing():
        pass

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    loop.run_until_complete(nothing())
    loop.call_soon(lambda: loop._start_task(nothing(), "a name"))
    turn(loop, 2)
    assert len(made) == 2
    with pytest.raises(TypeError):
        loop.set_task_factory(1)


def start(loop, coro, name="request"):
    """Starts a task as the server does: from a callback, no task being current. Returns what _start_task() did."""
    outcome = []

    def callback():
        try:
            outcome.append(loop._start_task(coro, name))
        except Exception as error:
            outcome.append(error)

    loop.call_soon(callback, context=contextvars.copy_context())
    turn(loop)
    return outcome[0]


def test_first_step_of_a_started_task_runs_at_once(loop):
    async def app():
        task = asyncio.current_task()
        variable.set("of the task")
        return task, task.get_name(), task in asyncio.all_tasks(), asyncio.get_running_loop() is loop

    done = []

    def callback():
        task = loop._start_task(app(), "request")
        done.append((task.done(), variable.get(), asyncio.current_task()))
        done.append(task)

    loop.call_soon(callback)
    turn(loop)
    (was_done, value, current), task = done
    assert was_done and value == "unset" and current is None
    assert task.result() == (task, "request", True, True)
    assert isinstance(task, asyncio.Task)


def test_started_task_that_waits_goes_on_as_any_task(loop):
    async def app():
        await asyncio.sleep(0.001)
        async with Scope():
            return asyncio.current_task().get_name()

    class Scope:
        async def __aenter__(self):
            await asyncio.sleep(0)

        async def __aexit__(self, *exc):
            await asyncio.sleep(0)

    task = start(loop, app())
    assert not task.done() and task.get_coro() is not None
    assert loop.run_until_complete(task) == "request"


def test_started_task_can_be_cancelled(loop):
    async def app():
        await asyncio.sleep(60)

    task = start(loop, app())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_started_task_that_fails(loop):
    async def app():
        raise ValueError("boom")

    task = start(loop, app())
    assert task.done() and str(task.exception()) == "boom"


def test_starting_what_is_no_coroutine_leaves_call_soon_as_it_was(loop):
    assert isinstance(start(loop, 1), TypeError)
    assert isinstance(start(loop, None), TypeError)
    seen = []
    loop.call_soon(seen.append, 1)
    turn(loop)
    assert seen == [1]


def test_task_made_inside_a_first_step_waits_its_turn(loop):
    order = []

    async def child():
        order.append("child")

    async def app():
        task = asyncio.ensure_future(child())
        order.append("app")
        await task

    loop.run_until_complete(start(loop, app()))
    assert order == ["app", "child"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_in_a_first_step_leaves_run_forever(loop, kind):
    async def app():
        raise kind

    def callback():
        with pytest.raises(kind):
            loop._start_task(app(), "request")

    loop.call_soon(callback)
    with pytest.raises(kind):
        loop.run_forever()
    turn(loop)


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
