"""The order in which one partition's messages may start.

Input: messages in the order in which they were read, each with its key. Output: the next message that may start.

A *lane* runs one message at a time, in the order of arrival. The ordering decides which messages share a lane: all of them ("partition"),
those with the same key ("key"; a message without a key asks for no order and has a lane of its own), or none ("none").

Invariants: two messages of one lane never run at once, and start in the order in which they were added. Of all messages that may start, the
first to arrive is returned first. A key without waiting or running messages takes no memory.

Each operation takes constant time, except for messages whose lane becomes free after later messages of other lanes could start. These wait
in a heap, which is no larger than the number of messages that run at once.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Ordering = Literal["partition", "key", "none"]


class Lanes(Generic[T]):
    """The lanes of one partition. Not thread-safe: they belong to the partition's tasks."""

    __slots__ = ("_arrivals", "_behind", "_by_key", "_freed", "_ready", "_shared")

    def __init__(self, ordering: Ordering) -> None:
        """Begin without messages.

        Args:
            ordering: which messages share a lane.
        """
        self._by_key = ordering == "key"
        self._shared = "" if ordering == "partition" else None  # the lane of all messages if the key does not matter; None: one each
        self._arrivals = count()
        # Entries are (arrival, lane, item); arrivals differ, so comparing two entries never compares items.
        self._ready: deque[tuple[int, str | None, T]] = deque()  # in order of arrival
        self._freed: list[tuple[int, str | None, T]] = []
        # Lane -> the messages after its first one, which is in _ready, in _freed or running. None while there are none, since most keys
        # never need a deque.
        self._behind: dict[str, deque[tuple[int, str | None, T]] | None] = {}

    def add(self, item: T, key: str | None) -> None:
        """Add a message after all earlier ones of its lane."""
        lane = key if self._by_key else self._shared
        entry = (next(self._arrivals), lane, item)
        if lane is None:
            self._ready.append(entry)
        elif lane not in self._behind:
            self._behind[lane] = None
            self._ready.append(entry)
        else:
            queue = self._behind[lane]
            if queue is None:
                self._behind[lane] = deque((entry,))
            else:
                queue.append(entry)

    def next(self) -> T | None:
        """Return the first message to arrive whose lane is free, and make its lane busy; None if there is none."""
        if self._freed and (not self._ready or self._freed[0][0] < self._ready[0][0]):
            entry = heappop(self._freed)
        elif self._ready:
            entry = self._ready.popleft()
        else:
            return None
        return entry[2]

    def done(self, key: str | None) -> None:
        """Free the lane of a message that `next` returned and that has ended; `key` as for `add`.

        Raises:
            KeyError: the lane is empty.
        """
        lane = key if self._by_key else self._shared
        if lane is not None:
            queue = self._behind[lane]
            if queue:
                entry = queue.popleft()
                if not self._ready or entry < self._ready[0]:
                    self._ready.appendleft(entry)
                else:
                    heappush(self._freed, entry)
            else:
                del self._behind[lane]

    @property
    def runnable(self) -> int:
        """How many messages `next` would return in a row now."""
        return len(self._ready) + len(self._freed)
