"""A member that kills itself (SIGKILL) directly before or after one of its broker's steps: `python -m tests.chaos.doomed '{"kind": …}'`.

It begins a redrive, then works until nothing is left. It writes a line of JSON for each handler that begins and ends, and for its last
step. One that ends by itself has never come to its step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal

import anyio
import msgspec

from redisaq import Consumer, Message, RetryPolicy
from redisaq.brokers.base import GroupName
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.reader import RedisReader
from redisaq.link import Link, parse_address

GROUP = GroupName("jobs", "default_group")
ATTEMPTS = 3
INTERVAL, TTL = 0.3, 1.5


class Doom(msgspec.Struct, frozen=True, kw_only=True):
    """When the member is to die: at the `nth` step of the kind ("resolve dead": one that makes a dead letter)."""

    kind: str
    side: Literal["before", "after"]
    nth: int = 1
    blocking: bool = False


class Order(msgspec.Struct, kw_only=True):
    """What the member is to do, and where."""

    doom: Doom
    url: str
    namespace: str
    backend: str
    dead_id: bytes


class Line(msgspec.Struct, kw_only=True):
    """What happened.

    A handler: "start", "failed", "done". An attempt is about to be written down: "noted". The step: "before", "after".
    """

    what: str
    n: int = -1
    attempt: int = 0
    entries: list[str] = []


@contextlib.asynccontextmanager
async def broker_of(url: str, namespace: str) -> AsyncGenerator[RedisBroker, None]:
    """Open a broker of its own."""
    broker = RedisBroker(Link(parse_address(url)), namespace)
    try:
        await broker.connect()
        yield broker
    finally:
        await broker.close()


def consumer_of(url: str, namespace: str, *, blocking: bool) -> Consumer[Any]:
    """Return a consumer that tries each message three times, soon."""
    policy = RetryPolicy(max_attempts=ATTEMPTS, backoff=0.01, jitter=False, blocking=blocking)
    return Consumer("jobs", url, namespace=namespace, heartbeat_interval=INTERVAL, heartbeat_ttl=TTL, retry=policy)


def handler(say: Callable[[Line], object]) -> Callable[[Message[Any]], Any]:
    """Return a handler that fails as often as the payload says, and tells what it does."""

    async def handle(message: Message[Any]) -> None:
        n = message.payload["n"]
        say(Line(what="start", n=n, attempt=message.attempt, entries=[message.entry_id]))
        if message.attempt <= message.payload["failures"]:
            say(Line(what="failed", n=n, attempt=message.attempt, entries=[message.entry_id]))
            raise ValueError("as the payload says")
        say(Line(what="done", n=n, attempt=message.attempt, entries=[message.entry_id]))

    return handle


def tell(line: Line) -> None:
    """Write one line, whole."""
    os.write(1, msgspec.json.encode(line) + b"\n")


def _entries(goal: str, args: Sequence[Any]) -> list[str] | None:
    """Return the entries that a step settles, of one goal if one is asked for; None if it is not such a step."""
    match args:
        case [_, _, _, [*resolutions]] if goal:
            found = [one.body.entry_id.decode() for one in resolutions if one.to == goal]
            return found or None
        case [_, [*acks]]:
            return [entry_id.decode() for ack in acks for entry_id in getattr(ack, "entry_ids", ())]
        case _:
            return []


def install(doom: Doom) -> None:
    """Let the nth step of the kind be the last one of this process."""
    name, _, goal = doom.kind.partition(" ")
    owner: Any = RedisReader if name == "read" else RedisBroker
    whole = getattr(owner, name)
    left = doom.nth

    async def step(self: Any, *args: Any, **more: Any) -> Any:
        nonlocal left
        entries = _entries(goal, args)
        if entries is None:
            return await whole(self, *args, **more)
        left -= 1
        if not left and doom.side == "before":
            tell(Line(what="before", entries=entries))
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await whole(self, *args, **more)
        if not left:
            tell(Line(what="after", entries=entries))
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, name, step)


def tell_of_noting() -> None:
    """Tell of each step that writes down an attempt, before it is sent: whether it was done, a killed process cannot know."""
    set_deliveries, start_retry = RedisBroker.set_deliveries, RedisBroker.start_retry

    async def counting(
        self: RedisBroker, group: GroupName, partition: int, token: int, counts: Mapping[bytes, int], *, raising: bool = False
    ) -> bool:
        tell(Line(what="noted", entries=[entry_id.decode() for entry_id in counts]))
        return await set_deliveries(self, group, partition, token, counts, raising=raising)

    async def starting(self: RedisBroker, *args: Any, entry_id: bytes, **more: Any) -> bool:
        tell(Line(what="noted", entries=[entry_id.decode()]))
        return await start_retry(self, *args, entry_id=entry_id, **more)

    RedisBroker.set_deliveries, RedisBroker.start_retry = counting, starting  # type: ignore[method-assign]


async def work(order: Order) -> None:
    """Redrive, then work until nothing is left."""
    async with broker_of(order.url, order.namespace) as broker:
        await broker.redrive(GROUP, 0, [order.dead_id], count=1)
    await consumer_of(order.url, order.namespace, blocking=order.doom.blocking).process(handler(tell), until_empty=True)


def main() -> None:
    """Run until the end."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    tell_of_noting()
    install(order.doom)
    if order.backend == "trio":
        anyio.run(work, order, backend="trio")
    else:
        anyio.run(work, order, backend_options={"use_uvloop": order.backend == "uvloop"})


if __name__ == "__main__":
    main()
