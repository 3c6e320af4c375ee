"""asyncio's set of all tasks, whose class a loop of ours exchanges (aioloop_task_set.c) says what it said before."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.smoke

SCRIPT = """
import asyncio, gc, sys

if sys.argv[1] == "ours":
    import licorne
    loop = licorne.new_event_loop()
else:
    loop = asyncio.new_event_loop()
tasks = asyncio.tasks._all_tasks if sys.version_info < (3, 12) else asyncio.tasks._scheduled_tasks


def show(*what):
    gc.collect()
    removed = getattr(tasks, "_pending_removals", ())
    print(*what, len(asyncio.all_tasks(loop)), len(tasks), len(removed), len(list(tasks)))


async def idle():
    await asyncio.sleep(0)


async def main():
    me = asyncio.current_task()
    show("begun", me in tasks)
    some = [asyncio.create_task(idle()) for _ in range(5)]
    show("made", all(task in tasks for task in some))
    for task in some:
        await task
    show("done")
    del some, task
    show("dropped")
    iterator = iter(tasks)
    next(iterator)
    for _ in range(3):
        await asyncio.create_task(idle())
    gc.collect()
    print("while somebody iterates", len(tasks._pending_removals) > 0)  # how many: the iterator may keep one
    del iterator
    show("the iteration is over")
    await asyncio.create_task(idle())
    copy = tasks.copy()
    show("copied", len(copy), copy == tasks, me in copy, len(tasks | copy), len(tasks - copy))
    copy.add(main)
    copy.discard(me)
    show("two sets", len(copy), main in copy, main in tasks, me in tasks)
    tasks.discard(me)
    show("discarded", me in tasks)
    tasks.add(me)
    tasks.add(me)
    show("added", me in tasks)


loop.run_until_complete(main())
loop.close()
show("the end")
"""


def run(whose: str) -> str:
    done = subprocess.run([sys.executable, "-c", SCRIPT, whose], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="tasks are in a list of the interpreter's own")
def test_the_set_of_all_tasks_says_what_it_would_say_without_us():
    assert run("ours") == run("asyncio")


FIRST_STEP = """
import asyncio, gc, licorne

loop = licorne.new_event_loop()
seen = []


async def request():
    seen.append(asyncio.current_task() in asyncio.all_tasks())


async def waits():
    seen.append(asyncio.current_task() in asyncio.all_tasks())
    await asyncio.sleep(0)


async def looks_later():
    await asyncio.sleep(0)
    seen.append(asyncio.current_task() in asyncio.all_tasks())


async def fails():
    raise ValueError


started = []
for function in (request, waits, looks_later, fails):
    loop.call_soon(lambda function=function: started.append(loop._start_task(function(), "a name")))
loop.call_soon(lambda: seen.append(len(asyncio.all_tasks(loop))))
loop.run_until_complete(asyncio.sleep(0.01))
assert seen == [True, True, 3, True], seen  # those two that wait, and sleep()'s
assert isinstance(started.pop().exception(), ValueError)
del started[:]
gc.collect()
assert not asyncio.all_tasks(loop)
print("ok")
"""


def test_a_task_whose_first_step_runs_at_once_is_in_it():
    done = subprocess.run([sys.executable, "-c", FIRST_STEP], capture_output=True, text=True, timeout=60)
    assert done.stdout == "ok\n", done.stderr
