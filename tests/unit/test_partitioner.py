"""partition_for and RoundRobin: where a message goes, which never changes."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given, strategies as st

from redisaq.core.partitioner import RoundRobin, _remembered, jump, partition_for

KEYS = st.text() | st.binary()

# What other implementations of the same hash answer, so that it is that hash and not merely a hash.
JUMPS = [
    ((1, 1), 0),
    ((42, 57), 43),
    ((0xDEAD10CC, 1), 0),
    ((0xDEAD10CC, 666), 361),
    ((256, 1024), 520),
    ((0xD934BF4E666313AB, 65536), 0),
    ((0xD934BF4E666313AB, 65537), 65536),
]

# A change here sends keys of running topics elsewhere: it must never happen.
PLACES = [
    ("", 3, 2),
    ("user-7", 3, 1),
    ("user-7", 8, 1),
    ("user-7", 4096, 1287),
    ("123", 8, 2),
    ("zürich", 100, 45),
    (b"\x00\xff", 100, 68),
    ("k" * 1000, 100, 80),
]


@pytest.mark.parametrize(("arguments", "bucket"), JUMPS)
def test_jump_is_the_published_hash(arguments: tuple[int, int], bucket: int) -> None:
    assert jump(*arguments) == bucket


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 5000))
def test_one_more_bucket_moves_a_number_there_or_nowhere(number: int, buckets: int) -> None:
    assert jump(number, buckets + 1) in {jump(number, buckets), buckets}


@pytest.mark.parametrize(("key", "partitions", "place"), PLACES)
def test_keys_stay_where_they_are(key: str | bytes, partitions: int, place: int) -> None:
    assert partition_for(key, partitions) == place


@given(KEYS, st.integers(1, 300), st.integers(0, 300))
def test_growing_moves_keys_to_new_partitions_only(key: str | bytes, partitions: int, more: int) -> None:
    before, after = partition_for(key, partitions), partition_for(key, partitions + more)
    assert 0 <= before < partitions
    assert after == before or partitions <= after < partitions + more


@given(st.text())
def test_text_counts_as_its_bytes(key: str) -> None:
    assert partition_for(key, 1000) == partition_for(key.encode(), 1000)


def test_text_that_is_no_utf8_has_a_place_too() -> None:
    assert 0 <= partition_for("\ud800", 7) < 7


def test_keys_spread_evenly() -> None:
    loads = Counter(partition_for(f"user-{number}", 10) for number in range(20_000))
    assert sorted(loads) == list(range(10))
    assert max(loads.values()) - min(loads.values()) < 400


def test_only_the_places_of_short_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remembered long ones could fill the memory."""
    digested: list[bytes] = []

    def digest(data: bytes, digest_size: int) -> Any:
        digested.append(data)
        return blake2b(data, digest_size=digest_size)

    monkeypatch.setattr("redisaq.core.partitioner.blake2b", digest)
    short, long = b"k" * 128, b"k" * 129
    for key in (short, long, short, long):
        partition_for(key, 7)
    assert digested == [short, long, long]
    assert _remembered.cache_info().maxsize == 16_384, "a few megabytes of short ones"


@pytest.mark.parametrize("partitions", [0, -1])
@pytest.mark.parametrize("key", ["short", "long" * 100])
def test_without_partitions_there_is_no_place(key: str, partitions: int) -> None:
    with pytest.raises(ValueError, match="at least 1 partition"):
        partition_for(key, partitions)


def test_round_robin_gives_each_in_turn_and_follows_growth() -> None:
    turn = RoundRobin(start=7)
    assert [turn.next(3) for _ in range(5)] == [1, 2, 0, 1, 2]
    assert [turn.next(5) for _ in range(6)] == [3, 4, 0, 1, 2, 3]
    assert [turn.next(1) for _ in range(2)] == [0, 0]
