"""The text of a report's timeline: what matters first, exact where it matters, and never longer than asked for."""

from __future__ import annotations

import math
import re

import pytest

from redisaq.errors import SettingsError
from redisaq.testing import Mark
from tests.simulation.stories import EMPTY, FULL, lease, run, settle, told

EVENT = re.compile(r" *(\d+\.\d{3})  ")


def events(text: str) -> list[str]:
    """Return the lines of what happened."""
    return [line for line in text.split("\nwhat happened", 1)[1].splitlines() if EVENT.match(line)]


def test_violations_come_first_with_their_moments() -> None:
    lines = FULL.timeline().splitlines()
    assert lines[0] == "seed 1 on trio: 2 violations"
    assert lines[1].startswith("2 messages produced, 0 dropped, 4 deliveries, 4 leases, 8 faults, 2 members, 10.000 s, trace abab")
    assert lines[3:6] == [
        "what must not have happened",
        "     6.000  b began orders/1 7-0 attempt 1 while a runs 5-0 since 5.900",
        "            it stood still",
    ]


def test_around_a_violation_everything_about_its_partition_is_shown() -> None:
    text = FULL.timeline()
    assert "what happened, in detail from 4.000 to 8.000 s" in text
    told_ = events(text)
    assert "     4.000  a           (owns orders/1)" in told_
    assert "     4.000  b           (owns orders/0, 2)" in told_
    assert "     5.500  b           takes orders/1 under 1001" in told_
    assert "     5.900  a           runs orders/1 5-0, attempt 1, until 6.100: returned" in told_
    assert "     6.000  b           runs orders/1 7-0, attempt 1, until 6.020: returned" in told_
    assert "     6.030  b           settles orders/1 7-0 as done" in told_
    assert "     6.100  a           settles orders/1 5-0 as done: REFUSED under 1001" in told_
    assert "     6.500  b           loses orders/1" in told_
    assert "     2.000  a           fault: request lost (settle)" in told_
    assert "     3.500  producer-0  fault: connection broken (append)" in told_
    assert "     7.500  server      fault: failover (the last 0.300 s are forgotten)" in told_
    assert "     7.600  server      fault: slot loss (orders/2 is gone)" in told_
    assert "     9.100  b           fault: slow handler (0.400 s longer)" in told_
    assert not any("delay" in line for line in told_)
    assert not any("runs orders/2" in line or "runs orders/0" in line for line in told_)
    broken = next(index for index, line in enumerate(told_) if ">>>" in line)
    assert "runs orders/1 7-0" in told_[broken - 1]  # what it is about stands before it


def test_what_no_rule_can_help_is_listed_apart_from_violations() -> None:
    lines = told(known=["at 7.700: b took orders/2 while a has it since 2.000: a failover forgot 0.300 s"]).timeline().splitlines()
    assert lines[0] == "seed 1 on trio: no violation"
    assert "1 known" in lines[1]
    assert lines[3:5] == [
        "what no rule can help",
        "     7.700  b took orders/2 while a has it since 2.000: a failover forgot 0.300 s",
    ]


def test_around_a_moment_all_partitions_are_shown() -> None:
    text = FULL.timeline(around=5.95, within=0.01)
    assert "     5.950  b           runs orders/2 5-0, attempt 1, until 5.960: returned" in events(text)
    assert "runs orders/1" not in text.split("what happened")[1]


def test_events_stand_in_order_of_time() -> None:
    times = [float(found[1]) for line in events(FULL.timeline()) if (found := EVENT.match(line))]
    assert times == sorted(times)


def test_a_member_that_stands_still_when_it_matters_is_shown() -> None:
    text = FULL.timeline(around=5.0, within=0.1)
    assert "     4.900  a           (owns orders/1; stands still from 4.500 to 5.500)" in events(text)


def test_leases_that_one_member_takes_together_are_one_line_where_nothing_matters() -> None:
    text = told(leases=[lease("a", n, 1.0 + n / 100) for n in range(12)]).timeline()
    assert events(text) == ["     1.000  a  takes orders/0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"]


def test_groups_are_named_where_one_topic_has_several() -> None:
    other = told(leases=[lease("a", 0, 1.0), type(lease("a", 0, 1.0))("b", "orders", "archive", 0, 1, 2.0, None, "")])
    assert [line[12:] for line in events(other.timeline())] == ["a  takes orders/0 (billing)", "b  takes orders/0 (archive)"]


@pytest.mark.parametrize("limit", [0, 1, 17, 120])
def test_it_is_no_longer_than_asked_for_and_says_what_is_left_out(limit: int) -> None:
    report = told(
        violations=["at 100.000: a began orders/0 5-0"],
        trace=[f"{n / 2:.6f} a read: late" for n in range(400)],
        deliveries=[run("a", 0, 90 + n / 10, 90 + n / 10) for n in range(300)],
        settles=[settle("a", 0, 90.05 + n / 10) for n in range(300)],
        leases=[lease("a", n % 12, n * 2.0, n * 2.0 + 1.5) for n in range(100)],
        trace_hash="0" * 64,
    )
    text = report.timeline(limit=limit)
    assert len(events(text)) == limit
    assert len(text.splitlines()) <= 2 * limit + 12
    assert "\nleft out: " in text
    assert "see more: timeline(around=100.000, within=2, limit=None); all 400 steps are in report.trace" in text
    if limit:
        assert any(">>>" in line for line in events(text))
    if limit == 17:  # what is near the violation is kept
        kept = [float(found[1]) for line in events(text) if (found := EVENT.match(line))]
        assert min(kept) >= 98.0
        assert max(kept) <= 102.0
    left = re.findall(r"(\d+) [a-z ]+?(elsewhere)?(?:,|$)", text.split("left out: ")[1].splitlines()[0])
    assert limit + sum(int(count) for count, elsewhere in left if not elsewhere) == len(events(report.timeline(limit=None)))


def test_without_a_limit_nothing_but_what_is_elsewhere_is_left_out() -> None:
    text = FULL.timeline(limit=None)
    assert "left out: 3 runs and settlements elsewhere" in text


def test_each_thing_stands_on_one_line_whatever_it_is_called() -> None:
    name = "x\n\x1b[31m\ud800"
    report = told(violations=[f"at 1.000: {name}"], leases=[lease(name, 0, 0.0, 2.0, topic=name)], marks=[Mark(0.0, name, "joins")])
    text = report.timeline()
    text.encode()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert r"x\n\x1b[31m\ud800" in text


def test_nothing_happened() -> None:
    assert "\nwhat happened\n  nothing\n" in EMPTY.timeline()


def test_what_makes_no_sense_is_refused() -> None:
    for options in ({"limit": -1}, {"around": math.nan}, {"within": 0.0}, {"around": -1.0}):
        with pytest.raises(SettingsError):
            FULL.timeline(**options)
