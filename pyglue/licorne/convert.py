"""`licorne convert uwsgi.ini`: the licorne.conf.py that means the same; what has no counterpart is a comment in it.

Settings stand in the order of the ini file; one that several options make stands where the last of these was.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from licorne import _uwsgi_options as table
from licorne._uwsgi_ini import IniError, Option, Text, quoted, read

OFF = frozenset({"false", "off", "no", "0"})
UWSGI_ROUTERS = ("http", "http-socket")


@dataclass
class Line:
    """A line of the result: an assignment, or a comment (`name` is empty)."""

    name: str
    source: str
    condition: str | None = None
    note: str = ""


@dataclass
class Conversion:
    options: list[Option]
    lines: list[Line] = field(default_factory=list)
    not_needed: dict[str, str] = field(default_factory=dict)
    carried: int = 0
    not_here: int = 0

    # --- what rules use

    def last(self, *names: str) -> Option | None:
        """uWSGI takes the last of several, where there can be but one."""
        return next((option for option in reversed(self.options) if canonical(option.name) in names), None)

    def is_on(self, name: str) -> bool:
        option = self.last(name)
        return option is not None and is_on(option.value)

    def set(self, name: str, source: str, option: Option | None = None, note: str = "") -> None:
        condition = option.condition if option else None
        self.lines = [line for line in self.lines if line.name != name or line.condition != condition]
        self.lines.append(Line(name, source, condition, note))

    def append(self, name: str, source: str, option: Option) -> None:
        """One more item of a list."""
        if option.condition:
            self.lines.append(Line(f"{name} +", f"[{source}]", option.condition))
            return
        there = next((line for line in self.lines if line.name == name), None)
        if there is None:
            self.lines.append(Line(name, f"[{source}]"))
        else:
            there.source = f"{there.source[:-1]}, {source}]"

    def leave_out(self, option: Option, why: str) -> None:
        self.not_here += 1
        self.lines.append(Line("", f"{option.place}: {option.line}", None, why))


def canonical(name: str) -> str:
    return table.ALIASES.get(name, name)


def is_on(value: Text) -> bool:
    return value.plain is None or value.plain.lower() not in OFF


# --- single options


def carry_over(conversion: Conversion, option: Option, setting: str, kind: str) -> None:
    value = option.value
    if kind == "item":
        conversion.append(setting, value.source(), option)
    elif kind == "path":
        before = next((line for line in conversion.lines if line.name == setting), None)
        conversion.set(setting, f'{before.source} "," {value.source()}' if before else value.source(), option)
    else:
        conversion.set(setting, SOURCES[kind](value), option)


SOURCES: dict[str, Callable[[Text], str]] = {
    "number": Text.number,
    "text": Text.source,
    "flag": lambda value: str(is_on(value)),
    "off": lambda value: str(not is_on(value)),
    "MiB": lambda value: f"{value.number()} * 1024 * 1024" if value.plain is None else quoted(f"{value.number()}M"),
}


def address(value: Text) -> Text:
    """uWSGI takes a path where a colon and a port are not."""
    plain = value.plain or ""
    begins = value.parts[0] if value.parts else ""
    is_path = ":" not in plain if plain else isinstance(begins, str) and begins.startswith(("/", "./"))
    return Text(("unix:", *value.parts)) if is_path else value


def bind(conversion: Conversion, option: Option) -> None:
    plain = option.value.plain or ""
    if plain.startswith(("=", "@")):
        conversion.leave_out(option, "bind takes HOST:PORT, unix:PATH and fd://N")
    else:
        conversion.append("bind", address(option.value).source(), option)


def socket(conversion: Conversion, option: Option) -> None:
    protocol = conversion.last("protocol")
    if protocol is not None and protocol.value.plain == "http":
        bind(conversion, option)
    elif conversion.last(*UWSGI_ROUTERS):
        conversion.leave_out(option, "all addresses speak one protocol: proxy_pass to one of those in bind")
    else:
        bind(conversion, option)
        conversion.set("protocol", '"uwsgi"', None, "for uwsgi_pass; without this line, for proxy_pass")


def protocol(conversion: Conversion, option: Option) -> None:
    if option.value.plain not in ("http", "uwsgi"):
        conversion.leave_out(option, table.NOT_HERE["protocol"])


def module(conversion: Conversion, option: Option) -> None:
    """`module`, `wsgi-file` and `callable` name the application together."""
    name = option.value.plain
    if name is None:
        conversion.set("wsgi_app", option.value.source(), option)
        return
    path, _, attribute = name.partition(":")
    if canonical(option.name) == "wsgi-file":
        path, attribute = module_of_file(conversion, option, name), ""
    if path:
        conversion.set("wsgi_app", quoted(f"{path}:{attribute or callable_name(conversion)}"), option)


def callable_name(conversion: Conversion) -> str:
    option = conversion.last("callable")
    return (option.value.plain if option else None) or "application"


def module_of_file(conversion: Conversion, option: Option, path: str) -> str:
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    if extension != ".py" or not stem.isidentifier():
        conversion.leave_out(option, "an application is a module: name the file like one, with .py")
        return ""
    if folder:
        carry_over(conversion, Option("pythonpath", Text((folder,)), option.place, option.line), "pythonpath", "path")
    return stem


def mount(conversion: Conversion, option: Option) -> None:
    prefix, _, app = (option.value.plain or "").partition("=")
    if not app or conversion.last("module", "wsgi-file") or conversion.last("mount") is not option:
        conversion.leave_out(option, "one application in a server: werkzeug's DispatcherMiddleware joins several")
        return
    kind = "wsgi-file" if app.endswith(".py") else "module"
    module(conversion, Option(kind, Text((app,)), option.place, option.line))
    if prefix.rstrip("/"):
        conversion.set("root_path", quoted(prefix.rstrip("/")), option)


def workers(conversion: Conversion, option: Option) -> None:
    """Also for `cheaper` and `cheaper-initial`."""
    most, least, first = (conversion.last(name) for name in ("processes", "cheaper", "cheaper-initial"))
    if least is None:
        conversion.set("workers", (most or option).value.number(), most)
        return
    conversion.set("workers", (first or least).value.number(), None)
    conversion.set("workers_min", least.value.number(), None)
    conversion.set("workers_max", most.value.number() if most else "1", None)


def harakiri(conversion: Conversion, option: Option) -> None:
    seconds = option.value.number()
    grace = conversion.last("harakiri-graceful-timeout")
    conversion.set("request_timeout", seconds, option)
    conversion.set("timeout", f"{seconds} + {grace.value.number() if grace else 10}", option, "if that does not help")


def request_log(conversion: Conversion, option: Option) -> None:
    """`logger`, `req-logger`, `logto`: uWSGI's requests go where its messages go, if nothing else is said."""
    name = canonical(option.name)
    kind, found, rest = (option.value.plain or "").partition(":")
    where = option.value
    if name != "logto" and found and kind in ("file", "syslog", "rsyslog", "stdio", "fd"):
        if kind == "syslog":
            conversion.set("syslog", "True", option)
            conversion.set("syslog_addr", '"unix:///dev/log"', option)
            if rest:
                conversion.set("syslog_prefix", quoted(rest.partition(",")[0]), option)
            return
        if kind != "file":
            conversion.leave_out(option, "errorlog and accesslog name files; syslog_addr another machine")
            return
        where = Text((rest,))
    elif name != "logto" and where.plain not in ("stdio", "file"):
        conversion.leave_out(option, "errorlog and accesslog name files; syslog goes to syslog_addr")
        return
    if name != "req-logger":
        conversion.set("errorlog", where.source(), option)
    if name == "req-logger" or not (conversion.is_on("disable-logging") or conversion.last("req-logger")):
        conversion.set("accesslog", where.source(), option)


