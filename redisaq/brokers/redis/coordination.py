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
from redisaq.core.membership import Document, encode_document, read_document
from redisaq.core.records import text_or_none, time_of


class Coordination:
    """The steps of the Broker about the group's document."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def heartbeat(self, group: GroupName, incarnation: str, ttl: float, known_version: str) -> Beat:
        """Extend the incarnation's time if it lives; see Broker."""
        keys = self._keys.group(group)
        command = HEARTBEAT(keys.members, keys.state, keys.meta, incarnation, milliseconds(ttl), _bytes(known_version))
        answer = await run(self._link, command)
        alive, now, version, document, expired, next_expiry, generation, partitions, born, frozen_until, paused, *kept = answer
        found = read_document(document) if version else None
        expires = time_of(next_expiry)
        return Beat(
            alive=alive == 1,
            now=int(now),
            version=version.decode("utf-8", "surrogateescape"),
            document=found,
            expired=tuple(sorted(name for one in expired if (name := text_or_none(one)) is not None)),
            next_expiry=None if expires is None else expires * 1000,
            topic=topic_state(keys.meta, generation, partitions, *kept),
            born=int(born) * 1000,
            frozen_until=int(frozen_until) * 1000,
            paused=paused == 1,
            damaged=found is None and document is not None,
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
            _bytes(known_version),
            new_version,
            encode_document(document),
            int(joins),
            int(leaves),
            int(freeze),
            *expired,
        )
        return bool(await run(self._link, command))


def _bytes(version: str) -> bytes:
    return version.encode("utf-8", "surrogateescape")  # whatever stands there is compared, and replaced
