"""What one change of the group's document changed, so that a member that has the document before it need not read the whole one (M10).

Input: two documents that follow each other. Output: a delta, and the later document made from the earlier one and the delta. Invariant:
`apply_delta(before, delta_of(before, after)) == after`. Members of older versions write no deltas and read none: they exchange whole
documents, which are stored as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from redisaq.core.membership import Document, MemberEntry, check_bounds
from redisaq.core.records import UNREADABLE

K = TypeVar("K")
V = TypeVar("V")

SMALL = 64
"""Members and partitions together up to which a document is always read whole: it is hardly longer than a delta."""

KEPT = 16
"""Deltas that a group keeps, the latest ones. A member that missed more reads the whole document."""


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """The difference between two documents. In each column, None means that the entry is gone.

    Attributes:
        before: the epoch of the earlier document.
        epoch: the epoch of the later one.
        partitions: the later one's partition count.
        members: name -> its entry, for the names that changed; the next columns alike.
        target: partition -> the member name that should own it.
        lease: partition -> the incarnation that owns it.
        token: partition -> the last token given.
        unable: partition -> the incarnations that could not read it.
    """

    before: int
    epoch: int
    partitions: int
    members: dict[str, MemberEntry | None] = {}
    target: dict[int, str | None] = {}
    lease: dict[int, str | None] = {}
    token: dict[int, int | None] = {}
    unable: dict[int, dict[str, int] | None] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Delta)


def delta_of(before: Document, after: Document) -> Delta | None:
    """Return what has changed between two documents; None if they are so small that it is not worth a delta."""
    if len(after.members) + after.partitions <= SMALL:
        return None
    return Delta(
        before.epoch,
        after.epoch,
        after.partitions,
        _changes(before.members, after.members),
        _changes(before.target, after.target),
        _changes(before.lease, after.lease),
        _changes(before.token, after.token),
        _changes(before.unable, after.unable),
    )


def apply_delta(document: Document, delta: Delta) -> Document | None:
    """Return the later document; None if the delta is not one of this document."""
    if document.epoch != delta.before or delta.partitions < document.partitions:
        return None
    if any(holder and partition not in document.token and partition not in delta.token for partition, holder in delta.lease.items()):
        return None  # a lease without a token
    return Document(
        delta.epoch,
        _changed(document.members, delta.members),
        delta.partitions,
        _changed(document.target, delta.target),
        _changed(document.lease, delta.lease),
        _changed(document.token, delta.token),
        _changed(document.unable, delta.unable),
    )


def encode_delta(delta: Delta | None, whole: bytes) -> bytes:
    """Return the delta as msgpack; nothing if there is none, or if it is not much shorter than the whole document."""
    encoded = b"" if delta is None else _encoder.encode(delta)
    return encoded if 2 * len(encoded) < len(whole) else b""


def read_delta(data: bytes) -> Delta | None:
    """Return the delta, None if it cannot be read. What a document must not contain, a delta must not, either."""
    try:
        delta = _decoder.decode(data)
        said = (at for entries in delta.unable.values() if entries is not None for at in entries.values())
        tokens = [token for token in delta.token.values() if token is not None]
        check_bounds(delta.partitions, (*delta.target, *delta.lease, *delta.token, *delta.unable), (delta.epoch, *tokens, *said))
    except UNREADABLE:
        return None
    if len(tokens) < len(delta.token) or not all(number < delta.partitions for number in delta.target):
        return None  # a token stays (M6)
    return delta


def _changes(before: Mapping[K, V], after: Mapping[K, V]) -> dict[K, V | None]:
    if before is after:
        return {}
    changes: dict[K, V | None] = {key: value for key, value in after.items() if before.get(key) != value}
    return changes | dict.fromkeys(before.keys() - after.keys())


def _changed(before: dict[K, V], changes: dict[K, V | None]) -> dict[K, V]:
    if not changes:
        return before
    return {key: value for key, value in (before | changes).items() if value is not None}
