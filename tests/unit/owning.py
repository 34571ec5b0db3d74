"""A partition that is owned, with nobody around it, and messages in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from redisaq.consuming.gate import Gate
from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.codec import EntryDecoder
from redisaq.core.in_flight import Flight, InFlight
from redisaq.environment import Environment
from redisaq.settings import RetryPolicy

FIELDS = (b"i", b"1", b"d", b"{}")


def owned_partition(
    window: int = 4,
    *,
    page: int = 4,
    ring: Callable[[OwnedPartition], Any] = lambda _owned: None,
    partition: int = 0,
    token: int = 1,
    lease: Lease | None = None,
) -> OwnedPartition:
    """Return it; its lease lasts for a minute, if none is given."""
    decoder: EntryDecoder[Any] = EntryDecoder("jobs")
    flights = InFlight(partition, token, "me", policy=RetryPolicy(), decode=decoder.decode, window=window, page=page)
    if lease is None:
        lease = Lease("me", 60.0, Environment())
        lease.deadline = anyio.current_time() + 60
    return OwnedPartition(flights, lease, ring, Gate())


def read(owned: OwnedPartition, first: int, last: int) -> list[Flight]:
    """Let the server deliver entries that are new."""
    return owned.flights.delivered([(b"%d-0" % number, FIELDS) for number in range(first, last + 1)], 0)
