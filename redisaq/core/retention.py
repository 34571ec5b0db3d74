"""How long a topic's entries are kept under retention="acked": pure arithmetic, in seconds and microseconds.

In come what producers declared and what is known of groups; out goes what may be trimmed. What always holds: an entry that a producer
could still look for stays (E3).
"""

from __future__ import annotations

IDLE = 86_400.0
"""Seconds without a member after which a group pins nothing, unless producers ask for another time."""

SEND_TIMEOUT = 30.0
"""Seconds, where no producer has declared a time limit."""


def kept_for(send_timeout: float) -> float:
    """Return for how many seconds every entry is kept, whoever has done with it (E3).

    Twice the producers' time limit: a call may look for its messages that long after it began, and the id from which it looks may have been
    learnt that long before. An anchor is younger than `anchor_age` when a call begins, so half a limit is left for slow answers.
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
