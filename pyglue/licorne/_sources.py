"""Where the application's own modules lie: what `--reload` watches besides its folders."""

from __future__ import annotations

import os
import site
import sys
import sysconfig


def folders() -> str:
    """A folder a line: those of imported modules, but not the interpreter's and not what is installed."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    found = {os.path.dirname(os.path.abspath(file)) for file in files if isinstance(file, str)}
    installed = tuple(os.path.join(path, "") for path in _installed())
    return "\n".join(sorted(path for path in found if not os.path.join(path, "").startswith(installed)))


def _installed() -> set[str]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages(), os.path.dirname(__file__), sys.prefix + "/lib"}
    return {os.path.abspath(path) for path in paths if path}
