"""The demo's arithmetic: what counts as produced, processed, lost and twice, and how long a takeover took."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from redisaq.cli import demo
from redisaq.cli.demo import Child, Demo, Report, Tally, in_words, ranges

IDS = ["a", "b", "c"]


def tally_of(expected: int, produced: list[str], processed: list[str]) -> Tally:
    tally = Tally(expected)
    tally.produce(produced)
    tally.process(processed)
    return tally


@pytest.mark.parametrize(
    ("produced", "processed", "said"),
    [
        (IDS, ["c", "a", "b"], "produced 3, processed at least once 3, lost 0, duplicates 0: they match"),
        (IDS, ["a", "a", "b", "c", "a"], "produced 3, processed at least once 3, lost 0, duplicates 2: they match"),
        (IDS, ["a", "a", "c"], "produced 3, processed at least once 2, lost 1, duplicates 1: they do NOT match: 1 were not processed"),
        (IDS[:2], IDS[:2], "produced 2, processed at least once 2, lost 0, duplicates 0: they do NOT match: 1 of 3 were not produced"),
        (
            IDS,
            [*IDS, "x"],
            "produced 3, processed at least once 3, lost 0, duplicates 0: they do NOT match: 1 were processed that nobody produced",
        ),
        ([], [], "produced 0, processed at least once 0, lost 0, duplicates 0: they do NOT match: 3 of 3 were not produced"),
    ],
)
def test_the_final_line(produced: list[str], processed: list[str], said: str) -> None:
    tally = tally_of(3, produced, processed)
    assert str(tally) == said
    assert tally.matches == said.endswith("they match")


@given(
    produced=st.lists(st.sampled_from("abcdef"), unique=True),
    processed=st.lists(st.sampled_from("abcdefxy")),
    seed=st.integers(0, 1000),
)
def test_the_order_of_reports_does_not_matter(produced: list[str], processed: list[str], seed: int) -> None:
    """The two pipes are read as they come: a message's processing may be reported before its production."""
    tally = Tally(len(produced))
    reports = [(tally.produce, msg_id) for msg_id in produced] + [(tally.process, msg_id) for msg_id in processed]
    random.Random(seed).shuffle(reports)
    for count, msg_id in reports:
        count([msg_id])
    assert tally.produced == set(produced)
    assert tally.done == len(set(produced) & set(processed))
    assert tally.duplicates == len(processed) - len(set(processed))
    assert tally.matches == (set(processed) == set(produced))


@pytest.mark.parametrize(
    ("numbers", "text"), [([], "no partition"), ([3], "partition 3"), ([3, 7, 4], "partitions 3-4 7"), (range(3), "partitions 0-2")]
)
def test_partitions_in_words(numbers: list[int], text: str) -> None:
    assert in_words(numbers) == text


def test_ranges() -> None:
    assert ranges({10, 0, 1, 9, 3, 7, 2}) == "0-3 7 9-10"


class _Process:
    """A process that only can be killed."""

    def kill(self) -> None:
        """Do nothing."""


@pytest.mark.anyio
async def test_a_takeover_is_timed_by_the_first_new_owner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 10.0
    monkeypatch.setattr(anyio, "current_time", lambda: now)
    played = Demo(messages=10, consumers=3, partitions=6)
    process: Any = _Process()
    one, two, three = children = [Child(name, process) for name in ("consumer-1", "consumer-2", "consumer-3")]
    played._children = {child.name: child for child in children}
    for partition, child in enumerate((one, one, one, two, two, three)):
        played.take(child, Report("acquired", partition=partition))
    played._kill_one()
    assert (played.victim, played.orphans, one.wanted) == ("consumer-1", frozenset({0, 1, 2}), False)
    played.take(one, Report("acquired", partition=0))  # it had said so before it died
    played.take(two, Report("acquired", partition=5))  # not of the victim's
    now = 12.0
    played.take(two, Report("acquired", partition=2))
    now = 12.25
    played.take(two, Report("acquired", partition=0))
    played.take(three, Report("acquired", partition=2))  # moved on by a later rebalance
    assert (played._waiting, played.slowest) == ({1}, 2.25)
    played.take(two, Report("released", partition=2))  # read late: it has another owner by now
    assert played.shares() == {"consumer-1": [1], "consumer-2": [0, 3, 4, 5], "consumer-3": [2]}
    now = 13.5
    played.take(three, Report("acquired", partition=1))
    assert (played._waiting, played.slowest) == (set(), 3.5)
    took = [line.split("* ")[1] for line in capsys.readouterr().out.splitlines() if "took over" in line]
    assert took == [
        "consumer-2 took over partition 2, 2.00 s after the kill",
        "consumer-2 took over partition 0, 2.25 s after the kill",
        "consumer-3 took over partition 1, 3.50 s after the kill",
    ]


@pytest.mark.anyio
async def test_only_progress_counts_as_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0
    monkeypatch.setattr(anyio, "current_time", lambda: now)
    played, process = Demo(messages=10, consumers=2, partitions=2), _Process()
    child = Child("consumer-1", process)  # type: ignore[arg-type]  # nothing runs
    for what, progress in [("ready", True), ("note", False), ("acquired", True), ("processed", True), ("produced", True)]:
        played._progress = 0.0
        played.take(child, Report(what, partition=0, ids=["a"], text="text"))  # type: ignore[arg-type]  # a word of the report's
        assert (played._progress == 1.0) == progress, what
    played.take(child, Report("failed", text="first"))
    played.take(child, Report("failed", text="second"))
    assert played.failure == "consumer-1: first"
    with pytest.raises(demo.DemoFailed, match="consumer-1: first"), anyio.fail_after(10):
        await played._until(lambda: False, "anything")
