"""Strawberry: a GraphQL subscription over graphql-transport-ws, and queries over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import strawberry
from strawberry.asgi import GraphQL


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "hello"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, target: int) -> AsyncGenerator[int, None]:
        for number in range(target):
            yield number
            await asyncio.sleep(0)


app = GraphQL(strawberry.Schema(query=Query, subscription=Subscription))
