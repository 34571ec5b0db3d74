"""Messages that are to be appended later.

In come messages with due times; out goes whether they are kept. What always holds: a message is kept once, whole, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.producing import Delayed
from redisaq.brokers.redis.commands import Caller, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import DELAY, Argument, Command
from redisaq.core.records import encode_delayed

MOST = 1000
"""Messages of one script."""


class Delays:
    """The step of the ProducingBroker that delays."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def delay(self, topic: str, messages: Sequence[Delayed]) -> list[bool]:
        """Keep messages until they are due, a partition's at most MOST in one step; see ProducingBroker."""
        of_partition: dict[int, list[int]] = {}
        for place, message in enumerate(messages):
            of_partition.setdefault(message.partition, []).append(place)
        commands: list[Command] = []
        groups: list[list[int]] = []
        for partition, places in of_partition.items():
            for start in range(0, len(places), MOST):
                groups.append(places[start : start + MOST])
                commands.append(self._command(topic, partition, [messages[place] for place in groups[-1]]))
        kept = [False] * len(messages)
        if commands:
            for places, reply in zip(groups, await run_each(self._link, commands), strict=True):
                for place in places:
                    kept[place] = reply == 1
        return kept

    def _command(self, topic: str, partition: int, messages: Sequence[Delayed]) -> Command:
        keys = self._keys
        words: list[Argument] = [keys.stream(topic, partition), keys.delayed(topic, partition), keys.delayed_bodies(topic, partition)]
        words.append(keys.partition_doorbell(topic, partition))
        for message in messages:
            words += [message.msg_id, message.due, encode_delayed(message.fields)]
        return DELAY(*words)
