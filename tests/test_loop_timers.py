"""The event loop's timers."""

import asyncio
import random
import resource
import time
import weakref

import pytest

from support.loops import turn

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]


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
