"""Whether the server answers this consumer, and who is told when that changes.

In: steps towards the server that say that the consumer is in its group, or keep it there: answered, failed, or overdue. Out: Disconnected,
again each minute for as long as it lasts, and Reconnected. What always holds: an overdue step is reported, and still waited for.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from redisaq import events
from redisaq.consuming.bulletin import Bulletin

T = TypeVar("T")

HEARTBEAT, GROUP = "heartbeat", "group"
"""What may fail each by itself: staying a member (or becoming one), and changing the group's document."""

REMIND = 60.0  # seconds between two reports of what lasts


class Contact:
    """See the module.

    Attributes:
        heartbeat: local clock at which the last heartbeat that was answered had been sent, None before the first.
    """

    def __init__(self, bulletin: Bulletin, clock: Callable[[], float]) -> None:
        """Begin connected: nothing has failed yet."""
        self.heartbeat: float | None = None
        self._bulletin = bulletin
        self._clock = clock
        self._failing: set[str] = set()
        self._told = -math.inf

    @property
    def connected(self) -> bool:
        """False while a step fails, or has had no answer for longer than it should take."""
        return not self._failing

    def failed(self, what: str, reason: str) -> None:
        """Note that it failed, or is overdue."""
        now, bulletin = self._clock(), self._bulletin
        if not self._failing or now - self._told >= REMIND:
            self._told = now
            bulletin.tell(events.Disconnected(topic=bulletin.topic, group=bulletin.group, member=bulletin.member, reason=reason))
        self._failing.add(what)

    def answered(self, what: str) -> None:
        """Note that it was answered."""
        if what in self._failing:
            self._failing.discard(what)
            bulletin = self._bulletin
            if not self._failing:
                bulletin.tell(events.Reconnected(topic=bulletin.topic, group=bulletin.group, member=bulletin.member))

    async def ask(self, step: Callable[[], Awaitable[T]], *, within: float) -> T:
        """Return what the heartbeat `step` answers; without an answer after `within` seconds, report that and wait on.

        Raises:
            Exception: whatever the step raises; what it failed of is for the caller to report.
        """
        answers: list[T] = []
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._overdue, within)
            try:
                answers.append(await step())
            except Exception as error:  # noqa: BLE001 -- raised again outside: a task group would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        self.answered(HEARTBEAT)
        return answers[0]

    async def _overdue(self, within: float) -> None:
        while True:
            await anyio.sleep(within)
            self.failed(HEARTBEAT, f"the server has not answered for {within:g} s")
            within = REMIND
