"""The demo's arithmetic: what counts as produced, processed, lost and twice, and how long a takeover took."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from redisaq.cli.demo.meter import WINDOW, Meter
from redisaq.cli.demo.takeover import Takeover
from redisaq.cli.demo.tally import Tally, Verdict

IDS = ["a", "b", "c"]


def tally_of(expected: int, produced: list[str], processed: list[str]) -> Tally:
    tally = Tally(expected)
    tally.add_produced(produced)
    for msg_id in processed:
        tally.add_processed(msg_id)
    return tally


def test_everything_once_matches() -> None:
    tally = tally_of(3, IDS, ["c", "a", "b"])
    assert tally.complete
    verdict = tally.verdict()
    assert verdict == Verdict(expected=3, produced=3, processed=3, duplicates=0, foreign=0)
    assert verdict.lost == 0
    assert verdict.matches
    assert str(verdict) == "produced 3, processed at least once 3, lost 0, duplicates 0: they match"


def test_duplicates_are_counted_and_allowed() -> None:
    verdict = tally_of(3, IDS, ["a", "a", "b", "c", "a"]).verdict()
    assert verdict.duplicates == 2
    assert verdict.matches
    assert "duplicates 2: they match" in str(verdict)


def test_a_lost_message_does_not_match() -> None:
    tally = tally_of(3, IDS, ["a", "a", "c"])  # as many processings as messages
    assert not tally.complete
    verdict = tally.verdict()
    assert verdict.lost == 1
    assert not verdict.matches
    assert str(verdict) == ("produced 3, processed at least once 2, lost 1, duplicates 1: they do NOT match: 1 were not processed")


def test_what_was_never_produced_does_not_match() -> None:
    tally = tally_of(3, IDS[:2], IDS[:2])
    assert not tally.complete
    verdict = tally.verdict()
    assert verdict.lost == 0
    assert not verdict.matches
    assert "1 of 3 were not produced" in str(verdict)


def test_what_nobody_produced_does_not_match() -> None:
    verdict = tally_of(3, IDS, [*IDS, "x"]).verdict()
    assert verdict.foreign == 1
    assert not verdict.matches
    assert "1 were processed that nobody produced" in str(verdict)


def test_nothing_at_all_does_not_match() -> None:
    assert not Tally(3).verdict().matches


@given(
    produced=st.lists(st.sampled_from("abcdef"), unique=True),
    processed=st.lists(st.sampled_from("abcdefxy")),
    seed=st.integers(0, 1000),
)
def test_the_order_of_reports_does_not_matter(produced: list[str], processed: list[str], seed: int) -> None:
    """The two pipes are read as they come: a message's processing may be told before its production."""
    tally = Tally(len(produced))
    reports = [("produced", msg_id) for msg_id in produced] + [("processed", msg_id) for msg_id in processed]
    random.Random(seed).shuffle(reports)
    for kind, msg_id in reports:
        if kind == "produced":
            tally.add_produced([msg_id])
        else:
            tally.add_processed(msg_id)
    verdict = tally.verdict()
    assert verdict.produced == tally.produced == len(produced)
    assert verdict.processed == tally.processed == len(set(produced) & set(processed))
    assert verdict.foreign == len(set(processed) - set(produced))
    assert verdict.duplicates == len(processed) - len(set(processed))
    assert verdict.matches == (set(processed) == set(produced))
    assert tally.complete == (set(processed) >= set(produced))


def test_a_takeover_is_timed_by_the_first_new_owner() -> None:
    takeover = Takeover("consumer-1", {0, 3, 5}, killed_at=10.0)
    takeover.acquired(0, "consumer-1", 10.1)  # it had said so before it died
    takeover.acquired(7, "consumer-2", 10.2)  # not of the victim's
    assert takeover.news() == []
    takeover.acquired(3, "consumer-2", 12.0)
    takeover.acquired(0, "consumer-2", 12.25)
    assert not takeover.complete
    assert takeover.news() == [("consumer-2", [0, 3], 2.25)]
    takeover.acquired(3, "consumer-3", 13.0)  # moved on by a later rebalance
    assert takeover.news() == []
    takeover.acquired(5, "consumer-3", 12.5)
    assert takeover.complete
    assert takeover.news() == [("consumer-3", [5], 2.5)]
    assert takeover.seconds == {3: 2.0, 0: 2.25, 5: 2.5}
    assert takeover.slowest == 2.5


def test_a_victim_without_partitions_is_taken_over_at_once() -> None:
    takeover = Takeover("consumer-1", set(), killed_at=1.0)
    assert takeover.complete
    assert takeover.slowest == 0.0


def test_a_rate_is_that_of_the_last_moments() -> None:
    meter = Meter()
    meter.sample(0.0, 100)
    assert meter.rate == 0.0
    for tick in range(1, 101):
        meter.sample(tick / 10, 100 + 5 * tick)
    assert meter.rate == pytest.approx(50.0)
    for tick in range(101, 101 + round(WINDOW * 10) + 1):
        meter.sample(tick / 10, 600)
    assert meter.rate == 0.0
