"""PasteDeploy: an application, its logging and the server's settings from one ini file, as Pyramid's projects have it.

`--paste development.ini#name` reads the file like gunicorn: the application by PasteDeploy, a section [loggers] as
`logconfig`, and a section [server:main] that says `use = egg:gunicorn` (or `egg:licorne`) as settings, weaker than a
configuration file. `serve` is what `use = egg:licorne#main` means to other programs (pserve): they load the
application, and licorne does it anew.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

OURS = re.compile(r"egg:(gunicorn|licorne)(#main)?$", re.IGNORECASE)

_paths: dict[str, str] = {}  # as given: where it was found, before `chdir` moved us


class Ini(NamedTuple):
    where: str  # "development.ini [server:main]"
    settings: dict[str, str]
    has_logging: bool
    path: str


def read(uri: str, raw_global_conf: Sequence[str], chdir: str | None) -> Ini:
    """Relative to where licorne was started, else to `chdir`. Raises OSError or configparser.Error."""
    given = uri.partition("#")[0]
    path = next((path for path in _candidates(given, chdir) if os.path.exists(path)), os.path.abspath(given))
    _paths[given] = path
    variables = {**_parsed(raw_global_conf), "here": os.path.dirname(path), "__file__": path}
    parser = configparser.ConfigParser(variables, strict=False)
    with open(path, encoding="utf-8") as file:
        parser.read_file(file)
    settings: dict[str, str] = {}
    if parser.has_section("server:main") and OURS.match(parser.get("server:main", "use", raw=True, fallback="")):
        settings = {
            name: value
            for name, value in parser.items("server:main")
            if name != "use" and (name not in parser.defaults() or value != parser.defaults()[name])
        }
    return Ini(f"{given} [server:main]", settings, parser.has_section("loggers"), path)


def _candidates(given: str, chdir: str | None) -> list[str]:
    return [os.path.abspath(given), os.path.abspath(os.path.join(chdir or ".", given))]


def load(uri: str, raw_global_conf: Sequence[str]) -> Any:
    """The application. Raises what is wrong."""
    try:
        from paste.deploy import loadapp
    except ImportError:
        raise ImportError("it needs the package PasteDeploy: pip install PasteDeploy") from None
    given, sharp, name = uri.partition("#")
    path = _paths.get(given) or os.path.abspath(given)
    return loadapp(
        f"config:{path}", name=name if sharp else None, relative_to=os.getcwd(), global_conf=_parsed(raw_global_conf)
    )


def _parsed(items: Sequence[str]) -> dict[str, str]:
    """ "key=value", where "\\=" is not what separates them."""
    split = (re.split(r"(?<!\\)=", item, maxsplit=1) for item in items)
    return {key.replace("\\=", "=").strip(): "".join(value).replace("\\=", "=").strip() for key, *value in split}


def serve(app: object, global_conf: Mapping[str, str], **options: str) -> NoReturn:
    """paste.server_runner: this process becomes the server. It reads `options` where they come from."""
    from licorne.__main__ import executable

    program = executable()
    if program is None:
        raise FileNotFoundError("the executable `licorne` is not installed in this environment")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [program, "--python", sys.executable, "--paste", global_conf["__file__"]])
