"""Each rule fires, does not fire on one bad sample, and ends. Samples come every 2 s of virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from redisaq.watching.attention import (
    LATELY,
    BegunSample,
    DeadSample,
    HandlerSample,
    JobSample,
    MemberSample,
    Ownerless,
    Sample,
    held_up,
    key_of,
    look,
    missed_tick,
    server,
    unread_topic,
)
from redisaq.watching.snapshot import Attention, ServerView
from redisaq.watching.steady import Steady

T0 = 1_764_362_851.0
MEMBER = MemberSample("host-1:4121", 1.0, 12.0, "2.4.1", 3)


class Group:
    """A group whose samples are looked at, one after another."""

    def __init__(self) -> None:
        self.now = T0
        self.samples: deque[Sample] = deque(maxlen=64)
        self.steady = Steady()

    def see(self, seconds: float = 2.0, **fields: Any) -> list[Attention]:
        """Let 2 s pass, see a sample, and return what is shown."""
        self.now += seconds
        values: dict[str, Any] = {"members": (MEMBER,), "oldest": 0.4, "arriving": 412.0, "handled": 412.0, "waiting": 96, **fields}
        self.samples.append(Sample(self.now, "orders", "billing", **values))
        self.steady.put("orders:billing", self.now, look(self.samples))
        return self.steady.shown(self.now)

    def see_for(self, seconds: float, fields: Callable[[float], dict[str, Any]]) -> list[Attention]:
        """See samples for so long; the fields depend on how long it has been."""
        found: list[Attention] = []
        for passed in range(0, int(seconds) + 2, 2):
            found = self.see(**fields(float(passed)))
        return found


def fixed(**fields: Any) -> Callable[[float], dict[str, Any]]:
    return lambda _: fields


def falling_back(passed: float) -> dict[str, Any]:
    return {"oldest": 700.0 + passed * 0.6, "arriving": 412.0, "handled": 158.0}


UNSURE = [
    pytest.param("behind", falling_back, "is 12 min behind and falling further back. 412/s come in, 158/s are handled.", 80, id="behind"),
    pytest.param(
        "owner",
        lambda passed: {"ownerless": (Ownerless(3, 6.0 + passed, "host-2:1340"),)},
        "has had no owner in billing for 16 s. host-2:1340 owned it last.",
        10,
        id="one partition without an owner",
    ),
    pytest.param(
        "owner",
        fixed(ownerless=tuple(Ownerless(number, 9.0) for number in (1, 4, 5, 6))),
        "has 4 partitions without an owner, for up to 9 s. Partitions 1, 4–6.",
        10,
        id="several partitions without an owner",
    ),
    pytest.param(
        "alone",
        lambda passed: {"members": (), "alone": 2460.0 + passed, "waiting": 5_210_000, "retention_idle": 86_400.0},
        "has had no member for 41 min. 5.21 M messages wait for it; they are kept until 29 Nov 20:06 UTC.",
        10,
        id="no member",
    ),
    pytest.param(
        "slow",
        lambda passed: {"handler": HandlerSample("8k2v0q4tz7c1m9pd", 7, "1-0", 841.0 + passed)},
        "has been in one handler for 14 min. Partition 7.",
        10,
        id="slow handler",
    ),
    pytest.param(
        "slow",
        lambda passed: {"handler": HandlerSample("8k2v0q4tz7c1m9pd", 7, "1-0", 25.0 + passed / 10, 30.0)},
        "has been in one handler for 26 s. Partition 7; it may take 30 s.",
        10,
        id="slow for its limit",
    ),
    pytest.param(
        "silent",
        lambda passed: {"members": (MEMBER, MemberSample("host-2:1340", 16.0 + passed, 30.0, owns=1))},
        "has heard nothing of host-2:1340 for 26 s. Its 1 partition will be taken over within 4 s.",
        10,
        id="no heartbeat",
    ),
    pytest.param(
        "mixed",
        fixed(members=(MEMBER, MemberSample("host-2:1340", 1.0, 12.0, "2.4.2"))),
        "runs 2 versions: 2.4.1, 2.4.2.",
        620,
        id="two versions",
    ),
]

SURE = [
    pytest.param("dead", {"fresh": 1}, "1 new dead letter in orders › billing.", id="a dead letter"),
    pytest.param(
        "dead",
        {"fresh": 8, "newest_dead": DeadSample("TimeoutError", "bank.py:41", T0 - 18)},
        "8 new dead letters in orders › billing: TimeoutError at bank.py:41, 20 s ago.",
        id="dead letters of a kind",
    ),
    pytest.param(
        "lost",
        {"fresh_lost": 40},
        "orders › billing lost 40 entries that it had not finished. Trimming took them: raise maxlen, or set retention.",
        id="losses",
    ),
    pytest.param(
        "lapsed",
        {"members": (), "alone": 90_000.0, "lapsed": True},
        "orders › billing has had no member for 1 d 1 h: nothing is kept for it any more. Delete the group if nobody needs it any more.",
        id="lapsed",
    ),
    pytest.param(
        "begun",
        {"begun": BegunSample("seek begun", T0 - 718, "mara@ops-1")},
        "orders › billing has a seek begun by mara@ops-1 12 min ago, and no end of it. "
        "It still works, or was interrupted and is half done: then repeat it.",
        id="interrupted",
    ),
    pytest.param(
        "paused",
        {"paused": True, "paused_at": T0 - 11_518, "paused_by": "mara@ops-1", "waiting": 1911},
        "orders › billing has been paused for 3 h 12 min by mara@ops-1. 1,911 messages wait.",
        id="paused",
    ),
]


def kinds(found: list[Attention]) -> list[str]:
    return [one.key.partition(":")[0] for one in found]


def sentence_of(one: Attention) -> str:
    return " ".join(part for part in (one.sentence, one.code, one.more) if part)


@pytest.mark.parametrize(("kind", "bad", "sentence", "seconds"), UNSURE)
def test_a_rule_fires_with_its_sentence(kind: str, bad: Callable[[float], dict[str, Any]], sentence: str, seconds: float) -> None:
    (found,) = Group().see_for(seconds, bad)
    assert (found.key, sentence_of(found)) == (f"{kind}:orders:billing", sentence)


@pytest.mark.parametrize(("kind", "bad", "sentence", "seconds"), UNSURE)
def test_one_bad_sample_shows_nothing(kind: str, bad: Callable[[float], dict[str, Any]], sentence: str, seconds: float) -> None:
    del kind, sentence
    group = Group()
    group.see_for(90, fixed())
    assert group.see(**bad(seconds)) == []
    assert group.see() == []
    assert group.see(**bad(seconds)) == []


@pytest.mark.parametrize(("kind", "bad", "sentence", "seconds"), UNSURE)
def test_one_good_sample_hides_nothing_and_two_end_it(
    kind: str, bad: Callable[[float], dict[str, Any]], sentence: str, seconds: float
) -> None:
    del sentence
    group = Group()
    (first,) = group.see_for(seconds, bad)
    (still,) = group.see()
    assert (still.key, still.since) == (first.key, first.since)
    assert group.see() == []
    assert kind in first.key


@pytest.mark.parametrize(("kind", "bad", "sentence"), SURE)
def test_what_cannot_be_wrong_is_shown_at_once_and_ends_at_once(kind: str, bad: dict[str, Any], sentence: str) -> None:
    group = Group()
    group.see()
    (found,) = group.see(0.0, **bad)
    assert kinds([found]) == [kind]
    assert " ".join((found.subject, sentence_of(found))) == sentence
    assert group.see() == []


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(lambda _: {"oldest": 59.0}, id="not old"),
        pytest.param(lambda passed: {"oldest": 900.0 - passed}, id="catching up"),
        pytest.param(lambda _: {"oldest": 900.0}, id="no worse"),
        pytest.param(lambda passed: {"ownerless": (Ownerless(3, passed % 5),)}, id="being taken over"),
        pytest.param(lambda passed: {"ownerless": (Ownerless(3, passed),), "members": (), "waiting": 0}, id="nobody there"),
        pytest.param(lambda passed: {"members": (), "alone": passed + 60, "waiting": 0}, id="nothing waits"),
        pytest.param(lambda _: {"handler": HandlerSample("m", 1, "1-0", 59.0)}, id="quick handler"),
        pytest.param(lambda _: {"handler": HandlerSample("m", 1, "1-0", 200.0, 300.0)}, id="handler with time left"),
        pytest.param(lambda _: {"members": (MemberSample("x", 6.0, 12.0),)}, id="heartbeat in time"),
        pytest.param(lambda _: {"members": (MEMBER, MemberSample("x", version=""))}, id="version unknown"),
        pytest.param(lambda _: {"begun": BegunSample("seek begun", T0 + 60, "")}, id="begun just now"),
        pytest.param(lambda _: {"begun": BegunSample("seek begun", T0 - 90_000.0, "")}, id="begun long ago"),
    ],
)
def test_what_is_well_shows_nothing(fields: Callable[[float], dict[str, Any]]) -> None:
    assert Group().see_for(120, fields) == []


def test_a_rolling_deployment_shows_nothing() -> None:
    mixed = fixed(members=(MEMBER, MemberSample("x", version="2.4.2")))
    assert Group().see_for(500, mixed) == []


def test_a_paused_group_is_not_behind() -> None:
    found = Group().see_for(90, lambda passed: {**falling_back(passed), "paused": True})
    assert kinds(found) == ["paused"]


def test_the_most_serious_comes_first_then_what_began_first() -> None:
    group = Group()
    group.see(paused=True)
    group.see(paused=True, fresh=1)
    found = group.see(paused=True, fresh=1, fresh_lost=2)
    assert kinds(found) == ["dead", "lost", "paused"]


def test_the_beginning_is_kept() -> None:
    group = Group()
    group.see(fresh=1)
    began = group.now
    assert [one.since for one in group.see_for(60, fixed(fresh=3))] == [began]
    assert LATELY > 60


def test_a_group_that_is_gone_needs_nothing() -> None:
    group = Group()
    group.see(paused=True)
    group.steady.forget("orders:billing")
    assert group.steady.shown(group.now) == []


def test_a_topic_that_nobody_reads() -> None:
    assert unread_topic("sessions", 0, T0) is None
    found = unread_topic("sessions", 41_000, T0)
    assert found is not None
    assert (found.severity, found.subject, found.sentence, found.more) == (
        "calm",
        "sessions",
        "is read by no group.",
        "It holds 41,000 messages.",
    )


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        (ServerView("redis://x", "shop", state="here", since=T0), None),
        (ServerView("redis://x", "shop", state="here", memory=89, max_memory=100, evicts=False), None),
        (ServerView("redis://x", "shop", state="here", memory=99, max_memory=100, evicts=True), None),
        (ServerView("redis://x", "shop", state="here", memory=99, max_memory=None, evicts=False), None),
        (ServerView("redis://x", "shop", state="here", memory=93, max_memory=100, evicts=False), "uses 93 % of its memory."),
        (ServerView("redis://x", "shop", state="away", since=T0 - 41, error="refused"), "has not answered for 41 s."),
    ],
)
def test_the_server(view: ServerView, sentence: str | None) -> None:
    found = server(view, T0)
    assert (None if found is None else found.sentence) == sentence


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (JobSample("shop", "nightly", 60.0), None),
        (JobSample("shop", "nightly", 60.0, overdue=T0 - 59.0), None),
        (JobSample("shop", "nightly", 0.0, overdue=T0 - 4.0), None),
        (JobSample("shop", "nightly", 0.0, overdue=T0 - 6.0), "has not run its tick of 20:47 UTC."),
        (JobSample("shop", "nightly", 60.0, overdue=T0 - 86_400.0), "has not run its tick of 27 Nov 20:47 UTC."),
        (JobSample("shop", "nightly", 60.0, missed=T0 - 7200.0, since=T0 - 60.0), "missed its tick of 18:47 UTC."),
        (JobSample("shop", "nightly", 60.0, missed=T0 - 7200.0, since=T0 - 60.0, overdue=T0 - 3600), "has not run its tick of 19:47 UTC."),
    ],
)
def test_a_missed_tick(job: JobSample, sentence: str | None) -> None:
    found = missed_tick(job, T0)
    if sentence is None:
        assert found is None
        return
    assert found is not None
    assert (found.key, found.severity, found.subject, found.sentence) == ("tick:shop:nightly", "warn", "shop › nightly", sentence)
    assert found.screen.view == "schedule"


def test_producers_that_are_held_up() -> None:
    found = held_up("orders", 3, 1000, T0, T0 + 29)
    assert found is not None
    assert (found.key, found.severity, found.subject) == ("full:orders", "warn", "orders/3")
    assert found.sentence == "is full: producers wait for room."
    assert found.more == "Their max_backlog allows 1,000 waiting messages in a partition."
    assert held_up("orders", 3, 1000, T0, T0 + 31) is None, "it says so again while it waits"


def test_keys_of_names_with_colons_are_different() -> None:
    assert key_of("behind", "orders", "billing") == "behind:orders:billing"
    assert key_of("behind", "a:b", "c") != key_of("behind", "a", "b:c")
