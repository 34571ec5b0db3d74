"""Redrives and purges a group's dead letters: all of them, or those that a caller names, in one call or in several.

Input: message ids, or the letters themselves. Output: how many there were. Invariants: at most one page of dead letters is in memory. Those
of one partition are treated in the order in which they died, whatever the order of `ids`, so that messages of one key stay in order. A
letter that is written meanwhile is left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, Protocol

import anyio

from redisaq.admin_views import DeadMessage, DeadSummary
from redisaq.administering.asking import PAGE, Asking
from redisaq.administering.changes import Change, Changes
from redisaq.administering.dead import Ids
from redisaq.administering.named import only_one, split
from redisaq.administering.reading import message_id
from redisaq.brokers.growth import redrive
from redisaq.brokers.steps.retrying import Purge, ReadDead
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import parse_id
from redisaq.core.history import Change as Noted
from redisaq.errors import ConnectionFailed
from redisaq.settings import check_several

What = Literal["redriven", "purged"]
"""What happens to dead letters, as the group's history calls it."""


class Treat(Protocol):
    """Redrives or purges dead letters, and returns how many: see `Admin.redriving`."""

    async def __call__(self, ids: Ids | None = None, /) -> int:
        """Treat these dead letters; None: all."""
        ...


class Treating:
    """Redrives and purges dead letters for an Admin, and notes it in the history of their group."""

    def __init__(self, asking: Asking, changes: Changes) -> None:
        """Treat nothing yet.

        Args:
            asking: finds the dead letters.
            changes: carries the changes out in order, and notes them.
        """
        self._asking = asking
        self._changes = changes

    async def at_once(self, what: What, name: GroupName, ids: Ids | None) -> int:
        """Treat these dead letters (None: all that exist now), and return how many."""
        ids = None if ids is None else list(check_several("ids", ids))
        async with self._changes.in_order() as change:
            change.intent = intent = self._changes.intent(name, Noted(what, msg_id=only_one(ids)))
            total = await self._treat(what, change, name, ids)
            await (intent.end(count=total) if total else intent.withdraw())
            return total

    @contextlib.asynccontextmanager
    async def in_parts(self, what: What, name: GroupName) -> AsyncGenerator[Treat]:
        """Give a function that treats some dead letters. The group's history shows all its calls as one change."""
        total, broken, intent = 0, False, self._changes.intent(name, Noted(what))

        async def act(ids: Ids | None = None) -> int:
            nonlocal total, broken
            with self._asking.access:
                async with self._changes.in_order() as change:
                    change.intent = intent
                    try:
                        done = await self._treat(what, change, name, ids)
                    except BaseException:
                        broken = intent.begun
                        raise
            total += done
            return done

        try:
            yield act
        finally:
            if intent.begun and (total or not broken):  # else nobody knows how many: it stays noted that it has begun
                with anyio.CancelScope(shield=True), contextlib.suppress(ConnectionFailed), self._asking.access:
                    async with self._changes.in_order():
                        await (intent.end(count=total) if total else intent.withdraw())

    async def _treat(self, what: What, change: Change, name: GroupName, ids: Ids | None) -> int:
        return await (self._redrive if what == "redriven" else self._purge)(change, name, ids)

    async def _redrive(self, change: Change, name: GroupName, ids: Ids | None) -> int:
        state = await self._asking.state(name.topic)

        async def act(partition: int, dead_ids: Sequence[bytes]) -> int:
            return await change.make(redrive(self._asking.broker, name, partition, dead_ids, len(dead_ids), state=state))

        if ids is not None:
            return await self._each(name, ids, act)
        total = 0
        for partition, view in enumerate((await self._asking.look(name.topic, name.group))[2]):
            left = view.dead  # no more: a message that dies again meanwhile would be retried forever
            step = partial(redrive, self._asking.broker, name, partition, None, state=state)
            while left > 0 and (moved := await change.make(step(min(PAGE, left)))):
                left -= moved
                total += moved
        return total

    async def _purge(self, change: Change, name: GroupName, ids: Ids | None) -> int:
        async def act(partition: int, dead_ids: Sequence[bytes]) -> int:
            return await change.make(self._asking.broker.do(Purge(name, partition, dead_ids)))

        if ids is not None:
            return await self._each(name, ids, act)
        partitions = len((await self._asking.look(name.topic, name.group))[2])
        return sum([await change.make(self._asking.broker.do(Purge(name, partition, None))) for partition in range(partitions)])

    async def _each(self, name: GroupName, ids: Ids, act: Callable[[int, Sequence[bytes]], Awaitable[int]]) -> int:
        """Call `act` with the dead letters of these ids, a page at a time, oldest death first. Return the sum of its results."""
        msg_ids, letters = split(name, ids, (DeadMessage, DeadSummary), "dead letter")
        named = {partition: {one.dead_id.encode() for one in some} for partition, some in letters.items()}
        numbers = None if msg_ids else sorted(named)  # letters say where they are; ids are looked for everywhere
        _, _, partitions = await self._asking.look(name.topic, name.group, numbers)
        total = 0
        for partition, view in zip(range(len(partitions)) if numbers is None else numbers, partitions, strict=True):
            wanted = named.get(partition, set())
            after, left = b"", view.dead if msg_ids else 0  # only those that exist now: a message that dies again meanwhile is left alone
            while left > 0 and (page := await self._asking.do(ReadDead(name, partition, after=after, count=min(PAGE, left)))):
                after, left = page[-1].dead_id, left - len(page)
                if found := [dead.dead_id for dead in page if dead.dead_id in wanted or message_id(dead.body) in msg_ids]:
                    total += await act(partition, found)
                    wanted.difference_update(found)
            rest = sorted(wanted, key=parse_id)  # whatever the order of `ids`: the order of dying keeps that of a key
            for start in range(0, len(rest), PAGE):
                total += await act(partition, rest[start : start + PAGE])
        return total
