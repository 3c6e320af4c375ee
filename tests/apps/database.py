"""A database-backed app: SQLAlchemy over asyncpg, psycopg's pool, redis-py; pools that live as long as the worker.

POSTGRES_URL (SQLAlchemy's), POSTGRES_CONNINFO (libpq's) and REDIS_SOCKET say where. Accounts are rows; a transfer is a
transaction; /sleep stands for a query that takes long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import psycopg_pool
import redis.asyncio
from sqlalchemy import ForeignKey, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]
    entries: Mapped[list[Entry]] = relationship(back_populates="account")


class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    amount: Mapped[int]
    account: Mapped[Account] = relationship(back_populates="entries")


ACCOUNTS = 8
POOL_SIZE = 4


@contextlib.asynccontextmanager
async def lifespan(app: Starlette):
    engine = create_async_engine(os.environ["POSTGRES_URL"], pool_size=POOL_SIZE, max_overflow=0, pool_timeout=20)
    async with engine.begin() as connection:  # the lock: each worker starts, one makes the tables
        await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        await connection.run_sync(Base.metadata.create_all)
        if not (await connection.execute(select(func.count()).select_from(Account))).scalar():
            await connection.execute(Account.__table__.insert(), [{"balance": 1000} for _ in range(ACCOUNTS)])
    cache = redis.asyncio.Redis(unix_socket_path=os.environ["REDIS_SOCKET"], max_connections=100)
    conninfo = os.environ["POSTGRES_CONNINFO"]
    async with psycopg_pool.AsyncConnectionPool(conninfo, min_size=1, max_size=POOL_SIZE, timeout=20) as pool:
        yield {
            "engine": engine,
            "sessions": async_sessionmaker(engine, expire_on_commit=False),
            "pool": pool,
            "cache": cache,
            "seen": {"cancelled": 0},
        }
    await cache.aclose()
    await engine.dispose()


async def transfer(request: Request) -> Response:
    """Takes and gives in one transaction; `fail` raises between the two, so neither must have happened."""
    wish = await request.json()
    sessions: async_sessionmaker[AsyncSession] = request.state.sessions
    async with sessions() as session, session.begin():
        for account, amount in sorted({wish["from"]: -wish["amount"], wish["to"]: wish["amount"]}.items()):
            await session.execute(update(Account).where(Account.id == account).values(balance=Account.balance + amount))
            session.add(Entry(account_id=account, amount=amount))
            await session.flush()
            if wish.get("fail"):
                raise RuntimeError("on purpose, in the middle of a transaction")
    await request.state.cache.incr("transfers")
    return JSONResponse({"worker": os.getpid()})


async def accounts(request: Request) -> Response:
    async with request.state.sessions() as session:
        rows = await session.scalars(select(Account).options(selectinload(Account.entries)).order_by(Account.id))
        found = [{"id": row.id, "balance": row.balance, "entries": [e.amount for e in row.entries]} for row in rows]
    return JSONResponse({"accounts": found, "transfers": int(await request.state.cache.get("transfers") or 0)})


async def sleep(request: Request) -> Response:
    """pg_sleep(seconds), for at most `limit` seconds: by SQLAlchemy, or by psycopg."""
    seconds, limit = float(request.query_params["seconds"]), float(request.query_params.get("limit", "60"))
    driver = request.path_params["driver"]
    try:
        await asyncio.wait_for(sleep_by(driver, request.state, seconds), limit)
    except (asyncio.TimeoutError, TimeoutError):
        return PlainTextResponse("too slow\n", 504)
    except asyncio.CancelledError:
        request.state.seen["cancelled"] += 1
        raise
    return PlainTextResponse("slept\n")


async def sleep_by(driver: str, state, seconds: float) -> None:
    if driver == "sqlalchemy":
        async with state.sessions() as session:
            await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
    elif driver == "psycopg":
        async with state.pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(%s)", [seconds])
    else:
        await state.cache.blpop(["never"], timeout=seconds)


async def watched(request: Request) -> Response:
    """A long query that ends when the client leaves: the app waits for whichever comes first."""
    query = asyncio.ensure_future(sleep_by(request.path_params["driver"], request.state, 60))
    gone = asyncio.ensure_future(disconnect(request))
    try:
        await asyncio.wait([query, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (query, gone):
            task.cancel()
        await asyncio.gather(query, gone, return_exceptions=True)
    request.state.seen["cancelled"] += query.cancelled()
    return Response(status_code=499)


async def disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def rows(request: Request) -> Response:
    """Rows by a server-side cursor, sent as they come."""
    count = request.path_params["count"]

    async def lines():
        async with request.state.pool.connection() as connection, connection.cursor(name="rows") as cursor:
            await cursor.execute("SELECT n, md5(n::text) FROM generate_series(1, %s) n", [count])
            async for number, digest in cursor:
                yield f"{number} {digest}\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def subscribe(request: Request) -> Response:
    """What is published on a Redis channel, from whichever worker."""

    async def messages():
        async with request.state.cache.pubsub() as channel:
            await channel.subscribe("news")
            yield b"data: subscribed\n\n"
            while True:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=0.5)
                yield b"data: " + message["data"] + b"\n\n" if message else b": still here\n\n"

    return StreamingResponse(messages(), media_type="text/event-stream")


async def publish(request: Request) -> Response:
    heard = await request.state.cache.publish("news", await request.body())
    return JSONResponse({"heard": heard, "worker": os.getpid()})


async def pools(request: Request) -> Response:
    """How many connections are out, and what was seen; so that a test can wait for it."""
    pool: psycopg_pool.AsyncConnectionPool = request.state.pool
    stats = pool.get_stats()
    return JSONResponse(
        {
            "sqlalchemy": request.state.engine.pool.checkedout(),
            "psycopg": stats["pool_size"] - stats["pool_available"],
            "cancelled": request.state.seen["cancelled"],
            "tasks": len(asyncio.all_tasks()),
            "worker": os.getpid(),
        }
    )


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/transfer", transfer, methods=["POST"]),
        Route("/accounts", accounts),
        Route("/sleep/{driver}", sleep),
        Route("/watched/{driver}", watched),
        Route("/rows/{count:int}", rows),
        Route("/news", subscribe),
        Route("/news", publish, methods=["POST"]),
        Route("/pools", pools),
    ],
)
