"""The terms that brokers and steps share: groups, connections, entries, readers, doorbells.

Plain data, two small protocols, and the error of a token that is not current any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from redisaq.core.records import Entry
from redisaq.errors import LeaseLostError


class GroupName(msgspec.Struct, frozen=True):
    """A topic's consumer group."""

    topic: str
    group: str


def lease_lost(group: GroupName, partition: int) -> LeaseLostError:
    """Return what a broker raises for a token that is not the group's current one."""
    return LeaseLostError(f"another token is current for {group.group} in partition {partition} of {group.topic}")


class ReaderMark(msgspec.Struct, frozen=True):
    """A reading connection as the server knows it (T3): enough to kill exactly that connection."""

    client_id: int
    address: str
    run_id: str


class Doorbell(Protocol):
    """Notifies its listener of changes. A notification is a hint, never the truth: it may come for nothing, and several may become one."""

    async def wait(self) -> None:
        """Return at the next notification, or at once if one came since the last call. A reconnection counts as a notification."""
        ...

    async def close(self) -> None:
        """Stop listening."""
        ...


class Reader(Protocol):
    """A connection that reads new entries of one partition for one group (T3). It is never shared."""

    async def read(self, count: int, block: float) -> Sequence[Entry]:
        """Return up to `count` entries never delivered before, waiting up to `block` seconds (0: do not wait) for the first.

        If you cancel the call, it first ends the read on the server (within a second); what that read still brought is then in
        `take_leftover`.

        Raises:
            ConnectionFailed: the connection broke, and entries may have been delivered unseen: fence, claim what is pending, open another
                reader.
            GroupGoneError: the group or the topic is gone (T6); make the group again before you read on.
        """
        ...

    def ask_ahead(self, count: int) -> None:
        """Ask the server for up to `count` more entries while the caller works on what it has. The next `read` returns them."""
        ...

    async def finish(self) -> None:
        """Wait at most a second for the answer to `ask_ahead`, which is then in `take_leftover`. Cancelling does not end the wait."""
        ...

    def take_leftover(self) -> Sequence[Entry]:
        """Return, once, what a cancelled read still brought, and what `finish` waited for. These entries count as delivered."""
        ...

    @property
    def mark(self) -> ReaderMark:
        """The mark under which this reader is registered."""
        ...

    @property
    def settled(self) -> bool:
        """True if every read has its answer: such a reader needs no kill."""
        ...

    async def close(self) -> None:
        """Close the connection. The registration stays until `fence` or `release`."""
        ...
