"""Steps about messages that failed: what is due, retries that begin, dead letters.

Looking after dead letters is not fenced: an admin owns no partition. A redriven message begins a new life, so nothing that was said
about its last one can touch it (S1). Dead letters have ids of their own, which grow as messages die and never come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import ShareStep
from redisaq.core.records import RAW, Body, Failure, Resolution
from redisaq.describing import text_of

__all__ = ["DeadLetterEntry", "Due", "Purge", "ReadDead", "Redrive", "SetAside", "StartRetry", "TakeDue", "unreadable"]


class SetAside(msgspec.Struct, frozen=True):
    """A record that could not be read, or whose other half is gone, and what became of it.

    Attributes:
        entry_id: of the entry, or the id of a delayed message; b"" where several are meant.
        reason: in words.
    """

    entry_id: bytes
    reason: str


class Due(msgspec.Struct, frozen=True):
    """What is due.

    Attributes:
        retries: due messages of `retry`, earliest first; they stay there until they are settled (S3), so the next call names them again.
        moved: how many delayed messages were moved into the stream, in due order.
        next_due: server time in microseconds of the earliest one, of both kinds, that this answer has left where it is and does not name;
            None if there is none. Not after `now` if `count` left something out; in a second if the stream does not take what is due.
        now: the server's time.
        set_aside: what this call found damaged. Retries are among the dead letters now, as they were; delayed ones are in the stream.
    """

    retries: tuple[Body, ...]
    moved: int
    next_due: int | None
    now: int
    set_aside: tuple[SetAside, ...] = ()


GONE = "its body is gone: was it evicted? It is lost"
"""Of a retry, or a delayed message, that has a due time and nothing else."""

FOUND = "so many bodies had lost their due times: were these evicted? They are due now"
"""Of retries and delayed messages that had no due time."""


class DeadLetterEntry(msgspec.Struct, frozen=True):
    """A dead letter.

    Attributes:
        dead_id: its own id; its first number is the server's time, in milliseconds, at which the message died.
        body: the message, and why it is here.
    """

    dead_id: bytes
    body: Body


class StartRetry(ShareStep[bool], frozen=True):
    """Note that a handler begins on a message of `retry`: its attempt becomes `attempt`, if it was one less in the same life.

    False, and nothing changed, if another token stands, if this one was released (T5), or if the message is not there so. Repeating
    it after a lost answer is True.

    Attributes:
        token: the fencing token.
        entry_id: of the message.
        life: how often it was redriven.
        attempt: the one that begins.
    """

    token: int
    entry_id: bytes
    life: int
    attempt: int


class TakeDue(ShareStep[Due], frozen=True):
    """Move at most `count` due delayed messages into the stream (XADD first, then ZREM: S2); return up to `count` due retries.

    What of these is damaged is set aside, one by one. Whoever has retries in flight asks for more than those. Of messages due at the
    same microsecond, the ids' bytes tell the order. LeaseLostError if another token stands.

    Attributes:
        token: the fencing token.
        count: so many of each kind at most.
        dead_maxlen: so many dead letters are kept, the latest; None: all.
    """

    name: ClassVar[str] = "due"

    token: int
    count: int
    dead_maxlen: int | None = None


class ReadDead(ShareStep[list[DeadLetterEntry]], frozen=True):
    """Return up to `count` dead letters with ids above `after` (b"": from the first), in the order of dying."""

    name: ClassVar[str] = "dead_page"

    after: bytes
    count: int


class Redrive(ShareStep[int], frozen=True):
    """Let up to `count` dead letters be tried again: the first of all, or (`ids` given) the first of these that are there.

    They move into the group's `retry` set: the same message, its next life, no attempt, due now, in the order of dying, also over several
    steps. Rings the partition's doorbell. Answers how many were moved; to redrive all, repeat it until it answers 0.
    """

    ids: Sequence[bytes] | None
    count: int


class Purge(ShareStep[int], frozen=True):
    """Drop these dead letters, or all (None); return how many there were."""

    ids: Sequence[bytes] | None


def unreadable(entry_id: bytes, data: bytes, error: Exception) -> tuple[Resolution, SetAside]:
    """Return what takes a retry that cannot be read to the dead letters, as it is, and what to report."""
    reason = f"a retry that cannot be read: {text_of(error)}"
    body = Body(entry_id, (RAW, data), failure=Failure("Unreadable", reason, "", 0, 0, 0, ""))
    return Resolution("retry", "dead", body, raw=data), SetAside(entry_id, reason)
