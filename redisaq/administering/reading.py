"""Makes the structs that Admin returns from what brokers answer: decodes messages and dead letters, translates ids and times.

Reading a stored message never raises, whatever it contains: a message may be dead because it cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from redisaq.admin_views import (
    DeadKind,
    DeadMessage,
    DeadSummary,
    DelayedMessage,
    MessageSummary,
    PendingMessage,
    RetryMessage,
    StreamMessage,
    moment,
)
from redisaq.brokers.steps.messages import EntrySummary, PendingRow, Scheduled
from redisaq.brokers.steps.retrying import DeadKind as CountedKind, DeadLetterSummary
from redisaq.core.codec import Deserializer, EntryDecoder
from redisaq.core.failures import kind_of, template, where
from redisaq.core.records import FOREIGN, MOST_NUMBER, NO_FAILURE, RAW, UNREADABLE, Body, Entry, Unreadable, decode_delayed, decode_retry
from redisaq.message import Message


def summary_of(topic: str, group: str, partition: int, found: DeadLetterSummary) -> DeadSummary:
    """Return a broker's summary of a dead letter for Admin's callers."""
    file, line, function, error_type, error, msg_id, origin = (
        word.decode("utf-8", "replace") for word in (*found.frame, found.error_type, found.error, found.msg_id, found.origin)
    )
    frame = where(file, line, function)
    if found.foreign:
        error_type, error = FOREIGN_TYPE, FOREIGN_TEXT
    return DeadSummary(
        topic=topic,
        group=group,
        partition=partition,
        dead_id=found.dead_id.decode(),
        msg_id=msg_id,
        key=None if found.key is None else found.key.decode("utf-8", "replace"),
        error_type=error_type,
        error=error,
        where=frame,
        kind=kind_of(error_type, template(error), frame),
        attempts=found.attempts,
        life=found.life,
        entry_id=origin,
        died_at=moment(int(found.dead_id.split(b"-")[0])),
    )


def entry_summary_of(topic: str, partition: int, found: EntrySummary) -> MessageSummary:
    """Return a broker's summary of a message for Admin's callers."""
    key = None if found.key is None else found.key.decode("utf-8", "replace")
    return MessageSummary(topic, partition, found.msg_id.decode("utf-8", "replace"), found.entry_id.decode(), key, found.start, found.size)


FOREIGN_TYPE, FOREIGN_TEXT = "Unreadable", "redisaq did not put it among the dead letters"
"""What is said of dead letters that redisaq did not write."""


def kind_of_letters(partition: int, found: CountedKind) -> DeadKind:
    """Return what a broker has counted in one partition for Admin's callers."""
    file, line, function, error_type, error = (word.decode("utf-8", "replace") for word in (*found.frame, found.error_type, found.error))
    frame = where(file, line, function)
    if found.foreign:
        error_type, error = FOREIGN_TYPE, FOREIGN_TEXT
    return DeadKind(
        kind=kind_of(error_type, template(error), frame),
        error_type=error_type,
        error=error,
        where=frame,
        count=found.number,
        first=moment(int(found.oldest.split(b"-")[0])),
        last=moment(int(found.newest.split(b"-")[0])),
        partition=partition,
        dead_id=found.newest.decode(),
    )


def message_id(body: Body) -> str:
    """Return the message's id; "" if it has none."""
    return _value(body, b"i").decode("utf-8", "replace")


