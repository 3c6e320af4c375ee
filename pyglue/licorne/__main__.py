"""`python -m licorne APP ...`: the executable `licorne`, told to use this interpreter."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig


def executable() -> str | None:
    """Where this environment's installation put it: beside the interpreter; else the one on PATH."""
    folders = (os.path.dirname(sys.executable), sysconfig.get_path("scripts"))
    paths = (os.path.join(folder, "licorne") for folder in folders if folder)
    return next((path for path in paths if os.access(path, os.X_OK)), None) or shutil.which("licorne")


def main() -> int:
    if sys.argv[1:2] == ["convert"]:
        from licorne import convert

        return convert.main(sys.argv[2:])
    path = executable()
    if path is None:
        print("python -m licorne: the executable `licorne` is not installed in this environment", file=sys.stderr)
        return 1
    given = any(argument == "--python" or argument.startswith("--python=") for argument in sys.argv[1:])
    control = sys.argv[1:2] == ["ctl"]
    interpreter = [] if given or control or not sys.executable else ["--python", sys.executable]
    sys.stdout.flush()
    os.execv(path, [path, *interpreter, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
