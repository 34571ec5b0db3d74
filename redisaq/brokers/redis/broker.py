"""RedisBroker: does each step on a real server, in one round trip if possible.

The modules beside this one hold what each class of step is on the server, and lua/ holds its atomic core. Invariants: you can repeat every
step after a broken connection, but not `append`. The reply to one call never reaches another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar, cast

from anyio.lowlevel import checkpoint

from redisaq.brokers.growth import settle_growth
from redisaq.brokers.redis import (
    administration,
    coordination,
    examination,
    growing,
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
from redisaq.brokers.redis.commands import checked, heard, is_sealed, run_unknown
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import COMMANDS, HEARD, SEQUENCES
from redisaq.brokers.redis.scripts import Command
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.growing import Adopt, TakeIn
from redisaq.brokers.steps.producing import IN_ORDER, SEALED, AppendOnce, Delay
from redisaq.brokers.steps.retrying import Redrive
from redisaq.brokers.terms import Doorbell, GroupName, Reader, ReaderMark
from redisaq.errors import DamagedKeyError, ServerError
from redisaq.link import Caller, Carrier, InOrder

FAMILIES = (
    *(administration, coordination, examination, growing, leases, messages, producing, retention, retrying, schedules, settling, topics),
)
"""Importing each of these registers the functions that do its steps."""

Placed = Delay | AppendOnce | Adopt | TakeIn | Redrive
PLACED: Mapping[type[Placed], object] = {Delay: False, AppendOnce: SEALED, Adopt: None, TakeIn: None, Redrive: None}
"""Steps with messages that were placed before; and their answers where the stream was cut since."""

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
        self._in_order = InOrder(link)
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
            return await self._do_sequence(step)
        command, answer = ask(step, self._keys)
        (reply,) = await self._carrier(type(step)).call(command)
        if isinstance(reply, ServerError):
            return await self._do_refused(step, command, reply)
        return cast("R", answer(reply))

    async def _do_sequence(self, step: Step[R]) -> R:
        """Do a step of several commands; again, if a name that it used is one of before a growth."""
        while True:
            number = self._number(step)
            try:
                return cast("R", await SEQUENCES[type(step)](step, self._link, self._keys))
            except DamagedKeyError as error:
                if not await self._is_renamed(step, error) or self._number(step) == number:
                    raise
            except ServerError as error:
                if error.code != "WRONGTYPE":  # else the topic was deleted meanwhile; see _do_refused
                    raise

    async def _do_refused(self, step: Step[R], command: Command, reply: ServerError) -> R:
        """Return the answer to a step that the server answered with an error; raise the error if it does not count as a reply.

        The wrong type of a stream's name means that the stream was cut, and that nothing was done (G2). The step is repeated as long as the
        name that it uses changes.
        """
        ask, carrier = COMMANDS[type(step)], self._carrier(type(step))
        while True:
            _, answer = ask(step, self._keys)
            try:
                heard_reply = await heard(command, reply, carrier, HEARD[type(step)]) if isinstance(reply, ServerError) else reply
                return cast("R", answer(heard_reply))
            except DamagedKeyError as error:
                if isinstance(step, Placed):  # they name the stream as it was when their messages were placed (E6, G8)
                    if await is_sealed(self._link, self._keys.stream(*step.place, step.cuts)):
                        return cast("R", PLACED[type(step)])
                    raise
                if not await self._is_renamed(step, error):
                    raise
                again, _ = ask(step, self._keys)
                if again == command:
                    raise
            except ServerError as error:
                if error.code != "WRONGTYPE":
                    raise
                again = command  # no key has a wrong type any more: the topic was deleted meanwhile
            command = again
            (reply,) = await carrier.call(command)

    def _carrier(self, kind: type[Step[Any]]) -> Carrier:
        return self._in_order if kind in IN_ORDER else self._link

    def _number(self, step: Step[Any]) -> int:
        return 0 if step.place is None else self._keys.number(step.place[0])

    async def _is_renamed(self, step: Step[Any], error: DamagedKeyError) -> bool:
        """Find out the present names, completing a growth that is under way (G3); False if that cannot have been the reason."""
        if error.code != "WRONGTYPE" or step.place is None or step.place[1] is None:
            return False
        await settle_growth(self, *step.place)
        return True

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
        commands, carrier = [command for command, _ in asked], self._carrier(kind)
        replies = await run_unknown(carrier, commands, await carrier.call(*commands))
        return [
            cast("R", answer(reply)) if not isinstance(reply, ServerError) else await self._do_refused(step, command, reply)
            for step, (command, answer), reply in zip(steps, asked, replies, strict=True)
        ]

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill these connections (E1)."""
        return await leases.kill(self._link, marks)

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection under the token (T3)."""
        settle = lambda: settle_growth(self, group.topic, partition)  # noqa: E731
        return await leases.open_reader(self._link, self._keys, group, partition, token=token, incarnation=incarnation, settle=settle)

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
