"""Keeps changes at the server in order, and notes them in the histories of groups: no change is carried out after a later one (E1).

A block of changes begins only once the connections over which an earlier block broke are killed. So nothing that they still carry arrives
late: no pause is carried out after the resume that was to end it. If a block is cancelled, the link kills what it left before it uses
another connection. Where the server forbids CLIENT KILL, there is no such promise.

What is to be changed is noted before the first step that changes anything, and that note is replaced at the end. If the process dies in
between, the note remains.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from redisaq.brokers.access import Access
from redisaq.brokers.steps.administration import Note
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.history import BEGUN, Change as Noted
from redisaq.environment import time_limit
from redisaq.errors import ConnectionFailed, ServerError

T = TypeVar("T")


class Intent:
    """What an administrator is about to change, noted in the histories of groups until its end replaces it.

    A server that refuses a note (an account of few rights) does not prevent the change.
    """

    def __init__(self, access: Access, groups: Sequence[GroupName], change: Noted) -> None:
        """Note nothing yet.

        Args:
            access: gives the broker.
            groups: those whose histories tell of it.
            change: what is to be noted at the end, as far as it is known.
        """
        self._access = access
        self._groups = groups
        self._change = change
        self._begun: list[tuple[GroupName, bytes]] | None = None

    @property
    def begun(self) -> bool:
        """Whether a note says that it has begun."""
        return bool(self._begun)

    async def begin(self) -> None:
        """Note that it begins, unless that was done."""
        if self._begun is None:
            begun = replace(self._change, what=BEGUN[self._change.what])
            notes: list[tuple[GroupName, bytes]] = []
            for name in self._groups:  # one by one: the end replaces those that were written, also if others were refused
                with contextlib.suppress(ServerError):
                    notes.append((name, await self._access.broker.do(Note(name, begun))))
            self._begun = notes

    async def end(self, **found: Any) -> None:
        """Note what was done.

        Args:
            found: fields of the note that were not known before.
        """
        await self._replace(replace(self._change, **found))

    async def withdraw(self) -> None:
        """Note nothing after all: nothing was done."""
        await self._replace(None)

    async def _replace(self, change: Noted | None) -> None:
        begun, self._begun = self._begun, None
        if not begun:  # there was nothing to change, or the server refused the notes
            return
        steps = [Note(name, change and replace(change, began=int(note_id.split(b"-")[0])), replaces=note_id) for name, note_id in begun]
        with contextlib.suppress(ServerError):
            await self._access.broker.do_each(steps)


class Change:
    """What one block has done.

    Attributes:
        begun: something may have been changed.
        intent: what to note before the first step, if anything.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.begun = False
        self.intent: Intent | None = None

    async def make(self, step: Coroutine[Any, Any, T]) -> T:
        """Carry out one step that changes something, and return its answer. Before the first one, note what is intended."""
        if self.intent is not None:
            try:
                await self.intent.begin()
            except BaseException:
                step.close()
                raise
        try:
            answer = await step
        except ConnectionFailed as error:
            self.begun = self.begun or error.maybe_executed
            raise
        self.begun = True
        return answer


class Changes:
    """Runs blocks of changes in order.

    Attributes:
        by: who makes them, as histories show it.
    """

    def __init__(self, access: Access, timeout: float, by: str) -> None:
        """Begin with no broken connection.

        Args:
            access: gives the broker that carries out the changes.
            timeout: seconds that a block may take.
            by: who makes the changes.
        """
        self.by = by
        self._access = access
        self._timeout = timeout
        self._broken: dict[tuple[int, str, str], None] = {}  # connections to kill: they may still carry a change

    def intent(self, groups: GroupName | Sequence[GroupName], change: Noted) -> Intent:
        """Return what is to be noted in the histories of these groups: this change, by the one who makes it."""
        return Intent(self._access, [groups] if isinstance(groups, GroupName) else groups, replace(change, by=self.by))

    @contextlib.asynccontextmanager
    async def in_order(self) -> AsyncGenerator[Change]:
        """Enclose a block of changes. If it breaks, try at once to kill its connection, which nothing else knows of.

        Raises:
            ConnectionFailed: the server cannot be reached, or the connection broke, or no answer came in time; `maybe_executed` says
                whether something may have been changed.
        """
        with time_limit(self._timeout):
            try:
                await self._kill()
            except ConnectionFailed as error:
                raise error.unsent() from error
            change = Change()
            try:
                yield change
            except ConnectionFailed as error:
                if error.connections:
                    self._broken.update(dict.fromkeys(error.connections))
                    with contextlib.suppress(ConnectionFailed, ServerError):  # then it is killed before the next block
                        await self._kill()
                error.maybe_executed = change.begun
                raise

    async def _kill(self) -> None:
        broken = tuple(self._broken)
        if broken:
            await self._access.broker.kill([ReaderMark(*connection) for connection in broken])
            for connection in broken:
                self._broken.pop(connection, None)
