"""The event loop's ready queue: call_soon(), handles, what a callback may do, debug mode."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import time
import weakref

import pytest

from support.loops import turn

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]

variable = contextvars.ContextVar("variable", default="unset")


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
