"""A PostgreSQL and a Redis of the tests' own, started once per run: fixtures `postgres` and `redis`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .databases import Postgres, running_postgres, running_redis


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as database:
        yield database


@pytest.fixture(scope="session")
def redis() -> Iterator[str]:
    with running_redis() as path:
        yield path