def log_syslog(conversion: Conversion, option: Option) -> None:
    conversion.set("syslog", "True", option)
    conversion.set("syslog_addr", '"unix:///dev/log"', option)
    if option.value.plain not in ("", "true", "1"):
        conversion.set("syslog_prefix", option.value.source(), option)


def daemonize(conversion: Conversion, option: Option) -> None:
    conversion.set("errorlog", option.value.source(), option)
    if not conversion.is_on("disable-logging"):
        conversion.set("accesslog", option.value.source(), option)
    conversion.leave_out(option, "start it with --daemon, or better as a systemd service")


def log_format(conversion: Conversion, option: Option) -> None:
    unknown = [name for name in re.findall(r"%\(([^)]+)\)", option.line) if name not in table.LOG_ATOMS]
    format = option.line.partition("=")[2].strip()
    for name, atom in table.LOG_ATOMS.items():
        format = format.replace(f"%({name})", atom)
    format = re.sub(r"%\([^)]+\)(?![a-z])", "-", format)
    conversion.set("access_log_format", quoted(format), option)
    if unknown:
        conversion.leave_out(option, "no atom stands for " + ", ".join(unknown))


def log_slow(conversion: Conversion, option: Option) -> None:
    milliseconds = option.value.number()
    plain = milliseconds.isdigit()
    conversion.set("slow_request", f"{int(milliseconds) / 1000:g}" if plain else f"{milliseconds} / 1000", option)


