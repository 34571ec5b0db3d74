"""The fields of a message's entry, as other versions and other languages read them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redisaq.core.codec import EntryDecoder, extra_fields
from redisaq.core.in_flight import Flight
from redisaq.core.records import Unreadable


def read(*fields: bytes) -> Flight | Unreadable:
    flights, unreadable = EntryDecoder[Any]("orders").decode([(b"7-0", fields)], 3, 11)
    assert len(flights) + len(unreadable) == 1
    return flights[0] if flights else unreadable[0]


def test_only_what_is_set_is_written() -> None:
    assert extra_fields(key=None, headers=None, timeout=None) == []
    assert extra_fields(key="", headers={}, timeout=0.5, created_ms=0) == [b"k", b"", b"t", b"0.5"]
    everything = extra_fields(key="k", headers={"a": "b"}, timeout=7, created_ms=9)
    assert everything == [b"k", b"k", b"h", b'{"a":"b"}', b"t", b"7.0", b"c", b"9"]


def test_a_message_with_all_fields_is_read() -> None:
    fields = (b"i", b"p-1", b"d", b"1", *extra_fields(key="k", headers={"a": "b"}, timeout=0.5, created_ms=1_700_000_000_123))
    assert msgspec.structs.asdict(read(*fields)) == msgspec.structs.asdict(
        Flight("orders", 1, None, 0.5, "k", {"a": "b"}, "p-1", 3, 1, 11, b"7-0", 1_700_000_000_123, fields)
    )


def test_a_message_that_says_nothing_else_is_read() -> None:
    fields = (b"i", b"p-1", b"d", b"1")
    message = read(*fields)
    whole = Flight("orders", 1, None, None, None, {}, "p-1", 3, 1, 11, b"7-0", 0, fields)
    assert msgspec.structs.asdict(message) == msgspec.structs.asdict(whole)
    assert isinstance(message, Flight)
    assert (message.state, message.count, message.body, message.first_failed, message.attempt) == ("new", 0, None, 0, 1)


@pytest.mark.parametrize(
    "fields",
    [
        (b"i", b"x", b"d", b"1", b"k"),
        (b"i", b"x", b"d", b"1", b"k", b"k", b"t", b"1", b"c"),
        (b"i", b"x", b"d", b"1", b"k", b"k", b"z", b"1"),
        (b"i", b"x", b"k", b"k", b"t", b"1"),
        (b"d", b"1", b"k", b"k", b"t", b"1"),
        (),
    ],
    ids=range(6),
)
def test_an_entry_with_other_fields_is_no_message(fields: tuple[bytes, ...]) -> None:
    assert read(*fields) == Unreadable(b"7-0", "it has other fields than a message's", fields)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (b"t", b"0", "ValueError: its timeout is not a positive number"),
        (b"t", b"-1", "ValueError: its timeout is not a positive number"),
        (b"t", b"inf", "ValueError: its timeout is not a positive number"),
        (b"t", b"nan", "ValueError: its timeout is not a positive number"),
        (b"t", b"soon", "ValueError: "),
        (b"h", b"[]", "msgspec.ValidationError: "),
        (b"c", b"", "ValueError: "),
    ],
)
def test_a_field_that_cannot_be_read_is_named(name: bytes, value: bytes, reason: str) -> None:
    found = read(b"i", b"x", b"d", b"1", name, value)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(reason)
