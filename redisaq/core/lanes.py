"""The order in which one partition's messages may start.

In: messages as they were read, each with its key. Out: the next one that may start, and a lane that is free again when it is done.

A *lane* runs one message at a time, in the order of arrival. The ordering says what shares a lane: everything ("partition"),
messages of one key ("key"; a message without a key asked for no order and has a lane of its own), nothing ("none").

What always holds: two messages of one lane never run at once, and never start in another order than they were added. Of those
that may start, the one that arrived first is given first. A key that has nothing waiting and nothing running takes no memory.

Each operation takes constant time, but for messages that arrived in the midst of those that may start by the time their lane
comes free: these wait in a heap, which is as small as the number of messages that run at once.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Ordering = Literal["partition", "key", "none"]


class Lanes(Generic[T]):
    """See the module. Not thread-safe: it belongs to one partition's tasks."""

    __slots__ = ("_arrived", "_behind", "_blocked", "_busy", "_by_key", "_freed", "_ready", "_shared")

    def __init__(self, ordering: Ordering) -> None:
        """Make lanes without messages."""
        self._by_key = ordering == "key"
        self._shared = "" if ordering == "partition" else None  # everybody's lane where the key does not matter; None: one's own
        self._arrived = 0
        self._busy = 0
        self._blocked = 0
        # Entries are (arrival, lane, item); arrivals differ, so comparing two entries never comes to the items.
        self._ready: deque[tuple[int, str | None, T]] = deque()  # in order of arrival
        self._freed: list[tuple[int, str | None, T]] = []
        # Lane -> what waits behind its first message, which is in _ready, in _freed or running. None while nothing does: most keys
        # never need a deque.
        self._behind: dict[str, deque[tuple[int, str | None, T]] | None] = {}

    def add(self, item: T, key: str | None) -> None:
        """Take a message in, behind all that came before it in its lane."""
        lane = key if self._by_key else self._shared
        self._arrived += 1
        entry = (self._arrived, lane, item)
        if lane is None:
            self._ready.append(entry)
        elif lane not in self._behind:
            self._behind[lane] = None
            self._ready.append(entry)
        else:
            self._blocked += 1
            queue = self._behind[lane]
            if queue is None:
                self._behind[lane] = deque((entry,))
            else:
                queue.append(entry)

    def next(self) -> T | None:
        """Return the first to arrive of the messages whose lane is free, and make its lane busy; None if there is none."""
        if self._freed and (not self._ready or self._freed[0][0] < self._ready[0][0]):
            entry = heappop(self._freed)
        elif self._ready:
            entry = self._ready.popleft()
        else:
            return None
        self._busy += 1
        return entry[2]

    def done(self, key: str | None) -> None:
        """Free the lane of a message that `next` gave and that has ended; `key` as it was added.

        Raises:
            KeyError: the lane is empty.
        """
        lane = key if self._by_key else self._shared
        if lane is not None:
            queue = self._behind[lane]
            if queue:
                entry = queue.popleft()
                self._blocked -= 1
                if not self._ready or entry < self._ready[0]:
                    self._ready.appendleft(entry)
                else:
                    heappush(self._freed, entry)
            else:
                del self._behind[lane]
        self._busy -= 1

    def clear(self) -> list[T]:
        """Take out and return what has not started, in order of arrival. What runs keeps its lane until `done`."""
        entries = [*self._ready, *self._freed]
        for lane in [lane for _, lane, _ in entries if lane is not None]:
            entries.extend(self._behind.pop(lane) or ())
        for lane, queue in self._behind.items():
            entries.extend(queue or ())
            self._behind[lane] = None
        self._ready.clear()
        self._freed.clear()
        self._blocked = 0
        return [item for _, _, item in sorted(entries, key=lambda entry: entry[0])]

    @property
    def waiting(self) -> int:
        """How many were added and have not started."""
        return len(self._ready) + len(self._freed) + self._blocked

    @property
    def runnable(self) -> int:
        """How many `next` would give in a row, now."""
        return len(self._ready) + len(self._freed)

    @property
    def busy(self) -> int:
        """How many run: were given by `next` and are not done."""
        return self._busy
