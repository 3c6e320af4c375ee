"""Rows of PostgreSQL through asyncpg's pool."""

import json
import os

import asyncpg

pool = None
HEADERS = [(b"content-type", b"application/json")]


async def query(path):
    global pool
    if pool is None:
        pool = await asyncpg.create_pool(os.environ["BENCH_POSTGRES_URL"], min_size=4, max_size=4)
    async with pool.acquire() as connection:
        return await connection.fetchrow("select id, value from world where id = $1", int(path.rpartition("/")[2]))


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    path = scope["path"] if scope["path"].startswith("/world/") else "/world/1"
    row = await query(path)
    body = json.dumps({"id": row["id"], "value": row["value"]}).encode()
    headers = [*HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
