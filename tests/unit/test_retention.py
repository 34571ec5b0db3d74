"""How long entries are kept: times that producers and administrators are promised."""

from __future__ import annotations

import pytest

from redisaq.core.retention import IDLE, SEND_TIMEOUT, alone_since, anchor_age, kept_for


def test_an_entry_is_kept_for_as_long_as_a_producer_may_look_for_it() -> None:
    """E3: a call of 30 s begins with an anchor of at most 15 s, and 15 s more are left for slow answers."""
    assert (SEND_TIMEOUT, kept_for(30.0), anchor_age(30.0)) == (30.0, 60.0, 15.0)
    assert IDLE == 24 * 3600.0


@pytest.mark.parametrize(
    ("last_expiry", "changed", "since"), [(101, 50, None), (100, 50, 100), (0, 50, 50), (40, 50, 50), (60, 50, 60), (0, 0, 0)]
)
def test_a_group_is_alone_since_its_last_member_went_or_expired(last_expiry: int, changed: int, since: int | None) -> None:
    assert alone_since(now=100, last_expiry=last_expiry, changed=changed) == since
