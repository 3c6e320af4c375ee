"""uWSGI's ini files, read as uWSGI reads them: sections, includes, placeholders, loops and conditions.

What is only known when the server starts (environment variables, conditions, the number of CPUs) stays open: a value is
a `Text`, whose parts are characters or Python expressions.
"""

from __future__ import annotations

import getpass
import glob
import grp
import operator
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

CONDITIONS = {
    "if-env": "{0} in os.environ",
    "if-not-env": "{0} not in os.environ",
    "if-exists": "os.path.exists({0})",
    "if-not-exists": "not os.path.exists({0})",
    "if-file": "os.path.isfile({0})",
    "if-not-file": "not os.path.isfile({0})",
    "if-dir": "os.path.isdir({0})",
    "if-not-dir": "not os.path.isdir({0})",
    "if-hostname": "os.uname().nodename == {0}",
    "if-not-hostname": "os.uname().nodename != {0}",
}
ALIASES = {"ifenv": "if-env", "ifexists": "if-exists", "ifdir": "if-dir", "if-directory": "if-dir"}
ENDS = frozenset({"endfor", "end-for", "endif", "end-if"})
INCLUDES = frozenset({"ini", "include", "inherit", "config"})
SETTERS = frozenset({"set", "set-ph", "set-placeholder"})
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
DEPTH = 16  # of includes, and of placeholders in placeholders


class IniError(Exception):
    """What is wrong, complete with file and line."""


@dataclass(frozen=True)
class Code:
    """A Python expression without double quotes and backslashes, of the type `str` or `int`."""

    source: str
    is_number: bool = False


CPU_COUNT = Code("os.cpu_count()", is_number=True)


@dataclass(frozen=True)
class Text:
    """A value: characters, and expressions whose results stand between them."""

    parts: tuple[str | Code, ...] = ()

    @property
    def plain(self) -> str | None:
        """The characters; None if some are known only later."""
        return "".join(str(part) for part in self.parts) if not any(map(_is_code, self.parts)) else None

    def source(self) -> str:
        """A Python expression for it, of the type `str`."""
        if self.plain is not None:
            return quoted(self.plain)
        code = self._only_code()
        if code is not None and not code.is_number:
            return code.source
        return 'f"' + "".join(_in_f_string(part) for part in self.parts) + '"'

    def number(self) -> str:
        """A Python expression for it, of the type `int`. Raises ValueError: it is no number."""
        if self.plain is not None:
            return str(int(self.plain))
        code = self._only_code()
        return code.source if code is not None and code.is_number else f"int({self.source()})"

    def _only_code(self) -> Code | None:
        return self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], Code) else None


@dataclass(frozen=True)
class Option:
    """One line. `condition`: the Python expression of the `if-` block it stands in."""

    name: str
    value: Text
    place: str
    line: str
    condition: str | None = None


def quoted(text: str) -> str:
    return '"' + _escaped(text) + '"'


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_code(part: str | Code) -> bool:
    return isinstance(part, Code)


def _in_f_string(part: str | Code) -> str:
    return "{" + part.source + "}" if isinstance(part, Code) else _escaped(part).replace("{", "{{").replace("}", "}}")


def read(path: str, section: str = "uwsgi") -> list[Option]:
    """All options of the section, in order, those of included files among them. Raises IniError."""
    options = list(_blocks(_lines(path, section, 0)))
    return [replace(option, value=_resolved(option.value, options, 0)) for option in options]


# --- lines


@dataclass(frozen=True)
class _Line:
    name: str
    value: str
    place: str
    text: str


def _lines(path: str, section: str, depth: int) -> Iterator[_Line]:
    if depth > DEPTH:
        raise IniError(f"{path}: files include each other")
    magic = _magic(path, section)
    for number, text in _section(path, section):
        name, _, value = text.partition("=")
        name, value = (_substituted(part.strip(), magic) for part in (name, value))
        place = f"{os.path.basename(path)}:{number}"
        if name in INCLUDES and value:
            yield from _included(path, value, place, depth)
        else:
            yield _Line(name, value, place, text)


def _section(path: str, wanted: str) -> Iterator[tuple[int, str]]:
    """The lines of a section, with their numbers, without comments."""
    section = None
    found = False
    for number, text in enumerate(_read(path).splitlines(), 1):
        text = text.strip()
        if text.startswith("["):
            section = text[1:].partition("]")[0]
            found = found or section == wanted
        elif text and text[0] not in ";#" and section == wanted:
            yield number, text
    if not found:
        raise IniError(f"{path}: there is no section [{wanted}]")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise IniError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise IniError(f"{path}: it is not UTF-8 text") from None


def _included(path: str, value: str, place: str, depth: int) -> Iterator[_Line]:
    """`other.ini`, `other.ini:section`, `:section` of the same file."""
    other, _, section = value.partition(":")
    if "$(" in value or "%(" in value or "://" in value:
        yield _Line("ini", value, place, f"ini = {value}")
        return
    there = os.path.join(os.path.dirname(path), other) if other else path
    yield from _lines(there, section or "uwsgi", depth + 1)


# --- %d, %n, …: known when the file is read


