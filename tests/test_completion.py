"""Completion in bash, zsh and fish: the shells themselves are asked."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.server import DEADLINE, Server, command

FILES = ("web.py", "shop/__init__.py", "licorne.conf.py", "notes.txt", "folder/x")


def script(shell: str) -> str:
    return subprocess.run([*command(), "--completion", shell], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for shell in ("bash", "zsh", "fish"):
        (tmp_path / f".completion.{shell}").write_text(script(shell))
    return tmp_path


# What is offered for a line, as words; the last one is being completed.
CASES = [
    (["--log-lev"], {"--log-level"}),
    (["--log-level", ""], {"trace", "debug", "info", "warning", "error", "critical"}),
    (["--interface", "as"], {"asgi3", "asgi2"}),
    (["--completion", "f"], {"fish"}),
    (["--config", "lic"], {"licorne.conf.py"}),
    (["--chdir", "fo"], {"folder"}),
    (["w"], {"web"}),
    (["--reload", "sh"], {"shop"}),
    (["--workers", ""], set()),
    (["ctl", "stat"], {"status"}),
    (["con"], {"convert"}),
    (["--no-date"], {"--no-date-header"}),
    (["--ws-max-q"], {"--ws-max-queue"}),
]


def offered_by_bash(folder: Path, words: list[str]) -> set[str]:
    """What bash has after `complete -F`: the function, with the words split as readline splits them."""
    line = ["licorne", *words]
    quoted = " ".join(f"'{word}'" for word in line)
    program = (
        f"source .completion.bash; COMP_WORDS=({quoted}); COMP_CWORD={len(line) - 1}; _licorne; "
        'complete -p licorne >&2; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(
        ["bash", "--norc", "-c", program], cwd=folder, check=True, capture_output=True, text=True, timeout=DEADLINE
    )
    assert "-F _licorne licorne" in ran.stderr
    return set(ran.stdout.split())


@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_bash(folder, words, expected):
    assert offered_by_bash(folder, words) == expected


def test_bash_splits_at_the_equals_sign(folder):
    assert offered_by_bash(folder, ["--lifespan", "="]) == {"auto", "on", "off"}
    assert offered_by_bash(folder, ["--lifespan", "=", "o"]) == {"on", "off"}


def test_bash_offers_every_option_of_the_help(folder):
    shown = subprocess.run([*command(), "--help"], check=True, capture_output=True, text=True).stdout
    entries = [line for line in shown.splitlines() if line.startswith("  -")]
    names = {word.strip(",") for line in entries for word in line.split("  ")[1].split() if word.startswith("--")}
    assert len(names) > 100
    assert names <= offered_by_bash(folder, ["--"])


def test_bash_in_a_terminal(folder):
    """The whole way once: readline, the completion, the line that comes of it."""
    setup = b'source .completion.bash; licorne() { echo "got:$*:"; }\n'
    assert "got:--log-level critical --print-schema:" in typed(
        ["bash", "--norc", "-i"], folder, setup, b"licorne --log-lev\t\x20cr\t--print-sch\t\n", "got:--log"
    )


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_fish(folder, words, expected):
    program = f"source .completion.fish; complete -C 'licorne {' '.join(words)}'"
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    ran = subprocess.run(
        ["fish", "--no-config", "-c", program],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert ran.stderr == ""
    offered = {line.split("\t")[0].rstrip("/") for line in ran.stdout.splitlines()}
    assert expected <= offered if words[-1] else expected == offered


def typed(shell: list[str], folder: Path, setup: bytes, keys: bytes, until: str) -> str:
    """What a terminal shows after these keys, up to a line that has `until`."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update(HOME=str(folder), ZDOTDIR=str(folder), PS1="> ", TERM="dumb")
        os.execvp(shell[0], shell)
    shown, due = b"", time.monotonic() + DEADLINE
    os.write(terminal, setup + b'echo re"ady"\n')
    try:
        while until.encode() not in shown.replace(keys, b""):
            if b"\nready" in shown.replace(b"\r", b"") and keys:
                os.write(terminal, keys)
                keys, shown = b"", b""
            assert time.monotonic() < due, shown.decode(errors="replace")
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536)
        while not shown.rpartition(until.encode())[2].count(b"\n"):
            shown += os.read(terminal, 65536)
        return shown.decode(errors="replace")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_in_a_terminal(folder):
    setup = b'autoload -U compinit; compinit -D; source .completion.zsh; licorne() { echo "got:$*:"; }\n'
    keys = b"licorne --log-lev\tcr\t --conf\tlic\t --chdi\tfo\t w\t\n"
    shown = typed(["zsh", "-f", "-i"], folder, setup, keys, "got:--log")
    assert "got:--log-level=critical --config=licorne.conf.py --chdir=folder web:" in shown


def test_the_commands_of_ctl_are_those_there_are(folder):
    (folder / "web.py").write_text("def app(environ, start_response): ...")
    with Server("web:app", "--control-socket", str(folder / "s.ctl"), cwd=folder):
        ran = subprocess.run(
            [*command()[:1], "ctl", "-s", str(folder / "s.ctl"), "help"], check=True, capture_output=True, text=True
        )
    commands = {line.split()[0].strip(":") for line in ran.stdout.splitlines()}
    assert offered_by_bash(folder, ["ctl", ""]) == commands | {"top"}


def test_another_shell_is_refused():
    ran = subprocess.run([*command(), "--completion", "tcsh"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "--completion: needs the name of a shell: bash, zsh or fish" in ran.stderr