def chmod_socket(conversion: Conversion, option: Option) -> None:
    mode = int(option.value.plain or "666", 8)
    mask = sum((7 if not mode >> shift & 6 else ~(mode >> shift) & 6) << shift for shift in (6, 3, 0))
    note = "also of the files that the application makes" if mask else "the socket is for everyone"
    conversion.set("umask", quoted(f"{mask:03o}"), option, note)


def buffer_size(conversion: Conversion, option: Option) -> None:
    size = option.value.number()
    for name in ("limit_request_head", "limit_request_line", "limit_request_field_size"):
        conversion.set(name, size, option)


def socket_timeout(conversion: Conversion, option: Option) -> None:
    if canonical(option.name) == "socket-timeout":
        conversion.set("body_timeout", option.value.number(), option)
    conversion.set("write_timeout", option.value.number(), option)


def autoreload(conversion: Conversion, option: Option) -> None:
    if option.value.plain != "0":
        conversion.set("reload", "True", option, "while developing")


def proxy_protocol(conversion: Conversion, option: Option) -> None:
    conversion.set("proxy_protocol", '"auto"' if is_on(option.value) else '"off"', option)


def plugins(conversion: Conversion, option: Option) -> None:
    others = [name for name in (option.value.plain or "").replace(",", " ").split() if not name.startswith("python")]
    if others:
        conversion.leave_out(option, "there are no plugins")
    else:
        conversion.not_needed[option.name] = table.NOT_NEEDED["plugins"]


def paste(conversion: Conversion, option: Option) -> None:
    path = (option.value.plain or "").removeprefix("config:")
    conversion.set("paste", quoted(path) if path else option.value.source(), option)


def virtual_environment(conversion: Conversion, option: Option) -> None:
    conversion.leave_out(option, f"pip install licorne there, and start {option.value.plain or 'it'}/bin/licorne")


def nothing(conversion: Conversion, option: Option) -> None:
    """Another rule looks at it."""


RULES: dict[str, Callable[[Conversion, Option], None]] = {
    "http": bind,
    "http-socket": bind,
    "socket": socket,
    "protocol": protocol,
    "chmod-socket": chmod_socket,
    "buffer-size": buffer_size,
    "socket-timeout": socket_timeout,
    "socket-send-timeout": socket_timeout,
    "enable-proxy-protocol": proxy_protocol,
    "module": module,
    "wsgi-file": module,
    "callable": nothing,
    "mount": mount,
    "manage-script-name": nothing,
    "home": virtual_environment,
    "paste": paste,
    "plugins": plugins,
    "plugin": plugins,
    "processes": workers,
    "cheaper": workers,
    "cheaper-initial": workers,
    "harakiri": harakiri,
    "lazy-apps": nothing,
    "disable-logging": nothing,
    "logto": request_log,
    "logger": request_log,
    "req-logger": request_log,
    "log-syslog": log_syslog,
    "log-format": log_format,
    "log-slow": log_slow,
    "daemonize": daemonize,
    "py-autoreload": autoreload,
}


def defaults(conversion: Conversion) -> None:
    """Settings whose defaults are not uWSGI's, where the ini file says nothing."""
    there = {line.name for line in conversion.lines}
    lazy = conversion.is_on("lazy-apps")
    conversion.set("preload_app", str(not lazy), None, "" if lazy else "as uWSGI does without lazy-apps")
    if "timeout" not in there:
        conversion.set("timeout", "0", None, "uWSGI sets no limit without harakiri; 30 is a good one")
    if conversion.is_on("disable-logging"):
        conversion.set("accesslog", "None")
    elif "accesslog" not in there:
        conversion.set("accesslog", '"-"')


# --- the whole


