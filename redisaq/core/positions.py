"""Positions in a stream: the id after which a group goes on.

In come entry ids as people write them, and times; out go ids as a server takes them. What always holds: what was asked for is the first
that is delivered.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from redisaq.core.entry_ids import LAST, before, format_id
from redisaq.describing import shown
from redisaq.errors import SettingsError


def before_entry(entry_id: str) -> bytes:
    """Return the greatest id below an entry's; the lowest one stays.

    Args:
        entry_id: "1700000000000-0", or the milliseconds alone.

    Raises:
        SettingsError: it is no id.
    """
    match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", entry_id, re.ASCII) if isinstance(entry_id, str) else None  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
    if match is None or int(match[1]) > LAST or int(match[2] or 0) > LAST:
        raise SettingsError(f"an entry id looks like 1700000000000-0, not {shown(entry_id)}")
    return format_id(before((int(match[1]), int(match[2] or 0))))


def before_time(moment: datetime) -> bytes:
    """Return the greatest id below those of entries that were appended at this time or later.

    Raises:
        SettingsError: a naive datetime: it means another time on each machine.
    """
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise SettingsError(f"a datetime must be aware (have a time zone), {shown(moment)} is not")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    return format_id(before((max(0, -(-microseconds // 1000)), 0)))
