"""Steps about messages that failed: what is due, retries that begin, dead letters; and what takes two of them.

Steps on dead letters are not fenced, since an admin owns no partition. A redriven message begins a new life, so no late step of its last
life can touch it (S1). Dead letters have ids of their own, which grow as messages die and are never used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import Broker, ShareStep
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import before, format_id, parse_id
from redisaq.core.records import RAW, UNREADABLE, Body, Failure, Resolution, decode_retry, next_life
from redisaq.describing import text_of

__all__ = [
    "CountDead",
    "CountedDead",
    "DeadKind",
    "DeadLetterEntry",
    "DeadLetterSummary",
    "Due",
    "Purge",
    "ReadDead",
    "ReadNewestDead",
    "Redrive",
    "SetAside",
    "StartRetry",
    "SummariseDead",
    "TakeDue",
    "read_retries",
    "redrive",
    "take_due",
]


class SetAside(msgspec.Struct, frozen=True):
    """A record that cannot be read, or whose other half is gone, and what became of it.

    Attributes:
        entry_id: the entry's id, or the id of a delayed message; b"" where several are meant.
        reason: why, in words.
    """

    entry_id: bytes
    reason: str


class Due(msgspec.Struct, frozen=True):
    """What is due.

    Attributes:
        retries: due messages of `retry`, earliest first. They stay there until they are settled (S3), so the next call returns them again.
        moved: how many delayed messages were moved into the stream, in due order.
        next_due: when the earliest message of both kinds that this answer neither moved nor returned is due, in the server's microseconds;
            None if there is none. It is not after `now` if `count` left something out, and in a second if the stream does not take what is
            due.
        now: the server's time.
        set_aside: what this call found damaged. Damaged delayed messages are in the stream now.
        unreadable: damaged retries, each with its way to the dead letters, unchanged: `take_due` moves them there.
        unswept: the topic has grown, and delayed messages may belong elsewhere: none was moved (G8).
    """

    retries: tuple[Body, ...]
    moved: int
    next_due: int | None
    now: int
    set_aside: tuple[SetAside, ...] = ()
    unreadable: tuple[Resolution, ...] = ()
    unswept: bool = False


BLOCKED = 1_000_000
"""Microseconds until the next try, after a stream did not take what was due."""

GONE = "its body is gone, perhaps evicted: the message is lost"
"""The reason for a retry, or a delayed message, that has a due time and nothing else."""

FOUND = "bodies had lost their due times, perhaps evicted: they are due now"
"""The reason, after their number, for retries and delayed messages that had no due time."""


class DeadLetterEntry(msgspec.Struct, frozen=True):
    """A dead letter.

    Attributes:
        dead_id: its own id; the first number is the server's time, in milliseconds, at which the message died.
        body: the message, and why it is here.
    """

    dead_id: bytes
    body: Body


class StartRetry(ShareStep[bool], frozen=True):
    """Record that a handler begins on a message of `retry`: its attempt becomes `attempt` if it was one less in the same life.

    Answers False, and changes nothing, if another token is current, if this one was released (T5), or if the message is not there in that
    life and attempt. Repeating the step after a lost answer gives True.

    Attributes:
        token: the fencing token.
        entry_id: the message's.
        life: how many times it was redriven.
        attempt: the attempt that begins.
    """

    token: int
    entry_id: bytes
    life: int
    attempt: int


class TakeDue(ShareStep[Due], frozen=True):
    """Move at most `count` due delayed messages into the stream (XADD first, then ZREM: S2); return up to `count` due retries.

    After a growth it moves none until SetSwept (G8). If you have retries in flight, ask for more than those. Messages due at the same
    microsecond come in the order of their ids' bytes. Raises LeaseLostError if another token is current.

    Attributes:
        token: the fencing token.
        count: the most of each kind.
    """

    name: ClassVar[str] = "due"

    token: int
    count: int


class ReadDead(ShareStep[list[DeadLetterEntry]], frozen=True):
    """Return up to `count` dead letters with ids above `after` (b"": from the first), in the order in which they died."""

    name: ClassVar[str] = "dead_page"

    after: bytes
    count: int


class ReadNewestDead(ShareStep[list[DeadLetterEntry]], frozen=True):
    """Return up to `count` dead letters with ids below `below` (b"": the newest), the newest first."""

    below: bytes
    count: int


class DeadLetterSummary(msgspec.Struct, frozen=True):
    """A dead letter without its payload and traceback.

    Attributes:
        dead_id: its own id.
        msg_id: the message's id, b"" if it has none.
        key: its key, None if it has none.
        error_type: as in `Failure`.
        error: the beginning of the error's text.
        attempts: how many handlers began in its last life.
        origin: the id of the entry that it comes from.
        life: how often it was redriven.
        frame: file, line and function of the last frame of the traceback that is the user's own; each b"" if there is none.
        foreign: whether redisaq did not write it. Then there is only its id.
    """

    dead_id: bytes
    msg_id: bytes = b""
    key: bytes | None = None
    error_type: bytes = b""
    error: bytes = b""
    attempts: int = 0
    origin: bytes = b""
    life: int = 0
    frame: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    foreign: bool = False


class SummariseDead(ShareStep[list[DeadLetterSummary]], frozen=True):
    """Return up to `count` dead letters with ids below `below` (b"": the newest), the newest first, without what makes them large."""

    name: ClassVar[str] = "dead_summaries"

    below: bytes
    count: int
    most_text: int
    """Bytes of an error's text that are returned."""


