"""Counters and histograms in memory that may belong to a file: then what was counted is there when the process that counted was killed.

The process that counts keeps a `Series`, and adds to its cells: that is one store of a float, without a lock. One thread at a time uses a
series. A reader needs the bytes alone. They hold how many of them are used, then for each series the length of its description, the
description (msgpack), padding, and its cells: the count; or for a histogram the counts of its buckets, one more for what is above, and the
sum.

Invariant: a series is counted as used only when its description and its cells are there, so a reader never sees half of one.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

Cells: TypeAlias = "array[float] | memoryview[float]"
"""Numbers of several series."""

SIZE = 1 << 22
"""Bytes of a file: enough for some ten thousand series. What comes after them is counted, and lost with the process."""

CELL = 8
_USED, _LENGTH = struct.Struct("=Q"), struct.Struct("=Q")


class Description(msgspec.Struct, frozen=True, array_like=True):
    """What a series counts.

    Attributes:
        name: the metric's name.
        text: what the metric is.
        names: the names of its labels.
        labels: their values in this series.
        bounds: the upper bounds of a histogram's buckets; none for a counter.
    """

    name: str
    text: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    @property
    def cells(self) -> int:
        """How many numbers it has."""
        return len(self.bounds) + 2 if self.bounds else 1

    @property
    def kind(self) -> str:
        """The metric's type, as Prometheus calls it."""
        return "histogram" if self.bounds else "counter"

    def samples(self, cells: Sequence[float]) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield names, labels and values as Prometheus reads them."""
        labels = dict(zip(self.names, self.labels, strict=True))
        if not self.bounds:
            yield f"{self.name}_total", labels, cells[0]
            return
        count = 0.0
        for bound, one in zip((*map(repr, self.bounds), "+Inf"), cells, strict=False):
            count += one
            yield f"{self.name}_bucket", {**labels, "le": bound}, count
        yield f"{self.name}_count", labels, count
        yield f"{self.name}_sum", labels, cells[-1]


class Series:
    """One counter or histogram."""

    __slots__ = ("_at", "_bounds", "_cells", "_sum", "description")

    def __init__(self, description: Description, cells: Cells, at: int) -> None:
        """Use cells that are zero.

        Args:
            description: what it counts.
            cells: the cells of several series.
            at: the place of its first cell among them.
        """
        self.description = description
        self._cells, self._at, self._bounds = cells, at, description.bounds
        self._sum = at + description.cells - 1

    def add(self, amount: float = 1.0) -> None:
        """Count."""
        self._cells[self._at] += amount

    def observe(self, value: float) -> None:
        """Count a value in its bucket."""
        self._cells[self._at + bisect_left(self._bounds, value)] += 1.0
        self._cells[self._sum] += value

    def values(self) -> list[float]:
        """Return its cells."""
        return [self._cells[place] for place in range(self._at, self._sum + 1)]


class Counts:
    """All series of one process."""

    def __init__(self, memory: memoryview | None = None) -> None:
        """Begin without series.

        Args:
            memory: bytes that are zero, to keep the series in; None: they are kept in this process alone.
        """
        self._memory = memory
        self._cells = None if memory is None else memory.cast("d")
        self._end = _USED.size
        self._all: list[Series] = []

    def series(self, description: Description) -> Series:
        """Return a new series."""
        found = self._placed(description) or Series(description, array("d", bytes(CELL * description.cells)), 0)
        self._all.append(found)
        return found

    def _placed(self, description: Description) -> Series | None:
        if self._memory is None or self._cells is None:
            return None
        data = msgspec.msgpack.encode(description)
        begin = self._end + _LENGTH.size
        first = begin + _padded(len(data))
        end = first + CELL * description.cells
        if end > len(self._memory):
            return None
        _LENGTH.pack_into(self._memory, self._end, len(data))
        self._memory[begin : begin + len(data)] = data
        self._end = end
        _USED.pack_into(self._memory, 0, end)
        return Series(description, self._cells, first // CELL)

    def __iter__(self) -> Iterator[Series]:
        """Iterate over the series that there are now."""
        return iter(list(self._all))


def read(data: bytes) -> Iterator[tuple[Description, Sequence[float]]]:
    """Yield the series in memory that a process has counted in, and their cells; what is damaged may raise anything."""
    (used,) = _USED.unpack_from(data)
    if used > len(data):
        raise ValueError("it was cut")
    place = _USED.size
    while place < used:
        (length,) = _LENGTH.unpack_from(data, place)
        begin = place + _LENGTH.size
        description = msgspec.msgpack.decode(data[begin : begin + length], type=Description)
        first = begin + _padded(length)
        place = first + CELL * description.cells
        yield description, array("d", data[first:place])


def _padded(length: int) -> int:
    return -(-length // CELL) * CELL
