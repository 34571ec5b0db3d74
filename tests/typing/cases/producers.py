"""What a Producer takes and returns."""

from __future__ import annotations

from typing import assert_type

from redisaq import Message, Producer
from redisaq.producer import ProducerStatistics
from tests.typing.cases.payloads import Order


def to_text(payload: object) -> str:
    raise NotImplementedError


def to_bytes(payload: object) -> bytes:
    raise NotImplementedError


def to_number(payload: object) -> int:
    raise NotImplementedError


async def to_bytes_later(payload: object) -> bytes:
    raise NotImplementedError


def settings() -> None:
    Producer("orders")
    Producer("orders", "redis://localhost:6379/0", init_partitions=3, maxlen=1000, approximate=False, namespace="shop")
    Producer(topic="orders", serializer=to_text)
    Producer(topic="orders", serializer=to_bytes)
    Producer(topic="orders", serializer=to_number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Producer(topic="orders", serializer=to_bytes_later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Producer("orders", max_len=1000)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Producer("orders", maxlen="1000")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Producer("orders", "redis://localhost", 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Producer()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def producing() -> None:
    async with Producer("orders") as producer:
        assert_type(producer, Producer)
        assert_type(await producer.enqueue({"number": 1}), str)
        assert_type(await producer.enqueue(Order(1), key="1", headers={"trace": "7"}, timeout=30), str)
        assert_type(await producer.enqueue(Message("orders", Order(1), partition_key="number")), str)
        assert_type(await producer.batch_enqueue([Order(1), Order(2)], partition_key="number"), list[str])
        assert_type(await producer.batch_enqueue(Order(number) for number in range(3)), list[str])
        assert_type(await producer.request_partition_increase(8), int)
        assert_type(producer.statistics(), ProducerStatistics)
        await producer.enqueue(Order(1), key=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await producer.enqueue(Order(1), partition=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await producer.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await producer.batch_enqueue(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def messages() -> None:
    assert_type(Message("orders", Order(1)), Message[Order])
    assert_type(Message(topic="orders", payload={"number": 1}, timeout=2.5), Message[dict[str, int]])
    Message("orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
