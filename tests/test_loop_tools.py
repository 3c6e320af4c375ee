"""The loop under tools that look into a running program: each in an interpreter of its own."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.smoke, pytest.mark.sanitized]

# Every kind of callback: soon, timer, task, reader, stream, datagram, executor.
WORK = """
import asyncio, os, socket, sys, threading
import licorne

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        received.set_result(data)

def on_timer(event):
    event.set()

async def work():
    global received
    loop = asyncio.get_running_loop()
    event, received = asyncio.Event(), loop.create_future()
    loop.call_later(0.001, on_timer, event)
    await event.wait()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for _ in range(20):
        writer.write(b"hello\\n")
        assert await reader.readline() == b"hello\\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    assert await received == b"x"
    transport.close()
    assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(20)))
    return 42

def main():
    loop = licorne.new_event_loop()
    try:
        return loop.run_until_complete(work())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
"""


def python(code, *options, stdin=""):
    """Runs the work with `code` around it; returns what it printed, and what it said."""
    command = [sys.executable, *options, "-c", WORK.replace("\\\\", "\\") + code]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_profile():
    code = """
import cProfile, pstats
profile = cProfile.Profile()
assert profile.runcall(main) == 42
names = {name for _, _, name in pstats.Stats(profile).stats}
assert {"on_timer", "data_received", "datagram_received", "work"} <= names, names
"""
    python(code)


def test_setprofile_sees_calls_and_returns_in_pairs():
    code = """
depth, lowest = 0, 0
def on_event(frame, event, argument):
    global depth, lowest
    depth += {"call": 1, "return": -1}.get(event, 0)
    lowest = min(lowest, depth)
sys.setprofile(on_event)
result = main()
sys.setprofile(None)
assert result == 42 and depth == 0 and lowest >= 0, (result, depth, lowest)
"""
    python(code)


def test_trace_as_coverage_does():
    code = """
lines = set()
def on_event(frame, event, argument):
    if frame.f_code.co_filename == "<string>" and event == "line":
        lines.add(frame.f_code.co_name)
    return on_event
sys.settrace(on_event)
threading.settrace(on_event)
assert main() == 42
sys.settrace(None)
assert {"on_timer", "data_received", "datagram_received", "work"} <= lines, lines
"""
    python(code)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring")
def test_monitoring():
    code = """
names = set()
monitoring = sys.monitoring
monitoring.use_tool_id(monitoring.COVERAGE_ID, "test")
monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.PY_START, lambda c, _: names.add(c.co_name))
monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.PY_START)
assert main() == 42
assert {"on_timer", "data_received", "datagram_received", "work"} <= names, names
"""
    python(code)


def test_breakpoints_in_callbacks():
    code = """
def stop_here(data_received=Echo.data_received):
    def received(self, data):
        breakpoint()
        Echo.data_received = data_received
        data_received(self, data)
    return received
Echo.data_received = stop_here()
def on_timer(event):
    breakpoint()
    event.set()
print("result", main())
"""
    out, _ = python(code, stdin="p event\np 'and on'\ncontinue\np len(data) * 7\nwhere\ncontinue\n")
    assert "asyncio.locks.Event" in out and "and on" in out
    assert "(Pdb) 42" in out and "run_until_complete" in out and "result 42" in out


def test_faulthandler_of_a_loop_that_waits_and_one_that_works():
    code = """
import faulthandler, time
def stuck():
    faulthandler.dump_traceback_later(0.05)
    time.sleep(0.3)
async def wait():
    faulthandler.dump_traceback_later(0.05)
    await asyncio.sleep(0.3)
loop = licorne.new_event_loop()
loop.call_soon(stuck)
loop.run_until_complete(asyncio.sleep(0))
loop.run_until_complete(wait())
loop.close()
"""
    _, said = python(code, "-X", "faulthandler")
    assert "in stuck" in said and said.count("in run_forever") == 2


def test_tracemalloc_and_development_mode():
    _, said = python("assert main() == 42", "-X", "dev", "-X", "tracemalloc=5")
    assert "ResourceWarning" not in said and "Traceback" not in said, said


def test_debug_allocators_find_nothing():
    python("import gc\nfor _ in range(3):\n    assert main() == 42\ngc.collect()", "-X", "dev", "-W", "error")


def test_no_block_is_left_by_work_that_is_done_again():
    code = """
import gc
def blocks():
    gc.collect()
    return sys.getallocatedblocks()
loop = licorne.new_event_loop()
counts = []
for _ in range(6):
    for _ in range(80):
        loop.run_until_complete(work())
    counts.append(blocks())
# The interpreter's own free lists fill up, slower and slower; a leak is a block each time at least.
growth = min(b - a for a, b in zip(counts, counts[1:]))
assert growth < 80, counts
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""
    python(code)


def test_transports_and_handles_are_seen_by_the_collector():
    code = """
import gc
async def look():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    transport, protocol = await loop.create_connection(Echo, sock=near)
    handle, timer = loop.call_soon(print), loop.call_later(60, print)
    for made in transport, protocol, handle, timer:
        assert gc.is_tracked(made), made
    assert any(thing is protocol for thing in gc.get_referents(transport))
    assert loop in gc.get_referents(handle)
    handle.cancel(), timer.cancel(), transport.abort(), far.close()
loop = licorne.new_event_loop()
loop.run_until_complete(look())
loop.close()
"""
    python(code)
