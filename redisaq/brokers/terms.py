"""What every part of the Broker protocol speaks of: groups, connections, doorbells.

Plain data and one small protocol; nothing here does anything.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class GroupName(msgspec.Struct, frozen=True):
    """A topic's consumer group."""

    topic: str
    group: str


class ReaderMark(msgspec.Struct, frozen=True):
    """A reading connection as the server knows it (T3): enough to kill just that one."""

    client_id: int
    address: str
    run_id: str


class Doorbell(Protocol):
    """Rung when what it was asked for changes. A hint, never the truth: it may ring for nothing, and several rings may be one."""

    async def wait(self) -> None:
        """Return at the next ring, or at once if it rang since the last call; also after each reconnection."""
        ...

    async def close(self) -> None:
        """Stop listening."""
        ...
