"""Reads single messages for an Admin: in lists, newly arriving ones, and one by its id.

Output: the structs of `admin_views`. Invariants: at most one page of each list is in memory, and each answer of the server is a small part
of its data.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Self, TypeVar

import anyio

from redisaq.admin_views import GroupStanding, StreamMessage, Whereabouts, moment
from redisaq.administering.asking import AT_ONCE, PAGE, Asking
from redisaq.administering.reading import DeadLetterDecoder, MessageDecoder
from redisaq.brokers.access import Access
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import ViewGroup, ViewStream
from redisaq.brokers.steps.messages import (
    ListDelayed,
    ListRetries,
    ReadDelayed,
    ReadEntries,
    ReadStanding,
    Scheduled,
    SearchDead,
    Searched,
    SearchStream,
    Standing,
)
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import LAST, parse_id
from redisaq.core.membership import Document
from redisaq.core.records import MOST_NUMBER, UNREADABLE, decode_retry, read_dead

S = TypeVar("S")
T = TypeVar("T")

SEARCHED = 100
"""Entries that one step of a search looks at. The server does nothing else meanwhile, and needs some microseconds for each."""

TOGETHER = 8
"""Partitions that are searched, or peeked into, in one write."""

CHANGES = 3
"""How many times a message may change its place while it is looked at: each time it is looked for once more."""


def names_of(document: Document | None) -> dict[str, str]:
    """Return the names of a group's members, by incarnation."""
    if document is None:
        return {}
    entries = document.members.items()
    return {incarnation: name for name, entry in entries for incarnation in (entry.incarnation, *entry.successors)}


class Listing(Generic[S, T]):
    """An async iterator over messages, partition after partition. It holds one page at a time, and you need not close it."""

    def __init__(
        self,
        access: Access,
        look: Callable[[], Awaitable[int]],
        page: Callable[[int, S | None], Awaitable[Sequence[S]]],
        make: Callable[[int, S], T],
    ) -> None:
        """Create an iterator. It sends nothing to the server yet.

        Args:
            access: restricts the iterator to one event loop at a time.
            look: returns the number of partitions.
            page: returns the page of a partition after a row (None: the first page).
            make: makes a message of a row.
        """
        self._access = access
        self._look = look
        self._ask_page = page
        self._make = make
        self._partitions = -1
        self._partition = 0
        self._last: S | None = None
        self._page: deque[S] = deque()

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> T:
        """Return the next message, and read another page if necessary."""
        with self._access:
            if self._partitions < 0:
                self._partitions = await self._look()
            while not self._page:
                if self._partition == self._partitions:
                    raise StopAsyncIteration
                self._page.extend(await self._ask_page(self._partition, self._last))
                self._last = self._page[-1] if self._page else None
                self._partition += not self._page
            return self._make(self._partition, self._page.popleft())


