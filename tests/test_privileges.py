"""user, group, initgroups: the master stays root, the application never is. Without root most of it is skipped."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server import Server, alive, children, command, wait_until

APP = """
import grp, json, os

at_import = os.getresuid()

def app(environ, start_response):
    who = {"uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(), "at_import": at_import}
    body = json.dumps(who).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
USER = "nobody"


# An interpreter may lie where only root can go (a home folder): then its servers live in a mount namespace in which the
# folder above it is an empty one that everybody can enter, with nothing in it but the interpreter.
OPENED = """
kept=$(mktemp -d) && mount --bind "$2" "$kept" && mount -t tmpfs -o mode=755 none "$1" && mkdir -p "$2" &&
mount --bind "$kept" "$2" && shift 2 && exec "$@"
"""


def closed_folder(path: Path) -> Path | None:
    """The topmost one above `path` that only its owner can enter."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & stat.S_IXOTH), None)


def opened() -> list[str]:
    """The words before a command."""
    prefix = Path(sys.base_prefix)
    closed = closed_folder(prefix)
    return ["unshare", "--mount", "sh", "-c", OPENED, "sh", str(closed), str(prefix)] if closed else []


@pytest.fixture(scope="module")
def user() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        pytest.skip(f"there is no user {USER}")
    become = f"import os; os.setgid({entry.pw_gid}); os.setuid({entry.pw_uid}); import licorne, json.tool"
    if subprocess.run([*opened(), sys.executable, "-c", become], cwd="/", capture_output=True).returncode != 0:
        pytest.skip(f"{USER} cannot use {sys.executable}")
    return entry


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="licorne-") as path:
        os.chmod(path, 0o755)
        (Path(path) / "a.py").write_text(APP)
        yield Path(path)


def start(*args: str, **options: Any) -> Server:
    return Server("a:app", *args, program=[*opened(), *command()], **options)


def ask(server: Server) -> dict[str, object]:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return json.loads(body)


def uid_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}").st_uid


@pytest.mark.parametrize("preload", [[], ["--preload"]])
def test_workers_and_mold_are_the_user(folder: Path, user: pwd.struct_passwd, preload: list[str]) -> None:
    with start("--user", USER, *preload, cwd=folder) as server:
        answer = ask(server)
        assert answer["uids"] == [user.pw_uid] * 3
        assert answer["gids"] == [user.pw_gid] * 3
        assert answer["groups"] == [user.pw_gid]  # none of root's
        assert answer["at_import"] == [user.pw_uid] * 3
        assert uid_of(server.pid) == 0
        assert [uid_of(pid) for pid in children(server.pid)] == [user.pw_uid] * 2


def test_numbers_and_another_group(folder: Path, user: pwd.struct_passwd) -> None:
    with start("--user", str(user.pw_uid), "--group", "12345", cwd=folder) as server:
        answer = ask(server)
        assert answer["uids"] == [user.pw_uid] * 3
        assert answer["gids"] == [12345] * 3
        assert answer["groups"] == [12345]


def test_a_user_that_nobody_knows(folder: Path, user: pwd.struct_passwd) -> None:
    with start("--user", "12345", "--group", grp.getgrgid(user.pw_gid).gr_name, cwd=folder) as server:
        assert ask(server)["uids"] == [12345] * 3


def test_in_the_configuration_file_and_initgroups(folder: Path, user: pwd.struct_passwd) -> None:
    (folder / "gunicorn.conf.py").write_text(f'user = {user.pw_uid}\ngroup = "{user.pw_gid}"\ninitgroups = True\n')
    with start(cwd=folder) as server:
        answer = ask(server)
        assert answer["uids"] == [user.pw_uid] * 3
        assert sorted(answer["groups"]) == sorted(os.getgrouplist(USER, user.pw_gid))


def test_what_belongs_to_whom(folder: Path, user: pwd.struct_passwd) -> None:
    """The user's: the socket, the logs. Root's: the pidfile, the control socket, by which the server can be ended."""
    names = {"pid": 0, "ctl": 0, "error.log": user.pw_uid, "access.log": user.pw_uid, "socket": user.pw_uid}
    (folder / "licorne.conf.py").write_text(
        f'user = "{USER}"\npidfile = "pid"\ncontrol_socket = "ctl"\nerrorlog = "error.log"\naccesslog = "access.log"\n'
        f'bind = "unix:{folder}/socket"\numask = "077"\n'
    )
    with start(bind=None, cwd=folder, wait=False) as server:
        wait_until(lambda: (folder / "error.log").exists() and "] Ready: " in (folder / "error.log").read_text())
        server._first_address = f"unix:{folder}/socket"
        assert {name: (folder / name).stat().st_uid for name in names} == names
        assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "ctl").stat().st_mode) == 0o600
        ask(server)
        wait_until(lambda: "GET / HTTP/1.1" in (folder / "access.log").read_text())


def test_logs_are_opened_anew(folder: Path, user: pwd.struct_passwd) -> None:
    """Where the user may not make files."""
    error, access = folder / "error.log", folder / "access.log"
    args = ["--user", USER, "--access-logfile", str(access), "--error-logfile", str(error)]
    with start(*args, bind="unix", cwd=folder, wait=False) as server:
        os.chmod(server.folder, 0o755)
        wait_until(lambda: error.exists() and "] Ready: " in error.read_text())
        server._first_address = server.args[-1]
        for round in range(2):
            for log in (error, access):
                log.rename(f"{log}.{round}")
            server.send_signal(signal.SIGUSR1)
            wait_until(lambda: error.exists() and "Reopened" in error.read_text())
            wait_until(lambda: ask(server) and "GET /" in access.read_text())
            assert error.stat().st_uid == access.stat().st_uid == user.pw_uid
        assert "Cannot reopen" not in "".join(path.read_text() for path in folder.glob("error.log*"))


def test_no_file_is_given_away_through_a_link(folder: Path, user: pwd.struct_passwd) -> None:
    secret, log = folder / "secret", folder / "access.log"
    secret.write_text("")
    secret.chmod(0o600)
    log.symlink_to(secret)
    with start("--user", USER, "--access-logfile", str(log), cwd=folder) as server:
        assert secret.stat().st_uid == 0
        server.wait_log("Cannot open the access log")
        ask(server)


def test_a_reload_may_change_the_user(folder: Path, user: pwd.struct_passwd) -> None:
    config = folder / "licorne.conf.py"
    config.write_text(f'user = "{USER}"\nboot_grace = 0.1')
    with start(cwd=folder) as server:
        config.write_text('user = "no-such-user"\nboot_grace = 0.1')
        server.send_signal(signal.SIGHUP)
        server.wait_log(r'\[ERROR\] user = "no-such-user": there is no such user')
        server.wait_log("generation 1 serves on")
        config.write_text(f'user = "{USER}"\ngroup = 12345\nboot_grace = 0.1')
        server.send_signal(signal.SIGHUP)
        server.wait_log("Worker .* has left")
        assert ask(server)["gids"] == [12345] * 3


def test_the_end_of_the_master_is_noticed_while_the_application_loads(folder: Path, user: pwd.struct_passwd) -> None:
    """The kernel forgets whom a process wanted to die with when its user changes."""
    (folder / "a.py").write_text("print('loading', flush=True)\nimport time; time.sleep(1000)")
    with start("--user", USER, "--preload", cwd=folder, wait=False) as server:
        wait_until(lambda: "loading" in server.output)
        server.stop(signal.SIGKILL)
        server.assert_nothing_left(5)


def test_an_executable_is_exchanged(folder: Path, user: pwd.struct_passwd) -> None:
    """The new master is root again, and its workers are not."""
    with start("--user", USER, cwd=folder) as server:
        server.send_signal(signal.SIGUSR2)
        new = int(server.wait_log(r"The new master (\d+) is ready")[0][1])
        assert uid_of(new) == 0
        server.stop()
        assert ask(server)["uids"] == [user.pw_uid] * 3
        os.kill(new, signal.SIGTERM)
        wait_until(lambda: not alive(new))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--user", "no-such-user"], 'user = "no-such-user": there is no such user'),
        (["--user", "99999999999"], 'user = "99999999999": there is no such user'),
        (["--group", "no-such-group"], 'group = "no-such-group": there is no such group'),
        (["--user", "12345"], 'user = "12345" has no entry in the user database: say the group too (--group)'),
    ],
)
def test_unknown(folder: Path, args: list[str], says: str) -> None:
    with Server("a:app", *args, cwd=folder, wait=False) as server:
        assert server.wait_exit() == 1
        assert f"[ERROR] {says}" in server.log
        assert "Listening" not in server.log


def test_who_is_not_root_cannot_become_another(folder: Path, user: pwd.struct_passwd) -> None:
    become = f"import os, sys; os.setgid({user.pw_gid}); os.setuid({user.pw_uid}); os.execv(sys.argv[1], sys.argv[1:])"
    program = [*opened(), sys.executable, "-c", become, *command()]
    with Server("a:app", "--user", "root", cwd=folder, program=program, wait=False) as server:
        assert server.wait_exit() == 1
        assert f'[ERROR] user = "root": only root can become another one, and this is user {user.pw_uid}' in server.log
    with Server("a:app", "--user", USER, "--group", str(user.pw_gid), cwd=folder, program=program) as server:
        assert ask(server)["uids"] == [user.pw_uid] * 3  # already
