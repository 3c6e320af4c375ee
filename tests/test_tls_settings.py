"""The settings about TLS, which this version does not serve: read, checked, and refused with what to do instead."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from tests.support.server import Server, command

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"
LOCKED = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"cert.pem": CERTIFICATE, "key.pem": KEY, "both.pem": CERTIFICATE + KEY, "locked.pem": LOCKED}
    app = "async def app(scope, receive, send):\n    raise NotImplementedError\n"
    for name, text in {**files, "web.py": app}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    line = ["env", *(f"{name}={value}" for name, value in variables.items()), *command(), "web:app", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True)


PAIRS = [
    ["--certfile", "cert.pem", "--keyfile", "key.pem"],
    ["--ssl-certfile=cert.pem", "--ssl-keyfile=key.pem", "--ssl-version", "17", "--ssl-ciphers", "TLSv1"],
    ["--ssl-certificate", "both.pem"],
    ["--keyfile", "key.pem"],
    ["--certfile", "cert.pem", "--keyfile", "locked.pem", "--ssl-keyfile-password", "secret", "--ssl-cert-reqs", "1"],
]


@pytest.mark.parametrize("check", [False, True], ids=["start", "check"])
@pytest.mark.parametrize("arguments", PAIRS, ids=lambda words: words[0])
def test_a_certificate_does_not_lead_to_plain_text(folder, arguments, check):
    ran = run(folder, "--bind", "127.0.0.1:0", *arguments, *["--check-config"] * check)
    assert ran.returncode == 1
    assert "does not serve TLS" in ran.stderr and "Listening" not in ran.stderr
    assert "nginx: server { listen 443 ssl;" in ran.stderr and "proxy_pass http://127.0.0.1:0;" in ran.stderr
    assert "HAProxy: " in ran.stderr
    assert "secret" not in ran.stderr


def test_from_each_source(folder):
    (folder / "gunicorn.conf.py").write_text("\ncertfile = 'both.pem'\n")
    assert "certfile = 'both.pem' (from gunicorn.conf.py:2): this version" in run(folder).stderr
    (folder / "gunicorn.conf.py").unlink()
    said = run(folder, UVICORN_SSL_CERTFILE="cert.pem", GRANIAN_SSL_KEYFILE="key.pem").stderr
    assert "certfile = 'cert.pem' (from $UVICORN_SSL_CERTFILE): this version" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--certfile", "none.pem"], "certfile = 'none.pem' (from --certfile): No such file or directory"),
        (["--certfile", "key.pem"], "certfile = 'key.pem' (from --certfile): no certificate in PEM form is in it"),
        (["--certfile", "cert.pem"], "certfile = 'cert.pem' (from --certfile): no private key in PEM form is in it"),
        (["--certfile", "both.pem", "--keyfile", "cert.pem"], "keyfile = 'cert.pem' (from --keyfile): no private key"),
        (["--certfile", "both.pem", "--keyfile", "locked.pem"], "the key is encrypted: its password is missing"),
        (["--ca-certs", "key.pem"], "ca_certs = 'key.pem' (from --ca-certs): no certificate"),
        (["--ssl-version", "SSLv3"], "ssl_version = 'SSLv3' (from --ssl-version): too old"),
        (["--ssl-version", "TLSv9"], "ssl_version = 'TLSv9' (from --ssl-version): must be TLS, TLS_SERVER"),
        (["--cert-reqs", "3"], "cert_reqs = '3' (from --cert-reqs): must be a whole number from 0 to 2"),
        (["--http-protocols", "h2"], "this version of licorne serves HTTP/1.1 alone: h1 must be among them"),
        (["--http-protocols", "h4,h1"], "http_protocols = 'h4' (from --http-protocols): must be h1 or h2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_values_are_checked(folder, arguments, message):
    ran = run(folder, *arguments, "--check-config")
    assert ran.returncode == 1
    assert message in ran.stderr


def test_what_needs_no_certificate_is_accepted(folder):
    text = """
import ssl
cert_reqs = ssl.CERT_REQUIRED
ssl_version = ssl.PROTOCOL_TLS_SERVER
ca_certs = "cert.pem"
ciphers = "ECDHE+AESGCM"
http_protocols = "h2,h1"
suppress_ragged_eofs = True
certfile = None
keyfile = ""
"""
    (folder / "gunicorn.conf.py").write_text(text)
    with Server("web:app", "--ssl-keyfile-password", "secret", cwd=folder) as server:
        assert "WARNING" not in server.log
    shown = run(folder, "--ssl-keyfile-password", "secret", "--print-config").stdout
    assert f'ssl_version                        = "{int(ssl.PROTOCOL_TLS_SERVER)}"' in shown
    assert "cert_reqs                          = 2" in shown
    assert "secret" not in shown and "None  # --ssl-keyfile-password, not shown" in shown
