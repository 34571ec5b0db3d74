"""What a Consumer's payload type is, and what its handlers take."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, assert_type

import anyio

import redisaq
from redisaq import BatchCallback, Callback, Consumer, Message
from redisaq.consuming.pulling import Messages
from redisaq.consuming.statistics import ConsumerStatistics
from tests.typing.cases.payloads import Note, Order, Refund

# -- which Consumer it is ------------------------------------------------------------------------------------------------------

assert_type(Consumer("orders"), Consumer[Any])
assert_type(Consumer("orders", "redis://localhost", group_name="billing", batch_size=5), Consumer[Any])
assert_type(Consumer("orders", payload_type=None), Consumer[Any])
assert_type(Consumer("orders", payload_type=Order), Consumer[Order])
assert_type(Consumer("orders", payload_type=Refund), Consumer[Refund])
assert_type(Consumer("orders", payload_type=Note), Consumer[Note])
assert_type(Consumer("orders", payload_type=dict[str, int]), Consumer[dict[str, int]])
assert_type(Consumer("orders", payload_type=Order, ordering="key", concurrency=8), Consumer[Order])

either: Consumer[Order | Refund] = Consumer("orders", payload_type=Order | Refund)
assert_type(either, Consumer[Order | Refund])
assert_type(Consumer[Order | Refund]("orders", payload_type=Order | Refund), Consumer[Order | Refund])

# mypy takes this for "as annotated": it cannot know that a class is none of the other forms.
wrong: Consumer[Refund] = Consumer("orders", payload_type=Order)  # pyright: ignore[reportAssignmentType]

# -- settings that do not exist, or cannot be what they are -----------------------------------------------------------------------

Consumer("orders", batchsize=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
Consumer("orders", batch_size="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Consumer("orders", ordering="topic")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Consumer("orders", "redis://localhost", "billing")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
Consumer()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# -- handlers ------------------------------------------------------------------------------------------------------------------


async def take_order(message: Message[Order]) -> None:
    assert_type(message.payload, Order)
    assert_type(message.headers, Mapping[str, str])


async def take_refund(message: Message[Refund]) -> None: ...


async def take_either(message: Message[Order | Refund]) -> None: ...


async def take_any(message: Message[Any]) -> str:
    raise NotImplementedError


def take_plainly(message: Message[Order]) -> int:
    raise NotImplementedError


async def take_orders(messages: list[Message[Order]]) -> None: ...


class Desk:
    async def __call__(self, message: Message[Order]) -> None: ...

    async def take(self, message: Message[Order]) -> None: ...


async def take_with(desk: Desk, message: Message[Order]) -> None: ...


async def handlers_of_one(consumer: Consumer[Order]) -> None:
    await consumer.process(take_order)
    await consumer.process(take_any, until_empty=True)
    await consumer.process(take_plainly)
    await consumer.process(Desk())
    await consumer.process(Desk().take)
    await consumer.process(functools.partial(take_with, Desk()))
    await consumer.process(lambda message: assert_type(message, Message[Order]))
    await consumer.process(take_refund)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await consumer.process(take_orders)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await consumer.process()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def handlers_of_a_union() -> None:
    await either.process(take_either)
    await either.process(take_order)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def handlers_of_many(consumer: Consumer[Order]) -> None:
    await consumer.process_batch(take_orders)
    await consumer.process_batch(take_orders, batch_size=100, batch_wait=0.5, until_empty=True)
    await consumer.process_batch(lambda messages: assert_type(messages, list[Message[Order]]))
    await consumer.process_batch(take_order)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def handlers_of_anything(consumer: Consumer[Any]) -> None:
    await consumer.process(take_order)
    await consumer.process(take_any)
    await consumer.process_batch(take_orders)


one: Callback[Order] = take_order
plain: Callback[Order] = take_plainly
many: BatchCallback[Order] = take_orders
not_one: Callback[Order] = take_refund  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
not_many: BatchCallback[Order] = take_order  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

# -- running, pulling, looking -----------------------------------------------------------------------------------------------------


async def in_a_nursery(consumer: Consumer[Order]) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, take_order)
        await tasks.start(consumer.process_batch, take_orders)
        tasks.start_soon(consumer.process, take_order)
        assert_type(await consumer.stop(), None)


def as_a_program(consumer: Consumer[Order]) -> None:
    redisaq.run(consumer.process, take_order, backend="trio", until_empty=True)
    redisaq.run(consumer.process, take_order, backend="gevent")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def pulling() -> None:
    async with Consumer("orders", payload_type=Order) as consumer:
        assert_type(consumer, Consumer[Order])
        async with consumer.messages(until_empty=True) as messages:
            assert_type(messages, Messages[Order])
            async for message in messages:
                assert_type(message, Message[Order])
                async with message as entered:
                    assert_type(entered, Message[Order])
                    assert_type(entered.payload, Order)
                assert_type(message.lost, bool)


def looking(consumer: Consumer[Order], message: Message[Order]) -> None:
    assert_type(consumer.assignment, Mapping[int, int])
    assert_type(consumer.statistics(), ConsumerStatistics)
    assert_type((message.msg_id, message.entry_id), tuple[str, str])
    assert_type((message.partition, message.attempt, message.token), tuple[int, int, int])
    assert_type((message.key, message.timeout), tuple[str | None, float | None])
