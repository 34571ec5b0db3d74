"""The newest messages of a topic, newest first, with the beginnings of their payloads: what its page lists."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from redisaq.admin import Admin, MessageSummary
from redisaq.dashboard.letters import Privacy
from redisaq.errors import ConnectionFailed, ServerError, SettingsError, UnknownFormatError
from redisaq.watching import TopicView

MOST_PARTITIONS = 64
"""Partitions that are looked at: each takes the server some 20 µs."""

FEW = 10
"""Messages that the page about a topic shows."""

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
        looked: how many partitions were looked at.
        older: the entry id before which the next page begins; "" if this is the last one.
        error: why they cannot be read; "" if they can.
    """

    rows: Sequence[Row]
    looked: int
    older: str = ""
    error: str = ""


async def look(
    admin: Admin, topic: TopicView, privacy: Privacy, *, count: int, partition: int | None = None, before: str | None = None
) -> Newest:
    """Look at the newest messages. What goes wrong is in the answer.

    Args:
        admin: asks the server.
        topic: the topic.
        privacy: says what is shown of payloads.
        count: about how many messages: those of one entry id are not torn apart.
        partition: only this one; None: the first MOST_PARTITIONS.
        before: an entry id: messages with lower ones.
    """
    numbers = range(min(topic.partitions, MOST_PARTITIONS)) if partition is None else [partition]
    try:
        found = await admin.message_summaries(topic.topic, partitions=numbers, count=count + 1, before=before or None, size=PREVIEW)
    except ConnectionFailed:  # the page says that the server is away
        return Newest((), len(numbers))
    except (ServerError, SettingsError, UnknownFormatError) as error:
        return Newest((), len(numbers), error=str(error))
    end = count
    while 0 < end < len(found) and found[end].entry_id == found[end - 1].entry_id:
        end += 1
    rows = [Row(one, privacy.preview(one.start, one.size)) for one in found[:end]]
    return Newest(rows, len(numbers), rows[-1].message.entry_id if end < len(found) else "")
