"""A shared connection whose calls return once a replica has what they wrote (C7).

After the commands that many tasks join into one write it sends one WAIT, which answers for all of them. The server holds back what comes
after a WAIT, so such a connection is used for nothing else (docs/understand/link.md, rule 9). Invariants:

- A call that returns was confirmed by a replica, together with everything that the server had written before it.
- A call that is not confirmed in time raises ConnectionFailed with `maybe_executed`: it is at the primary, and a failover may lose it.
- What the server refused is not waited for.
"""

from __future__ import annotations

import math
from typing import Any

import anyio

from redisaq.environment import time_is_up_at
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.resp import pack
from redisaq.link.shared import SharedConnection, Waiter

CONFIRM_WITHIN = 1.0
"""Seconds that a replica has to confirm a write, if its connection may be silent for twice as long."""


class _Joined:
    """The calls of one write: the WAIT after them, and those that wait for its answer.

    Attributes:
        waiter: the place of the WAIT's answer in the connection's queue; this object is its event. It starts where their commands do: if
            the server may have one of these, a call may wait for a replica that lacks it.
        members: calls that have not left.
        filled: True once a command was queued.
    """

    def __init__(self) -> None:
        self.waiter = Waiter(1, 0, math.inf)
        self.waiter.event = self
        self.members = 0
        self.filled = False
        self._events: list[anyio.Event] = []

    def set(self) -> None:
        """Wake all that wait: the answer is there, or the connection broke, or one of them has to drive."""
        for event in self._events:
            event.set()

    async def wait(self) -> None:
        """Wait for that."""
        event = anyio.Event()
        self._events.append(event)
        try:
            await event.wait()
        finally:
            self._events.remove(event)


class ConfirmedConnection(SharedConnection):
    """A SharedConnection whose calls return once a replica has what they wrote."""

    LATE = "no replica has confirmed it, or what was sent before it, within the time of the call"

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take over a wire; see SharedConnection."""
        super().__init__(*args, **options)
        self._within = min(CONFIRM_WITHIN, self._silence.limit / 2)
        self._wait = pack((("WAIT", 1, max(1, round(self._within * 1000))),))
        self._joined: _Joined | None = None  # the calls whose write has no WAIT yet

    async def call(self, data: bytes, replies: int) -> list[object]:
        """Send packed commands and return their replies once a replica has what they wrote; see SharedConnection.

        Raises:
            ConnectionFailed: also if no replica confirmed it in time, or the user may not use WAIT.
        """
        joined = self._joined = self._joined or _Joined()
        joined.members += 1
        joined.waiter.abandoned = False  # one that had no time left may have been the only member, and have left
        try:
            answers = await super().call(data, replies)
            if all(type(answer) is ServerError for answer in answers):
                return answers
            await self._wait_for(joined)
        finally:
            joined.members -= 1
            if not joined.members:
                joined.waiter.abandoned = True
            self._hand_over()
        return answers

    async def _wait_for(self, joined: _Joined) -> None:
        waiter, until = joined.waiter, time_is_up_at()
        with anyio.move_on_after(None if until == math.inf else until - self._now()):
            while waiter.missing and self.broken is None:
                if self._driver is None:
                    await self._drive(waiter)
                else:
                    await joined.wait()
        (count,) = waiter.replies or (None,)
        if isinstance(count, int) and count > 0:
            return
        forbidden = isinstance(count, ServerError) and count.forbidden
        if isinstance(count, ServerError) and forbidden:
            reason = f"the server does not let us wait for a replica ({count.text}): permit it (ACL SETUSER ... +wait)"
        elif isinstance(count, ServerError):  # it has become a replica itself since it was written to
            reason = f"no replica has confirmed it ({count.text}): a failover is under way, and may lose it"
        elif count is None:
            reason = self.broken or self.LATE
        else:
            reason = f"no replica has confirmed it within {self._within:g} s: it is at the primary, and a failover now may lose it"
        failure = ConnectionFailed(self._url, reason, maybe_executed=True, permanent=forbidden, silent=self._silent)
        failure.connections = () if self._identity is None or count is not None else (self._identity,)
        raise failure

    def _put(self, data: bytes, replies: int) -> Waiter:
        waiter = super()._put(data, replies)
        if self._joined is not None and not self._joined.filled:
            self._joined.filled, self._joined.waiter.start = True, waiter.start
        return waiter

    def _flush(self) -> bool:
        joined = self._joined
        if joined is not None and joined.filled and self.broken is None:
            self._joined = None
            self._wire.put(self._wait)
            self._waiters.append(joined.waiter)
        return super()._flush()
