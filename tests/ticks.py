"""How long something took on a machine that had time for it.

A thread sleeps for a hundredth of a second, again and again, and notes when it woke. Where the machine is busy, or stands still, it wakes
late, as everybody else does; so the hundredths that it noted are time that the others had as well. An upper bound on them finds who waits
for a timer that is longer than it should be, and does not blame a busy machine. Invariant: they are never more than the real time.
"""

from __future__ import annotations

import bisect
import threading
import time
from types import TracebackType
from typing import Self

TICK = 0.01


class Ticks:
    """Notes ticks within its `with` block."""

    def __init__(self) -> None:
        self._woke: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> float:
        """Return the seconds that were noted between two times of `time.monotonic`, which processes share."""
        return TICK * (bisect.bisect(self._woke, end) - bisect.bisect(self._woke, begin))

    def _run(self) -> None:
        while not self._over.wait(TICK):
            self._woke.append(time.monotonic())
