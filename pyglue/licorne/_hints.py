"""What to say when an application cannot be found. Runs only after a failure: see pyglue/load.c."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import types

USUAL_NAMES = ("application", "app", "api", "asgi", "wsgi", "asgi_app", "wsgi_app")
USUAL_FACTORIES = ("create_app", "make_app", "get_app", "create_application", "get_application", "build_app")


def near_module(missing: str) -> str | None:
    """The module nearest to the missing one, among those that stand where it was looked for."""
    parent, _, name = missing.rpartition(".")
    path = importlib.import_module(parent).__path__ if parent else [os.getcwd()]
    there = [module.name for module in pkgutil.iter_modules(path)]
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    return f"{parent}.{near[0]}" if near and parent else near[0] if near else None


def folder_of_module(missing: str) -> str | None:
    """A folder directly below the current one that holds the module: the usual `src/`."""
    if "." in missing or os.sep in missing:
        return None
    for entry in sorted(os.scandir(os.getcwd()), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith((".", "__")):
            there = os.path.join(entry.path, missing)
            if os.path.isfile(there + ".py") or os.path.isfile(os.path.join(there, "__init__.py")):
                return entry.name
    return None


def _takes(function: object) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return -1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _looks_like_application(name: str, value: object, module: str) -> bool:
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)) or not callable(value):
        return False
    if isinstance(value, types.FunctionType):
        return value.__module__ == module and (name in USUAL_NAMES or _takes(value) in (2, 3))
    return name in USUAL_NAMES or _takes(value) in (2, 3)


def candidates(holder: object, label: str, wanted: str | None) -> str | None:
    """A sentence that names what could have been meant by `wanted` in `holder`: a module ("shop.web"), or an object in
    one ("shop.web:site")."""
    prefix = f"{label}." if ":" in label else f"{label}:"
    names = [name for name in dir(holder) if not name.startswith("_")]
    values = {name: getattr(holder, name, None) for name in names}
    apps = [name for name in names if _looks_like_application(name, values[name], label)]
    factories = [name for name in names if name in USUAL_FACTORIES and callable(values[name])]
    near = difflib.get_close_matches(wanted, apps + factories, n=1) if wanted else []
    if near:
        apps = [name for name in apps if name in near]
        factories = [name for name in factories if name in near]
    if apps:
        return f"Did you mean {' or '.join(prefix + name for name in apps[:3])}?"
    if factories:
        return f"Did you mean '{prefix}{factories[0]}()'?"
    if isinstance(holder, types.ModuleType) and not names:
        where = getattr(holder, "__file__", None) or "a namespace package without __init__.py"
        return f"The module is empty ({where})."
    near = difflib.get_close_matches(wanted, names, n=1) if wanted else []
    return f"Did you mean {prefix}{near[0]}?" if near else None
