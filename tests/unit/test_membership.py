"""The group's document, one transition at a time; each test names the rule."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from redisaq.core import membership
from redisaq.core.membership import (
    EMPTY,
    FORGET_US,
    UNKNOWN,
    Document,
    Duties,
    MemberEntry,
    Step,
    advance,
    decode_document,
    duties,
    encode_document,
    enter_unable,
    free,
    is_member,
    join,
    lease_deadline,
    leave,
    made_again,
    may_acquire_foreign,
    next_forgotten,
    raise_token,
    read_document,
    release,
)
from redisaq.core.records import MOST_NUMBER
from redisaq.settings import MOST_PARTITIONS

NOW = 1_700_000_000_000_000


def group(*incarnations: str, partitions: int = 4, name: str | None = None) -> Document:
    """Return a document in which these have joined and taken what is theirs."""
    document = EMPTY
    for incarnation in incarnations:
        document = join(document, name=name, incarnation=incarnation, partitions=partitions)
    for incarnation in incarnations:
        document = step(document, incarnation).document or document
    return document


def step(document: Document, incarnation: str, *, now: int = NOW, expired: tuple[str, ...] = (), frozen: bool = False) -> Step:
    return advance(document, incarnation=incarnation, now=now, expired=expired, partitions=document.partitions, frozen=frozen)


# -- join ------------------------------------------------------------------------------------------------------------------------


def test_m2_joining_lists_the_member_and_computes_the_target_with_it() -> None:
    document = join(group("a"), name=None, incarnation="b", partitions=4)
    assert is_member(document, "b")
    assert document.members["b"] == MemberEntry("b")
    assert document.target == {0: "a", 1: "a", 2: "b", 3: "b"}
    assert set(document.lease.values()) == {"a"}, "joining takes nothing from anybody"
    assert document.epoch == group("a").epoch + 1


def test_m2_an_idle_member_is_listed_too() -> None:
    document = group("a", "b", "c", partitions=1)
    assert all(is_member(document, one) for one in "abc")


def test_m2_a_topic_that_does_not_exist_yet_can_be_joined() -> None:
    document = join(EMPTY, name=None, incarnation="a", partitions=0)
    assert (document.partitions, document.target) == (0, {})
    grown = advance(document, incarnation="a", now=NOW, expired=(), partitions=2, frozen=False)
    assert set(grown.acquired) == {0, 1}


def test_joining_twice_changes_nothing() -> None:
    document = join(EMPTY, name="s", incarnation="a", partitions=4)
    assert join(document, name="s", incarnation="a", partitions=4) is document
    waiting = join(document, name="s", incarnation="b", partitions=4)
    assert join(waiting, name="s", incarnation="b", partitions=4) is waiting


def test_m1_the_same_name_started_twice_waits() -> None:
    first = group("a", name="s")
    second = join(first, name="s", incarnation="b", partitions=4)
    third = join(second, name="s", incarnation="c", partitions=4)
    assert third.members == {"s": MemberEntry("a", ("b", "c"))}
    assert is_member(third, "c")
    assert (third.target, third.lease) == (first.target, first.lease)
    assert step(third, "b") == Step()


# -- leave -----------------------------------------------------------------------------------------------------------------------


def test_m1_the_first_successor_has_name_and_target_at_once_when_the_holder_leaves() -> None:
    document = group("a", name="s")
    for incarnation in ("b", "c"):
        document = join(document, name="s", incarnation=incarnation, partitions=4)
    left = leave(document, incarnation="a")
    assert left.members == {"s": MemberEntry("b", ("c",))}
    assert left.target == document.target
    assert left.lease == {}
    assert set(step(left, "b").acquired) == {0, 1, 2, 3}
    assert step(left, "c") == Step()


def test_m1_a_successor_may_give_up() -> None:
    document = join(group("a", name="s"), name="s", incarnation="b", partitions=4)
    left = leave(document, incarnation="b")
    assert left.members == {"s": MemberEntry("a")}
    assert left.lease == document.lease


def test_m6_leaving_drops_the_leases_and_keeps_the_tokens() -> None:
    document = group("a", "b")
    left = leave(document, incarnation="a")
    assert set(left.lease.values()) == {"b"}
    assert set(left.target.values()) == {"b"}
    assert left.token == document.token
    assert left.epoch == document.epoch + 1
    empty = leave(left, incarnation="b")
    assert (empty.members, empty.target, empty.lease, empty.token) == ({}, {}, {}, document.token)


def test_leaving_twice_changes_nothing() -> None:
    left = leave(group("a", "b"), incarnation="a")
    assert leave(left, incarnation="a") is left


# -- advance ---------------------------------------------------------------------------------------------------------------------


def test_m6_a_new_token_is_the_time_and_above_the_last() -> None:
    document = join(EMPTY, name=None, incarnation="a", partitions=1)
    first = step(document, "a")
    assert first.acquired == {0: NOW}
    assert first.document is not None
    free = release(first.document, incarnation="a", partitions=[0])
    assert step(free, "a", now=NOW).acquired == {0: NOW + 1}
    assert step(free, "a", now=NOW - 10**9).acquired == {0: NOW + 1}, "the server's clock was set back"
    assert step(free, "a", now=NOW + 50).acquired == {0: NOW + 50}


def test_a_step_says_what_it_does() -> None:
    document = group("a", "b")
    taken = step(document, "b", now=NOW + 5, expired=("a",))
    assert taken.expired == ("a",)
    assert taken.acquired == {partition: NOW + 5 for partition, holder in document.lease.items() if holder == "a"}
    assert taken.document is not None
    assert taken.document.epoch == document.epoch + 1
    assert taken.document.members == {"b": MemberEntry("b")}
    assert {partition: taken.document.token[partition] for partition in taken.acquired} == taken.acquired


def test_a_living_members_lease_is_never_taken() -> None:
    document = join(group("a"), name=None, incarnation="b", partitions=4)
    assert step(document, "b") == Step()
    freed = release(document, incarnation="a", partitions=[2])
    assert set(step(freed, "b").acquired) == {2}


def test_m7_nobody_is_dropped_while_frozen() -> None:
    document = group("a", "b")
    assert step(document, "b", expired=("a",), frozen=True) == Step()


def test_m7_what_nobody_holds_is_acquired_while_frozen() -> None:
    document = join(EMPTY, name=None, incarnation="a", partitions=2)
    assert set(step(document, "a", frozen=True).acquired) == {0, 1}


def test_m1_a_successor_inherits_when_the_holder_expires() -> None:
    document = join(group("a", name="s"), name="s", incarnation="b", partitions=4)
    taken = step(document, "b", expired=("a",))
    assert taken.document is not None
    assert taken.document.members == {"s": MemberEntry("b")}
    assert taken.document.target == document.target
    assert set(taken.acquired) == {0, 1, 2, 3}


def test_m1_any_member_that_sees_it_promotes_and_the_successor_acquires() -> None:
    document = join(EMPTY, name="s", incarnation="a", partitions=4)
    document = join(document, name=None, incarnation="x", partitions=4)
    document = step(step(document, "a").document or document, "x").document or document
    document = join(document, name="s", incarnation="b", partitions=4)
    promoted = step(document, "x", expired=("a",))
    assert promoted.acquired == {}, "what is meant for the name is not for others"
    assert promoted.document is not None
    assert set(step(promoted.document, "b").acquired) == {partition for partition, name in document.target.items() if name == "s"}


def test_an_expired_successor_is_dropped() -> None:
    document = join(group("a", name="s"), name="s", incarnation="b", partitions=4)
    taken = step(document, "a", expired=("b",))
    assert taken.document is not None
    assert taken.document.members == {"s": MemberEntry("a")}
    assert taken.document.lease == document.lease


def test_expired_ones_that_are_not_listed_go_with_the_next_change_but_are_no_reason_for_one() -> None:
    document = group("a", "b")
    assert step(document, "b", expired=("z",)) == Step()
    assert step(document, "b", expired=("z", "a")).expired == ("a", "z")


def test_the_partition_count_follows_growth_and_never_falls() -> None:
    document = group("a")
    grown = advance(document, incarnation="a", now=NOW, expired=(), partitions=6, frozen=False)
    assert grown.document is not None
    assert (grown.document.partitions, set(grown.acquired)) == (6, {4, 5})
    assert advance(grown.document, incarnation="a", now=NOW, expired=(), partitions=3, frozen=False) == Step()
    assert join(grown.document, name=None, incarnation="b", partitions=0).partitions == 6


def test_m5_who_is_not_listed_or_has_expired_can_do_nothing() -> None:
    document = leave(group("a", "b"), incarnation="a")
    assert step(document, "a") == Step()
    assert step(document, "z") == Step()
    assert step(document, "b", expired=("b",)) == Step()


def test_advance_is_a_fixed_point() -> None:
    document = release(group("a", "b", "c", partitions=7), incarnation="a", partitions=range(7))
    taken = advance(document, incarnation="a", now=NOW, expired=("c",), partitions=9, frozen=False)
    assert taken.document is not None
    assert advance(taken.document, incarnation="a", now=NOW + 1, expired=("c",), partitions=9, frozen=False) == Step()


# -- release, raise_token --------------------------------------------------------------------------------------------------------


def test_m13_only_what_is_leased_as_it_was_given_back_is_free() -> None:
    document = group("a", "b")
    of_a = [partition for partition, holder in document.lease.items() if holder == "a"]
    given = {(partition, "a", document.token[partition]) for partition in of_a}
    assert free(document, leases=given).lease == {partition: "b" for partition in range(4) if partition not in of_a}
    assert free(document, leases={(partition, "a", token - 1) for partition, _, token in given}) is document, "it has got it again"
    assert free(document, leases={(partition, "b", token) for partition, _, token in given}) is document, "another has it now"
    assert free(document, leases=()) is document


def test_among_a_thousand_members_a_look_at_what_is_as_it_was_takes_less_than_two_milliseconds() -> None:
    names = [f"{number:032x}" for number in range(1000)]
    target = membership.assign(names, 4000, {})
    document = Document(1, {name: MemberEntry(name) for name in names}, 4000, target, dict(target), dict.fromkeys(target, NOW))
    took = math.inf
    for _ in range(30):  # the best of them: the machine has other things to do
        began = time.thread_time()
        assert step(document, names[-1]) == Step()
        took = min(took, time.thread_time() - began)
    assert took < 0.002


def test_a_target_is_computed_only_if_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the costly part of a look, and nearly every look finds the target as it should be."""
    document = group("a", "b", "c", partitions=7)
    uneven = msgspec.structs.replace(document, target=dict.fromkeys(range(7), "a"))
    mended = step(uneven, "a").document
    assert mended is not None
    assert sorted(Counter(mended.target.values()).values()) == [2, 2, 3]
    for members, least in (("abc", [1, 1, 1]), ("ab", [1, 2])):  # one that has none is not among the loads
        uneven = msgspec.structs.replace(group(*members, partitions=3), target=dict.fromkeys(range(3), "a"))
        mended = step(uneven, "a").document
        assert mended is not None
        assert sorted(Counter(mended.target.values()).values()) == least

    def never(*_arguments: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(membership, "assign", never)
    assert step(document, "a") == Step()
    with pytest.raises(AssertionError, match="computed"):
        step(document, "a", expired=("b",))


def test_only_its_own_leases_are_released() -> None:
    document = group("a", "b")
    released = release(document, incarnation="a", partitions=range(4))
    assert released.lease == {partition: "b" for partition, holder in document.lease.items() if holder == "b"}
    assert (released.token, released.target) == (document.token, document.target)
    assert release(released, incarnation="a", partitions=range(4)) is released


def test_t2_a_token_is_raised_above_the_one_that_stands() -> None:
    document = group("a")
    for above, now, expected in [(NOW + 7, NOW, NOW + 8), (5, NOW, NOW + 1), (5, NOW + 9, NOW + 9)]:
        raised = raise_token(document, incarnation="a", partition=0, above=above, now=now)
        assert raised is not None
        assert raised.token == document.token | {0: expected}
        assert (raised.lease, raised.epoch) == (document.lease, document.epoch + 1)


def test_t2_a_token_is_raised_only_by_who_has_the_lease() -> None:
    document = group("a", "b")
    partition = next(partition for partition, holder in document.lease.items() if holder == "b")
    assert raise_token(document, incarnation="a", partition=partition, above=1, now=NOW) is None
    freed = release(document, incarnation="b", partitions=[partition])
    assert raise_token(freed, incarnation="b", partition=partition, above=1, now=NOW) is None


# -- duties ----------------------------------------------------------------------------------------------------------------------


def test_m4_a_lease_that_the_document_lacks_is_lost() -> None:
    document = group("a", "b")
    mine = {partition: NOW for partition, holder in document.lease.items() if holder == "a"}
    first = min(mine)
    assert duties(document, incarnation="a", held=mine) == Duties()
    foreign = next(partition for partition, holder in document.lease.items() if holder == "b")
    assert duties(document, incarnation="a", held=mine | {foreign: NOW}).lost == {foreign}
    raised = raise_token(document, incarnation="a", partition=first, above=NOW, now=NOW)
    assert raised is not None
    assert duties(raised, incarnation="a", held=mine).lost == {first}, "the lease, but another token"
    assert duties(EMPTY, incarnation="a", held=mine).lost == set(mine)


def test_what_is_meant_for_another_is_revoked_and_vacated_if_nothing_runs_there() -> None:
    document = join(group("a"), name=None, incarnation="b", partitions=4)
    assert duties(document, incarnation="a", held={0: NOW, 1: NOW, 2: NOW}) == Duties(revoke=frozenset({2}), vacate=frozenset({3}))
    assert duties(document, incarnation="b", held={}) == Duties()


def test_leases_whose_commit_was_never_answered_are_taken() -> None:
    document = group("a")
    assert duties(document, incarnation="a", held={1: NOW}) == Duties(take={0: NOW, 2: NOW, 3: NOW})


# -- M5, M7, M8: time ------------------------------------------------------------------------------------------------------------


def test_m5_the_deadline_counts_from_the_sending_and_leaves_a_margin() -> None:
    assert lease_deadline(100.0, 12.0) == pytest.approx(110.0)


@pytest.mark.parametrize(
    ("now", "frozen_until", "born", "allowed"),
    [(112, 0, 100, True), (111, 0, 100, False), (500, 501, 100, False), (501, 501, 100, True)],
)
def test_m7_m8_a_foreign_holder_is_replaced_neither_while_frozen_nor_in_a_young_group(
    *, now: int, frozen_until: int, born: int, allowed: bool
) -> None:
    assert may_acquire_foreign(now, frozen_until=frozen_until, born=born, ttl_us=12) is allowed


def test_m8_who_never_saw_the_group_begins_with_nothing() -> None:
    assert made_again(None, partitions=4) == EMPTY == Document(0, {}, 0, {}, {}, {}, {})
    assert read_document(encode_document(EMPTY)) == EMPTY
    assert read_document(None) is None


def test_m8_a_document_made_again_leases_everything_to_an_unknown_owner_until_the_freeze_is_over() -> None:
    known = group("a", "b", partitions=3)
    again = join(made_again(known, partitions=3), name=None, incarnation="a2", partitions=3)
    assert again.members == {"a2": MemberEntry("a2")}
    assert again.lease == dict.fromkeys(range(3), UNKNOWN)
    assert again.token == known.token
    assert again.epoch > known.epoch
    assert step(again, "a2", frozen=True) == Step()
    taken = step(again, "a2", now=NOW)
    assert taken.acquired == dict.fromkeys(range(3), NOW + 1), "tokens go on"
    assert taken.expired == (), "UNKNOWN is nobody that the server could look up"


def test_m8_what_a_member_held_itself_when_the_group_was_lost_need_not_wait() -> None:
    known = group("a", "b", partitions=4)
    again = join(made_again(known, partitions=4), name=None, incarnation="a2", partitions=4, former=["a"], held=[0, 2])
    assert again.lease == {1: UNKNOWN, 3: UNKNOWN}
    assert set(step(again, "a2", frozen=True).acquired) == {0, 2}
    both = join(again, name=None, incarnation="b2", partitions=4, former=["b"], held=[1, 3])
    assert both.lease == {}


def test_held_frees_nothing_that_somebody_has() -> None:
    document = group("a", "b")
    assert join(document, name=None, incarnation="c", partitions=4, held=range(4)).lease == document.lease


def test_m5_a_process_that_joins_again_has_its_place_and_its_former_leases_are_free() -> None:
    document = group("a", "b", "c", partitions=6)
    again = join(document, name=None, incarnation="b2", partitions=6, former=["b0", "b"])
    assert again.target == {partition: "b2" if name == "b" else name for partition, name in document.target.items()}
    assert set(again.members) == {"a", "b2", "c"}
    theirs = {partition for partition, holder in document.lease.items() if holder == "b"}
    assert set(step(again, "b2", frozen=True).acquired) == theirs
    assert all(token > document.token[partition] for partition, token in step(again, "b2", frozen=True).acquired.items()), "M5: new tokens"


def test_m1_a_static_member_that_joins_again_stands_behind_its_successor() -> None:
    document = join(group("a", name="s"), name="s", incarnation="b", partitions=4)
    again = join(document, name="s", incarnation="a2", partitions=4, former=["a"])
    assert again.members == {"s": MemberEntry("b", ("a2",))}
    assert (again.target, again.lease) == (document.target, {})


def test_changes_can_be_chained_into_one() -> None:
    document = group("a", "b")
    joined = join(document, name=None, incarnation="c", partitions=4)
    both = step(joined, "c", expired=("a", "b"))
    assert both.document is not None
    assert set(both.acquired) == {0, 1, 2, 3}


def test_documents_survive_the_wire_and_are_never_changed_in_place() -> None:
    document = join(made_again(group("a", "b"), partitions=4), name="s", incarnation="c", partitions=4, held=[1])
    before = encode_document(document)
    for change in (
        join(document, name="s", incarnation="d", partitions=9),
        leave(document, incarnation="c"),
        release(document, incarnation="c", partitions=[1]),
        step(document, "c").document,
    ):
        assert change is not None
        assert decode_document(encode_document(change)) == change
    assert encode_document(document) == before
    assert msgspec.structs.asdict(decode_document(before)) == msgspec.structs.asdict(document)


@pytest.mark.parametrize(
    ("column", "most", "write"),
    [
        ("partitions", MOST_PARTITIONS, lambda value: value),
        ("epoch", MOST_NUMBER - 1, lambda value: value),
        ("token", MOST_NUMBER - 1, lambda value: {0: value, 1: 1, 2: 1, 3: 1}),
        ("token", MOST_PARTITIONS - 1, lambda value: {0: 1, 1: 1, 2: 1, 3: 1, value: 1}),
        ("unable", MOST_NUMBER - 1, lambda value: {0: {"a": value}}),
        ("unable", MOST_PARTITIONS - 1, lambda value: {value: {"a": 1}}),
        ("target", 3, lambda value: {value: "a"}),
    ],
)
def test_a_document_with_a_number_out_of_bounds_cannot_be_read(column: str, most: int, write: Callable[[int], Any]) -> None:
    def read(value: int) -> Document | None:
        return read_document(encode_document(msgspec.structs.replace(group("a", "b"), **{column: write(value)})))

    assert read(most) is not None
    assert [read(value) for value in (-1, most + 1)] == [None, None]


# -- unable ------------------------------------------------------------------------------------------------------------------------


def test_what_a_member_cannot_read_goes_to_another_that_can() -> None:
    document = group("a", "b", "c", partitions=3)
    mine = min(partition for partition, name in document.target.items() if name == "a")
    after = enter_unable(document, incarnation="a", partitions=[mine, 1 - mine], now=NOW)
    assert after.unable == {mine: {"a": NOW}}, "what it does not hold is not for it to say"
    assert after.target[mine] in ("b", "c")
    assert after.lease == document.lease
    assert after.epoch == document.epoch + 1
    assert duties(after, incarnation="a", held={mine: document.token[mine]}).revoke == {mine}
    assert enter_unable(after, incarnation="a", partitions=[mine], now=NOW + 1) is after
    assert step(after, "a", now=NOW) == Step()


def test_what_nobody_can_read_stays_where_it_is() -> None:
    alone = group("a")
    assert enter_unable(alone, incarnation="a", partitions=[0], now=NOW).target == alone.target
    document = enter_unable(group("a", "b"), incarnation="a", partitions=[0], now=NOW)
    assert document.target[0] == "b"
    document = step(release(document, incarnation="a", partitions=[0]), "b").document or document
    both = enter_unable(document, incarnation="b", partitions=[0], now=NOW)
    assert both.unable == {0: {"a": NOW, "b": NOW}}
    assert (both.target[0], step(both, "b").document) == ("b", None)
    third = join(both, name=None, incarnation="c", partitions=4)
    assert third.target[0] == "c"


@pytest.mark.parametrize("way", ["leave", "expire", "join again"])
def test_an_entry_goes_with_its_incarnation(way: str) -> None:
    document = enter_unable(group("a", "b"), incarnation="a", partitions=[0], now=NOW)
    if way == "leave":
        after = leave(document, incarnation="a")
    elif way == "expire":
        after = step(document, "b", expired=("a",)).document or document
    else:
        after = join(document, name=None, incarnation="a2", partitions=4, former=["a"])
    assert after.unable == {}


def test_an_entry_is_forgotten_after_a_while() -> None:
    document = enter_unable(group("a", "b"), incarnation="a", partitions=[0, 1], now=NOW)
    assert next_forgotten(document) == NOW + FORGET_US
    assert (next_forgotten(EMPTY), FORGET_US) == (None, 300_000_000), "five minutes"
    assert step(document, "b", now=NOW + FORGET_US - 1) == Step()
    after = step(document, "b", now=NOW + FORGET_US).document
    assert after is not None
    assert after.unable == {}
    assert sorted(after.target.values()) == ["a", "a", "b", "b"]


def test_a_member_of_an_older_version_reads_the_document_and_forgets_who_was_unable() -> None:
    class Older(msgspec.Struct, frozen=True):
        epoch: int = 0
        members: dict[str, MemberEntry] = {}
        partitions: int = 0
        target: dict[int, str] = {}
        lease: dict[int, str] = {}
        token: dict[int, int] = {}

    document = enter_unable(group("a", "b"), incarnation="a", partitions=[0], now=NOW)
    older = msgspec.msgpack.decode(encode_document(document), type=Older)
    assert (older.target, older.lease, older.token) == (document.target, document.lease, document.token)
    assert decode_document(msgspec.msgpack.encode(older)) == msgspec.structs.replace(document, unable={})
