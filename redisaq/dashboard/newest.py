"""The newest messages of a topic, newest first, with the beginnings of their payloads: what its page lists."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from redisaq.admin import Admin, MessageSummary
from redisaq.dashboard.privacy import Privacy
from redisaq.errors import ConnectionFailed, ServerError, SettingsError, UnknownFormatError
from redisaq.watching import PartitionView, TopicView

MOST_PARTITIONS = 64
"""Partitions that are looked at together: each takes the server some 20 µs."""

FEW = 10
"""Messages that the page about a topic shows."""

NEXT = 5
"""Messages of one partition that come next which the page about a group shows."""

PREVIEW = 160
"""Bytes of a payload that are read."""


class Row(msgspec.Struct, frozen=True):
    """A message, and its payload in one line."""

    message: MessageSummary
    preview: str


class Newest(msgspec.Struct, frozen=True):
    """The newest messages.

    Attributes:
        rows: the messages, the newest first.
        looked: the partitions that were looked at.
        older: the entry id before which the next page begins; "" if this is the last one.
        error: why they cannot be read; "" if they can.
    """

    rows: Sequence[Row]
    looked: Sequence[int]
    older: str = ""
    error: str = ""


def liveliest(topic: TopicView) -> Sequence[int]:
    """Return the partitions in which the newest messages are, as far as is known: those in which some have arrived, then the first ones."""
    return list(dict.fromkeys((*topic.lately, *range(min(topic.partitions, MOST_PARTITIONS)))))[:MOST_PARTITIONS]


def block(topic: TopicView, first: int) -> Sequence[int]:
    """Return the partitions that are looked at together from this one on."""
    return range(first, min(topic.partitions, first + MOST_PARTITIONS))


async def look(
    admin: Admin, topic: TopicView, privacy: Privacy, *, count: int, partitions: Sequence[int], before: str | None = None
) -> Newest:
    """Look at the newest messages. What goes wrong is in the answer.

    Args:
        admin: asks the server.
        topic: the topic.
        privacy: says what is shown of payloads.
        count: about how many messages: those of one entry id are not torn apart.
        partitions: those to look at.
        before: an entry id: messages with lower ones.
    """
    try:
        found = await admin.message_summaries(topic.topic, partitions=partitions, count=count + 1, before=before or None, size=PREVIEW)
    except ConnectionFailed:  # the page says that the server is away
        return Newest((), partitions)
    except (ServerError, SettingsError, UnknownFormatError) as error:
        return Newest((), partitions, error=str(error))
    end = count
    while 0 < end < len(found) and found[end].entry_id == found[end - 1].entry_id:
        end += 1
    rows = [Row(one, privacy.preview(one.start, one.size)) for one in found[:end]]
    return Newest(rows, partitions, rows[-1].message.entry_id if end < len(found) else "")


async def next_in_line(admin: Admin, topic: str, partition: PartitionView) -> Sequence[MessageSummary]:
    """Return the messages that a group gets next in a partition; none if that cannot be read, which the page says elsewhere."""
    with contextlib.suppress(ConnectionFailed, ServerError, SettingsError, UnknownFormatError):
        return await admin.message_summaries(topic, partitions=[partition.partition], count=NEXT, after=partition.last_delivered, size=100)
    return ()
