"""What a change would do, in words and numbers, before it is made. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from redisaq.admin import Position, SeekPreview
from redisaq.watching import words

BARS = 64
"""Partitions up to which each has a bar."""


class Preview(msgspec.Struct, frozen=True):
    """What a change would do.

    Attributes:
        head: what matters most.
        more: what else.
        rows: numbers, and what they are of.
        bars: two heights for each partition, in hundredths; none if there are too many.
        label: what the bars show.
        words: the command that does the same.
    """

    head: str
    more: str
    rows: Sequence[tuple[str, str]]
    bars: Sequence[tuple[float, float]]
    label: str
    words: Sequence[str]


def of_seek(found: Sequence[SeekPreview], topic: str, group: str, to: Position) -> Preview:
    """Return what moving a group would do."""
    again, skipped = sum(one.again for one in found), sum(one.skipped for one in found)
    waiting = sum(one.waiting for one in found)
    least = "" if all(one.complete for one in found) else "at least "
    if again and skipped:
        head = f"{words.many(again, 'message')} would be delivered again, and {words.count(skipped)} skipped"
    elif skipped:
        head = f"{words.many(skipped, 'unread message')} would be skipped"
    elif again:
        head = f"{words.many(again, 'message')} would be delivered again"
    else:
        head = "nothing would be delivered again or skipped"
    head = least + head
    retry, dead, pending = (sum(getattr(one, name) for one in found) for name in ("retry", "dead", "pending"))
    rows = [
        (retry, "wait for a retry: those from there on become first deliveries, the others are still tried again"),
        (dead, "dead letters stay, and those from there on run once more as well"),
        (pending, "delivered and not finished: those from there on are finished and come again"),
    ]
    most = max((one.unread + one.again for one in found), default=0) or 1
    bars = [(round(100 * one.again / most, 1), round(100 * max(0, one.unread - one.skipped) / most, 1)) for one in found]
    return Preview(
        head[0].upper() + head[1:],
        f"{words.count(waiting)} would then wait.",
        [(words.count(number), text) for number, text in rows if number],
        bars if len(bars) <= BARS and again else [],
        "By partition: delivered again on top of what waits",
        ["seek", topic, group, *_words_of(to), "--dry-run"],
    )


def _words_of(to: Position) -> list[str]:
    if isinstance(to, datetime):
        return [to.isoformat()]
    if isinstance(to, Mapping):
        return [f"{number}={entry}" for number, entry in to.items()]
    return [to]


def of_growth(before: int, after: int, topic: str) -> Preview:
    """Return what growing a topic would do."""
    share = 1 - before / after
    head = f"From {words.count(before)} to {words.many(after, 'partition')}"
    return Preview(
        head, f"{share:.0%} of the keys move to the new partitions. A topic never shrinks.", [], [], "", ["grow", topic, str(after)]
    )
