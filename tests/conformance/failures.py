"""Short forms of what the tests of retries, dead letters and delays do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Heartbeat
from redisaq.brokers.steps.leases import Fence
from redisaq.brokers.steps.producing import Delayed
from redisaq.brokers.steps.retrying import DeadLetterEntry, Due, ReadDead, TakeDue
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body, Entry, Failure, Resolution
from tests.conformance.steps import SECOND, append

Source = Literal["stream", "retry"]
Goal = Literal["done", "retry", "dead"]


def failure(attempts: int = 1, text: str = "it broke") -> Failure:
    """Return what is known about a failure."""
    return Failure("ValueError", text, "Traceback …\nValueError", attempts, 1_700_000_000_000, 1_700_000_000_000 + attempts, "A")


def resolution(entry: Entry | Body, to: Goal, *, due: int = 1, attempt: int = 1, life: int = 0, used: bool = True) -> Resolution:
    """Return where a stream's entry goes, after its first attempt; or a message of `retry`, as it is there."""
    if isinstance(entry, Body):
        body = Body(entry.entry_id, entry.fields, entry.life, entry.attempt, failure(entry.attempt), entry.unused)
        return Resolution("retry", to, body, due, used)
    entry_id, fields = entry
    assert fields is not None
    return Resolution("stream", to, Body(entry_id, tuple(fields), life, attempt, failure(attempt)), due, used)


async def read(broker: Broker, group: GroupName, partition: int, token: int, incarnation: str = "A") -> list[Entry]:
    """Have all new entries delivered."""
    reader = await broker.open_reader(group, partition, token, incarnation)
    entries = await reader.read(100_000, 0)
    await reader.close()
    assert await broker.do(Fence(group, partition, token, [reader.mark]))
    return list(entries)


async def delivered(broker: Broker, group: GroupName, token: int, *values: bytes) -> list[Entry]:
    """Append these to partition 0 and have them delivered."""
    await append(broker, group.topic, 0, *values)
    return await read(broker, group, 0, token)


async def resolve(broker: Broker, group: GroupName, token: int, *resolutions: Resolution, dead_maxlen: int | None = None) -> list[bool]:
    """Resolve in partition 0 under a token that stands; return what was moved."""
    answer = await broker.do(Resolve(group, 0, token, resolutions, dead_maxlen=dead_maxlen))
    assert (answer.done, answer.token) == (True, token)
    assert len(answer.moved) == len(resolutions)
    return list(answer.moved)


async def now(broker: Broker, group: GroupName) -> int:
    """Return the server's time."""
    return (await broker.do(Heartbeat(group, "nobody", 1.0, ""))).now


async def due(broker: Broker, group: GroupName, token: int, count: int = 1000) -> Due:
    """Return what is due in partition 0."""
    return await broker.do(TakeDue(group, 0, token, count=count))


async def dead(broker: Broker, group: GroupName, partition: int = 0) -> list[DeadLetterEntry]:
    """Return all dead letters."""
    return await broker.do(ReadDead(group, partition, after=b"", count=100_000))


def value(body: Body) -> bytes:
    """Return what `append` put into the entry."""
    name, content = body.fields
    assert name == b"i"
    return content


def values_of(bodies: Sequence[Body]) -> list[bytes]:
    """Return what `append` put into them."""
    return [value(body) for body in bodies]


def message(name: bytes, due: int, partition: int = 0) -> Delayed:
    """Return a message for later; what `append` would put into its entry is its id."""
    return Delayed(partition, name, due, [b"i", name])


HOUR = 3600 * SECOND