class DeadKind(msgspec.Struct, frozen=True):
    """Dead letters whose last failures have class, beginning of the text and own line in common.

    Attributes:
        number: how many.
        newest: the id of the newest.
        oldest: the id of the oldest.
        error_type: as in `Failure`.
        error: the beginning of the error's text.
        frame: as in `DeadLetterSummary`.
        foreign: whether redisaq did not write them. Then the last three are empty.
    """

    number: int
    newest: bytes
    oldest: bytes
    error_type: bytes = b""
    error: bytes = b""
    frame: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    foreign: bool = False


class CountedDead(msgspec.Struct, frozen=True):
    """Dead letters that were counted.

    Attributes:
        number: how many.
        last: the id of the oldest of them; b"" if there is none.
        kinds: how many have failed alike.
    """

    number: int
    last: bytes
    kinds: tuple[DeadKind, ...]


class CountDead(ShareStep[CountedDead], frozen=True):
    """Count up to `count` dead letters with ids below `below` (b"": the newest), the newest first, by their failures."""

    name: ClassVar[str] = "count_dead"

    below: bytes
    count: int
    most_text: int
    """Bytes of an error's text that are looked at."""


class Redrive(ShareStep[int | None], frozen=True):
    """Give dead letters that were read before a new life, those that are still there; return how many.

    None, and nothing is moved, if the stream was cut since: their keys may belong elsewhere (G8).

    They move into the group's `retry` set, due now, in the order given, also over several steps. Rings the partition's doorbell.

    Attributes:
        lives: ids of dead letters, each with the body of the message's next life. Nothing can make that wrong meanwhile: a dead letter
            never changes.
        cuts: the number of the topic's cuts when it was decided that their place is here.
    """

    lives: Sequence[tuple[bytes, Body]]
    cuts: int


class Purge(ShareStep[int], frozen=True):
    """Drop these dead letters, or all (None); return how many there were."""

    ids: Sequence[bytes] | None


def read_retries(found: Iterable[tuple[bytes, bytes]]) -> tuple[list[Body], list[Resolution], list[SetAside]]:
    """Return these encoded messages of `retry`; for those that cannot be read, their way to the dead letters, and the reports."""
    retries: list[Body] = []
    unreadable: list[Resolution] = []
    set_aside: list[SetAside] = []
    for entry_id, data in found:
        try:
            retries.append(decode_retry(entry_id, data))
        except UNREADABLE as error:
            reason = f"a retry that cannot be read: {text_of(error)}"
            body = Body(entry_id, (RAW, data), failure=Failure("Unreadable", reason, "", 0, 0, 0, ""))
            unreadable.append(Resolution("retry", "dead", body, raw=data))
            set_aside.append(SetAside(entry_id, reason))
    return retries, unreadable, set_aside


async def take_due(broker: Broker, step: TakeDue, dead_maxlen: int | None) -> Due:
    """Do the step, then move the retries that cannot be read to the dead letters, of which `dead_maxlen` are kept (None: all)."""
    due = await broker.do(step)
    if due.unreadable:
        await broker.do(Resolve(step.group, step.partition, step.token, due.unreadable, dead_maxlen))
    return due


async def redrive(broker: Broker, group: GroupName, partition: int, ids: Sequence[bytes] | None, count: int) -> int | None:
    """Give up to `count` dead letters a new life: the first of all, or the first of `ids` that are there, in the order in which they died.

    Returns how many were moved; to redrive all, repeat it until it returns 0. Dead letters that redisaq did not write stay. Returns None,
    and moves nothing, if the topic has grown.
    """
    found = await next_lives(broker, group, partition, ids, count)
    return await broker.do(Redrive(group, partition, found, cuts=0)) if found else 0


async def next_lives(broker: Broker, group: GroupName, partition: int, ids: Sequence[bytes] | None, count: int) -> list[tuple[bytes, Body]]:
    """Return the dead letters that `redrive` gives a new life, with the bodies of that."""
    found = await (_first(broker, group, partition, count) if ids is None else _named(broker, group, partition, ids, count))
    return found[:count]


async def _first(broker: Broker, group: GroupName, partition: int, count: int) -> list[tuple[bytes, Body]]:
    """Return the first `count` dead letters, or a few more, that can be redriven."""
    found: list[tuple[bytes, Body]] = []
    after = b""
    while len(found) < count and (page := await broker.do(ReadDead(group, partition, after, count))):
        found += _lives(page)
        after = page[-1].dead_id
    return found


async def _named(broker: Broker, group: GroupName, partition: int, ids: Sequence[bytes], count: int) -> list[tuple[bytes, Body]]:
    """Return the first `count` of these that are there and can be redriven, never reading more than that at once."""
    wanted = sorted({parse_id(dead_id) for dead_id in ids})
    found: list[tuple[bytes, Body]] = []
    while wanted and len(found) < count:
        some, wanted = wanted[: count - len(found)], wanted[count - len(found) :]
        pages = await broker.do_each([ReadDead(group, partition, format_id(before(dead_id)), 1) for dead_id in some])
        asked = zip(map(format_id, some), pages, strict=True)  # where one is gone, its page has the next one, which may be asked for, too
        found += _lives([letter for dead_id, page in asked for letter in page if letter.dead_id == dead_id])
    return found


def _lives(letters: Iterable[DeadLetterEntry]) -> list[tuple[bytes, Body]]:
    bodies = ((letter.dead_id, next_life(letter.body)) for letter in letters)
    return [(dead_id, body) for dead_id, body in bodies if body is not None]
