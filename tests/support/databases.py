"""A PostgreSQL and a Redis of one's own: context managers, for the tests' fixtures (services.py) and for the bench.

Both live in a temporary folder and listen on unix sockets there, so nothing of the machine's own is met. PostgreSQL
refuses to run as root, so then it runs as `postgres`, the user that its Debian package makes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .server import wait_until


def postgres_binary(name: str) -> str:
    """Debian keeps most of them off the PATH, in a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    binary = str(found[-1]) if found else shutil.which(name)
    assert binary, f"{name} is not installed: `make test` installs it (Debian: postgresql)"
    return binary


def service_user() -> dict[str, object]:
    """Options of subprocess for a process that must not be root's."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def running(
    command: list[str], stop: signal.Signals, log: Path, **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def service_folder(prefix: str) -> Iterator[Path]:
    """Short, because a unix socket's path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(name, user.pw_uid, user.pw_gid)
        yield Path(name)


class Postgres:
    """`folder` holds the socket; the superuser is `tests`, trusted without password; the database is `postgres`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def sqlalchemy_url(self) -> str:
        return f"postgresql+asyncpg://tests@/postgres?host={self.folder}"

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=tests dbname=postgres"

    def run(self, query: str) -> list[tuple[str, ...]]:
        """The rows of a query, as text."""
        command = [postgres_binary("psql"), "-h", str(self.folder), "-U", "tests", "-AtX", "-F", "\x1f", "-c", query]
        done = subprocess.run([*command, "postgres"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return [tuple(line.split("\x1f")) for line in done.stdout.splitlines()]

    def answers(self) -> bool:
        check = [postgres_binary("pg_isready"), "-q", "-h", str(self.folder)]
        return subprocess.run(check, timeout=30).returncode == 0


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    with service_folder("licorne-pg-") as folder:
        data = folder / "data"
        initdb = [postgres_binary("initdb"), "-D", str(data), "-U", "tests", "-A", "trust", "--no-sync", "-E", "UTF8"]
        as_user = service_user()
        subprocess.run(initdb, check=True, capture_output=True, timeout=100, cwd=folder, **as_user)
        command = [postgres_binary("postgres"), "-D", str(data), "-k", str(folder)]
        settings = {"listen_addresses": "", "fsync": "off", "shared_buffers": "16MB", "max_connections": "60"}
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with running(command, signal.SIGINT, folder / "log", cwd=folder, **as_user) as process:
            database = Postgres(folder)
            wait_until(lambda: database.answers() or process.poll() is not None, "PostgreSQL")
            assert process.poll() is None, (folder / "log").read_text()
            yield database


@contextlib.contextmanager
def running_redis() -> Iterator[str]:
    """The path of its socket."""
    binary = shutil.which("redis-server")
    assert binary, "redis-server is not installed: `make test` installs it (Debian: redis-server)"
    with service_folder("licorne-redis-") as folder:
        path = folder / "redis.sock"
        command = [binary, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
        with running(command, signal.SIGTERM, folder / "log", cwd=folder) as process:
            wait_until(lambda: path.exists() or process.poll() is not None, "Redis")
            assert process.poll() is None, (folder / "log").read_text()
            yield str(path)
