"""How messages are written down that are in no stream: retries, dead letters, delayed ones.

In come a message's fields and what is known about its failure; out go bytes, and back. What always holds: reading gives what was written
(but for characters that are none, which are escaped); what a server's script must look at stands in front, readable, and it never parses
the rest.

- In `retry`: "life:attempt:", then msgpack.
- Among the dead letters: a stream entry, whose fields are the message's own, followed by nine that say why, always the same ones in the
  same order: error, text, traceback, attempts, first and last (failure, milliseconds), origin (entry id), member, life. So a person who
  looks with XRANGE sees what is there.
- Delayed: each word of the entry with its length and a colon before it (a script has to make the entry from it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import msgspec

from redisaq.core.entry_ids import LAST, parse_id

UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, msgspec.MsgspecError)
"""What reading a damaged record may raise."""

MOST_PARTITIONS = 1 << 16
"""A topic has no more."""

MOST_NUMBER = 1 << 53
"""Numbers that are kept are below this one: scripts know no greater whole ones exactly (M6)."""

MOST_WORDS = 4000
"""Fields and values of an entry that can be moved as they are: scripts cannot take more arguments apart."""


def whole(text: bytes | None) -> int | None:
    """Return a number that is kept as text; None if there is none, or if it is no whole one that redisaq can have written."""
    if text is None or len(text) > len(str(MOST_NUMBER)) or not text.isdigit():
        return None
    number = int(text)
    return number if number < MOST_NUMBER else None


def time_of(score: bytes | None) -> int | None:
    """Return the time that is a sorted set's score; None without one, or if it is in no time (which only damage writes)."""
    time = math.inf if score is None else max(0.0, float(score))
    return int(time) if time < MOST_NUMBER * 1000 else None


def text_or_none(data: bytes) -> str | None:
    """Return a name; None if it is no text."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


class Failure(msgspec.Struct, frozen=True):
    """What is known about a message that failed; kept with it in `retry` and in the dead letters.

    Attributes:
        error_type: the exception's qualified class name, or a word for what was no exception.
        error: its text, bounded.
        traceback: bounded; "" if there is none.
        attempts: handlers begun in this life.
        first_failed_ms: server time of the first failure of this life, milliseconds.
        last_failed_ms: of the last one.
        member: incarnation that saw the last one.
    """

    error_type: str
    error: str
    traceback: str
    attempts: int
    first_failed_ms: int
    last_failed_ms: int
    member: str


class Body(msgspec.Struct, frozen=True):
    """A message in `retry`, or in the dead letters.

    Attributes:
        entry_id: the stream entry it came from: its name in `retry`.
        fields: the entry's fields, as they stood in the stream.
        life: counts redrives, from 0.
        attempt: handlers begun in this life; it only grows, so that a settlement which arrives late never fits (S1).
        failure: None for one that was redriven and has not failed since.
        unused: how many of those attempts do not count (`RetryAfter`, or handed back before the handler began).
    """

    entry_id: bytes
    fields: Sequence[bytes]
    life: int = 0
    attempt: int = 0
    failure: Failure | None = None
    unused: int = 0


class Resolution(msgspec.Struct, frozen=True):
    """Where one message goes.

    Attributes:
        source: where it is: a pending entry of the stream, or `retry`.
        to: "done", "retry" or "dead".
        body: what it is there; `entry_id`, `life` and `attempt` name what is to be settled, the rest is what is kept.
        due: server time in microseconds when it is to be tried again, for "retry"; positive.
        used: False where the attempt does not count (`RetryAfter`): it is stored as one that is not used.
        raw: what stands in `retry`, where that cannot be read: it is settled only if it still is that.
    """

    source: Literal["stream", "retry"]
    to: Literal["done", "retry", "dead"]
    body: Body
    due: int = 0
    used: bool = True
    raw: bytes | None = None

    @property
    def beginning(self) -> bytes:
        """How what is settled must begin, in `retry`."""
        return retry_prefix(self.body.life, self.body.attempt) if self.raw is None else self.raw

    @property
    def kept(self) -> Body:
        """What is kept in `retry`."""
        return self.body if self.used else msgspec.structs.replace(self.body, unused=self.body.unused + 1)


@final
class Unreadable(msgspec.Struct, frozen=True):
    """An entry that is no message: which, why, and what stands in it."""

    entry_id: bytes
    reason: str
    fields: Sequence[bytes] = ()


class _Rest(msgspec.Struct, frozen=True, array_like=True):
    """What stands behind the prefix in `retry`."""

    fields: tuple[bytes, ...]
    failure: Failure | None
    unused: int = 0


ID_LENGTH = 41
"""Of the longest entry id."""

_encode_rest = msgspec.msgpack.Encoder().encode
_decode_rest = msgspec.msgpack.Decoder(_Rest).decode

RAW = b"raw"
"""The one field of an entry or a dead letter that was made of a record which could not be read: the record, as it was."""

FOREIGN = -1
"""The life of what is among the dead letters and was put there by somebody else."""

_REASONS = (b"error", b"text", b"traceback", b"attempts", b"first", b"last", b"origin", b"member", b"life")
_REASON_WORDS = 2 * len(_REASONS)


def retry_prefix(life: int, attempt: int) -> bytes:
    """Return how a body in `retry` begins."""
    return b"%d:%d:" % (life, attempt)


def encode_retry(body: Body) -> bytes:
    """Return what stands in `retry` under the body's entry id."""
    failure = body.failure
    try:
        rest = _encode_rest(_Rest(tuple(body.fields), failure, body.unused))
    except UnicodeEncodeError:  # lone surrogates: an error's text may hold what a file name or a broken text held
        rest = _encode_rest(_Rest(tuple(body.fields), None if failure is None else _escaped(failure), body.unused))
    return retry_prefix(body.life, body.attempt) + rest