class EarliestFirst:
    """Reads messages that wait for their time, of several partitions together, earliest due time first. It keeps about AT_ONCE of them."""

    def __init__(
        self,
        asking: Asking,
        topic: str,
        partitions: Sequence[int],
        start: Scheduled | None,
    ) -> None:
        """Begin before the first.

        Args:
            asking: reads them.
            topic: the topic.
            partitions: the partitions.
            start: begin after this one; None: with the first.
        """
        self._asking = asking
        self._topic = topic
        self._next: dict[int, Scheduled | None] = dict.fromkeys(partitions, start)  # partitions to read on, after these
        self._kept: dict[int, deque[Scheduled]] = {}
        self._order: list[tuple[int, bytes, int]] = []  # a heap: due time and id of the first of each of them, and the partition

    async def read(self, count: int) -> list[tuple[int, Scheduled]]:
        """Return the next messages, each with its partition: fewer than `count` only at the end."""
        most = max(1, min(count, PAGE, AT_ONCE // max(1, len(self._next))))
        found: list[tuple[int, Scheduled]] = []
        while len(found) < count:
            if self._next:
                places, self._next = self._next, {}
                pages = await self._asking.do_each([ListDelayed(self._topic, number, last, most) for number, last in places.items()])
                for number, page in zip(places, pages, strict=True):
                    self._kept[number] = deque(page.rows)
                    self._put(number)
            if not self._order:
                break
            *_, number = heapq.heappop(self._order)
            row = self._kept[number].popleft()
            found.append((number, row))
            if not self._kept[number]:
                self._next[number] = row
            self._put(number)
        return found

    def _put(self, number: int) -> None:
        if kept := self._kept[number]:
            due = kept[0].due
            heapq.heappush(self._order, (MOST_NUMBER * 1000 if due is None else due, kept[0].id, number))


class Following:
    """An async iterator over the messages that are enqueued from now on, which never ends. You need not close it."""

    def __init__(
        self,
        asking: Asking,
        topic: str,
        partition: int | None,
        *,
        decoder: MessageDecoder,
        interval: float,
    ) -> None:
        """Create an iterator. It sends nothing to the server yet.

        Args:
            asking: reads them.
            topic: the topic.
            partition: the partition to follow; None: all of them, also those that the topic grows by.
            decoder: decodes the topic's messages.
            interval: seconds between two looks that found nothing.
        """
        self._asking = asking
        self._topic = topic
        self._partition = partition
        self._decoder = decoder
        self._interval = interval
        self._positions: dict[int, bytes] = {}
        self._found: deque[StreamMessage] = deque()

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> StreamMessage:
        """Return the next message. If cancelled, none is lost."""
        with self._asking.access:
            if not self._positions:
                await self.begin()
        while not self._found:
            with self._asking.access:
                await self._read()
            if not self._found:
                await anyio.sleep(self._interval)
        return self._found.popleft()

    async def begin(self) -> None:
        """Record the newest message of each partition: what comes after these is returned."""
        partitions = await self._asking.some(self._topic, self._partition)
        newest = await self._asking.do_each([ReadEntries(self._topic, number, None, 1) for number in partitions])
        self._positions = {number: found[0][0] if found else b"" for number, found in zip(partitions, newest, strict=True)}

    async def _read(self) -> None:
        partitions = await self._asking.some(self._topic, self._partition)  # the topic may have grown
        count = max(1, AT_ONCE // len(partitions))
        pages = await self._asking.do_each(
            [ReadEntries(self._topic, number, self._positions.get(number, b""), count) for number in partitions]
        )
        found: list[tuple[tuple[int, int], StreamMessage]] = []
        for number, page in zip(partitions, pages, strict=True):
            found += [(parse_id(entry_id), self._decoder.entry(number, entry_id, fields)) for entry_id, fields in page]
            self._positions[number] = page[-1][0] if page else self._positions.get(number, b"")
        self._found.extend(message for _, message in sorted(found, key=lambda one: (one[0], one[1].partition)))


class Search:
    """Looks for one message, by its id: among the delayed ones, in the streams, then in what groups keep."""

    def __init__(
        self, asking: Asking, topic: str, msg_id: str, *, limit: int, decoder: MessageDecoder, dead: Callable[[str], DeadLetterDecoder]
    ) -> None:
        """Prepare a search.

        Args:
            asking: does steps.
            topic: the topic.
            msg_id: the message's id.
            limit: how many entries, retries and dead letters to look at.
            decoder: decodes the topic's messages.
            dead: returns what decodes a group's dead letters.
        """
        self._asking = asking
        self._topic = topic
        self._msg_id = msg_id
        self._wanted = msg_id.encode()
        self._limit = limit
        self._left = limit
        self._decoder = decoder
        self._dead_decoder = dead

    async def run(self, partitions: Sequence[int], entry_id: bytes = b"") -> Whereabouts:
        """Return where the message is.

        Args:
            partitions: where to look.
            entry_id: its entry, if that is known: then nothing is searched for it.
        """
        delayed = await self._asking.do_each([ReadDelayed(self._topic, number, self._wanted) for number in partitions])
        for number, row in zip(partitions, delayed, strict=True):
            if row is not None:
                return self._whereabouts(delayed=self._decoder.delayed(number, row))
        groups = sorted(
            {name for view in await self._asking.do_each([ViewStream(self._topic, one) for one in partitions]) for name in view.groups}
        )
        names = [GroupName(self._topic, group) for group in groups]
        before = b"" if not entry_id else b"%d-%d" % _next(parse_id(entry_id))
        steps = {number: partial(SearchStream, self._topic, number, self._wanted) for number in partitions}
        count = 1 if entry_id else SEARCHED
        found = await self._search(steps, before, count, once=bool(entry_id))
        if found is not None:
            number, (found_id, fields) = found
            standings = {one.group: await self._standing(one, number, found_id) for one in names}
            return self._whereabouts(entry=self._decoder.entry(number, found_id, fields), groups=standings)
        kept: dict[str, GroupStanding] = {}
        for name in names:
            standing = await self._kept(name, partitions)
            if standing is not None:
                kept[name.group] = standing
        return self._whereabouts(groups=kept)

    def _whereabouts(self, **found: Any) -> Whereabouts:
        return Whereabouts(self._topic, self._msg_id, **found, looked=self._limit - max(0, self._left), complete=self._left > 0)

    async def _search(
        self, steps: Mapping[int, Callable[[bytes, int], Step[Searched]]], before: bytes, count: int, *, once: bool = False
    ) -> tuple[int, tuple[bytes, Sequence[bytes] | None]] | None:
        """Search several streams from their ends back, side by side; return the number of the one that has the message, and its entry."""
        places = dict.fromkeys(steps, before)
        while places and self._left > 0:
            numbers = list(places)[:TOGETHER]
            each = max(1, min(count, self._left // len(numbers)))
            answers = await self._asking.do_each([steps[number](places[number], each) for number in numbers])
            self._left -= sum(answer.looked for answer in answers)
            for number, answer in zip(numbers, answers, strict=True):
                if answer.found is not None:
                    return number, answer.found
                if answer.before is None or once:
                    del places[number]
                else:
                    places[number] = answer.before
        return None

    async def _standing(self, name: GroupName, number: int, entry_id: bytes) -> GroupStanding:
        """Return what a group has done with an entry of the stream. It may be moved meanwhile, back from the dead letters, too."""
        for _ in range(CHANGES):
            (standing,) = await self._asking.do_each([ReadStanding(name, number, entry_id)])
            if (known := await self._known(name, number, standing)) is not None:
                return known
            if (dead := await self._dead(name, [number])) is not None:
                return dead
            (again,) = await self._asking.do_each([ReadStanding(name, number, entry_id)])
            if again == standing or self._left <= 0:
                break
        return GroupStanding("done" if self._left > 0 else "unknown")

    async def _known(self, name: GroupName, number: int, standing: Standing) -> GroupStanding | None:
        if standing.deliveries is not None:
            (view,) = await self._asking.do_each([ViewGroup(name)])
            owner = names_of(view.document).get(standing.holder, "")
            return GroupStanding("pending", standing.holder, owner, moment(standing.since / 1000), standing.deliveries)
        if standing.retry is not None:
            return GroupStanding("retry", retry=self._decoder.retry(number, standing.retry, name.group))
        return GroupStanding("unread") if standing.unread else None

    async def _kept(self, name: GroupName, partitions: Sequence[int]) -> GroupStanding | None:
        """Return a group's state of a message that is in no stream any more; None if it has none."""
        for number in partitions:
            last: Scheduled | None = None
            while self._left > 0:
                (page,) = await self._asking.do_each([ListRetries(name, number, last, min(PAGE, self._left))])
                self._left -= len(page.rows)
                for row in page.rows:
                    if id_of(row) == self._wanted:
                        return GroupStanding("retry", retry=self._decoder.retry(number, row, name.group))
                if not page.rows:
                    break
                last = page.rows[-1]
        return await self._dead(name, partitions)

    async def _dead(self, name: GroupName, partitions: Sequence[int]) -> GroupStanding | None:
        steps = {number: partial(SearchDead, name, number, self._wanted) for number in partitions}
        found = await self._search(steps, b"", SEARCHED)
        if found is None:
            return None
        number, (dead_id, fields) = found
        return GroupStanding("dead", dead=self._dead_decoder(name.group).decode(number, dead_id, read_dead(dead_id, fields or ())))


async def retry_pages(asking: Asking, name: GroupName, partition: int) -> AsyncGenerator[Sequence[Scheduled]]:
    """Yield a partition's retries that are there now, page by page."""
    last: Scheduled | None = None
    while rows := (await asking.do_each([ListRetries(name, partition, last, PAGE)]))[0].rows:
        yield rows
        last = rows[-1]


def id_of(retry: Scheduled) -> bytes | None:
    """Return the id of the message that a retry is of; None if it cannot be read."""
    try:
        fields = decode_retry(retry.id, retry.body or b"").fields
    except UNREADABLE:
        return None
    return dict(zip(fields[::2], fields[1::2], strict=False)).get(b"i")


def _next(entry_id: tuple[int, int]) -> tuple[int, int]:
    """Return the id after this one; a lower one if there is none."""
    milliseconds, sequence = entry_id
    return (milliseconds, sequence + 1) if sequence < LAST else (min(milliseconds + 1, LAST), 0)
