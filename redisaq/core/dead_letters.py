"""A dead letter as people see it.

In comes the body that is kept among the dead letters; out goes a frozen struct. What always holds: whatever stands in the entry, nothing is
raised: that it cannot be read may be why it is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from redisaq.core.codec import Deserializer, EntryDecoder
from redisaq.core.records import FOREIGN, RAW, Body, Failure, Unreadable

_NO_FAILURE = Failure("", "", "", 0, 0, 0, "")


class DeadMessage(msgspec.Struct, frozen=True):
    """A message that will not be tried again, unless it is redriven.

    Attributes:
        topic: its topic.
        group: the group for which it died.
        partition: its partition.
        dead_id: of the dead letter itself; unique within the partition and group.
        msg_id: of the message; "" for an entry that no producer of redisaq made.
        entry_id: of the stream entry it came from.
        data: the payload's bytes; b"" if there is none; of a record that could not be read, the record as it was.
        payload: what the deserializer made of it; None if it could not.
        unreadable: why it could not; "" if it could.
        key: the message's key.
        headers: its headers.
        error_type: the last exception's qualified class name, or a word for what was no exception; "" if nothing is known.
        error: its text, bounded.
        traceback: bounded; "" if there is none.
        attempts: handlers begun in its last life.
        first_failed: the first failure of its last life, by the server's clock; None if nothing is known.
        last_failed: the last one.
        died_at: when it became a dead letter.
        member: incarnation of the member that saw the last failure.
        life: how often it was redriven before it died.
    """

    topic: str
    group: str
    partition: int
    dead_id: str
    msg_id: str
    entry_id: str
    data: bytes
    payload: Any
    unreadable: str
    key: str | None
    headers: Mapping[str, str]
    error_type: str
    error: str
    traceback: str
    attempts: int
    first_failed: datetime | None
    last_failed: datetime | None
    died_at: datetime
    member: str
    life: int


def message_id(body: Body) -> str:
    """Return the message's id, "" if it has none."""
    return _value(body, b"i").decode("utf-8", "replace")


class DeadLetterDecoder:
    """Makes them, for one group."""

    def __init__(self, topic: str, group: str, deserializer: Deserializer | None) -> None:
        """Take how payloads are read: None is JSON."""
        self._topic = topic
        self._group = group
        self._decoder: EntryDecoder[Any] = EntryDecoder(topic, deserializer)

    def decode(self, partition: int, dead_id: bytes, body: Body) -> DeadMessage:
        """Return the dead letter."""
        failure = body.failure or _NO_FAILURE
        message = self._decoder.decode(body.entry_id, body.fields, partition, 0)
        return DeadMessage(
            topic=self._topic,
            group=self._group,
            partition=partition,
            dead_id=dead_id.decode(),
            msg_id=message_id(body),
            entry_id=body.entry_id.decode("utf-8", "backslashreplace"),
            data=_value(body, b"d") or _value(body, RAW),
            payload=None if isinstance(message, Unreadable) else message.payload,
            unreadable=_unreadable(body, message.reason if isinstance(message, Unreadable) else ""),
            key=message.key if not isinstance(message, Unreadable) else (_value(body, b"k").decode("utf-8", "replace") or None),
            headers=message.headers if not isinstance(message, Unreadable) else _headers(_value(body, b"h")),
            error_type=failure.error_type,
            error=failure.error,
            traceback=failure.traceback,
            attempts=body.attempt,
            first_failed=_moment(failure.first_failed_ms) if failure.first_failed_ms else None,
            last_failed=_moment(failure.last_failed_ms) if failure.last_failed_ms else None,
            died_at=_moment(int(dead_id.split(b"-")[0])),
            member=failure.member,
            life=max(0, body.life),
        )


def _unreadable(body: Body, reason: str) -> str:
    return "redisaq did not put it among the dead letters" if body.life == FOREIGN else reason


def _value(body: Body, name: bytes) -> bytes:
    return dict(zip(body.fields[::2], body.fields[1::2], strict=False)).get(name, b"")


def _headers(data: bytes) -> Mapping[str, str]:
    try:
        return msgspec.json.decode(data, type=dict[str, str]) if data else {}
    except msgspec.MsgspecError:
        return {}


def _moment(milliseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # an id, or a time, that somebody else has made up
        return datetime.max.replace(tzinfo=UTC)
