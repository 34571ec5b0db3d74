"""Reads a group's dead letters for an Admin, in pages, oldest or newest death first; and counts them by kind.

Invariant: in memory are at most about one page of each partition, and about AT_ONCE dead letters of all of them, besides two of each.
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
        self._below_of: dict[int, bytes] | None = None  # of partitions that may have more: below which ids
        self._low: set[int] = set()  # of these, those of which at most one is kept; …
        self._dry: set[int] = set()  # … and none
        self._kept: dict[int, list[D]] = {}  # by partition, the newest last
        self._total = 0
        self._order: list[tuple[int, int, int]] = []  # a heap: the newest of each of them, negative, and the partition

    async def advance(self) -> tuple[int, D] | None:
        """Return the next one with its partition; None after the last one."""
        if self._below_of is None:
            self._below_of = dict.fromkeys(await self._numbers(), self._below)
            self._low, self._dry = set(self._below_of), set(self._below_of)
        while self._dry:  # before the next one is known
            await self._read_on(self._below_of)
        if not self._order:
            return None
        *_, number = heapq.heappop(self._order)
        letter = self._kept[number].pop()
        self._total -= 1
        self._note(number)
        return number, letter

    async def _read_on(self, below_of: dict[int, bytes]) -> None:
        """Read on in all partitions that will be asked soon: one by one, they would take a round trip for each letter."""
        numbers = sorted(self._low, key=lambda number: (number not in self._dry, number))[:AT_ONCE]  # a call has to end within its time
        room = AT_ONCE - max(0, self._total - 2 * len(self._kept))
        count = max(1, min(PAGE, room // len(numbers)))
        pages = await self._asking.do_each([self._step(number, below_of[number], count) for number in numbers])
        for number, page in zip(numbers, pages, strict=True):
            if len(page) < count:
                del below_of[number]
            else:
                below_of[number] = page[-1].dead_id
            kept = self._kept.get(number, [])
            self._kept[number] = [*reversed(page), *kept]
            self._total += len(page)
            if kept:
                self._note_low(number)
            else:
                self._note(number)

    def _note(self, number: int) -> None:
        """Put a partition into the order, whose newest dead letter is another one now."""
        self._note_low(number)
        self._put(number)

    def _note_low(self, number: int) -> None:
        more, kept = self._below_of is not None and number in self._below_of, len(self._kept[number])
        for some, most in ((self._low, 1), (self._dry, 0)):
            (some.add if more and kept <= most else some.discard)(number)

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
