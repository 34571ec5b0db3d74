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
from redisaq.core.records import Body, decode_dead, encode_retry

Entries = list[tuple[bytes, list[bytes]]]


class DeadLetters:
    """The steps of the Graveyard."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def page(self, group: GroupName, partition: int, *, after: bytes, count: int) -> list[DeadLetterEntry]:
        """Return a page of dead letters; see Graveyard."""
        return [DeadLetterEntry(dead_id, decode_dead(words)) for dead_id, words in await self._range(group, partition, after, count)]

    async def redrive(self, group: GroupName, partition: int, ids: Sequence[bytes] | None, *, count: int) -> int:
        """Let up to `count` be tried again; see Graveyard."""
        found = await (self._range(group, partition, b"", count) if ids is None else self._find(group, partition, ids, count))
        if not found:
            return 0
        keys = self._keys.of_partition(group, partition)
        words: list[Argument] = [keys.dead, keys.retry, keys.retry_bodies, keys.lease]
        words.append(self._keys.partition_doorbell(group.topic, partition))
        for dead_id, fields in found:
            dead = decode_dead(fields)
            words += [dead_id, dead.entry_id, encode_retry(Body(dead.entry_id, dead.fields, dead.life + 1))]
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

    async def _find(self, group: GroupName, partition: int, ids: Sequence[bytes], count: int) -> Entries:
        """Return the first `count` of these that are there, without ever asking for more at once."""
        dead = self._keys.of_partition(group, partition).dead
        wanted = sorted(set(ids), key=parse_id)
        found: Entries = []
        while wanted and len(found) < count:
            missing = count - len(found)
            commands: list[Command] = [(b"XRANGE", dead, dead_id, dead_id) for dead_id in wanted[:missing]]
            wanted = wanted[missing:]
            found += [entry for reply in await run_each(self._link, commands) for entry in cast("Entries", reply)]
        return found
