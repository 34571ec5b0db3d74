"""Which node of a cluster serves which slot: pure data, from a node's answer to CLUSTER SLOTS.

Input: that answer. Output: a SlotMap, which names the master of each slot, as far as there is one whose address is known. Invariant: two
maps are equal if every slot has the same master.
"""

from __future__ import annotations

from binascii import crc_hqx
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

SLOTS = 16384


class Node(NamedTuple):
    """A node's address, as the cluster announces it."""

    host: str
    port: int


class Slots(NamedTuple):
    """Neighbouring slots with one master."""

    first: int
    last: int
    master: Node


@dataclass(frozen=True)
class SlotMap:
    """Which node serves which slot.

    Attributes:
        ranges: in order, without overlaps; neighbours with one master are joined.
        masters: the nodes that serve slots.
    """

    ranges: tuple[Slots, ...] = ()
    masters: frozenset[Node] = field(init=False, compare=False)
    _firsts: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Compute what follows from the ranges."""
        object.__setattr__(self, "masters", frozenset(one.master for one in self.ranges))
        object.__setattr__(self, "_firsts", tuple(one.first for one in self.ranges))

    def master_of(self, slot: int) -> Node | None:
        """Return who serves the slot; None if nobody does, or nobody knows where."""
        place = bisect_right(self._firsts, slot) - 1
        if place < 0 or slot > self.ranges[place].last:
            return None
        return self.ranges[place].master


def slot_of(key: bytes) -> int:
    """Return the key's slot: of its hash tag if it has one, which is what is between its first { and the next }, if that is not empty."""
    begins = key.find(b"{") + 1
    if begins:
        ends = key.find(b"}", begins)
        if ends > begins:
            key = key[begins:ends]
    return crc_hqx(key, 0) % SLOTS


def read_slot_map(answer: object, asked: str) -> SlotMap:
    """Return what a node's answer to CLUSTER SLOTS says.

    Args:
        answer: a list of ranges, each with the first and last slot, its master and its replicas.
        asked: the host that answered. A node that does not know its own address announces none, which means: the one that you used.

    Raises:
        ValueError: this is no such answer.
    """
    return SlotMap(tuple(_joined(sorted(_read(answer, asked)))))


def _read(answer: object, asked: str) -> Iterator[Slots]:
    if not isinstance(answer, list):
        raise ValueError(f"CLUSTER SLOTS was answered by {answer!r}")  # noqa: TRY004 -- it is what came that is wrong, not a caller's type
    for one in cast("list[object]", answer):
        match one:
            case [int(first), int(last), [(bytes() | None) as host, int(port), *_], *_] if 0 <= first <= last < SLOTS:  # pyright: ignore[reportUnknownVariableType] -- the rest may be anything
                name = asked if host is None else host.decode("utf-8", "replace")
                if name not in ("", "?") and port:  # else the cluster does not know where that node is
                    yield Slots(first, last, Node(name, port))
            case _:
                raise ValueError(f"CLUSTER SLOTS has a range {one!r}")


def _joined(ranges: Sequence[Slots]) -> Iterator[Slots]:
    before: Slots | None = None
    for one in ranges:
        if before is not None and one.first <= before.last:
            raise ValueError(f"CLUSTER SLOTS names two masters of slot {one.first}")
        if before is not None and one.first == before.last + 1 and one.master == before.master:
            before = Slots(before.first, one.last, one.master)
            continue
        if before is not None:
            yield before
        before = one
    if before is not None:
        yield before