def _magic(path: str, section: str) -> dict[str, str]:
    full = os.path.abspath(path)
    folder, name = os.path.split(full)
    stem, dot, extension = name.rpartition(".")
    folders = full.split("/")[1:-1]
    known = {
        "d": folder.rstrip("/") + "/",
        "p": full,
        "o": path,
        "s": name,
        "n": stem if dot else name,
        "e": extension if dot else "",
        "c": os.path.basename(folder),
        "x": "" if section == "uwsgi" else section,
    }
    known.update({letter.upper(): value for letter, value in known.items()})
    known.update(
        v=os.getcwd(),
        h=socket.gethostname(),
        u=str(os.getuid()),
        U=getpass.getuser(),
        g=str(os.getgid()),
        G=grp.getgrgid(os.getgid()).gr_name,
        t=str(int(time.time())),
    )
    known.update({str(i): part for i, part in enumerate(folders[:10])})
    known.update({"%": "%", "[": "", "]": ""})
    return known


def _substituted(text: str, magic: dict[str, str]) -> str:
    return re.sub(r"%([^(k])", lambda found: magic.get(found[1], found[0]), text)


# --- for … endfor, if-… endif


def _blocks(lines: Iterable[_Line]) -> Iterator[Option]:
    values: list[Text] | None = None  # what %(_) goes through
    condition: str | None = None
    for line in lines:
        name = ALIASES.get(line.name, line.name)
        if name in ENDS:
            values = condition = None
        elif name in ("for", "for-glob", "for-times", "for-readline"):
            values = [Text((item,)) for item in _items(name, line)]
        elif name in CONDITIONS:
            condition, context = _condition(name, line)
            values = [context]
        else:
            for value in [Text()] if values is None else values:
                yield _option(line, value if values is not None else None, condition)


def _items(name: str, line: _Line) -> list[str]:
    if name == "for":
        return line.value.split()
    if name == "for-glob":
        return sorted(glob.glob(line.value))
    if name == "for-readline":
        return [text for text in _read(line.value).splitlines() if text]
    try:
        return [str(i) for i in range(1, int(line.value) + 1)]
    except ValueError:
        raise IniError(f"{line.place}: for-times wants a number, not {line.value}") from None


def _condition(name: str, line: _Line) -> tuple[str, Text]:
    value = _parts(line.value, None)
    context = Text((Code(f"os.environ[{_single_quoted(line.value)}]"),)) if name == "if-env" else value
    return CONDITIONS[name].format(value.source()), context


def _option(line: _Line, context: Text | None, condition: str | None) -> Option:
    if line.name in SETTERS:
        name, _, value = line.value.partition("=")
        return Option(name.strip(), _parts(value.strip(), context), line.place, line.text, condition)
    return Option(line.name, _parts(line.value, context), line.place, line.text, condition)


# --- %(name), $(VARIABLE), @(file)


@dataclass(frozen=True)
class _Open(Code):
    """A placeholder that is not resolved yet; `source` is its name."""


_PLACES = re.compile(r"%\((?P<name>[^()]*)\)|\$\((?P<variable>\w+)\)|@\((?P<file>[^()]*)\)|(?P<cpus>%k)")


def _parts(text: str, context: Text | None) -> Text:
    parts: list[str | Code] = []
    end = 0
    for found in _PLACES.finditer(text):
        parts.append(text[end : found.start()])
        end = found.end()
        if found["name"] == "_" and context is not None:
            parts.extend(context.parts)
        elif found["name"] is not None:
            parts.append(_Open(found["name"]))
        elif found["variable"]:
            parts.append(Code(f"os.environ[{_single_quoted(found['variable'])}]"))
        else:
            parts.append(CPU_COUNT if found["cpus"] else _content(found["file"], found[0]))
    return _joined([*parts, text[end:]])


def _joined(parts: list[str | Code]) -> Text:
    """Without empty parts, neighbouring characters as one."""
    joined: list[str | Code] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return Text(tuple(joined))


def _single_quoted(text: str) -> str:
    return "'" + re.sub(r"[\"'\\]", "_", text) + "'"


def _content(path: str, otherwise: str) -> str | Code:
    if "://" in path or re.search(r"[\"'\\]", path):
        return otherwise
    return Code(f"open({_single_quoted(path)}).read().strip()")


def _resolved(value: Text, options: list[Option], depth: int) -> Text:
    parts: list[str | Code] = []
    for part in value.parts:
        parts.extend(_lookup(part.source, options, depth).parts if isinstance(part, _Open) else (part,))
    return _joined(parts)


def _lookup(name: str, options: list[Option], depth: int) -> Text:
    """The first option of that name, wherever it stands; uWSGI knows one operation too: %(a + 1)."""
    arithmetic = re.fullmatch(r"(\S+) *([-+*/]) *(\d+)", name.strip())
    if arithmetic:
        return _calculated(_lookup(arithmetic[1], options, depth), arithmetic[2], arithmetic[3])
    if name.strip() == "%k" or depth > DEPTH:
        return Text((CPU_COUNT if depth <= DEPTH else f"%({name})",))
    value = next((option.value for option in options if option.name == name), None)
    return Text((f"%({name})",)) if value is None else _resolved(value, options, depth + 1)


def _calculated(value: Text, sign: str, number: str) -> Text:
    try:
        if value.plain is not None:
            return Text((str(OPERATORS[sign](int(value.plain), int(number))),))
        return Text((Code(f"{value.number()} {'//' if sign == '/' else sign} {number}", is_number=True),))
    except (ValueError, ZeroDivisionError):
        return value
