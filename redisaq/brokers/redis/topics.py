"""Topics and their streams.

In come topics' names and partition counts; out goes how many partitions a topic has now. What always holds: the count never
falls, one generation has one count (G1), and streams stand before a count is published by growing.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.base import TopicState
from redisaq.brokers.redis.commands import Caller, milliseconds, run, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import GROW_TOPIC, MAKE_STREAM, MAKE_TOPIC, NAME_TOPIC
from redisaq.brokers.retention import Terms
from redisaq.core.records import MOST_PARTITIONS, text_or_none, whole
from redisaq.errors import DamagedKeyError

FIELDS = (b"generation", b"partitions", b"retention", b"send_timeout")
"""Of `meta`, what a TopicState is made of."""

REPAIR = "set the field right, or delete the topic"

FORMAT = 1
"""Kept in `meta`: how entries and keys are laid out, for whoever meets them later."""


class Topics:
    """The steps of the Broker about topics."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def names(self) -> Sequence[str]:
        """Return all topics' names, sorted."""
        names: set[bytes] | list[bytes] = await run(self._link, (b"SMEMBERS", self._keys.topics))
        return sorted(name for found in names if (name := text_or_none(found)) is not None)

    async def state(self, topic: str) -> TopicState | None:
        """Return how many partitions there are, None without the topic."""
        meta = self._keys.meta(topic)
        return topic_state(meta, *await run(self._link, (b"HMGET", meta, *FIELDS)))

    async def make(self, topic: str, partitions: int, terms: Terms | None = None) -> TopicState:
        """Make the topic if it is not there; make what is missing of its streams and of its registration (E5).

        The count comes first: only then is it known which streams there must be. A making that was cut between the two is
        completed by whoever makes the topic next, as every producer does that finds a stream missing.
        """
        doorbell = self._keys.topic_doorbell(topic)
        asked = ("",) if terms is None else (milliseconds(terms.send_timeout), "acked" if terms.acked else "", milliseconds(terms.idle))
        meta = self._keys.meta(topic)
        *standing, idle = await run(self._link, MAKE_TOPIC(meta, doorbell, partitions, FORMAT, *asked))
        state = _made(meta, *standing)
        kept_number(meta, "retention_idle", idle)
        await run_each(
            self._link,
            [NAME_TOPIC(self._keys.topics, topic), *(MAKE_STREAM(self._keys.stream(topic, number)) for number in range(state.partitions))],
        )
        return state

    async def grow(self, topic: str, partitions: int) -> TopicState:
        """Raise the count if it is smaller (G1); a topic that does not exist is made."""
        while True:
            state = await self.make(topic, partitions)
            if state.partitions >= partitions:
                return state
            new = range(state.partitions, partitions)
            # Streams first: a producer that sees the new count finds them.
            await run_each(self._link, [MAKE_STREAM(self._keys.stream(topic, number)) for number in new])
            command = GROW_TOPIC(self._keys.meta(topic), self._keys.topic_doorbell(topic), state.generation, partitions)
            grown = topic_state(self._keys.meta(topic), *await run(self._link, command))
            # Somebody else grew it meanwhile, perhaps to less than is wanted here; or the topic was lost. Look again.
            if grown is not None and grown.partitions >= partitions:
                return grown


def topic_state(
    meta: bytes, generation: bytes | None, partitions: bytes | None, retention: bytes | None, send_timeout: bytes | None
) -> TopicState | None:
    """Return what `meta` says, None if it says nothing.

    Raises:
        DamagedKeyError: it says what cannot be. It is never replaced: how many partitions there are, and what is in them, would be a guess.
    """
    if generation is None and partitions is None and retention is None and send_timeout is None:
        return None
    return _made(meta, generation, partitions, retention, send_timeout)


def _made(
    meta: bytes, generation: bytes | None, partitions: bytes | None, retention: bytes | None, send_timeout: bytes | None
) -> TopicState:
    count = kept_number(meta, "partitions", partitions)
    growths = kept_number(meta, "generation", generation)
    limit = kept_number(meta, "send_timeout", send_timeout)
    if growths is None or count is None or not 1 <= count <= MOST_PARTITIONS:
        what = f"{count} partitions" if count is not None else "no partitions"
        raise DamagedKeyError(meta, f"tells of {what} in generation {growths}, and there are 1 to {MOST_PARTITIONS}: {REPAIR}")
    return TopicState(growths, count, retention == b"acked", (limit or 0) / 1000)


def kept_number(meta: bytes, field: str, text: bytes | None) -> int | None:
    """Return a number of `meta`, None if it is not there; DamagedKeyError if it is none."""
    number = whole(text)
    if number is None and text is not None:
        raise DamagedKeyError(meta, f"has {text[:40]!r} as its {field}: {REPAIR}")
    return number
