"""Every setting survives every way: a value in a file, a variable or an option is what --print-config prints, and what
it prints is a configuration file that says the same. Many settings at a time, with random values."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import command

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

# Parts of others, files that must be there, what is refused, what cannot stand in a file.
LEFT_OUT = frozenset(("host", "port", "uds", "fd", "paste", "certfile", "keyfile", "ca_certs", "ssl_keyfile_password"))

words = st.text(st.sampled_from("abcXYZ019._-/ "), min_size=1, max_size=12).map(str.strip).filter(bool)
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20)
hosts = st.ip_addresses(v=4).map(str)
nets = st.one_of(hosts, st.just("*"), st.sampled_from(["10.0.0.0/8", "::1", "fe80::/16"]))
names = st.text(st.sampled_from("ABCDEFxyz"), min_size=1, max_size=8)

# What is no text like any other.
SPECIAL: dict[str, Any] = {
    "app": names.map("{}:app".format),
    "bind": st.lists(
        st.one_of(hosts.map("{}:8000".format), st.just("[::1]:0"), words.map("unix:/tmp/{}".format)),
        min_size=1,
        max_size=3,
    ),
    "umask": st.integers(0, 0o777).map("0{:o}".format),
    "raw_env": st.lists(st.tuples(names, words).map("=".join), max_size=3),
    "raw_paste_global_conf": st.lists(st.tuples(names, words).map("=".join), max_size=3),
    "headers": st.lists(st.tuples(names, words).map(":".join), max_size=3),
    "secure_scheme_headers": st.lists(st.tuples(names, words).map(":".join), min_size=1, max_size=3),
    "forwarded_allow_ips": st.lists(nets, min_size=1, max_size=3),
    "proxy_allow_ips": st.lists(nets, min_size=1, max_size=3),
    "uwsgi_allow_ips": st.lists(nets, min_size=1, max_size=3),
    "worker_class": st.sampled_from(["sync", "gthread", "uvicorn.workers.UvicornWorker"]),
    "ssl_version": st.sampled_from(["17", "TLS", "TLSv1_2"]),
    "http_protocols": st.sampled_from([["h1"], ["h2", "h1"]]),
    "logconfig_dict": st.dictionaries(names, st.integers(0, 9), min_size=1, max_size=2).map(json.dumps),
    "errorlog": st.sampled_from(["-", "error.log", "error ü.log"]),
    "chdir": st.just("."),
    "boot_timeout": st.integers(60, 86400),  # it holds here, too
    "open_files": st.integers(256, 4096),
    "workers_min": st.integers(1, 8),
    "workers_max": st.integers(8, 64),
    "syslog_facility": st.sampled_from(["user", "daemon", "local0"]),
    "syslog_addr": st.sampled_from(["udp://localhost:514", "unix:///dev/log"]),
    "statsd_host": st.sampled_from(["localhost:8125", "unix:///tmp/statsd"]),
    "forwarder_headers": st.lists(st.sampled_from(["SCRIPT_NAME", "PATH_INFO", "REMOTE_USER"]), min_size=1, max_size=3),
    "protocol": st.just("http"),
    "logger_class": st.just("gunicorn.glogging.Logger"),
}


@functools.cache
def properties() -> dict[str, Any]:
    ran = subprocess.run([*command(), "--print-schema"], check=True, capture_output=True, text=True)
    rows = json.loads(ran.stdout)["properties"].items()
    return {name: row for name, row in rows if "$ref" not in row and name not in LEFT_OUT}


def strategy(name: str, row: dict[str, Any]) -> Any:
    kind = row["anyOf"][0]
    if name in SPECIAL:
        return SPECIAL[name]
    if "enum" in kind:
        return st.sampled_from(kind["enum"])
    least, most = kind.get("minimum", 0), min(kind.get("maximum", 2**62), 2**62)
    if kind["type"] == "boolean":
        return st.booleans()
    if kind["type"] == "integer":
        return st.integers(least, most)
    if kind["type"] == "number":
        return st.integers(least * 1000, most * 1000).map(lambda number: number / 1000)
    return st.lists(words, max_size=3) if kind["type"] == "array" else texts


def tables() -> Any:
    return st.fixed_dictionaries({name: strategy(name, row) for name, row in properties().items()})


def printed(folder: Path, *arguments: str, **variables: str) -> tuple[str, dict[str, Any]]:
    """What --print-config prints, as text and run as Python."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("LICORNE_")}
    line = [*command(), *arguments, "--print-config"]
    ran = subprocess.run(line, cwd=folder, env={**surroundings, **variables}, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    text = ran.stdout.decode()
    values: dict[str, Any] = {}
    exec(compile(text, "printed", "exec"), values)
    return text, {name: value for name, value in values.items() if name in properties()}


def as_option(row: dict[str, Any], value: Any) -> list[str]:
    spelling = next(word for word in row["x-options"].split() if word.startswith("--"))
    if isinstance(value, bool) and not spelling.startswith("--no-"):
        on = spelling if value else "--no-" + spelling[2:]
        return [f"{spelling}={value}"] if spelling == "--ws-per-message-deflate" else [on]
    return [f"{spelling}={item}" for item in (value if isinstance(value, list) else [value])]


def as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def same(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [(name, values[name], value) for name, value in expected.items() if values[name] != value] == []


def check(folder: Path, table: dict[str, Any]) -> None:
    rows = properties()
    file = folder / "licorne.conf.py"
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in table.items()), encoding="utf-8")
    text, first = printed(folder)
    same(first, table)

    file.write_text(text, encoding="utf-8")
    same(printed(folder)[1], first)
    file.unlink()

    chosen = {name: value for name, value in table.items() if value != [] and as_text(value).strip()}
    variables = {rows[name]["x-variable"]: as_text(value) for name, value in chosen.items()}
    by_variable = printed(folder, **variables)[1]
    same(by_variable, {name: first[name] for name in chosen})

    optional = {name: value for name, value in chosen.items() if "x-options" in rows[name]}
    arguments = [word for name, value in optional.items() for word in as_option(rows[name], value)]
    by_option = printed(folder, "a:b", *arguments)[1]
    same(by_option, {name: first[name] for name in optional})


def judge(folder: Path, examples: int, derandomize: bool) -> None:
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(tables())
    def run(table: dict[str, Any]) -> None:
        check(folder, table)

    run()


def test_every_setting_survives_every_way(tmp_path):
    judge(tmp_path, examples=4, derandomize=True)


@pytest.mark.soak
def test_many_values_survive_every_way(tmp_path):
    judge(tmp_path, examples=200, derandomize=False)


def test_every_setting_is_among_them():
    shown = subprocess.run([*command(), "a:b", "--print-config"], check=True, capture_output=True, text=True).stdout
    names = {line.split()[0] for line in shown.splitlines() if not line.startswith("#")}
    assert names - LEFT_OUT - set(properties()) == {"config", "python"}


def test_hooks_are_mentioned(tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("workers = 2\n\ndef post_fork(server, worker):\n    pass\n")
    text, values = printed(tmp_path, "a:b")
    assert "# post_fork: a function, in gunicorn.conf.py:3\n" in text
    assert values["workers"] == 2
