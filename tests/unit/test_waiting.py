"""The waiting room: how long the turn's holder waits for more (M11), and what it then changes."""

from __future__ import annotations

import math

import pytest

from redisaq.core.membership import CROWD, EMPTY, Document, admit, advance, grant, is_crowd, is_member, join, leave, release
from redisaq.core.profile import Profile
from redisaq.core.waiting import (
    ASK_EVERY,
    BURST,
    FEW,
    FREED_LASTS,
    GATHER_TURN,
    LEAST,
    LONGEST,
    LONGEST_QUIET,
    PATIENCE,
    QUIET,
    STAYS,
    TURN,
    Newcomer,
    Room,
    burst_of,
    encode_newcomer,
    read_newcomers,
)
from redisaq.settings import MAX_SECONDS

NOW = 1_700_000_000_000_000


def room(waiting: int, *, newest: float = 0.0, oldest: float = 0.0, burst: int = 0) -> Room:
    return Room(waiting=tuple(Newcomer(f"{n}", Profile()) for n in range(waiting)), newest=newest, oldest=oldest, burst=burst)


def test_how_long_a_herd_waits_in_all() -> None:
    """M11, M13: members of different versions wait for each other by these times."""
    assert (FEW, CROWD) == (2, 3)
    assert (BURST, PATIENCE, QUIET, LONGEST_QUIET, LEAST, LONGEST) == (1.0, 8.0, 0.06, 0.5, 0.2, 3.0)
    assert (TURN, STAYS, ASK_EVERY, GATHER_TURN, FREED_LASTS) == (1.0, 3.0, 0.25, 0.5, 4.0)
    assert Room() == Room(member=False, waiting=(), newest=0.0, oldest=0.0, burst=0)
    assert STAYS > 2 * (TURN + ASK_EVERY), "who waits for a turn is not forgotten meanwhile"


def test_a_few_are_let_in_at_once() -> None:
    assert room(1).pause == room(FEW).pause == 0.0
    assert room(FEW + 1).pause > 0.0
    assert room(1, burst=FEW).pause == pytest.approx(QUIET)


def test_the_farther_apart_they_come_the_longer_it_must_be_quiet_up_to_a_limit() -> None:
    assert room(5).pause == pytest.approx(LEAST * 5 * QUIET), "all came at once"
    assert room(500).pause == pytest.approx(LEAST * LONGEST_QUIET)
    assert room(11, newest=0.01, oldest=0.31).pause == pytest.approx(PATIENCE * 0.03 - 0.01)
    assert room(3, newest=0.01, oldest=1.01).pause == pytest.approx(3 * QUIET - 0.01), "so few are not worth more"
    assert room(3, newest=0.01, oldest=1.01, burst=FEW + 2).pause == pytest.approx(5 * QUIET - 0.01)
    assert room(30, newest=0.01, oldest=2.9).pause == pytest.approx(LONGEST - 2.9)
    assert room(30, newest=0.01, oldest=2.49).pause == pytest.approx(LONGEST_QUIET - 0.01)
    assert room(500, newest=LONGEST_QUIET, oldest=1.0).pause == 0.0
    almost = math.nextafter(LEAST * min(2 * QUIET, LONGEST_QUIET), 0.0)
    assert room(2, newest=almost, oldest=almost, burst=FEW).pause == 0.0, "what two floats differ by is no time to wait"
    assert room(500, newest=0.0, oldest=LONGEST).pause == 0.0
    assert room(2, newest=0.0, oldest=0.01, burst=FEW).pause == pytest.approx(PATIENCE * 0.01), "two have come once apart"
    assert room(500, newest=0.0, oldest=LONGEST - 0.005).pause == pytest.approx(0.005), "the server counts milliseconds"


def test_a_burst() -> None:
    assert burst_of(FEW, 0.5) == FEW
    assert burst_of(FEW - 1, 0.0) == 0
    assert burst_of(100, BURST) == 0


def test_what_a_newcomer_says_comes_back_and_damage_counts_for_nobody() -> None:
    said = Newcomer("a", Profile("host:1", ttl=12.0), "name", ("b", "c"))
    damaged = [Newcomer("", said.profile), *(Newcomer("x", Profile(ttl=ttl)) for ttl in (0.0, -1.0, math.inf, math.nan, 1e300))]
    assert read_newcomers([encode_newcomer(said), b"\xc1", b"", *map(encode_newcomer, damaged)]) == (said,)
    bounds = tuple(Newcomer("x", Profile(ttl=ttl)) for ttl in (0.001, 1.0, float(MAX_SECONDS)))
    assert read_newcomers([encode_newcomer(one) for one in bounds]) == bounds


def settled(document: Document) -> Document:
    """Let all members take what is free and theirs."""
    for name in document.members:
        step = advance(
            document, incarnation=document.members[name].incarnation, now=NOW, expired=(), partitions=document.partitions, frozen=False
        )
        document = step.document or document
    return document


def test_admitting_is_joining_one_after_the_other() -> None:
    """M1, M11: names, queues and former incarnations as `join` has them; the target is as balanced, and needs computing once."""
    document = settled(join(EMPTY, name="x", incarnation="a", partitions=12))
    newcomers: list[tuple[str, str | None, tuple[str, ...]]] = [("b", None, ()), ("c", "x", ()), ("a2", "y", ("a",)), ("b", None, ())]
    one_by_one = document
    for incarnation, name, former in newcomers:
        one_by_one = join(one_by_one, name=name, incarnation=incarnation, partitions=12, former=former)
    together = admit(document, newcomers, partitions=12)
    assert together.members == one_by_one.members
    assert together.lease == one_by_one.lease == {}
    loads = [list(together.target.values()).count(name) for name in together.members]
    assert max(loads) - min(loads) <= 1
    assert is_member(together, "b")


def test_one_that_is_admitted_has_the_place_of_its_former_incarnation_and_nobody_else_moves() -> None:
    """M5, M11."""
    document = EMPTY
    for incarnation in "abc":
        document = join(document, name=None, incarnation=incarnation, partitions=7)
    document = settled(document)
    again = admit(document, [("b2", None, ("b", "b0"))], partitions=7)
    assert again.target == {partition: "b2" if name == "b" else name for partition, name in document.target.items()}
    assert again.lease == {partition: holder for partition, holder in document.lease.items() if holder != "b"}
    assert again == join(document, name=None, incarnation="b2", partitions=7, former=("b", "b0"))


def test_what_a_change_frees_or_moves_is_granted_with_it() -> None:
    """M12, M6: under greater tokens; what was free for the same name stays so, since its holder may be leaving."""
    two = settled(join(settled(join(EMPTY, name=None, incarnation="a", partitions=4)), name=None, incarnation="b", partitions=4))
    after = release(two, incarnation="a", partitions=[2, 3])
    granted = grant(two, after, now=NOW)
    assert [granted.lease[partition] for partition in range(4)] == ["a", "a", "b", "b"]
    assert all(granted.token[partition] == two.token[partition] + 1 for partition in (2, 3))
    assert grant(after, after, now=NOW) is after
    left = leave(granted, incarnation="b")
    assert set(grant(granted, left, now=NOW).lease.values()) == {"a"}
    gone = leave(left, incarnation="a")
    assert grant(left, gone, now=NOW) is gone


def test_a_crowd() -> None:
    names = [(f"{number}", None, ()) for number in range(CROWD)]
    assert not is_crowd(admit(EMPTY, names, partitions=1))
    assert is_crowd(admit(EMPTY, [*names, ("more", None, ())], partitions=1))
