"""The event loop's readers and writers."""

import os
import socket
import threading

import pytest

from support.loops import turn

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]


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
