"""One row of a table of PostgreSQL by its key: asyncpg's pool for ASGI, psycopg's for WSGI."""

from harness.figures import ahead_of_all
from harness.loads import Load, get

LOAD = Load(
    apps={"asgi": "postgres_asgi:app", "wsgi": "postgres_wsgi:app"},
    request=get("/world/7"),
    body=b'{"id": 7, "value": 49}',
    connections=16,
    needs=["postgres", "frameworks"],
    goals={"asgi": ahead_of_all(), "wsgi": ahead_of_all()},
)
