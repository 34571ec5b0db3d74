"""Short forms of what many conformance tests do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Commit
from redisaq.brokers.steps.leases import Claim, Fence, PendingEntry
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.brokers.terms import GroupName
from redisaq.core.deltas import Delta
from redisaq.core.history import Change
from redisaq.core.membership import Document
from redisaq.core.profile import Profile
from redisaq.core.records import Entry
from redisaq.core.waiting import Newcomer
from redisaq.environment import current_environment

SECOND = 1_000_000
"""Microseconds."""


class Changes(TypedDict, total=False):
    """What commit takes besides versions and document."""

    joins: bool
    leaves: bool
    freeze: bool
    expired: Sequence[str]
    former: Sequence[str]
    profile: Profile
    changes: Sequence[Change]
    delta: Delta | None
    admitted: Sequence[Newcomer]


async def commit_document(
    broker: Broker, group: GroupName, incarnation: str, ttl: float, *, known_version: str, document: Document, **changes: Unpack[Changes]
) -> str | None:
    """Commit a document under a new version; return that, None if it is refused."""
    version = current_environment().new_id()
    step = Commit(group, incarnation, ttl, known_version=known_version, new_version=version, document=document, **changes)
    return version if await broker.do(step) else None


async def append(broker: Broker, topic: str, partition: int, *values: bytes) -> list[bytes]:
    """Append an entry for each value; return their ids."""
    state = await broker.do(ReadTopic(topic))
    cuts = 0 if state is None else state.cuts
    ids = await broker.append(topic, [(partition, [b"i", value]) for value in values], maxlen=None, approximate=False, cuts=cuts)
    assert None not in ids
    return [entry_id for entry_id in ids if entry_id is not None]


def values(entries: Sequence[Entry | PendingEntry]) -> list[bytes]:
    """Return what `append` put into them."""
    found: list[bytes] = []
    for entry in entries:
        fields = entry.fields if isinstance(entry, PendingEntry) else entry[1]
        assert fields is not None
        field, value = fields
        assert field == b"i"
        found.append(value)
    return found


def ids(entries: Sequence[Entry | PendingEntry]) -> list[bytes]:
    """Return their ids."""
    return [entry.entry_id if isinstance(entry, PendingEntry) else entry[0] for entry in entries]


async def deliver(broker: Broker, group: GroupName, partition: int, token: int, incarnation: str, *, count: int = 1000) -> list[bytes]:
    """Deliver up to `count` new entries through a reader that ends cleanly; return their ids."""
    reader = await broker.open_reader(group, partition, token, incarnation)
    entries = await reader.read(count, 0)
    await reader.close()
    assert await broker.do(Fence(group, partition, token, [reader.mark]))
    return ids(entries)


async def pending(broker: Broker, group: GroupName, partition: int, token: int) -> dict[bytes, int]:
    """Return what is pending, with its delivery counts, in order."""
    page = await broker.do(Claim(group, partition, token, after=b"", count=100_000))
    assert page.trimmed == ()
    assert page.last is None
    return {entry.entry_id: entry.deliveries for entry in page.entries}
