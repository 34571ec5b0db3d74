"""Reads a group's dead letters for an Admin, in pages, oldest or newest death first; and counts them by kind.

Invariant: at most one page of each partition is in memory, and AT_ONCE dead
letters of all of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, Protocol, Self, TypeVar

from msgspec.structs import replace

from redisaq.admin_views import DeadKind, DeadKinds, DeadMessage, DeadSummary
from redisaq.administering.asking import AT_ONCE, PAGE, SUMMARY, Asking
from redisaq.administering.reading import DeadLetterDecoder, kind_of_letters
from redisaq.brokers.access import Access
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.retrying import CountDead, CountedDead, ReadDead
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import parse_id

COUNTED_AT_ONCE, COUNTED_TOGETHER = 200, 10
"""Dead letters of one partition that the server counts in one step, which keeps others waiting; and partitions of one write."""

Ids = Iterable[str | DeadMessage | DeadSummary]
"""The dead letters that `redrive` and `purge` accept: message ids, or the letters themselves."""


class DeadLetters:
    """An async iterator over dead letters, from `Admin.dead_letters`. It holds one page at a time, and you need not close it."""

    def __init__(self, access: Access, advance: Callable[[], Awaitable[DeadMessage | None]]) -> None:
        """Create an iterator. It sends nothing to the server yet.

        Args:
            access: restricts the iterator to one event loop at a time.
            advance: returns the next dead letter; None after the last one.
        """
        self._access = access
        self._advance = advance

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> DeadMessage:
        """Return the next dead letter, and read another page if necessary."""
        with self._access:
            letter = await self._advance()
        if letter is None:
            raise StopAsyncIteration
        return letter


class OldestFirst:
    """Reads dead letters partition after partition, oldest death first in each."""

    def __init__(
        self,
        asking: Asking,
        name: GroupName,
        decoder: DeadLetterDecoder,
    ) -> None:
        """Begin before the first.

        Args:
            asking: reads them.
            name: the group.
            decoder: decodes the group's dead letters.
        """
        self._asking = asking
        self._name = name
        self._decoder = decoder
        self._partitions = -1
        self._partition = 0
        self._after = b""
        self._page: list[DeadMessage] = []

    async def advance(self) -> DeadMessage | None:
        """Return the next one; None after the last one."""
        if self._partitions < 0:
            self._partitions = len(await self._asking.look_in_time(self._name))
        while not self._page:
            if self._partition == self._partitions:
                return None
            with self._asking.limit():
                page = await self._asking.do(ReadDead(self._name, self._partition, after=self._after, count=PAGE))
            self._page = [self._decoder.decode(self._partition, dead.dead_id, dead.body) for dead in reversed(page)]
            self._after = page[-1].dead_id if page else b""
            self._partition += not page
        return self._page.pop()


class Dead(Protocol):
    """What a broker says of a dead letter, in whole or in part."""

    @property
    def dead_id(self) -> bytes:
        """Its id."""
        ...


D = TypeVar("D", bound=Dead)


class NewestFirst(Generic[D]):
    """Reads dead letters of all partitions together, newest death first."""

    def __init__(
        self,
        asking: Asking,
        numbers: Callable[[], Awaitable[Iterable[int]]],
        step: Callable[[int, bytes, int], Step[list[D]]],
        below: bytes = b"",
    ) -> None:
        """Begin before the first.

        Args:
            asking: reads them.
            numbers: returns the partitions that have dead letters.
            step: makes the step that reads the newest dead letters of a partition: below an id (b"": all), and how many.
            below: the id below which it begins; b"": with the newest.
        """
        self._asking = asking
        self._numbers = numbers
        self._step = step
        self._below = below
        self._begun = False
        self._count = 1
        self._kept: dict[int, list[D]] = {}  # by partition, the newest last
        self._order: list[tuple[int, int, int]] = []  # a heap: the newest of each of them, negative, and the partition
        self._empty: dict[int, bytes] = {}  # partitions to read on, below these ids, before the next one is known

    async def advance(self) -> tuple[int, D] | None:
        """Return the next one with its partition; None after the last one."""
        if not self._begun:
            numbers = list(await self._numbers())
            self._count = max(1, min(PAGE, AT_ONCE // max(1, len(numbers))))
            self._empty, self._begun = dict.fromkeys(numbers, self._below), True
        while self._empty:
            some = dict(list(self._empty.items())[: max(1, AT_ONCE // self._count)])
            pages = await self._asking.do_each([self._step(number, below, self._count) for number, below in some.items()])
            for number, page in zip(some, pages, strict=True):
                del self._empty[number]
                self._kept[number] = list(reversed(page))
                self._put(number)
        if not self._order:
            return None
        *_, number = heapq.heappop(self._order)
        letter = self._kept[number].pop()
        if not self._kept[number]:
            self._empty[number] = letter.dead_id
        self._put(number)
        return number, letter

    def _put(self, number: int) -> None:
        """Put a partition into the order, if its newest dead letter is known."""
        if kept := self._kept[number]:
            milliseconds, place = parse_id(kept[-1].dead_id)
            heapq.heappush(self._order, (-milliseconds, -place, number))


class CountingKinds:
    """An async iterator over what has been counted so far, from `Admin.dead_kinds`. It keeps a line for each kind, and no letter."""

    def __init__(
        self,
        asking: Asking,
        name: GroupName,
    ) -> None:
        """Create an iterator. It sends nothing to the server yet.

        Args:
            asking: counts them.
            name: the group.
        """
        self._asking = asking
        self._name = name
        self._left: dict[int, int] | None = None  # by partition, letters to count: those that there were in the beginning
        self._below: dict[int, bytes] = {}
        self._kinds: dict[str, DeadKind] = {}
        self._total = self._counted = 0
        self._ended = False

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> DeadKinds:
        """Count some more, and return what has been counted so far."""
        if self._ended:
            raise StopAsyncIteration
        with self._asking.access:
            if self._left is None:
                left = {number: view.dead for number, view in enumerate(await self._asking.look_in_time(self._name)) if view.dead}
                self._left, self._total = left, sum(left.values())
            numbers = sorted(self._left, key=self._below.__contains__)[:COUNTED_TOGETHER]  # the newest of each partition first
            steps = [CountDead(self._name, number, self._below.get(number, b""), COUNTED_AT_ONCE, SUMMARY) for number in numbers]
            found = await self._asking.do_each(steps)
        for number, one in zip(numbers, found, strict=True):
            self._take(number, one, self._left)
        self._ended = not self._left
        kinds = sorted(self._kinds.values(), key=lambda one: (-one.count, one.kind))
        return DeadKinds(tuple(kinds), self._counted, self._total, complete=self._ended)

    def _take(self, number: int, found: CountedDead, left: dict[int, int]) -> None:
        """Add what was counted in a partition."""
        for kind in found.kinds:
            one = kind_of_letters(number, kind)
            known = self._kinds.get(one.kind)
            if known is not None:
                newest = one if one.last > known.last else known
                one = replace(newest, count=known.count + one.count, first=min(known.first, one.first))
            self._kinds[one.kind] = one
        self._counted += found.number
        self._below[number] = found.last
        left[number] -= found.number
        if found.number < COUNTED_AT_ONCE or left[number] <= 0:
            del left[number]
