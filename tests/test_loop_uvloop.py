"""uvloop's own tests, on our loop: whatever uvloop passes must pass here, but for what is uvloop's alone (make
soak). Its source distribution carries them; pip fetches it, and a wheel as the oracle.

Each module runs in an interpreter of its own. For ours, `uvloop` is its own Python package with our loop in the place
of its extension module.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import unittest
import warnings
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

VERSION = "0.23.0"

MODULES = [
    "test_aiohttp",
    "test_base",
    "test_context",
    "test_dealloc",
    "test_dns",
    "test_executors",
    "test_pipes",
    "test_process",
    "test_process_spawning",
    "test_regr1",
    "test_runner",
    "test_signals",
    "test_sockets",
    "test_tcp",
    "test_testbase",
    "test_udp",
    "test_unix",
]

# They ask for what is uvloop's alone.
UVLOOP_ALONE = {
    # names, and what is inside
    "test_thread_name_prefix_in_default_executor",  # which starts with "uvloop"
    "test_flush_before_shutdown",  # get_extra_info("uvloop.sslproto")
    "test_pseudosocket",  # how its own class of sockets shows itself
    "test_socket_sync_remove",  # loop._get_backend_id()
    "test_process_delayed_stdio__paused__no_stdin",  # create_subprocess_exec(__uvloop_sleep_after_fork=)
    "test_process_delayed_stdio__paused__stdin_pipe",
    "test_process_delayed_stdio__not_paused__no_stdin",
    "test_process_double_close",  # counts the calls of os.pipe() in its own way to start processes
    # where it differs from asyncio, and we do not
    "test_signals_no_SIGCHLD",  # it refuses a handler for SIGCHLD, as it needs that itself
    "test_udp_sendto_dns",  # it refuses names where asyncio looks them up
    "test_create_server_buffered_2",  # it makes a RuntimeError of what get_buffer() raises
    "test_create_datagram_endpoint_reuse_address_error",  # a parameter that asyncio no longer has
    "test_create_datagram_endpoint_reuse_address_warning",
    # a TLS protocol that is paused: asyncio tells it of the end of a stream without a goodbye when it goes on
    "test_shutdown_timeout_handler_not_set",
}
if sys.version_info < (3, 12):
    UVLOOP_ALONE.add("test_epollhup")  # Server.wait_closed() waits
if sys.version_info < (3, 13):
    UVLOOP_ALONE.add("test_create_unix_server_path_stream_bittype")  # the parameter cleanup_socket

TEST_SECONDS = 60


# --- in the interpreter that runs the tests ---


def flatten(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    tests = []
    for item in suite:
        tests += flatten(item) if isinstance(item, unittest.TestSuite) else [item]
    return tests


def wanted(test: unittest.TestCase) -> bool:
    # The classes named AIO test the standard loop.
    class_name, name = test.id().split(".")[-2:]
    return "AIO" not in class_name and name not in UVLOOP_ALONE


class Result(unittest.TextTestResult):
    """With a time limit for each test: one that waits for ever fails alone."""

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        signal.setitimer(signal.ITIMER_REAL, TEST_SECONDS)

    def stopTest(self, test: unittest.TestCase) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        super().stopTest(test)


def too_long(*_: object) -> None:
    raise AssertionError(f"not done within {TEST_SECONDS} s")


def run_module(module: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, too_long)
    warnings.simplefilter("ignore")
    suite = unittest.defaultTestLoader.loadTestsFromName(f"tests.{module}")
    tests = [test for test in flatten(suite) if wanted(test)]
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2, resultclass=Result).run(unittest.TestSuite(tests))
    failed = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
    print("\n" + json.dumps({"run": result.testsRun, "failed": sorted(failed)}), flush=True)
    os._exit(0)


# --- in pytest ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tests` (theirs), `oracle` (the wheel) and `ours` (both as PYTHONPATH)."""
    folder = tmp_path_factory.mktemp("uvloop")
    make_folder(folder)
    return folder


def make_folder(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wanted = f"uvloop=={VERSION}"
    subprocess.run([*pip, "download", "--no-deps", "--no-binary", "uvloop", "--dest", folder, wanted], check=True)
    subprocess.run([*pip, "install", "--target", folder / "oracle", wanted], check=True)
    with tarfile.open(folder / f"uvloop-{VERSION}.tar.gz") as archive:
        archive.extractall(folder)
    source = folder / f"uvloop-{VERSION}"
    shutil.move(source / "tests", folder / "tests")
    package = folder / "ours" / "uvloop"
    package.mkdir(parents=True)
    for file in (source / "uvloop").glob("*.py"):
        shutil.copy(file, package)
    (package / "includes.py").touch()
    (package / "loop.py").write_text("from licorne import Loop\n")


def outcome(folder: Path, module: str, loop: str) -> dict:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / loop), str(folder)])}
    process = subprocess.run(
        [sys.executable, __file__, module],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith('{"run"')]
    assert lines, f"the interpreter ended with {process.returncode}:\n{process.stderr[-3000:]}"
    return {**json.loads(lines[-1]), "log": process.stderr}


@pytest.mark.parametrize("module", MODULES)
def test_whatever_uvloop_passes(folder: Path, module: str) -> None:
    ours = outcome(folder, module, "ours")
    failed = set(ours["failed"])
    if failed:
        failed -= set(outcome(folder, module, "oracle")["failed"])
    assert not failed, f"{sorted(failed)}\n{ours['log'][-20_000:]}"
    assert ours["run"] > 0


if __name__ == "__main__":
    run_module(sys.argv[1])
