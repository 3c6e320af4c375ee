"""What all Python tests share. The servers under test: support/server.py."""

from __future__ import annotations

import importlib.util

import pytest

pytest_plugins = ["support.loops", "support.services"]

# On the other interpreters of the machine only the base requirements are installed, and only `smoke` tests run.
NEED_APPS = ["test_apps_*.py", "test_loop_libraries.py", "test_loop_tls.py"]
collect_ignore_glob = [] if importlib.util.find_spec("httpx") else NEED_APPS


def pytest_report_header(config: pytest.Config) -> str | None:
    return f"tests/requirements-apps.txt is not installed: no {', '.join(NEED_APPS)}" if collect_ignore_glob else None
