"""Encodes messages that are in no stream: retries, dead letters, delayed messages.

Input: a message's fields and what is known about its failure. Output: bytes, and back. Invariants: decoding returns what was encoded (only
invalid characters are escaped). Whatever a server's script must read comes first, as plain text, and the script never parses the rest.

- In `retry`: "life:attempt:", then msgpack.
- In the dead letters: a stream entry with the message's own fields, followed by nine that say why, always the same in the same order:
  error, text, traceback, attempts, first and last (failure, milliseconds), origin (entry id), member, life. So you can read a dead letter
  with XRANGE.
- Delayed: each word of the entry after its length and a colon (a script has to make the entry from it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import msgspec

from redisaq.core.entry_ids import LAST, parse_id

UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, msgspec.MsgspecError)
"""The exceptions that reading a damaged record may raise."""

MOST_NUMBER = 1 << 53
"""All stored numbers are below this one: scripts cannot represent all greater integers exactly (M6)."""

MOST_WORDS = 4000
"""The most fields and values with which an entry can be moved unchanged: scripts cannot unpack more arguments."""


def whole(text: bytes | None) -> int | None:
    """Return a stored number; None if there is none, or if redisaq cannot have written it."""
    if text is None or len(text) > len(str(MOST_NUMBER)) or not text.isdigit():
        return None
    number = int(text)
    return number if number < MOST_NUMBER else None


def time_of(score: bytes | None) -> int | None:
    """Return a sorted set's score as a time; None without a score, or if it is beyond all times (which only damage writes)."""
    time = math.inf if score is None else max(0.0, float(score))
    return int(time) if time < MOST_NUMBER * 1000 else None


def microseconds(seconds: float) -> int:
    """Return a time, or a length of time, in whole microseconds, as the server's times are kept."""
    return int(seconds * 1e6)


def text_or_none(data: bytes) -> str | None:
    """Return a name; None if it is not text."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


MOST_BETWEEN = 14
"""Failures between the first and the last one whose times are kept, the latest ones."""


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message's failure; kept with the message in `retry` and in the dead letters.

    Attributes:
        error_type: the exception's qualified class name, or a word for a failure without an exception.
        error: its text, shortened.
        traceback: shortened; "" if there is none.
        attempts: how many handlers began in this life.
        first_failed_ms: when it first failed in this life, in the server's milliseconds.
        last_failed_ms: when it last failed.
        member: the incarnation that saw the last failure.
        between_ms: when it failed between these two, the latest MOST_BETWEEN times; () if it has not, or if that is not known. In `retry`
            only: a dead letter of another form could not be redriven by a member of an older version.
    """

    error_type: str
    error: str
    traceback: str
    attempts: int
    first_failed_ms: int
    last_failed_ms: int
    member: str
    between_ms: tuple[int, ...] = ()


NO_FAILURE = Failure("", "", "", 0, 0, 0, "")
"""Stands for the failure of a message of which none is known."""


class Body(msgspec.Struct, frozen=True):
    """A message in `retry` or in the dead letters.

    Attributes:
        entry_id: the stream entry that it came from; identifies it in `retry`.
        fields: the entry's fields, as in the stream.
        life: how many times it was redriven.
        attempt: how many handlers began in this life. It only grows, so that a late settlement never matches (S1).
        failure: None if it was redriven and has not failed since.
        unused: how many of those attempts do not count (`RetryAfter`, or handed back before the handler began).
    """

    entry_id: bytes
    fields: Sequence[bytes]
    life: int = 0
    attempt: int = 0
    failure: Failure | None = None
    unused: int = 0


class Resolution(msgspec.Struct, frozen=True):
    """The settlement of one message: where it goes.

    Attributes:
        source: where it is: a pending entry of the stream, or `retry`.
        to: "done", "retry" or "dead".
        body: the message. `entry_id`, `life` and `attempt` name what to settle, the rest is what to keep.
        due: for "retry": when to try again, in the server's microseconds; positive.
        used: False if the attempt does not count (`RetryAfter`): it is stored as an unused one.
        raw: the bytes in `retry`, if they cannot be read: the message is settled only if they are still the same.
    """

    source: Literal["stream", "retry"]
    to: Literal["done", "retry", "dead"]
    body: Body
    due: int = 0
    used: bool = True
    raw: bytes | None = None

    @property
    def beginning(self) -> bytes:
        """How the body in `retry` must begin for the message to be settled."""
        return retry_prefix(self.body.life, self.body.attempt) if self.raw is None else self.raw

    @property
    def kept(self) -> Body:
        """The body to keep in `retry`."""
        return self.body if self.used else msgspec.structs.replace(self.body, unused=self.body.unused + 1)


