"""The event loop's tasks, and the first step that runs at once."""

import asyncio
import contextvars
import sys

import pytest

from support.loops import start, turn

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]

variable = contextvars.ContextVar("variable", default="unset")


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
