"""RedisBroker: does each step on a real server, in one round trip if possible.

The modules beside this one hold what each class of step is on the server, and lua/ holds its atomic core. Invariants: you can repeat every
step after a broken connection, but not `append`. The reply to one call never reaches another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar, cast

from anyio.lowlevel import checkpoint

from redisaq.brokers.redis import (
    administration,
    coordination,
    examination,
    leases,
    messages,
    producing,
    retention,
    retrying,
    schedules,
    settling,
    topics,
)
from redisaq.brokers.redis.appender import Appender
from redisaq.brokers.redis.commands import checked, heard, run_unknown
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import COMMANDS, HEARD, SEQUENCES
from redisaq.brokers.steps import Step
from redisaq.brokers.terms import Doorbell, GroupName, Reader, ReaderMark
from redisaq.errors import ServerError
from redisaq.link import Caller

FAMILIES = (administration, coordination, examination, leases, messages, producing, retention, retrying, schedules, settling, topics)
"""Importing each of these registers the functions that do its steps."""

R = TypeVar("R")


class RedisBroker:
    """A Broker over a link; see Broker for what each method does.

    Args:
        link: the way to the servers; the broker opens and closes it.
        namespace: the first part of every key's name.
    """

    def __init__(self, link: Caller, namespace: str) -> None:
        self._link = link
        self._keys = Keys(namespace)
        self.append = Appender(link, self._keys).append

    @property
    def run_id(self) -> str:
        """The run of the server to which the shared connection was last made; in a cluster, it changes when any of its servers does."""
        return self._link.run_id

    async def connect(self) -> None:
        """Connect to the server."""
        await self._link.connect()

    async def close(self) -> None:
        """Close every connection."""
        await self._link.close()

    async def do(self, step: Step[R]) -> R:
        """Do one step."""
        ask = COMMANDS.get(type(step))
        if ask is None:
            return cast("R", await SEQUENCES[type(step)](step, self._link, self._keys))
        command, answer = ask(step, self._keys)
        (reply,) = await self._link.call(command)
        if isinstance(reply, ServerError):
            reply = await heard(command, reply, self._link, HEARD[type(step)])
        return cast("R", answer(reply))

    async def do_each(self, steps: Sequence[Step[R]]) -> list[R]:
        """Do several steps of one class, in one write if each is one command."""
        if not steps:
            await checkpoint()
            return []
        kind = type(steps[0])
        ask = COMMANDS.get(kind)
        if ask is None:
            return [await self.do(step) for step in steps]
        asked = [ask(step, self._keys) for step in steps]
        commands = [command for command, _ in asked]
        replies = await run_unknown(self._link, commands, await self._link.call(*commands))
        answers: list[R] = []
        for (command, answer), reply in zip(asked, replies, strict=True):
            if isinstance(reply, ServerError):
                answers.append(answer(await heard(command, reply, self._link, HEARD[kind])))
            else:
                answers.append(answer(reply))
        return answers

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill these connections (E1)."""
        return await leases.kill(self._link, marks)

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection under the token (T3)."""
        return await leases.open_reader(self._link, self._keys, group, partition, token=token, incarnation=incarnation)

    async def listen(self, group: GroupName) -> Doorbell:
        """Return a doorbell for the group and its topic."""
        keys = self._keys.group(group)
        return await self._listened(self._link.listen(keys.doorbell.decode(), keys.topic_doorbell.decode()))

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's doorbell; all doorbells of this broker share one connection."""
        return await self._listened(self._link.listen(self._keys.partition_doorbell(topic, partition).decode()))

    async def _listened(self, listening: Awaitable[Doorbell]) -> Doorbell:
        try:
            return await listening
        except ServerError as error:
            checked(error, self._link)
            raise
