"""Objects that tasks wait for: a change (`Signal`), an answer (`Reply`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import anyio

R = TypeVar("R")


class Signal:
    """Wakes the tasks that wait for a change. It has an event only while a task waits, so it costs nothing otherwise.

    Attributes:
        event: what the waiting tasks wait for; None while there are none. The hot path checks it before it calls `fire`.
    """

    __slots__ = ("event",)

    def __init__(self) -> None:
        """Make a signal for which no task waits."""
        self.event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next `fire`."""
        if self.event is None:
            self.event = anyio.Event()
        await self.event.wait()

    def fire(self) -> None:
        """Wake all tasks that wait now."""
        event, self.event = self.event, None
        if event is not None:
            event.set()


class Reply(Generic[R]):
    """The place for one answer: made by `ActorRef.ask`, put into the message, set by the actor.

    Attributes:
        deadline: the loop's time until which the asker waits; `math.inf` if it has no limit.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        """Make an empty reply.

        Args:
            deadline: see the class.
        """
        self.deadline = deadline
        self._done = anyio.Event()
        self._value: R | None = None
        self._error: Exception | None = None
        self._abandoned = False

    @property
    def wanted(self) -> bool:
        """False once it has an answer, or no task waits for one any more: working on it would be useless."""
        return not self._done.is_set() and not self._abandoned

    def set(self, value: R) -> bool:
        """Answer; the first answer counts. Returns True if the asker gets it."""
        if not self.wanted:
            return False
        self._value = value
        self._done.set()
        return True

    def fail(self, error: Exception) -> bool:
        """Answer with an error, which `ask` raises; the first answer counts. Returns True if the asker gets it."""
        if not self.wanted:
            return False
        self._error = error
        self._done.set()
        return True

    def abandon(self) -> None:
        """Record that no task waits for the answer any more."""
        self._abandoned = True

    @property
    def answered(self) -> bool:
        """True once it has an answer, a value or an error."""
        return self._done.is_set()

    async def wait(self) -> None:
        """Wait until it has an answer."""
        await self._done.wait()

    def result(self) -> R:
        """Return the answer, or raise it."""
        if self._error is not None:
            raise self._error
        return cast("R", self._value)


@dataclass
class Asked:
    """A question under way: its message, its reply, and whether the actor has taken it out of the mailbox."""

    message: object
    reply: Reply[Any]
    taken: bool = False
