"""Rows of PostgreSQL through psycopg's pool."""

import json
import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["BENCH_POSTGRES"], min_size=4, max_size=4, open=False)


def app(environ, start_response):
    if pool.closed:
        pool.open()  # in the worker, not where it may have been imported before a fork
    path = environ["PATH_INFO"] if environ["PATH_INFO"].startswith("/world/") else "/world/1"
    with pool.connection() as connection:
        query = "select id, value from world where id = %s"
        row = connection.execute(query, [int(path.rpartition("/")[2])], prepare=True).fetchone()
    body = json.dumps({"id": row[0], "value": row[1]}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
