"""What says how a message is retried, delayed, known again and looked after."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type

from redisaq import Admin, Consumer, DeadLetter, Discard, Message, PartialFailure, Producer, RetryAfter, RetryPolicy
from tests.typing.cases.payloads import Order

# -- policies ------------------------------------------------------------------------------------------------------------------

Consumer("orders", retry=RetryPolicy(max_attempts=5, backoff=1, factor=2, max_backoff=300, jitter=True, blocking=False))
Consumer("orders", retry=RetryPolicy(give_up_on=(ValueError, KeyError)), timeout=2.5, dead_maxlen=1000)
RetryPolicy(give_up_on=ValueError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
RetryPolicy(attempts=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Consumer("orders", retry=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

# -- what handlers raise -------------------------------------------------------------------------------------------------------


async def one(message: Message[Order]) -> None:
    if message.attempt > 1:
        raise RetryAfter(30)
    if not message.payload.number:
        raise DeadLetter("it has no number")
    raise Discard


async def many(messages: list[Message[Order]]) -> None:
    raise PartialFailure({message: ValueError(message.payload.number) for message in messages})


RetryAfter("30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
DeadLetter()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
PartialFailure([])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def consuming() -> None:
    await Consumer("orders", payload_type=Order).process(one)
    await Consumer("orders", payload_type=Order).process_batch(many)


# -- delays and deduplication ----------------------------------------------------------------------------------------------------


async def producing(producer: Producer) -> None:
    assert_type(await producer.enqueue(Order(1), delay=60, dedup_id="invoice-9", dedup_window=3600), str)
    assert_type(await producer.enqueue(Order(1), at=datetime.now(UTC)), str)
    await producer.enqueue(Order(1), at="tomorrow")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await producer.enqueue(Order(1), delay="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- looking after -----------------------------------------------------------------------------------------------------------------


async def looking() -> None:
    async with Admin("redis://localhost") as admin:
        async for dead in admin.dead_letters("orders", "billing"):
            assert_type(dead.msg_id, str)
            assert_type(dead.key, str | None)
            await admin.redrive("orders", "billing", ids=[dead])
        assert_type(await admin.redrive("orders", "billing", ids=None), int)
        await admin.seek("orders", "billing", to="earliest")
        await admin.seek("orders", "billing", to=datetime.now(UTC))
        await admin.seek("orders", "billing", to={0: "5-0"})
        await admin.seek("orders", "billing", to="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
