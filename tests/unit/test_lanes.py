"""Lanes: one message of a lane at a time, in order; of those that may start, the one that came first."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from hypothesis import given, strategies as st

from redisaq.core.lanes import Lanes, Ordering

ORDERINGS: tuple[Ordering, ...] = get_args(Ordering)
KEYS = st.sampled_from([None, "a", "b", "c"])
# A key: add a message of it. An integer: end one of the running messages. "next": start one.
ACTIONS = st.lists(st.tuples(st.just("add"), KEYS) | st.tuples(st.sampled_from(["next", "next", "done"]), st.integers(0, 9)))


def lane_of(ordering: Ordering, number: int, key: str | None) -> object:
    if ordering == "partition":
        return "all"
    return number if ordering == "none" or key is None else key


@given(st.sampled_from(ORDERINGS), ACTIONS)
def test_gives_what_a_plain_list_would(ordering: Ordering, actions: list[tuple[str, object]]) -> None:
    lanes: Lanes[tuple[int, str | None]] = Lanes(ordering)
    waiting: list[tuple[int, str | None]] = []  # (number, key), in order of arrival
    running: list[tuple[int, str | None]] = []
    for number, (action, argument) in enumerate(actions):
        if action == "add":
            assert argument is None or isinstance(argument, str)
            waiting.append((number, argument))
            lanes.add((number, argument), argument)
        elif action == "next":
            busy = {lane_of(ordering, *one) for one in running}
            first = next((one for one in waiting if lane_of(ordering, *one) not in busy), None)
            assert lanes.next() == first
            if first is not None:
                waiting.remove(first)
                running.append(first)
        elif action == "done" and running:
            assert isinstance(argument, int)
            lanes.done(running.pop(argument % len(running))[1])
        free = {lane_of(ordering, *one) for one in waiting} - {lane_of(ordering, *one) for one in running}
        assert lanes.runnable == len(free)
    while running:
        lanes.done(running.pop()[1])
        while (following := lanes.next()) is not None:
            running.append(following)
            waiting.remove(following)
    while (following := lanes.next()) is not None:
        waiting.remove(following)
        lanes.done(following[1])
    assert not waiting
    assert not lanes._behind, "a key without messages is remembered"


@pytest.mark.parametrize("ordering", ORDERINGS)
@given(keys=st.lists(KEYS))
def test_ends_in_order_within_a_lane_and_loses_nothing(ordering: Ordering, keys: list[str | None]) -> None:
    lanes: Lanes[tuple[int, str | None]] = Lanes(ordering)
    for number, key in enumerate(keys):
        lanes.add((number, key), key)
    started: list[tuple[int, str | None]] = []
    while lanes.runnable:
        together = []
        while (message := lanes.next()) is not None:
            together.append(message)
        per_lane = Counter(lane_of(ordering, *message) for message in together)
        assert max(per_lane.values()) == 1
        assert together == sorted(together, key=lambda message: message[0])
        started += together
        for message in reversed(together):
            lanes.done(message[1])
    assert sorted(number for number, _ in started) == list(range(len(keys)))
    for lane in {lane_of(ordering, *message) for message in started}:
        mine = [number for number, key in started if lane_of(ordering, number, key) == lane]
        assert mine == sorted(mine)


def test_a_lane_that_comes_free_goes_before_what_arrived_later() -> None:
    lanes: Lanes[str] = Lanes("key")
    for message, key in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]:
        lanes.add(message, key)
    assert lanes.next() == "a1"
    lanes.done("a")
    assert [lanes.next() for _ in range(4)] == ["a2", "b1", "c1", None]
    lanes.done("b")
    assert lanes.next() == "b2"


def test_a_lane_that_comes_free_goes_behind_what_arrived_earlier() -> None:
    lanes: Lanes[str] = Lanes("key")
    for message, key in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c")]:
        lanes.add(message, key)
    assert lanes.next() == "a1"
    lanes.done("a")
    assert [lanes.next() for _ in range(4)] == ["b1", "a2", "c1", None]


def test_messages_without_a_key_never_wait_for_each_other_where_keys_matter() -> None:
    lanes: Lanes[int] = Lanes("key")
    for number in range(3):
        lanes.add(number, None)
    assert [lanes.next() for _ in range(4)] == [0, 1, 2, None]


def test_an_empty_lane_cannot_be_freed() -> None:
    with pytest.raises(KeyError):
        Lanes[str]("key").done("a")
