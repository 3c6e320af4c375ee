"""What some rows need beside a server: context managers that give the application's environment variables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from apps.contents import text_of

from . import machine, servers

sys.path.append(str(machine.ROOT / "tests"))


@contextmanager
def frameworks() -> Iterator[dict[str, str]]:
    servers.make_site()
    yield {}


@contextmanager
def files() -> Iterator[dict[str, str]]:
    """Files whose names are their sizes. A server may have given up root's rights."""
    folder = machine.BUILD / "files"
    folder.mkdir(parents=True, exist_ok=True)
    for size in (102_400, 10_485_760):
        (folder / str(size)).write_bytes(text_of(size))
    yield {"BENCH_FILES": str(folder)}


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """A PostgreSQL of the bench's own, as the tests have one, with a table of 1 000 rows."""
    from support.databases import running_postgres

    with running_postgres() as database:
        database.run("create table world as select n as id, n * n as value from generate_series(1, 1000) n")
        database.run("alter table world add primary key (id)")
        url = f"postgresql://tests@/postgres?host={database.folder}"
        yield {"BENCH_POSTGRES": database.conninfo, "BENCH_POSTGRES_URL": url}
