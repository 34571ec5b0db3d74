"""How many handlers run at once over all partitions of one consumer: a counter of credit, first come, first served.

It has no mailbox, since a task switch per message would cost more than most handlers' bookkeeping. A plain function whose lease ended while
it ran in its thread keeps its credit until it returns. This is checked whenever credit is short.
"""

from __future__ import annotations

import math
from collections import deque

import anyio


class Abandoned:
    """A thread whose result nobody awaits any more; the thread itself sets `started` and `returned`.

    `dropped` makes a thread that has not started yet skip the function.
    """

    __slots__ = ("dropped", "returned", "started")

    def __init__(self) -> None:
        """Begin as not started."""
        self.started = self.returned = self.dropped = False


class _Turn:
    """One waiting task. It is granted its credit in `granted` before the event wakes it, so that no other task takes it in between."""

    __slots__ = ("event", "granted")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.granted = False

    def look_again(self) -> None:
        """Wake the task, so that it computes again how long it may wait."""
        woken, self.event = self.event, anyio.Event()
        woken.set()


class Concurrency:
    """The counter of credit."""

    def __init__(self, concurrency: int | None) -> None:
        """Begin with all credit free.

        Args:
            concurrency: the most handlers at once; None: as many as there are owned partitions.
        """
        self._concurrency = concurrency
        self.owned = 0
        self.running = 0
        self._abandoned: list[Abandoned] = []
        self._waiting: deque[_Turn] = deque()

    @property
    def limit(self) -> int:
        """How many handlers may run now."""
        return self._concurrency if self._concurrency is not None else max(1, self.owned)

    @property
    def abandoned(self) -> int:
        """How many abandoned threads still run."""
        self._abandoned = [thread for thread in self._abandoned if not thread.returned]
        return len(self._abandoned)

    @property
    def contended(self) -> bool:
        """True if a task waits for credit: holders give theirs back between two messages."""
        return bool(self._waiting)

    def try_enter(self) -> bool:
        """Take credit if there is some and no task waits for it."""
        if self._waiting or self.running + (self.abandoned if self._abandoned else 0) >= self.limit:
            return False
        self.running += 1
        return True

    async def enter(self) -> None:
        """Take credit, waiting in line. If cancelled, it takes none."""
        if self.try_enter():
            return
        turn = _Turn()
        self._waiting.append(turn)
        try:
            while not turn.granted:
                with anyio.move_on_after(0.1 if self._abandoned else math.inf):  # a thread does not report that it has returned
                    await turn.event.wait()
                self.grant()
        except BaseException:
            if turn.granted:
                self.leave()
            else:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Give credit back."""
        self.running -= 1
        if self._waiting:
            self.grant()

    def keep_for(self, thread: Abandoned) -> None:
        """Keep one credit until the thread has returned."""
        self._abandoned.append(thread)
        for turn in self._waiting:  # a task that waits only for its event would not notice that the thread returns
            turn.look_again()

    def grant(self) -> None:
        """Hand out the available credit to those first in line."""
        while self._waiting and self.running + self.abandoned < self.limit:
            turn = self._waiting.popleft()
            self.running += 1
            turn.granted = True
            turn.event.set()