def decode_retry(entry_id: bytes, data: bytes) -> Body:
    """Return the body that `encode_retry` wrote; ValueError (msgspec's, too) otherwise."""
    if not is_id(entry_id):
        raise ValueError("it is not under an entry's id")
    life, attempt, rest = data.split(b":", 2)
    found = _decode_rest(rest)
    life_number, attempt_number = whole(life), whole(attempt)
    if life_number is None or attempt_number is None or not data.startswith(retry_prefix(life_number, attempt_number)):
        raise ValueError("it does not begin with a life and an attempt")
    if not 0 <= found.unused < MOST_NUMBER:
        raise ValueError("its counts cannot be")
    return Body(entry_id, found.fields, life_number, attempt_number, found.failure, found.unused)


def is_id(entry_id: bytes) -> bool:
    """Return True if it is an entry's id."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return milliseconds.isdigit() and sequence.isdigit() and len(entry_id) <= ID_LENGTH and max(parse_id(entry_id)) <= LAST


def encode_dead(body: Body) -> list[bytes]:
    """Return the words (field, value, ...) of the dead letter's entry."""
    failure = body.failure or Failure("", "", "", body.attempt - body.unused, 0, 0, "")
    values = (
        _utf8(failure.error_type),
        _utf8(failure.error),
        _utf8(failure.traceback),
        b"%d" % failure.attempts,
        b"%d" % failure.first_failed_ms,
        b"%d" % failure.last_failed_ms,
        body.entry_id,
        _utf8(failure.member),
        b"%d" % body.life,
    )
    movable = len(body.fields) <= MOST_WORDS and len(body.fields) % 2 == 0
    fields = body.fields if movable else (RAW, encode_delayed(body.fields))
    return [*fields, *(word for pair in zip(_REASONS, values, strict=True) for word in pair)]


def decode_dead(words: Sequence[bytes]) -> Body:
    """Return the body that `encode_dead` wrote, with as many attempts as its failure; ValueError for other words."""
    fields, reasons = tuple(words[:-_REASON_WORDS]), words[-_REASON_WORDS:]
    if tuple(reasons[::2]) != _REASONS:
        raise ValueError("these are not the fields of a dead letter")
    error_type, error, traceback, attempts, first, last, entry_id, member, life = reasons[1::2]
    numbers = [whole(number) for number in (attempts, first, last, life)]
    if None in numbers:
        raise ValueError("its numbers are none")
    attempts_made, first_ms, last_ms, lives = (number or 0 for number in numbers)
    failure = Failure(error_type.decode(), error.decode(), traceback.decode(), attempts_made, first_ms, last_ms, member.decode())
    known = bool(failure.error_type or failure.last_failed_ms)
    return Body(entry_id, fields, lives, failure.attempts, failure if known else None)


def next_life(body: Body) -> Body | None:
    """Return what a dead letter becomes when it is redriven; None for one that somebody else has put there."""
    if body.life == FOREIGN or not is_id(body.entry_id):
        return None
    return Body(body.entry_id, body.fields, body.life + 1)


def read_dead(dead_id: bytes, words: Sequence[bytes]) -> Body:
    """Return the body of a dead letter, or one with all words of an entry that somebody else has put there: `life` is -1 then."""
    try:
        return decode_dead(words)
    except UNREADABLE:
        return Body(dead_id, tuple(words), FOREIGN)


def encode_delayed(fields: Sequence[bytes]) -> bytes:
    """Return a delayed message's fields and values, each as its length, a colon and itself."""
    return b"".join(b"%d:%b" % (len(word), word) for word in fields)


def decode_delayed(data: bytes) -> list[bytes]:
    """Return the words that `encode_delayed` wrote; ValueError otherwise."""
    words: list[bytes] = []
    start = 0
    while start < len(data):
        colon = data.index(b":", start)
        end = colon + 1 + int(data[start:colon])
        if end > len(data):
            raise ValueError("the last word is cut")
        words.append(data[colon + 1 : end])
        start = end
    return words


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _escaped(failure: Failure) -> Failure:
    def escape(text: str) -> str:
        return _utf8(text).decode()

    return msgspec.structs.replace(
        failure,
        error_type=escape(failure.error_type),
        error=escape(failure.error),
        traceback=escape(failure.traceback),
        member=escape(failure.member),
    )
