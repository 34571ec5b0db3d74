"""What a member has in handlers, as it reports it while somebody watches the group.

It is kept as bytes that expire with the member's heartbeat. No member acts on a report. Members of older versions write none, and an
unreadable one counts as none. Invariant: a report is small, regardless of how much runs and of what users call their messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from redisaq.core.records import UNREADABLE
from redisaq.message import Message

WATCHED = 10.0
"""Seconds for which members report after somebody has looked."""

MOST_OF_MEMBER, MOST_OF_GROUP = 100, 2000
"""Messages that one member, and all members of a group together, report: those that have been in handlers longest."""

MOST_TEXT = 100
"""Characters of an id or a key that are reported."""


class Running(msgspec.Struct, frozen=True, array_like=True):
    """A message that is in a handler.

    Attributes:
        msg_id: its id, shortened.
        partition: its partition.
        entry_id: its stream entry.
        attempt: the number of the delivery, from 1.
        since: when the handler began, in the server's milliseconds.
        key: its key, shortened.
        limit: seconds that the handler may take; None: no limit.
    """

    msg_id: str
    partition: int
    entry_id: str
    attempt: int
    since: int
    key: str | None = None
    limit: float | None = None


class Report(msgspec.Struct, frozen=True):
    """What one member has in handlers.

    Attributes:
        count: how many messages.
        messages: those that have been there longest, longest first.
    """

    count: int
    messages: tuple[Running, ...] = ()


_decoder = msgspec.json.Decoder(Report)


def report_of(running: Sequence[tuple[Message[Any], float]], *, now: int, members: int, timeout: float | None) -> Report:
    """Return a member's report.

    Args:
        running: what is in handlers, each with the seconds since it began, longest first.
        now: the server's time in microseconds.
        members: how many members the group has: each reports its part.
        timeout: seconds that a handler may take if its message does not say.
    """
    most = max(1, min(MOST_OF_MEMBER, MOST_OF_GROUP // max(1, members)))
    return Report(len(running), tuple(_running(message, now / 1e6 - seconds, timeout) for message, seconds in running[:most]))


def _running(message: Message[Any], began: float, timeout: float | None) -> Running:
    return Running(
        message.msg_id[:MOST_TEXT],
        message.partition,
        message.entry_id,
        message.attempt,
        int(began * 1000),
        None if message.key is None else message.key[:MOST_TEXT],
        timeout if message.timeout is None else message.timeout,
    )


def encode_report(report: Report) -> bytes:
    """Return the report as JSON."""
    return msgspec.json.encode(report)


def read_report(data: bytes | None) -> Report | None:
    """Return the report, None if there is none, or if it cannot be read."""
    try:
        return None if data is None else _decoder.decode(data)
    except UNREADABLE:
        return None
