"""What brokers and steps speak of: groups, connections, entries, readers, doorbells.

Plain data and two small protocols; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

RawEntry = tuple[bytes, Sequence[bytes] | None]
"""An entry's id and its flat list of fields and values (field, value, field, value ...)."""


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


class Reader(Protocol):
    """A connection that reads new entries of one partition for one group (T3): never shared."""

    async def read(self, count: int, block: float) -> Sequence[RawEntry]:
        """Return up to `count` entries never delivered before, waiting up to `block` seconds (0: do not wait) for the first.

        Cancelling brings the read to an end on the server first (bounded by a second); what it still brought is then in
        `take_leftover`.

        Raises:
            ConnectionFailed: the connection broke, entries may have been delivered unseen: fence, claim what is pending, open another.
            GroupGoneError: the group is gone, or the topic (T6); make it again before reading on.
        """
        ...

    def ask_ahead(self, count: int) -> None:
        """Let the server be asked for up to `count` more already, while the caller works on what it has: the next `read` returns them."""
        ...

    async def finish(self) -> None:
        """Wait, at most a second, for what was asked for ahead: it is then in `take_leftover`. Cancelling does not end it."""
        ...

    def take_leftover(self) -> Sequence[RawEntry]:
        """Return, once, what a cancelled read brought after all, and what `finish` did. They count as delivered."""
        ...

    @property
    def mark(self) -> ReaderMark:
        """What was registered for this reader."""
        ...

    @property
    def settled(self) -> bool:
        """True if no read is without its answer: such a reader needs no kill."""
        ...

    async def close(self) -> None:
        """Close the connection. The registration stays until `fence` or `release`."""
        ...
