"""Reads a group's dead letters for an Admin, in pages: oldest or newest death first; counts them by kind; and sorts what its caller names.

Input: functions that return a page of one or more partitions. Invariant: at most one page of each partition is in memory, and AT_ONCE dead
letters of all of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, Self, TypeVar

from msgspec.structs import replace

from redisaq.admin_views import DeadKind, DeadKinds, DeadLetterInfo, DeadMessage, DeadSummary, RetryMessage
from redisaq.administering.messages import AT_ONCE
from redisaq.administering.reading import DeadLetterDecoder, kind_of_letters
from redisaq.brokers.access import Access
from redisaq.brokers.steps.administration import PartitionView
from redisaq.brokers.steps.retrying import CountedDead, DeadLetterEntry
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import parse_id
from redisaq.describing import shown
from redisaq.errors import SettingsError
from redisaq.settings import check_text

M = TypeVar("M", bound=DeadLetterInfo | RetryMessage)

COUNTED_AT_ONCE, COUNTED_TOGETHER = 200, 10
"""Dead letters of one partition that the server counts in one step, which keeps others waiting; and partitions of one write."""

PAGE = 100
"""Dead letters of one page."""

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
        decoder: DeadLetterDecoder,
        look: Callable[[], Awaitable[Sequence[PartitionView]]],
        page: Callable[[int, bytes], Awaitable[list[DeadLetterEntry]]],
    ) -> None:
        """Begin before the first.

        Args:
            decoder: decodes the group's dead letters.
            look: returns the group's partitions.
            page: returns a page of a partition's dead letters after an id.
        """
        self._decoder = decoder
        self._look = look
        self._ask_page = page
        self._partitions = -1
        self._partition = 0
        self._after = b""
        self._page: list[DeadMessage] = []

    async def advance(self) -> DeadMessage | None:
        """Return the next one; None after the last one."""
        if self._partitions < 0:
            self._partitions = len(await self._look())
        while not self._page:
            if self._partition == self._partitions:
                return None
            page = await self._ask_page(self._partition, self._after)
            self._page = [self._decoder.decode(self._partition, dead.dead_id, dead.body) for dead in reversed(page)]
            self._after = page[-1].dead_id if page else b""
            self._partition += not page
        return self._page.pop()


class Dead(Protocol):
    """Something that stands for a dead letter."""

    @property
    def dead_id(self) -> bytes:
        """Its id."""
        ...


D = TypeVar("D", bound=Dead)


class NewestFirst(Generic[D]):
    """Reads dead letters of all partitions together, newest death first."""

    def __init__(
        self,
        numbers: Callable[[], Awaitable[Iterable[int]]],
        pages: Callable[[Mapping[int, bytes], int], Awaitable[Sequence[Sequence[D]]]],
        below: bytes = b"",
    ) -> None:
        """Begin before the first.

        Args:
            numbers: returns the partitions that have dead letters.
            pages: returns the newest dead letters of some partitions: by number, those below an id (b"": all), and how many of each.
            below: the id below which it begins; b"": with the newest.
        """
        self._numbers = numbers
        self._ask_pages = pages
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
            for number, page in zip(some, await self._ask_pages(some, self._count), strict=True):
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
        access: Access,
        look: Callable[[], Awaitable[Sequence[PartitionView]]],
        count: Callable[[Mapping[int, bytes], int], Awaitable[list[CountedDead]]],
    ) -> None:
        """Create an iterator. It sends nothing to the server yet.

        Args:
            access: restricts the iterator to one event loop at a time.
            look: returns the group's partitions.
            count: counts the newest dead letters of some partitions: by number, those below an id (b"": all), and how many of each.
        """
        self._access = access
        self._look = look
        self._count = count
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
        with self._access:
            if self._left is None:
                left = {number: view.dead for number, view in enumerate(await self._look()) if view.dead}
                self._left, self._total = left, sum(left.values())
            numbers = sorted(self._left, key=self._below.__contains__)[:COUNTED_TOGETHER]  # the newest of each partition first
            some = {number: self._below.get(number, b"") for number in numbers}
            found = await self._count(some, COUNTED_AT_ONCE) if some else []
        for number, one in zip(some, found, strict=True):
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


def split(name: GroupName, ids: Iterable[str | M], kinds: tuple[type[M], ...], what: str) -> tuple[set[str], dict[int, list[M]]]:
    """Sort what a caller names: return the message ids, and by partition the messages themselves.

    Args:
        name: the group.
        ids: message ids, or messages.
        kinds: of which classes messages are.
        what: what messages are called, for errors.

    Raises:
        SettingsError: `ids` is one text, or one of them is of another class or of another group.
    """
    if isinstance(ids, str):
        raise SettingsError("ids must be several: put the one into a list")
    msg_ids: set[str] = set()
    named: dict[int, list[M]] = {}
    for one in ids:
        if isinstance(one, kinds):
            if (one.topic, one.group) != (name.topic, name.group):
                raise SettingsError(f"this {what} is of group {one.group} of {one.topic}: {one.msg_id}")
            named.setdefault(one.partition, []).append(one)
        elif isinstance(one, str) and one:
            msg_ids.add(check_text("ids", one))
        else:
            raise SettingsError(f"each of ids must be a message id or a {what}, not {shown(one)}")
    return msg_ids, named
