"""The JSON schema of [tool.licorne]: what it allows licorne takes, and what it refuses licorne refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import command

jsonschema = pytest.importorskip("jsonschema")
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    ran = subprocess.run([*command(), "--print-schema"], check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def takes(folder: Path, table: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    lines = [f"{json.dumps(name)} = {toml(value)}\n" for name, value in table.items()]
    (folder / "pyproject.toml").write_text("[tool.licorne]\n" + "".join(lines))
    arguments = [*command(), "web:app", "--print-config"]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True)


def test_it_is_a_schema(schema):
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    for name, row in schema["properties"].items():
        if "$ref" in row:
            assert row["$ref"].removeprefix("#/properties/") in schema["properties"]
            continue
        assert {"description", "anyOf", "x-variable", "x-since"} <= set(row), name
        if "default" in row:
            validator.validate({name: row["default"]})


GOOD: dict[str, Any] = {
    "workers": "auto",
    "threads": 3,
    "timeout": 0.5,
    "graceful-timeout": "1m",
    "keepalive": 0,
    "limit_request_body": "64k",
    "ws-max-size": 1024,
    "log-level": "debug",
    "proxy_protocol": True,
    "bind": ["127.0.0.1:0", "unix:x.sock"],
    "forwarded_allow_ips": "10.0.0.0/8",
    "headers": {"X-A": "1", "X-B": 2},
    "secure_scheme_headers": {"X-PROTO": "https"},
    "logconfig_dict": {"version": 1},
    "umask": "027",
    "user": 0,
    "reload": False,
    "access-logfile": "-",
    "preload": True,
}


def test_what_it_allows_is_taken(schema, tmp_path):
    jsonschema.Draft7Validator(schema).validate(GOOD)
    ran = takes(tmp_path, GOOD)
    assert (ran.returncode, ran.stderr.count("ERROR"), ran.stderr.count("WARNING")) == (0, 0, 0)
    shown = {line.split("=")[0].strip(): line for line in ran.stdout.splitlines()}
    assert '"auto"' not in shown["workers"] and "auto: " in shown["workers"]
    assert 'loglevel                           = "debug"' in ran.stdout
    assert "= 60  # pyproject.toml" in shown["graceful_timeout"]
    assert "= True  # pyproject.toml" in shown["preload_app"]


BAD = [
    ("workers", 0),
    ("workers", "many"),
    ("threads", 5000),
    ("timeout", -1),
    ("timeout", "soon"),
    ("limit_request_body", "64q"),
    ("loglevel", "loud"),
    ("umask", "rw"),
    ("port", 70000),
    ("reload", "perhaps"),
    ("worker", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_what_it_refuses_is_refused(schema, tmp_path, name, value):
    assert not jsonschema.Draft7Validator(schema).is_valid({name: value})
    ran = takes(tmp_path, {name: value})
    assert ran.returncode == 1
    assert name in ran.stderr
