"""Asks the server for an Admin: repeats what only reads when its connection breaks, and finds topics and groups.

Invariants: a call ends within its time, whatever the server does. A call that was in progress when the Admin was closed is not repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import anyio

from redisaq.brokers.access import Access
from redisaq.brokers.steps import Broker, Step
from redisaq.brokers.steps.administration import GroupView, PartitionView, ViewGroup, ViewPartition
from redisaq.brokers.steps.topics import ReadTopic, TopicState
from redisaq.brokers.terms import GroupName
from redisaq.core.retry import full_jitter
from redisaq.environment import current_environment, time_is_up_at, time_limit, when_forked
from redisaq.errors import ConnectionFailed, ServerError, SettingsError, TopicMissingError
from redisaq.settings import check_count, check_name, check_several

R = TypeVar("R")

PAGE = 100
"""Rows of one page: messages, dead letters, changes of a group."""

AT_ONCE = 1000
"""The most messages that are read at once, of all partitions together."""

SUMMARY = 200
"""Bytes of an error's text, or of a payload, in a summary."""

STEPS = 100
"""The most steps of one write of `do_each`: the server does all of them before it turns to another client."""


class Asking:
    """An Admin's way to ask. Its methods only read; nothing limits their time but `limit`, except that of `do_each`.

    Attributes:
        access: the way to the broker; restricts iterators to one event loop at a time.
    """

    def __init__(self, access: Access, timeout: float) -> None:
        """Ask nothing yet.

        Args:
            access: gives the broker.
            timeout: seconds that one call may take.
        """
        self.access = access
        self._timeout = timeout
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Use the environment of the context."""
        self._environment = current_environment()

    @property
    def broker(self) -> Broker:
        """The broker."""
        return self.access.broker

    def limit(self) -> AbstractContextManager[None]:
        """Limit the enclosed calls, all of them together, to the time of one call."""
        return time_limit(self._timeout)

    async def close(self) -> None:
        """Close the connection. Calls in progress are not repeated."""
        await self.access.close()

    async def ask(self, look: Callable[[], Awaitable[R]]) -> R:
        """Return the result of `look`. If the connection breaks or stays silent, or a slot moves, repeat it within the time of the call."""
        failures, closings = 0, self.access.closings
        while True:
            try:
                return await look()
            except ConnectionFailed as error:
                failures += 1
                pause = full_jitter(failures, base=0.05, most=2.0, random=self._environment.random)
                moved = isinstance(error.__cause__, ServerError) and error.__cause__.redirect
                refused = error.permanent or not (error.maybe_executed or error.silent or moved)
                if refused or self.access.closings > closings or self._environment.monotonic() + pause >= time_is_up_at():
                    raise
            await anyio.sleep(pause)

    async def do(self, step: Step[R]) -> R:
        """Do one step, and return its answer."""
        return await self.ask(lambda: self.broker.do(step))

    async def do_at_once(self, steps: Sequence[Step[R]]) -> list[R]:
        """Do steps in one write, however many there are."""
        return await self.ask(lambda: self.broker.do_each(steps))

    async def do_each(self, steps: Sequence[Step[R]]) -> list[R]:
        """Do steps, STEPS of them in one write, within the time of one call."""
        answers: list[R] = []
        with self.limit():
            for start in range(0, len(steps), STEPS):
                some = steps[start : start + STEPS]
                answers += await self.ask(partial(self.broker.do_each, some))
        return answers

    async def state(self, topic: str) -> TopicState:
        """Return a topic's state.

        Raises:
            TopicMissingError: the topic does not exist.
        """
        topic = check_name("topic", topic)
        state = await self.do(ReadTopic(topic))
        if state is None:
            raise TopicMissingError(f"there is no topic {topic}")
        return state

    async def some(self, topic: str, partition: int | None = None) -> Sequence[int]:
        """Return the partition, or all partitions of the topic, within the time of one call.

        Raises:
            SettingsError: there is no such partition.
            TopicMissingError: the topic does not exist.
        """
        with self.limit():
            partitions = (await self.state(topic)).partitions
        if partition is None:
            return range(partitions)
        (number,) = numbers_of([partition])
        if number >= partitions:
            raise SettingsError(f"there is no partition {number}: the topic has {partitions}")
        return [number]

    async def look(
        self, topic: str, group: str, partitions: Iterable[int] | None = None
    ) -> tuple[GroupName, GroupView, list[PartitionView]]:
        """Return a group's name, its members, and what it has in some partitions (None: in all of them).

        Raises:
            TopicMissingError: the topic or the group does not exist, or the group has no member and is in none of these partitions.
        """
        name = name_of(topic, group)
        numbers = range((await self.state(topic)).partitions) if partitions is None else numbers_of(partitions)
        found = await self.do_at_once([ViewPartition(name, number) for number in numbers])
        view = await self.do(ViewGroup(name))
        known = view.paused or view.members or view.document is not None
        if not known and not any(partition.there for partition in found):
            raise TopicMissingError(f"topic {topic} has no group {group}")
        return name, view, found

    async def look_in_time(self, name: GroupName) -> list[PartitionView]:
        """Return what a group has in all partitions, within the time of one call.

        Raises:
            TopicMissingError: the topic or the group does not exist.
        """
        with self.limit():
            return (await self.look(name.topic, name.group))[2]


def name_of(topic: str, group: str) -> GroupName:
    """Return a group's name, checked."""
    return GroupName(check_name("topic", topic), check_name("group_name", group))


def numbers_of(partitions: Iterable[int]) -> Sequence[int]:
    """Return numbers of partitions, checked."""
    return [check_count("a partition's number", number, least=0) for number in check_several("partitions", partitions)]
