"""What an App's parts take, and how handlers come back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, assert_type

import redisaq
from redisaq import App, Message, Topic
from redisaq.middleware import Next, Outgoing
from tests.typing.cases.payloads import Order


class Resources:
    rate: int = 2


@asynccontextmanager
async def resources(app: App[Resources]) -> AsyncGenerator[Resources]:
    assert_type(app.state.rate, int)
    yield Resources()


async def tenant(messages: tuple[Message[Any], ...], call_next: Next) -> None:
    raise NotImplementedError


def note(outgoing: Outgoing) -> None:
    outgoing.headers["tenant"] = "1"


app = App("redis://localhost:6379/0", namespace="shop", lifespan=resources, middleware=[tenant], on_send=note)
assert_type(app, App[Resources])
assert_type(App(), App[None])
assert_type(app.state, Resources)

orders = app.topic("orders", Order, partitions=8, retention="acked")
assert_type(orders, Topic[Order])
assert_type(app.topic("anything"), Topic[Any])
app.topic("orders", Order, partition=8)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


@orders.consumer("billing", ordering="key", concurrency=50)
async def bill(message: Message[Order]) -> None:
    raise NotImplementedError


@orders.consumer("mail")
def mail(message: Message[Order]) -> int:
    raise NotImplementedError


@orders.batch_consumer("warehouse", batch_size=500, batch_wait=0.2)
async def load(messages: list[Message[Order]]) -> None:
    raise NotImplementedError


@orders.consumer("everything")
async def everything(message: Message[object]) -> None:
    raise NotImplementedError


@orders.consumer("wrong")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def wrong(message: Message[str]) -> None:
    raise NotImplementedError


orders.consumer("billing", orderin="key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
orders.consumer("billing", namespace="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

mailing: Callable[[Message[Order]], int] = mail
billing: Callable[[Message[Order]], Coroutine[Any, Any, None]] = bill


async def producing() -> None:
    assert_type(await orders.enqueue(Order(1), key="user-7"), str)
    assert_type(await orders.enqueue(Message("orders", Order(1))), str)
    assert_type(await orders.batch_enqueue([Order(1)], partition_key="number"), list[str])
    await orders.enqueue("no order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with app:
        await app.serve()
    redisaq.run(app, backend="trio")
