"""What a memory store holds in each slot: what is lost with one, and what is taken over from a replica."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest

from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.administration import DropGroup, DropTopic
from redisaq.brokers.steps.coordination import Commit, MakeGroup
from redisaq.brokers.steps.growing import Adopt, NameStream
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import AppendOnce
from redisaq.brokers.steps.retention import ReadKeeping
from redisaq.brokers.steps.schedules import SetSchedule
from redisaq.brokers.steps.topics import MakeTopic, NoteHeldUp, Terms
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document
from redisaq.environment import Environment

TOPICS = ("orders", "mails")
GROUPS = [GroupName(topic, name) for topic in TOPICS for name in ("billing", "audit")]
KINDS = {one.name for one in fields(Holdings)}
BESIDE_PARTITIONS = {"streams", "leases", "shelves", "delayed", "marks", "names", "adopted"}


def store_of(seed: int) -> MemoryStore:
    return MemoryStore("memory://slots", Environment(wall_clock=lambda: 1_700_000_000.0 + seed, random=random.Random(seed)))


def filled(seed: int = 7) -> MemoryStore:
    """Return a store that has something of each kind in each slot."""
    store = store_of(seed)
    for topic in TOPICS:
        carry_out(store, MakeTopic(topic, 2, Terms(30.0, acked=True, idle=5.0)))
        carry_out(store, NoteHeldUp(topic, 1, 9))
        carry_out(store, SetSchedule(topic, "job", None, b"at nine"))
        for partition in (0, 1):
            carry_out(store, NameStream(topic, partition, (2, 5)))
            carry_out(store, Adopt(topic, partition, 3, [(b"m", b"9", b"body")], 1))
            once = AppendOnce(topic, partition, [b"i", b"m"], "mine", 60.0, due=None, maxlen=None, approximate=False, cuts=1)
            assert carry_out(store, once) == b"m"
    for group in GROUPS:
        carry_out(store, ReadKeeping(group))
        carry_out(store, Commit(group, "A", 9.0, "", "v", Document(), joins=True))
        for partition in (0, 1):
            carry_out(store, MakeGroup(group, partition, latest=False))
            carry_out(store, Install(group, partition, 1, "A", foreign=True))
            store.shelf(group, partition).retry[b"7-1"] = 1, b"body"
    assert all(getattr(store, kind) for kind in KINDS)
    return store


def topic_of(name: Any) -> str:
    """Return the topic, of a group or by its name."""
    return name.topic if isinstance(name, GroupName) else str(name)


def slot_of(key: Any) -> tuple[str, int | None]:
    """Return the topic and the partition with which a key begins."""
    return topic_of(key[0]), key[1]


def slots_of(holdings: Holdings) -> dict[str, set[tuple[str, int | None]]]:
    """Return, for each kind, the topics and partitions of which there is something."""
    found: dict[str, set[tuple[str, int | None]]] = {}
    for kind in KINDS - {"topic_names"}:
        held: dict[Any, object] = getattr(holdings, kind)
        found[kind] = set()
        for key in held:
            found[kind].add(slot_of(key) if isinstance(key, tuple) else (topic_of(key), None))
    return found


def test_with_a_partitions_slot_goes_all_that_is_in_it_and_nothing_else() -> None:
    store, whole = filled(), slots_of(filled())
    store.forget_partition("orders", 1)
    for kind, slots in slots_of(store).items():
        assert slots == whole[kind] - {("orders", 1)}, kind
    assert {kind for kind in KINDS - {"topic_names"} if slots_of(store)[kind] != whole[kind]} == BESIDE_PARTITIONS


def test_with_a_topics_own_slot_goes_all_that_is_in_it_and_nothing_else() -> None:
    """Its name is elsewhere."""
    store, whole = filled(), slots_of(filled())
    store.forget_coordination("orders")
    for kind, slots in slots_of(store).items():
        assert slots == whole[kind] - {("orders", None)}, kind
    assert store.topic_names == set(TOPICS)


def test_of_a_topic_that_is_dropped_nothing_is_left() -> None:
    store, whole = filled(), slots_of(filled())
    store.keep_mark(("orders", 9, "of a partition that has no stream"), b"m", 1 << 60)
    carry_out(store, DropTopic("orders"))
    for kind, slots in slots_of(store).items():
        assert slots == {slot for slot in whole[kind] if slot[0] == "mails"}, kind
    assert store.topic_names == {"mails"}


def test_of_a_group_that_is_dropped_its_tokens_are_not_left() -> None:
    store = filled()
    group, other = GROUPS[:2]
    carry_out(store, DropGroup(group, 0))
    assert set(store.leases) == {(one, partition) for one in GROUPS for partition in (0, 1)} - {(group, 0)}
    assert set(store.shelves) == set(store.leases)
    assert (set(store.streams["orders", 0].groups), set(store.streams["orders", 1].groups)) == ({other.group}, {"billing", "audit"})


@pytest.mark.parametrize("slot", [("orders", 0), ("orders", None), ("mails", 1)])
def test_a_replica_takes_over_one_slot(slot: tuple[str, int | None]) -> None:
    """What it does not have there is lost; what is in other slots stays as it is."""
    store, replica = filled(), store_of(8)
    former = store.seen()
    for kind in ("topics", "streams", "leases"):
        assert getattr(former, kind) is not getattr(store, kind)
    store.hold_part(replica, lambda topic, partition: (topic, partition) == slot)
    for kind, slots in slots_of(store).items():
        assert slots == slots_of(former)[kind] - {slot}, kind
    assert store.topic_names == set(TOPICS) - ({"orders"} if slot == ("orders", None) else set())
    store.hold_part(filled(9), lambda topic, partition: (topic, partition) == slot)
    assert slots_of(store) == slots_of(former)
    assert store.topic_names == set(TOPICS)
    assert (store.streams["orders", 0] is not former.streams["orders", 0]) is (slot == ("orders", 0))
    store.hold(replica)
    assert all(getattr(store, kind) is getattr(replica, kind) for kind in KINDS)


def test_a_copy_shares_nothing() -> None:
    store = filled()
    copy, view = store.copied(), store.seen()
    store.append("orders", [(0, [b"i", b"m"])], None, cuts=1)
    assert (len(copy.streams["orders", 0]), len(view.streams["orders", 0])) == (1, 2)
