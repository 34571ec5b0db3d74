"""Topics and their streams.

In come topics' names and partition counts; out goes how many partitions a topic has now. What always holds: the count never
falls, one generation has one count (G1), and streams stand before a count is published by growing.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.base import TopicState
from redisaq.brokers.redis.commands import Caller, milliseconds, run, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import GROW_TOPIC, MAKE_STREAM, MAKE_TOPIC
from redisaq.brokers.retention import Terms

FIELDS = (b"generation", b"partitions", b"retention", b"send_timeout")
"""Of `meta`, what a TopicState is made of."""

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
        return sorted(name.decode() for name in names)

    async def state(self, topic: str) -> TopicState | None:
        """Return how many partitions there are, None without the topic."""
        return topic_state(*await run(self._link, (b"HMGET", self._keys.meta(topic), *FIELDS)))

    async def make(self, topic: str, partitions: int, terms: Terms | None = None) -> TopicState:
        """Make the topic if it is not there; make what is missing of its streams and of its registration (E5).

        The count comes first: only then is it known which streams there must be. A making that was cut between the two is
        completed by whoever makes the topic next, as every producer does that finds a stream missing.
        """
        doorbell = self._keys.topic_doorbell(topic)
        asked = ("",) if terms is None else (milliseconds(terms.send_timeout), "acked" if terms.acked else "", milliseconds(terms.idle))
        state = _made(*await run(self._link, MAKE_TOPIC(self._keys.meta(topic), doorbell, partitions, FORMAT, *asked)))
        await run_each(
            self._link,
            [(b"SADD", self._keys.topics, topic), *(MAKE_STREAM(self._keys.stream(topic, number)) for number in range(state.partitions))],
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
            grown = topic_state(*await run(self._link, command))
            # Somebody else grew it meanwhile, perhaps to less than is wanted here; or the topic was lost. Look again.
            if grown is not None and grown.partitions >= partitions:
                return grown


def topic_state(
    generation: bytes | None, partitions: bytes | None, retention: bytes | None, send_timeout: bytes | None
) -> TopicState | None:
    """Return what `meta` says, None if it says nothing."""
    if generation is None or partitions is None:
        return None
    return _made(generation, partitions, retention, send_timeout)


def _made(generation: bytes, partitions: bytes, retention: bytes | None, send_timeout: bytes | None) -> TopicState:
    return TopicState(int(generation), int(partitions), retention == b"acked", int(send_timeout or 0) / 1000)
