"""Kinds of violations: the same sentence about other messages is one, another sentence is not."""

from __future__ import annotations

import re

import pytest

from redisaq.testing.kinds import kind_of, time_of
from redisaq.testing.pace import VirtualTimeExceeded
from redisaq.testing.raised import tell_raised
from redisaq.testing.standstill import VirtualDeadlock

NAMES = ("a", "b", "anna", "orders", "billing", "producer-0")

ALIKE = [
    (
        "at 6.607: token 1700000000930772 was installed in orders/3 over 1700000004466315",
        "at 21.755: token 1700000013162048 was installed in orders/12 over 1700000019358247",
    ),
    (
        "at 3.135: a began orders/0 1700000002904-0 attempt 1 before 1700000002630-0 of orders/0, which waits for its turn",
        "at 99.001: anna began orders/1 1700000002904-7 attempt 2 before 1700000002630-1 of orders/1, which waits for its turn",
    ),
    (
        "at 1.000: message r84p57vfqvc2r1yd-27 was appended twice: orders/0 1700000001908-0 and orders/0 1700000002663-0",
        "at 1.000: message abcdefghjkmnpqrs-1 was appended twice: orders/1 1700000001908-0 and orders/0 1700000002663-0",
    ),
    (
        "at 2.000: not quiet after 20 s: orders/0 still holds something for billing: Remaining(unread=1, pending=2)",
        "at 3.000: not quiet after 20 s: orders/1 still holds something for billing: Remaining(unread=0, pending=17)",
    ),
    (
        "at 2.000: orders, billing: owned is {0: 'abcdefghjkmnpqrs'}, the document says {}",
        "at 2.000: orders, billing: owned is {}, the document says {1: 'r84p57vfqvc2r1yd', 2: 'x'}",
    ),
    (
        "at 2.000: at rest: orders, billing: abcdefghjkmnpqrs left, and is in the document",
        "at 3.000: at rest: orders, billing: r84p57vfqvc2r1yd left, and is in the document",
    ),
    (
        "at 2.000: a began orders/1 7-0 attempt 1 (key ada) for the first time after 8-0",
        "at 2.000: b began orders/1 9-0 attempt 2 (key user-7) for the first time after 10-0",
    ),
    (
        str(VirtualTimeExceeded(1.5, "200,000 steps were taken while the time stood still", {"a: handler": 990, "b: reader": 10})),
        str(VirtualTimeExceeded(9.0, "200,000 steps were taken while the time stood still", {"scenario: main": 1000})),
    ),
    (str(VirtualDeadlock(1.0, ["main: x.py:3"])), str(VirtualDeadlock(22.0, ["main: x.py:3", "other: y.py:7"]))),
]

APART = [
    ("at 1.000: a began orders/0 1-0 attempt 1, which is done", "at 1.000: a began orders/0 1-0 attempt 1, which is dead"),
    ("at 1.000: a ended by itself: ValueError: no", "at 1.000: a ended by itself: ConsumerError: no"),
    (
        "at 1.000: a began orders/0 1-0 attempt 1 while it runs orders/0 2-0 attempt 1",
        "at 1.000: a began orders/0 1-0 attempt 1 while b runs orders/0 2-0 attempt 1 since 0.500",
    ),
    ("at 1.000: not quiet after 20 s: b stands still", "at 1.000: not quiet after 20 s: 1 members are to start again"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_what_differs_in_names_and_numbers_is_of_one_kind(one: str, other: str) -> None:
    assert one != other
    assert kind_of(one, NAMES) == kind_of(other, NAMES)
    assert not re.search(r"\d", kind_of(one, NAMES))


@pytest.mark.parametrize(("one", "other"), APART)
def test_another_sentence_is_another_kind(one: str, other: str) -> None:
    assert kind_of(one, NAMES) != kind_of(other, NAMES)


def test_all_kinds_differ() -> None:
    kinds = [kind_of(one, NAMES) for one, _ in ALIKE]
    assert len(set(kinds)) == len(kinds)


def test_words_that_are_names_elsewhere_remain() -> None:
    assert kind_of("at 1.000: banana and a", ["a", "an"]) == "banana and …"
    assert kind_of("at 1.000: a and b", []) == "a and b"
    assert kind_of("at 1.000: x.y and (z)", ["x.y", "(z)"]) == "… and …"


def test_times() -> None:
    assert time_of("at 6.607: something") == 6.607
    assert time_of("at 3 s of virtual time every task waits") is None
    assert time_of("something at 6.607: ") is None


# -- what a scenario raises ---------------------------------------------------------------------------------------------------------------


def fails(number: int) -> None:
    assert number == 7, f"it is {number}\nand not: 7"


def fails_elsewhere() -> None:
    assert False, "it is 3"  # noqa: B011, PT015 -- any line will do


def told(function: object, *args: object) -> str:
    try:
        function(*args)  # type: ignore[operator] # any of the two
    except AssertionError as error:
        return "at 5.000: " + tell_raised(error)
    raise LookupError


def test_exceptions_from_one_line_are_of_one_kind() -> None:
    one, other, elsewhere = told(fails, 3), told(fails, 4), told(fails_elsewhere)
    assert "\n" not in one
    assert re.match(r"at 5\.000: the scenario raised AssertionError in fails, test_kinds\.py line \d+: it is 3 and not: 7", one)
    assert one != other
    assert kind_of(one, NAMES) == kind_of(other, NAMES) != kind_of(elsewhere, NAMES)


def test_a_group_names_what_is_in_it() -> None:
    group = ExceptionGroup("several", [ExceptionGroup("some", [KeyError("k")]), ValueError("v"), ValueError("w")])
    assert tell_raised(group) == "the scenario raised KeyError and ValueError: 'k'; v; w"
    assert tell_raised(ValueError()) == "the scenario raised ValueError: no text"
    assert tell_raised(ValueError("long " * 1000)).endswith("long…")
    assert len(tell_raised(ValueError("long " * 1000))) < 600