class MessageDecoder:
    """Decodes stored messages of one topic. Nothing that is stored makes it raise."""

    def __init__(self, topic: str, deserializer: Deserializer | None) -> None:
        """Create a decoder.

        Args:
            topic: the topic.
            deserializer: called with a payload's bytes; None: JSON.
        """
        self._topic = topic
        self._decoder: EntryDecoder[Any] = EntryDecoder(topic, deserializer)

    def entry(self, partition: int, entry_id: bytes, fields: Sequence[bytes] | None) -> StreamMessage:
        """Return a message of the stream."""
        return StreamMessage(**self._content(partition, entry_id, fields))

    def delayed(self, partition: int, row: Scheduled) -> DelayedMessage:
        """Return a delayed message."""
        try:
            fields = None if row.body is None else decode_delayed(row.body)
        except UNREADABLE:
            fields = [RAW, row.body or b""]
        content = self._content(partition, b"", fields)
        content["msg_id"] = row.id.decode("utf-8", "replace")
        return DelayedMessage(**content, due=_due(row))

    def pending(self, partition: int, row: PendingRow, group: str, owner: str, owner_name: str) -> PendingMessage:
        """Return a pending message."""
        content = self._content(partition, row.entry_id, row.fields)
        since = moment(row.since / 1000)
        return PendingMessage(**content, group=group, owner=owner, owner_name=owner_name, deliveries=row.deliveries, since=since)

    def retry(self, partition: int, row: Scheduled, group: str) -> RetryMessage:
        """Return a message that waits for a retry."""
        try:
            body = Body(row.id, ()) if row.body is None else decode_retry(row.id, row.body)
        except UNREADABLE:
            body = Body(row.id, (RAW, row.body or b""))
        failure = body.failure or NO_FAILURE
        return RetryMessage(
            **self._content(partition, row.id, None if row.body is None else body.fields),
            group=group,
            due=_due(row),
            attempts=max(0, body.attempt - body.unused),
            life=body.life,
            error_type=failure.error_type,
            error=failure.error,
            traceback=failure.traceback,
            first_failed=moment(failure.first_failed_ms) if failure.first_failed_ms else None,
            last_failed=moment(failure.last_failed_ms) if failure.last_failed_ms else None,
            member=failure.member,
            failed_between=tuple(map(moment, failure.between_ms)),
        )

    def _content(self, partition: int, entry_id: bytes, fields: Sequence[bytes] | None) -> dict[str, Any]:
        """Return what all stored messages have in common."""
        body = Body(entry_id, fields or ())
        message = Unreadable(entry_id, "its content is gone") if fields is None else _message(self._decoder, (entry_id, fields), partition)
        content: dict[str, Any] = {
            "topic": self._topic,
            "partition": partition,
            "msg_id": message_id(body),
            "entry_id": entry_id.decode("utf-8", "backslashreplace"),
            "data": _value(body, b"d") or _value(body, RAW),
        }
        if isinstance(message, Unreadable):
            key = _value(body, b"k").decode("utf-8", "replace") or None
            content.update(payload=None, unreadable=message.reason, key=key, headers=_headers(_value(body, b"h")))
        else:
            content.update(payload=message.payload, unreadable="", key=message.key, headers=message.headers)
        return content


def _due(row: Scheduled) -> datetime:
    return moment(MOST_NUMBER if row.due is None else row.due / 1000)


class DeadLetterDecoder:
    """Decodes the dead letters of one group."""

    def __init__(self, topic: str, group: str, deserializer: Deserializer | None) -> None:
        """Create a decoder.

        Args:
            topic: the topic.
            group: the group.
            deserializer: called with a payload's bytes; None: JSON.
        """
        self._topic = topic
        self._group = group
        self._decoder: EntryDecoder[Any] = EntryDecoder(topic, deserializer)

    def decode(self, partition: int, dead_id: bytes, body: Body) -> DeadMessage:
        """Return the dead letter with this id."""
        failure = body.failure or NO_FAILURE
        message = _message(self._decoder, (body.entry_id, body.fields), partition)
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
            first_failed=moment(failure.first_failed_ms) if failure.first_failed_ms else None,
            last_failed=moment(failure.last_failed_ms) if failure.last_failed_ms else None,
            died_at=moment(int(dead_id.split(b"-")[0])),
            member=failure.member,
            life=max(0, body.life),
        )


def _message(decoder: EntryDecoder[Any], entry: Entry, partition: int) -> Message[Any] | Unreadable:
    flights, unreadable = decoder.decode([entry], partition, 0)
    return flights[0] if flights else unreadable[0]


def _unreadable(body: Body, reason: str) -> str:
    return FOREIGN_TEXT if body.life == FOREIGN else reason


def _value(body: Body, name: bytes) -> bytes:
    return dict(zip(body.fields[::2], body.fields[1::2], strict=False)).get(name, b"")


def _headers(data: bytes) -> Mapping[str, str]:
    try:
        return msgspec.json.decode(data, type=dict[str, str]) if data else {}
    except msgspec.MsgspecError:
        return {}
