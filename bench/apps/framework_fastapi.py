"""A FastAPI application."""

from fastapi import FastAPI
from pydantic import BaseModel


class Item(BaseModel):
    id: int
    name: str


app = FastAPI()


@app.get("/items/{item_id}")
async def item(item_id: int, q: str) -> Item:
    return Item(id=item_id, name=q)
