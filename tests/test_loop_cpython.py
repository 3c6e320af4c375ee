"""CPython's own tests of asyncio, on our loop: every one that the standard loop passes must pass (make soak).

Each module of test.test_asyncio runs in an interpreter of its own, in which asyncio's names for its loop are ours
before the tests are loaded: they name asyncio.SelectorEventLoop themselves, and reset the policy, so a policy is not
enough.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import unittest
import warnings

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

MODULES = [
    "test_buffered_proto",
    "test_context",
    "test_eager_task_factory",
    "test_events",
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_runners",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_sslproto",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_waitfor",
]

# They look into the standard library's loop, or mock its selector.
INTERNALS = {
    "test_internal_fds",
    "test_prompt_cancellation",
    "test_run_until_complete_nesting",
    "test_timeout_rounding",
    "test_unclosed_pipe_transport",
    "test_writer_callback",
}


def available(module: str) -> bool:
    try:
        return importlib.util.find_spec(f"test.test_asyncio.{module}") is not None
    except ImportError:
        return False


# --- in the interpreter that runs the tests ---


def use_our_loop() -> None:
    import asyncio
    from asyncio import unix_events

    import licorne

    class Loop(licorne.Loop):
        _default_executor = None  # the tests' own clean-up reads it

        def __init__(self, selector: object = None) -> None:
            super().__init__()

    asyncio.SelectorEventLoop = unix_events.SelectorEventLoop = Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = unix_events.EventLoop = Loop
    unix_events._UnixDefaultEventLoopPolicy._loop_factory = Loop
    asyncio.set_event_loop_policy(None)


def flatten(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    tests = []
    for item in suite:
        tests += flatten(item) if isinstance(item, unittest.TestSuite) else [item]
    return tests


def wanted(test: unittest.TestCase) -> bool:
    # The classes named after other selectors would run the same loop once more.
    _, class_name, name = test.id().rsplit(".", 2)
    return name not in INTERNALS and not class_name.startswith(("Poll", "Select"))


def run_module(module: str, loop: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    if loop == "ours":
        use_our_loop()
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.test_asyncio.{module}")
    tests = [test for test in flatten(suite) if wanted(test)]
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(unittest.TestSuite(tests))
    failed = [test.id() for test, _ in result.failures + result.errors] + [t.id() for t in result.unexpectedSuccesses]
    print("\n" + json.dumps({"run": result.testsRun, "failed": sorted(set(failed))}), flush=True)
    os._exit(0)


# --- in pytest ---


def outcome(module: str, loop: str) -> dict:
    process = subprocess.run(
        [sys.executable, __file__, module, loop], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith('{"run"')]
    assert lines, f"the interpreter ended with {process.returncode}:\n{process.stderr[-3000:]}"
    return {**json.loads(lines[-1]), "log": process.stderr}


@pytest.mark.parametrize("module", [module for module in MODULES if available(module)])
def test_asyncio(module: str) -> None:
    ours = outcome(module, "ours")
    assert ours["run"] > 0
    if ours["failed"]:
        standard = outcome(module, "standard")
        assert not set(ours["failed"]) - set(standard["failed"]), ours["log"][-20000:]


if __name__ == "__main__":
    run_module(sys.argv[1], sys.argv[2])
