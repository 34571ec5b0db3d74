"""A message as users see it, when they send and receive it.

A producer uses the first fields; a consumer fills in the rest. A message is compared and hashed by identity.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Delivery(Protocol):
    """The consumer's side of a message that was pulled with `Consumer.messages()`."""

    @property
    def lost(self) -> bool:
        """True if the partition's lease ended before the message was settled."""
        ...

    def enter(self) -> None:
        """Begin the message's body."""
        ...

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        """End the body; return True to swallow the exception."""
        ...


class Message(msgspec.Struct, Generic[T_co], eq=False):
    """One job.

    Attributes:
        topic: its topic.
        payload: the data for the handler.
        partition_key: the name of a field of the payload whose value decides the partition (and the order, with `ordering="key"`).
        key: that value as text, or the key given explicitly; None: any partition.
        headers: text to text, carried along.
        timeout: seconds a handler may run; None: the consumer's own limit.
        msg_id: given by the producer; stays the same whatever happens to the message.
        partition: its partition; -1 before sending.
        attempt: 1 at the first delivery; 0 before sending.
        token: the fencing token under which it was delivered; 0 before sending.
        entry: the id of its stream entry as the server writes it; see `entry_id`.
        created_ms: when it was made, milliseconds since 1970, if that is not when it was appended; see `created_at`.
        fields: the fields of its stream entry, as the server holds them.
        delivery: the consumer's side of a message that was pulled.
    """

    topic: str
    payload: T_co
    partition_key: str | None = None
    timeout: float | None = None
    key: str | None = None
    headers: Mapping[str, str] = {}
    msg_id: str = ""
    partition: int = -1
    attempt: int = 0
    token: int = 0
    entry: bytes = b""
    created_ms: int = 0
    fields: Sequence[bytes] = ()
    delivery: Delivery | None = None

    def __repr__(self) -> str:
        """Show the fields that matter to a person."""
        shown = ("topic", "payload", "key", "headers", "timeout", "msg_id", "partition", "attempt", "entry_id")
        values = ((name, getattr(self, name)) for name in shown)
        return f"Message({', '.join(f'{name}={value!r}' for name, value in values if value or name == 'payload')})"

    @property
    def entry_id(self) -> str:
        """The id of its stream entry; "" before sending."""
        return self.entry.decode()

    @property
    def enqueued_at(self) -> datetime | None:
        """When it was appended to its partition, by the server's clock; None before sending."""
        return datetime.fromtimestamp(int(self.entry.split(b"-", 1)[0]) / 1000, UTC) if self.entry else None

    @property
    def created_at(self) -> datetime | None:
        """When the producer made it: earlier than `enqueued_at` for a delayed message; None before sending."""
        return datetime.fromtimestamp(self.created_ms / 1000, UTC) if self.created_ms else self.enqueued_at

    @property
    def lost(self) -> bool:
        """True if it was pulled with `messages()` and its partition's lease ended before it was settled."""
        return self.delivery is not None and self.delivery.lost

    async def __aenter__(self) -> Message[T_co]:
        """Start to work on a message pulled with `Consumer.messages()`.

        Raises:
            RuntimeError: the message was given to a handler, which settles it by returning.
        """
        if self.delivery is None:
            reason = "`async with message` is for messages of Consumer.messages(); a handler settles by returning"
            raise RuntimeError(reason)
        self.delivery.enter()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        """Settle it: as done if there was no exception, as failed if there was one. If cancelled from outside, it stays pending."""
        if self.delivery is None:  # only through __aenter__
            return False
        return self.delivery.leave(kind, error, traceback)


Callback: TypeAlias = Callable[[Message[T]], Awaitable[Any] | Any]
"""A handler of one message: async, or plain (then it runs in a worker thread)."""

BatchCallback: TypeAlias = Callable[[list[Message[T]]], Awaitable[Any] | Any]
"""A handler of several messages of one partition, in their order."""
