"""How long a topic keeps its entries under retention="acked": arithmetic in seconds and microseconds.

Invariant: an entry that a producer may still look for stays (E3).
"""

from __future__ import annotations

IDLE = 86_400.0
"""Seconds without a member after which a group pins nothing, unless a producer asks for another time."""

SEND_TIMEOUT = 30.0
"""The time limit in seconds, if no producer has declared one."""


def kept_for(send_timeout: float) -> float:
    """Return for how many seconds every entry is kept, even if every group has settled it (E3).

    This is twice the producers' time limit: a call may look for its messages that long after it began, and the id from which it looks may
    have been learned that long before. An anchor is younger than `anchor_age` when a call begins, so half a limit is left for slow answers.
    """
    return 2 * send_timeout


def anchor_age(send_timeout: float) -> float:
    """Return how many seconds old an anchor may be when a call begins (E2, E3)."""
    return send_timeout / 2


def alone_since(*, now: int, last_expiry: int, changed: int) -> int | None:
    """Return since when a group has had no member, None while it has one; microseconds of the server's time.

    Args:
        now: the server's time.
        last_expiry: the highest expiry among its members, 0 without any: a member that crashed was there until then.
        changed: when its document last changed, 0 if that is not known: a member that left was there until then.
    """
    return None if last_expiry > now else max(last_expiry, changed)
