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
from redisaq.core.records import (
    FOREIGN,
    MOST_NUMBER,
    NO_FAILURE,
    RAW,
    UNREADABLE,
    Body,
    Entry,
    Failure,
    Unreadable,
    decode_delayed,
    decode_retry,
)
from redisaq.message import Message


def summary_of(topic: str, group: str, partition: int, found: DeadLetterSummary) -> DeadSummary:
    """Return a broker's summary of a dead letter for Admin's callers."""
    msg_id, origin = found.msg_id.decode("utf-8", "replace"), found.origin.decode("utf-8", "replace")
    return DeadSummary(
        topic=topic,
        group=group,
        partition=partition,
        dead_id=found.dead_id.decode(),
        msg_id=msg_id,
        key=None if found.key is None else found.key.decode("utf-8", "replace"),
        **_kind(found),
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
    return DeadKind(
        **_kind(found),
        count=found.number,
        first=moment(int(found.oldest.split(b"-")[0])),
        last=moment(int(found.newest.split(b"-")[0])),
        partition=partition,
        dead_id=found.newest.decode(),
    )


def _kind(found: DeadLetterSummary | CountedKind) -> dict[str, str]:
    """Return the kind of a failure, and what it follows from."""
    file, line, function, error_type, error = (word.decode("utf-8", "replace") for word in (*found.frame, found.error_type, found.error))
    frame = where(file, line, function)
    if found.foreign:
        error_type, error = FOREIGN_TYPE, FOREIGN_TEXT
    return {"kind": kind_of(error_type, template(error), frame), "error_type": error_type, "error": error, "where": frame}


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
        return RetryMessage(
            **self._content(partition, row.id, None if row.body is None else body.fields),
            **_failed(body.failure or NO_FAILURE),
            group=group,
            due=_due(row),
            attempts=max(0, body.attempt - body.unused),
            life=body.life,
            failed_between=tuple(map(moment, (body.failure or NO_FAILURE).between_ms)),
        )

    def _content(self, partition: int, entry_id: bytes, fields: Sequence[bytes] | None) -> dict[str, Any]:
        if fields is None:
            return _content(self._topic, partition, Body(entry_id, ()), Unreadable(entry_id, "its content is gone"))
        return _content(self._topic, partition, Body(entry_id, fields), _message(self._decoder, (entry_id, fields), partition))


def _content(topic: str, partition: int, body: Body, message: Message[Any] | Unreadable) -> dict[str, Any]:
    """Return what all stored messages have in common.

    Args:
        topic: the topic.
        partition: the partition.
        body: the message as it is stored.
        message: the same, decoded.
    """
    if isinstance(message, Unreadable):
        key = _value(body, b"k").decode("utf-8", "replace") or None
        payload, unreadable, headers = None, message.reason, _headers(_value(body, b"h"))
    else:
        payload, unreadable, key, headers = message.payload, "", message.key, message.headers
    return {
        "topic": topic,
        "partition": partition,
        "msg_id": message_id(body),
        "entry_id": body.entry_id.decode("utf-8", "backslashreplace"),
        "data": _value(body, b"d") or _value(body, RAW),
        "payload": payload,
        "unreadable": unreadable,
        "key": key,
        "headers": headers,
    }


def _failed(failure: Failure) -> dict[str, Any]:
    """Return the last failure, as all messages that have failed show it."""
    return {
        "error_type": failure.error_type,
        "error": failure.error,
        "traceback": failure.traceback,
        "first_failed": moment(failure.first_failed_ms) if failure.first_failed_ms else None,
        "last_failed": moment(failure.last_failed_ms) if failure.last_failed_ms else None,
        "member": failure.member,
    }


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
        content = _content(self._topic, partition, body, _message(self._decoder, (body.entry_id, body.fields), partition))
        if body.life == FOREIGN:
            content["unreadable"] = FOREIGN_TEXT
        return DeadMessage(
            **content,
            **_failed(body.failure or NO_FAILURE),
            group=self._group,
            dead_id=dead_id.decode(),
            attempts=body.attempt,
            died_at=moment(int(dead_id.split(b"-")[0])),
            life=max(0, body.life),
        )


def _message(decoder: EntryDecoder[Any], entry: Entry, partition: int) -> Message[Any] | Unreadable:
    flights, unreadable = decoder.decode([entry], partition, 0)
    return flights[0] if flights else unreadable[0]


def _value(body: Body, name: bytes) -> bytes:
    return dict(zip(body.fields[::2], body.fields[1::2], strict=False)).get(name, b"")


def _headers(data: bytes) -> Mapping[str, str]:
    try:
        return msgspec.json.decode(data, type=dict[str, str]) if data else {}
    except UNREADABLE:
        return {}