def convert(options: list[Option], placeholders: str = "") -> Conversion:
    """`placeholders`: text in which %(name) is looked for: what is used there is no option that we do not know."""
    conversion = Conversion(options)
    for option in options:
        before = conversion.not_here
        try:
            _convert_option(conversion, option, placeholders)
        except ValueError:
            conversion.leave_out(option, "a number is wanted")
        conversion.carried += conversion.not_here == before and canonical(option.name) not in conversion.not_needed
    defaults(conversion)
    return conversion


def _convert_option(conversion: Conversion, option: Option, placeholders: str) -> None:
    name = canonical(option.name)
    if name in RULES:
        RULES[name](conversion, option)
    elif name in table.CARRIED_OVER:
        carry_over(conversion, option, *table.CARRIED_OVER[name])
    elif name in table.NOT_NEEDED:
        conversion.not_needed[name] = table.NOT_NEEDED[name]
    elif not _is_placeholder(option.name, placeholders):
        conversion.leave_out(option, _why_not(name))


def _is_placeholder(name: str, placeholders: str) -> bool:
    return re.search(rf"%\(\s*{re.escape(name)}[\s)]", placeholders) is not None


def _why_not(name: str) -> str:
    if name in table.NOT_HERE:
        return table.NOT_HERE[name]
    family = max((prefix for prefix in table.NOT_HERE_FAMILIES if name.startswith(prefix)), key=len, default=None)
    if family is not None:
        return table.NOT_HERE_FAMILIES[family]
    known = [*RULES, *table.CARRIED_OVER, *table.NOT_NEEDED, *table.NOT_HERE, *table.ALIASES]
    near = difflib.get_close_matches(name, [other for other in known if len(other) > 2], n=1, cutoff=0.8)
    return f"not an option that convert knows; {near[0]}?" if near else "not an option that convert knows"


def rendered(conversion: Conversion, source: str) -> str:
    body = "\n".join(_block(conversion.lines))
    head = [f"# Made of {source} by `licorne convert`.", ""]
    if re.search(r"\bos\.", re.sub(r'"[^"{]*"', "", body)):
        head += ["import os", ""]
    tail = ["", "# Not needed:"] if conversion.not_needed else []
    tail += [f"#   {name}: {why}" for name, why in sorted(conversion.not_needed.items())]
    return "\n".join([*head, body, *tail, ""])


def _block(lines: list[Line]) -> list[str]:
    texts: list[str] = []
    condition = None
    declared = {line.name for line in lines}
    for line in lines:
        if not line.name:
            texts.append(f"# {line.source}")
            texts.append(f"#     -> {line.note}")
            continue
        if line.name.endswith(" +") and line.name[:-2] not in declared:
            declared.add(line.name[:-2])
            texts.append(f"{line.name[:-2]} = []")
        if line.condition and line.condition != condition:
            texts.append(f"if {line.condition}:")
        condition = line.condition
        name = line.name.replace(" +", "")
        sign = "+=" if line.name.endswith(" +") else "="
        note = f"  # {line.note}" if line.note else ""
        texts.append(f"{'    ' if condition else ''}{name} {sign} {line.source}{note}")
    return texts


def summary(conversion: Conversion) -> str:
    text = f"{conversion.carried} options carried over, {len(conversion.not_needed)} not needed"
    return text + (f", {conversion.not_here} without a counterpart: see the comments" if conversion.not_here else "")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="licorne convert",
        description="Prints the licorne.conf.py that means what a uWSGI ini file means.",
        epilog="Files of gunicorn need no conversion.",
    )
    parser.add_argument("file", metavar="FILE[:SECTION]", help="the ini file; its section is uwsgi if none is named")
    parser.add_argument("-o", "--output", metavar="PATH", help="write it there; an existing file is not replaced")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0: done; 1: the file cannot be read, or the other not be written; 2: a malformed command line."""
    given = parser().parse_args(arguments)
    path, _, section = given.file.partition(":") if not os.path.exists(given.file) else (given.file, "", "")
    try:
        options = read(path, section or "uwsgi")
        conversion = convert(options, "\n".join(option.line for option in options))
        text = rendered(conversion, os.path.basename(path))
        if given.output:
            with open(given.output, "x", encoding="utf-8") as file:
                file.write(text)
        else:
            sys.stdout.write(text)
    except (IniError, OSError) as error:
        reason = f"{given.output}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"licorne convert: {reason}", file=sys.stderr)
        return 1
    print(f"licorne convert: {summary(conversion)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
