"""One member of a group as a process of its own: `python -m tests.chaos.member '{"backend": …}'`.

It writes a line of JSON to its standard output for whatever its handlers do: when (CLOCK_MONOTONIC, the same for all processes), what,
where, under which token. SIGTERM drains it.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any, Literal

import anyio
import msgspec

import redisaq
from redisaq import Consumer, Message, RetryPolicy, events


class Order(msgspec.Struct, kw_only=True):
    """What the member is to do."""

    name: str
    url: str
    topic: str
    namespace: str
    group: str = "default_group"
    backend: Literal["asyncio", "uvloop", "trio"] = "asyncio"
    interval: float = 0.5
    ttl: float = 2.0
    step: float = 0.01
    steps: int = 3
    ordering: Literal["partition", "key", "none"] = "partition"
    attempts: int = 5
    blocking: bool = False


class Line(msgspec.Struct, kw_only=True):
    """What a member did."""

    at: float
    what: str
    name: str
    partition: int = -1
    token: int = 0
    msg_id: str = ""
    attempt: int = 0


def say(**line: Any) -> None:
    """Write one line, whole."""
    os.write(1, msgspec.json.encode(Line(at=time.monotonic(), **line)) + b"\n")


async def handle(message: Message[Any], *, order: Order) -> None:
    """Take some steps, and tell each; fail as often as the payload says."""
    place = {"partition": message.partition, "token": message.token, "msg_id": message.msg_id}
    tell = functools.partial(say, name=order.name, attempt=message.attempt, **place)
    tell(what="start")
    end = "cancelled"
    try:
        for _ in range(order.steps):
            await anyio.sleep(order.step)
            tell(what="step")
        if message.attempt <= message.payload.get("failures", 0):
            end = "failed"
            raise ValueError("as the payload says")
        end = "done"
    finally:
        tell(what=end)


def note(event: events.Event, *, order: Order) -> None:
    """Tell what happens to partitions."""
    if isinstance(event, events.PartitionEvent):
        say(what=type(event).__name__, name=order.name, partition=event.partition, token=event.token)
    elif isinstance(event, events.MemberJoined):
        say(what="joined", name=order.name)


def main() -> None:
    """Run the member until it gets a signal to stop."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    consumer: Consumer[Any] = Consumer(
        order.topic,
        order.url,
        namespace=order.namespace,
        group_name=order.group,
        heartbeat_interval=order.interval,
        heartbeat_ttl=order.ttl,
        ordering=order.ordering,
        retry=RetryPolicy(max_attempts=order.attempts, backoff=0.05, blocking=order.blocking),
        on_event=functools.partial(note, order=order),
    )
    redisaq.run(consumer.process, functools.partial(handle, order=order), backend=order.backend)


if __name__ == "__main__":
    main()
