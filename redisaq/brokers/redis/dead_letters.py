"""Dead letters: looking at them, letting them be tried again, dropping them.

In come ids; out go dead letters, or how many there were. What always holds: a message leaves the dead letters in the same step in which
it enters `retry`; its body is made here, between, since an entry never changes while it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redisaq.brokers.graveyard import DeadLetterEntry
from redisaq.brokers.redis.commands import Caller, run, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import REDRIVE, Argument, Command
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import parse_id
from redisaq.core.records import Body, encode_retry, next_life, read_dead

Entries = list[tuple[bytes, list[bytes]]]
Redriven = tuple[bytes, Body]


class DeadLetters:
    """The steps of the Graveyard."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def page(self, group: GroupName, partition: int, *, after: bytes, count: int) -> list[DeadLetterEntry]:
        """Return a page of dead letters; see Graveyard."""
        page = await self._range(group, partition, after, count)
        return [DeadLetterEntry(dead_id, read_dead(dead_id, words)) for dead_id, words in page]

    async def redrive(self, group: GroupName, partition: int, ids: Sequence[bytes] | None, *, count: int) -> int:
        """Let up to `count` be tried again; see Graveyard."""
        found = await (self._first(group, partition, count) if ids is None else self._named(group, partition, ids, count))
        if not found:
            return 0
        keys = self._keys.of_partition(group, partition)
        words: list[Argument] = [keys.dead, keys.retry, keys.retry_bodies, keys.lease]
        words.append(self._keys.partition_doorbell(group.topic, partition))
        for dead_id, body in found[:count]:
            words += [dead_id, body.entry_id, encode_retry(body)]
        return cast("int", await run(self._link, REDRIVE(*words)))

    async def purge(self, group: GroupName, partition: int, ids: Sequence[bytes] | None) -> int:
        """Drop these, or all; see Graveyard."""
        dead = self._keys.of_partition(group, partition).dead
        if ids is None:
            # Trimmed, not deleted: ids must never come again, or a redrive of an older page would meet another message.
            return cast("int", await run(self._link, (b"XTRIM", dead, b"MAXLEN", b"=", 0)))
        return cast("int", await run(self._link, (b"XDEL", dead, *ids))) if ids else 0

    async def _range(self, group: GroupName, partition: int, after: bytes, count: int) -> Entries:
        dead = self._keys.of_partition(group, partition).dead
        return cast("Entries", await run(self._link, (b"XRANGE", dead, b"(" + after if after else b"-", b"+", b"COUNT", count)))

    async def _first(self, group: GroupName, partition: int, count: int) -> list[Redriven]:
        """Return the first `count` that may be redriven: what somebody else has put among them stays."""
        found: list[Redriven] = []
        after = b""
        while len(found) < count and (page := await self._range(group, partition, after, count)):
            found += _redriven(page)
            after = page[-1][0]
        return found

    async def _named(self, group: GroupName, partition: int, ids: Sequence[bytes], count: int) -> list[Redriven]:
        """Return the first `count` of these that are there and may be redriven, without ever asking for more at once."""
        dead = self._keys.of_partition(group, partition).dead
        wanted = sorted(set(ids), key=parse_id)
        found: list[Redriven] = []
        while wanted and len(found) < count:
            missing = count - len(found)
            commands: list[Command] = [(b"XRANGE", dead, dead_id, dead_id) for dead_id in wanted[:missing]]
            wanted = wanted[missing:]
            found += _redriven([entry for reply in await run_each(self._link, commands) for entry in cast("Entries", reply)])
        return found


def _redriven(entries: Entries) -> list[Redriven]:
    bodies = ((dead_id, next_life(read_dead(dead_id, words))) for dead_id, words in entries)
    return [(dead_id, body) for dead_id, body in bodies if body is not None]
