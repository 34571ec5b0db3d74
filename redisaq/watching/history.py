"""What happened in a group, as sentences for the page and `redisaq top`."""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.admin_views import HistoryEntry
from redisaq.watching.words import count, many, ranges


def sentence_of(entry: HistoryEntry, partitions: Sequence[int]) -> str:
    """Return a change as a sentence, such as "host-2:7 was taken for dead: partition 3 lost its owner"."""
    by = f" by {entry.by}" if entry.by else ""
    number = entry.count or 0
    match entry.what:
        case "joined" | "left":
            text = f"{entry.name} {entry.what}"
        case "taken for dead":
            which = f"partition{'s' if number > 1 else ''} {ranges(partitions)} lost {'their' if number > 1 else 'its'} owner"
            text = f"{entry.name} was taken for dead{by}" + (f": {which}" if number else "")
        case "grown":
            text = f"grown to {many(number, 'partition')}"
        case "sought":
            where = f"to {entry.to}" if entry.to else "to given entries"
            text = f"moved {where}{by}: {many(number, 'partition')}"
        case "redriven" | "purged":
            text = f"{many(number, 'dead letter')} {entry.what}{by}"
        case _:
            text = f"{entry.what}{by}" + (f": {count(number)}" if number else "")
    return text
