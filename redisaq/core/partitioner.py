"""Selects the partition of a message: by its key, or each in turn.

Invariants: as long as the count stays, a key has the same partition, in every process and on every machine. When the count grows from n to
m, a key either keeps its partition or moves to one of the partitions n to m - 1.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

_MASK = (1 << 64) - 1
_CACHED_KEYS = 1 << 14
_LONGEST_CACHED = 128  # bytes, so that the cache does not grow beyond a few megabytes


def jump(number: int, buckets: int) -> int:
    """Return the bucket of an unsigned 64-bit number: jump consistent hash (Lamping and Veach, 2014, arXiv 1406.2294).

    The number seeds a generator. From each bucket in which the number would be, it draws the bucket count at which the number next moves.
    """
    bucket = moves_at = 0
    while moves_at < buckets:
        bucket = moves_at
        number = (number * 2862933555777941757 + 1) & _MASK
        moves_at = int((bucket + 1) * ((1 << 31) / ((number >> 33) + 1)))
    return bucket


def partition_for(key: str | bytes, partitions: int) -> int:
    """Return the partition of a key.

    Args:
        key: text counts as its UTF-8 bytes.
        partitions: at least 1.

    Returns:
        A partition from 0 to `partitions` - 1: jump consistent hash over the key's BLAKE2b digest of 8 bytes (RFC 7693), read as a
        big-endian number.

    Raises:
        ValueError: there are no partitions.
    """
    data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return _remembered(data, partitions) if len(data) <= _LONGEST_CACHED else _place(data, partitions)


def _place(data: bytes, partitions: int) -> int:
    if partitions < 1:
        message = f"a key needs at least 1 partition, not {partitions}"
        raise ValueError(message)
    return jump(int.from_bytes(blake2b(data, digest_size=8).digest(), "big"), partitions)


_remembered = lru_cache(maxsize=_CACHED_KEYS)(_place)


class RoundRobin:
    """Gives each partition in turn, for messages without a key."""

    __slots__ = ("_next",)

    def __init__(self, start: int = 0) -> None:
        """Begin with `start`, which should be random, so that many short-lived producers do not all fill partition 0."""
        self._next = start

    def next(self, partitions: int) -> int:
        """Return the next of the partitions 0 to `partitions` - 1; the count may differ from call to call."""
        partition = self._next % partitions
        self._next = partition + 1
        return partition
