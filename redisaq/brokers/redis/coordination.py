"""A group's coordination: heartbeats, and the document's compare-and-set (M2 to M9).

In come incarnations and documents; out go Beats and versions. The document is opaque to the server; the scripts beside it decide
under the server's own clock. What always holds: it is replaced only under its own version, and together with the members.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.base import Beat, GroupName
from redisaq.brokers.redis.commands import Caller, milliseconds, run
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import COMMIT, HEARTBEAT
from redisaq.brokers.redis.topics import topic_state
from redisaq.core.document import Document, decode, encode


class Coordination:
    """The steps of the Broker about the group's document."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def heartbeat(self, group: GroupName, incarnation: str, ttl: float, known_version: str) -> Beat:
        """Extend the incarnation's time if it lives; see Broker."""
        keys = self._keys.group(group)
        command = HEARTBEAT(keys.members, keys.state, keys.meta, incarnation, milliseconds(ttl), known_version)
        answer = await run(self._link, command)
        alive, now, version, document, expired, next_expiry, generation, partitions, born, frozen_until, paused, *kept = answer
        return Beat(
            alive=alive == 1,
            now=int(now),
            version=version.decode(),
            document=None if document is None else decode(document),
            expired=tuple(sorted(incarnation.decode() for incarnation in expired)),
            next_expiry=None if next_expiry is None else _microseconds(next_expiry),
            topic=topic_state(generation, partitions, *kept),
            born=_microseconds(born),
            frozen_until=_microseconds(frozen_until),
            paused=paused == 1,
        )

    async def commit(
        self,
        group: GroupName,
        incarnation: str,
        ttl: float,
        *,
        known_version: str,
        new_version: str,
        document: Document,
        joins: bool,
        leaves: bool,
        freeze: bool,
        expired: Sequence[str],
    ) -> bool:
        """Replace the document by one of the new version; False if refused. See Broker."""
        keys = self._keys.group(group)
        command = COMMIT(
            keys.members,
            keys.state,
            keys.doorbell,
            incarnation,
            milliseconds(ttl),
            known_version,
            new_version,
            encode(document),
            int(joins),
            int(leaves),
            int(freeze),
            *expired,
        )
        return bool(await run(self._link, command))


def _microseconds(milliseconds: bytes) -> int:
    return int(milliseconds) * 1000
