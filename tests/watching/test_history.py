"""The history as sentences, and what of it has begun and not ended. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from redisaq.admin_views import HistoryEntry
from redisaq.core.history import BEGUN
from redisaq.watching.history import named, sentence_of, unfinished


def entry(what: str, **fields: Any) -> HistoryEntry:
    given = {"entry_id": "1-0", "at": datetime(2026, 1, 31, tzinfo=UTC), "member": "", "name": "", "by": "mara", "partitions": ()}
    return HistoryEntry(what=what, **{**given, "count": None, "to": "", **fields})


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (entry("sought", count=2, to="latest"), "moved to latest by mara: 2 partitions"),
        (entry("seek begun", count=2, to="latest"), "seek begun to latest by mara, no end noted"),
        (entry("purge begun", msg_id="m-1"), "purge begun of message m-1 by mara, no end noted"),
        (entry("growth begun", count=8), "growth begun to 8 partitions by mara, no end noted"),
        (entry("grown", count=8), "grown to 8 partitions by mara"),
        (entry("grown", count=8, by=""), "grown to 8 partitions"),
        (entry("cancelled", count=1, msg_id="m-1"), "retry of message m-1 cancelled by mara"),
        (entry("cancelled while delayed", count=1, msg_id="m-1"), "delayed message m-1 cancelled by mara"),
        (entry("cancelled", count=1), "cancelled by mara: 1"),  # of an older version
        (entry("of a later version", count=3), "of a later version by mara: 3"),
    ],
)
def test_a_change_is_a_sentence(one: HistoryEntry, sentence: str) -> None:
    assert sentence_of(one, named(one)) == sentence


@pytest.mark.parametrize("end", BEGUN)
def test_what_has_begun_and_not_ended(end: str) -> None:
    """The first such change, unless one of its sort has ended since."""
    begun, later, done, other = entry(BEGUN[end], entry_id="1-0"), entry(BEGUN[end], entry_id="2-0"), entry(end), entry("paused")
    assert [one.unfinished for one in (begun, done, other)] == [True, False, False]
    assert unfinished([]) is unfinished([done]) is None
    assert unfinished([other, begun]) == begun
    assert unfinished([later, begun, done, other]) == begun
    assert unfinished([done, other, begun]) is None
    assert unfinished([later, done, begun]) == later
