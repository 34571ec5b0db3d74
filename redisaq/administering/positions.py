"""Where `seek` moves a group, and what that would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Literal

from redisaq.admin_views import SeekPreview
from redisaq.administering.asking import Asking
from redisaq.brokers.steps.administration import END, START, PartitionView
from redisaq.brokers.steps.messages import CountEntries
from redisaq.core.entry_ids import before_entry, before_time, parse_id
from redisaq.describing import shown
from redisaq.errors import SettingsError
from redisaq.settings import check_count

Position = Literal["earliest", "latest"] | datetime | Mapping[int, str]
"""The positions that `seek` accepts."""

COUNTED = 500
"""Entries that one step counts."""


def positions_of(to: Position, partitions: int) -> dict[int, bytes]:
    """Return, for each partition to move, the position after which it continues."""
    if isinstance(to, Mapping):
        positions: dict[int, bytes] = {}
        for given, entry_id in to.items():
            number = check_count("a partition's number", given, least=0)
            if number >= partitions:
                raise SettingsError(f"there is no partition {number}: the topic has {partitions}")
            positions[number] = before_entry(entry_id)
        return positions
    if isinstance(to, datetime):
        return dict.fromkeys(range(partitions), before_time(to))
    if not isinstance(to, str) or to not in ("earliest", "latest"):
        raise SettingsError(f"to must be 'earliest', 'latest', an aware datetime, or entry ids by partition, not {shown(to)}")
    return dict.fromkeys(range(partitions), START if to == "earliest" else END)


async def preview(asking: Asking, view: PartitionView, position: bytes, *, topic: str, number: int, limit: int) -> tuple[SeekPreview, int]:
    """Return what moving a group to a position would do in one partition, and how many entries had to be counted for that.

    Args:
        asking: counts entries.
        view: what the group has in the partition.
        position: the position after which it would continue, from `positions_of`.
        topic: the topic.
        number: the partition.
        limit: the most entries to count.
    """
    again = skipped = counted = 0
    complete = True
    if position == START:
        again = max(0, view.length - view.unread)
    elif position == END:
        skipped = view.unread
    else:
        back = parse_id(position) < parse_id(view.last_delivered)
        after, until = (position, view.last_delivered) if back else (view.last_delivered, position)
        counted, complete = await _count(asking, partial(CountEntries, topic, number, until=until), after, limit)
        again, skipped = (counted, 0) if back else (0, counted)
    states = {"pending": view.pending, "retry": view.retry, "dead": view.dead}
    return SeekPreview(number, view.unread, again, skipped, complete, **states), counted


async def _count(asking: Asking, step: Callable[..., CountEntries], after: bytes, most: int) -> tuple[int, bool]:
    """Count entries of a partition, a page at a time; return how many, and whether that is all."""
    total = 0
    while most > total:
        (found,) = await asking.do_each([step(after=after, count=min(COUNTED, most - total))])
        total += found.number
        if found.last is None:
            return total, True
        after = found.last
    return total, False
