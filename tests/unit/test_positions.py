"""Where a group goes on: the id before the first entry that is to be delivered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from redisaq.core.entry_ids import LAST, before_entry, before_time, parse_id
from redisaq.errors import SettingsError


@pytest.mark.parametrize(
    ("entry_id", "before"),
    [
        ("1700000000000-5", b"1700000000000-4"),
        ("1700000000000-0", b"1699999999999-%d" % LAST),
        ("1700000000000", b"1699999999999-%d" % LAST),
        ("0-1", b"0-0"),
        ("0-0", b"0-0"),
        (f"{LAST}-{LAST}", b"%d-%d" % (LAST, LAST - 1)),
    ],
)
def test_entries(entry_id: str, before: bytes) -> None:
    assert before_entry(entry_id) == before


@pytest.mark.parametrize(
    "entry_id", ["", "-", "1-", "-1", "1-2-3", "x", "1.5", " 1-0", "1-0\n", f"{LAST + 1}", f"1-{LAST + 1}", "\u0661-0", 5, b"1-0"]
)
def test_what_is_no_id(entry_id: Any) -> None:
    with pytest.raises(SettingsError, match="entry id"):
        before_entry(entry_id)


@pytest.mark.parametrize(
    ("moment", "before"),
    [
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), b"999-%d" % LAST),
        (datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC), b"1000-%d" % LAST),  # an entry of millisecond 1000 may be earlier
        (datetime(1970, 1, 1, 2, 0, 1, tzinfo=timezone(timedelta(hours=2))), b"999-%d" % LAST),
        (datetime(1970, 1, 1, tzinfo=UTC), b"0-0"),
        (datetime(1960, 1, 1, tzinfo=UTC), b"0-0"),
        (datetime(2286, 11, 20, 17, 46, 40, 1000, tzinfo=UTC), b"10000000000000-%d" % LAST),
    ],
)
def test_times(moment: datetime, before: bytes) -> None:
    assert before_time(moment) == before


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(SettingsError, match="aware"):
        before_time(datetime(2026, 1, 1))  # noqa: DTZ001


def test_ids_as_numbers() -> None:
    """An empty id is the position before every entry, and milliseconds alone are the first id of theirs."""
    assert [parse_id(text) for text in (b"", b"7", b"7-3", b"0-1")] == [(0, 0), (7, 0), (7, 3), (0, 1)]
    assert LAST == 18_446_744_073_709_551_615
