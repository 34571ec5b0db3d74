"""Steps about single messages, for administrators: list, search, cancel, retry now.

None of them is fenced, since an admin owns no partition, and all may be repeated. A list is read in pages: a message that changes its place
meanwhile may be missing, or come twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from redisaq.brokers.steps import PartitionStep, ShareStep
from redisaq.core.records import Entry

__all__ = [
    "CancelDelayed",
    "CancelRetry",
    "CountBacklog",
    "CountDue",
    "CountEntries",
    "Counted",
    "EntrySummary",
    "ListDelayed",
    "ListPending",
    "ListRetries",
    "PendingPage",
    "PendingRow",
    "ReadDelayed",
    "ReadEntries",
    "ReadStanding",
    "RetryNow",
    "Scheduled",
    "ScheduledPage",
    "SearchDead",
    "SearchStream",
    "Searched",
    "Standing",
    "SummariseEntries",
]


class PendingRow(msgspec.Struct, frozen=True):
    """An entry that was delivered and is not settled.

    Attributes:
        entry_id: its id.
        deliveries: how many times it was delivered.
        since: when that was done last, or its count was last set, in microseconds.
        fields: its fields and values; None if they are no longer in the stream.
    """

    entry_id: bytes
    deliveries: int
    since: int
    fields: Sequence[bytes] | None


class PendingPage(msgspec.Struct, frozen=True):
    """Pending entries, in the order of their ids.

    Attributes:
        holder: the incarnation that holds the partition's token, "" if none does.
        rows: the entries; fewer than asked for only at the end.
    """

    holder: str
    rows: tuple[PendingRow, ...] = ()


class Scheduled(msgspec.Struct, frozen=True):
    """A message that waits for its time.

    Attributes:
        id: of the entry in `retry`; or the message id, if the message is delayed.
        score: its due time as it is stored; `ListRetries` and `ListDelayed` continue after it.
        due: the same in microseconds; None if redisaq did not write it.
        body: the encoded message; None if it is gone.
    """

    id: bytes
    score: bytes
    due: int | None
    body: bytes | None


class ScheduledPage(msgspec.Struct, frozen=True):
    """Messages that wait for their time, earliest first; those of one time in the order of their ids' bytes.

    Attributes:
        now: the server's time in microseconds.
        rows: the messages; fewer than asked for only at the end.
    """

    now: int
    rows: tuple[Scheduled, ...] = ()


class Searched(msgspec.Struct, frozen=True):
    """The result of one part of a search.

    Attributes:
        looked: how many entries were looked at.
        before: the search continues before this entry; None if it reached the first one, or found the message.
        found: the entry, with its id; None if the message was not among those.
    """

    looked: int
    before: bytes | None = None
    found: Entry | None = None


class Standing(msgspec.Struct, frozen=True):
    """A group's state of one entry.

    Attributes:
        unread: it was never delivered to the group.
        holder: the incarnation that holds the partition's token, "" if none does.
        deliveries: how many times it was delivered; 0 if it was handed back before a handler began; None if it is not pending.
        since: when that was done last, in microseconds; 0 if it is not pending.
        retry: its place in `retry`; None if it is not there.
    """

    unread: bool
    holder: str
    deliveries: int | None = None
    since: int = 0
    retry: Scheduled | None = None


class ListPending(ShareStep[PendingPage], frozen=True):
    """Return up to `count` pending entries with ids above `after` (b"": from the first). Without the group there are none."""

    after: bytes
    count: int


class ListRetries(ShareStep[ScheduledPage], frozen=True):
    """Return up to `count` messages of `retry` that come after this one (None: from the first)."""

    last: Scheduled | None
    count: int


class ListDelayed(PartitionStep[ScheduledPage], frozen=True):
    """Return up to `count` delayed messages that come after this one (None: from the first)."""

    last: Scheduled | None
    count: int


class CountDue(PartitionStep[Sequence[int]], frozen=True):
    """Return, for each of these moments in microseconds, how many delayed messages are due before it."""

    moments: Sequence[int]


class ReadDelayed(PartitionStep[Scheduled | None], frozen=True):
    """Return a delayed message; None if it is not there."""

    msg_id: bytes


class ReadEntries(PartitionStep[list[Entry]], frozen=True):
    """Return up to `count` entries of the stream: the newest, newest first; or the oldest above `after`, oldest first.

    Attributes:
        after: None: the newest entries; b"": from the first.
        count: the most entries.
    """

    after: bytes | None
    count: int


class EntrySummary(msgspec.Struct, frozen=True):
    """An entry of a stream without most of its payload.

    Attributes:
        entry_id: its id.
        msg_id: the message's id; b"" if redisaq did not write the entry.
        key: the beginning of the message's key; None without one.
        start: the beginning of its payload.
        size: how many bytes the payload has.
    """

    entry_id: bytes
    msg_id: bytes
    key: bytes | None
    start: bytes
    size: int


class SummariseEntries(PartitionStep[list[EntrySummary]], frozen=True):
    """Return up to `count` entries of the stream with ids below `below` (b"": the newest), the newest first, without what is large.

    With `after`, return those with ids above it instead, the oldest first.
    """

    below: bytes
    count: int
    most: int
    """Bytes of a key or a payload that are returned."""
    after: bytes = b""


class Counted(msgspec.Struct, frozen=True):
    """The result of one part of a count: how many entries, and the last of them; the count continues after it. None: it is complete."""

    number: int
    last: bytes | None = None


class CountEntries(PartitionStep[Counted], frozen=True):
    """Count entries above `after` and not above `until` (b"": to the end), up to `count` of them."""

    after: bytes
    until: bytes
    count: int


class SearchStream(PartitionStep[Searched], frozen=True):
    """Look for a message among up to `count` entries of the stream, from the newest before `before` (b"": of all) back."""

    msg_id: bytes
    before: bytes
    count: int


class SearchDead(ShareStep[Searched], frozen=True):
    """Look for a message among up to `count` dead letters, as `SearchStream` does."""

    msg_id: bytes
    before: bytes
    count: int


class ReadStanding(ShareStep[Standing], frozen=True):
    """Return the group's state of an entry. For a group that is not in the stream, every entry is unread."""

    entry_id: bytes


class CancelDelayed(PartitionStep[bool], frozen=True):
    """Drop a delayed message; False if it is not there. A deduplication mark of it stays."""

    msg_id: bytes


class CancelRetry(ShareStep[bool], frozen=True):
    """Drop a message of `retry`; False if it is not there.

    Its owner learns of it when it begins or settles the message: neither finds it (S1). A handler that runs meanwhile runs on.
    """

    entry_id: bytes


class RetryNow(ShareStep[int], frozen=True):
    """Make up to `count` messages of `retry` that are not due yet due now: the first of all (None), or of those ids.

    They keep their order among themselves (those with the same time the order of `ids`). They come after messages that are already due, and
    after those that an earlier step made due. Rings the partition's doorbell. Answers how many there were.
    """

    ids: Sequence[bytes] | None
    count: int


class CountBacklog(ShareStep[int], frozen=True):
    """Return how many messages the group could work on now: unread, pending, and those that are due of `retry` and the delayed ones."""
