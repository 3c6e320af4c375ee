"""The event loop and signals."""

import os
import signal
import threading

import pytest

from support.loops import turn

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]


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