Entry = tuple[bytes, Sequence[bytes]]
"""An entry of a stream: its id, and its fields and values in one list."""


@final
class Unreadable(msgspec.Struct, frozen=True):
    """An entry that is not a message: its id, why, and its fields."""

    entry_id: bytes
    reason: str
    fields: Sequence[bytes] = ()


class _Rest(msgspec.Struct, frozen=True, array_like=True):
    """The part of a body in `retry` after its prefix."""

    fields: tuple[bytes, ...]
    failure: Failure | None
    unused: int = 0


ID_LENGTH = 41
"""The length of the longest entry id."""

_encode_rest = msgspec.msgpack.Encoder().encode
_decode_rest = msgspec.msgpack.Decoder(_Rest).decode

RAW = b"raw"
"""The only field of an entry or a dead letter that was made from an unreadable record: the record, unchanged."""

FOREIGN = -1
"""The life of a dead letter that redisaq did not write."""

_REASONS = (b"error", b"text", b"traceback", b"attempts", b"first", b"last", b"origin", b"member", b"life")
_REASON_WORDS = 2 * len(_REASONS)


def retry_prefix(life: int, attempt: int) -> bytes:
    """Return the first bytes of a body in `retry`."""
    return b"%d:%d:" % (life, attempt)


def encode_retry(body: Body) -> bytes:
    """Return the bytes that `retry` keeps under the body's entry id."""
    failure = body.failure
    try:
        rest = _encode_rest(_Rest(tuple(body.fields), failure, body.unused))
    except UnicodeEncodeError:  # lone surrogates: an error's text may contain a file name or a broken text
        rest = _encode_rest(_Rest(tuple(body.fields), None if failure is None else _escaped(failure), body.unused))
    return retry_prefix(body.life, body.attempt) + rest


def decode_retry(entry_id: bytes, data: bytes) -> Body:
    """Return the body that `encode_retry` wrote; ValueError (or msgspec's subclass) for other bytes."""
    if not is_id(entry_id):
        raise ValueError("its key is not an entry's id")
    life, attempt, rest = data.split(b":", 2)
    found = _decode_rest(rest)
    life_number, attempt_number = whole(life), whole(attempt)
    if life_number is None or attempt_number is None or not data.startswith(retry_prefix(life_number, attempt_number)):
        raise ValueError("it does not begin with a life and an attempt")
    if not 0 <= found.unused < MOST_NUMBER:
        raise ValueError("its counts are out of bounds")
    return Body(entry_id, found.fields, life_number, attempt_number, found.failure, found.unused)


def is_id(entry_id: bytes) -> bool:
    """Return whether these bytes are an entry's id."""
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
        raise ValueError("its numbers cannot be read")
    attempts_made, first_ms, last_ms, lives = (number or 0 for number in numbers)
    failure = Failure(error_type.decode(), error.decode(), traceback.decode(), attempts_made, first_ms, last_ms, member.decode())
    known = bool(failure.error_type or failure.last_failed_ms)
    return Body(entry_id, fields, lives, failure.attempts, failure if known else None)


def next_life(body: Body) -> Body | None:
    """Return the body with which a dead letter is redriven; None for one that redisaq did not write."""
    if body.life == FOREIGN or not is_id(body.entry_id):
        return None
    return Body(body.entry_id, body.fields, body.life + 1)


def read_dead(dead_id: bytes, words: Sequence[bytes]) -> Body:
    """Return a dead letter's body. For an entry that redisaq did not write, return a body with all its words and life FOREIGN."""
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
        length = whole(data[start:colon])
        if length is None:
            raise ValueError("a word has no length")
        end = colon + 1 + length
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
