"""What is written down of a group's changes: who went, with which partitions; who came; how the topic grew."""

from __future__ import annotations

import msgspec

from redisaq.core import history, membership
from redisaq.core.history import Change, Taker
from redisaq.core.membership import EMPTY, Document, MemberEntry


def document() -> Document:
    """Return a group of which "a" owns the partitions 0 to 2 and 5, "b" 3 and 4; "c" waits for the place of "a"."""
    joined = EMPTY
    for incarnation, name in (("a", "first"), ("b", None), ("c", "first")):
        joined = membership.join(joined, name=name, incarnation=incarnation, partitions=6)
    return msgspec.structs.replace(joined, lease={0: "a", 1: "a", 2: "a", 3: "b", 4: "b", 5: "a"})


def test_a_member_that_is_taken_for_dead_is_named_with_what_it_owned() -> None:
    before = document()
    assert history.dropped(before, EMPTY, ("a", "b", "c"), "host:1") == (
        Change("taken for dead", "a", "first", "host:1", ((0, 2), (5, 5)), 4),
        Change("taken for dead", "b", "b", "host:1", ((3, 4),), 2),
        Change("taken for dead", "c", "first", "host:1", (), 0),
    )
    assert history.dropped(before, EMPTY, (), "host:1") == ()


def test_who_takes_the_partitions_of_a_dead_member_over_is_named() -> None:
    """As the document decides that removes it: one that holds its name again, and others."""
    before = membership.join(document(), name="third", incarnation="d", partitions=6)
    after = msgspec.structs.replace(
        before, members={"first": MemberEntry("c"), "third": MemberEntry("d")}, target={0: "third", 1: "first", 2: "first", 5: "gone"}
    )
    (change,) = history.dropped(before, after, ("a",), "host:1")
    assert change.takers == (Taker("c", "first", ((1, 2),)), Taker("d", "third", ((0, 0),)))
    assert history.read_change(history.encode_change(change)) == change

    class Older(msgspec.Struct, frozen=True):
        what: str
        count: int | None = None

    assert msgspec.json.decode(history.encode_change(change), type=Older) == Older("taken for dead", 4)
    many = Document(members={f"m{n}": MemberEntry(f"i{n}") for n in range(40)}, target={n: f"m{n % 40}" for n in range(4000)})
    takers = history.takers_of(many, range(4000))
    assert (len(takers), {len(one.partitions) for one in takers}) == (16, {8})


def test_what_cannot_be_read_is_reported_as_such() -> None:
    assert history.read_change(b"") == history.read_change(b'{"what":7}') == Change("unreadable")


def test_growth_is_written_down_with_the_new_partitions() -> None:
    before = document()
    assert history.grown(before, msgspec.structs.replace(before, partitions=9)) == (Change("grown", partitions=((6, 8),), count=9),)
    for after in (before, msgspec.structs.replace(before, partitions=5)):
        assert history.grown(before, after) == ()
    assert history.grown(EMPTY, before) == ()  # the first member saw no growth


def test_ranges_are_few() -> None:
    assert history.ranges_of([4, 1, 2, 3, 7]) == ((1, 4), (7, 7))
    assert history.ranges_of(range(0, 1000, 2)) == tuple((number, number) for number in range(0, 128, 2))


def test_a_history_has_a_thousand_changes_and_a_change_says_what_it_knows() -> None:
    assert history.KEPT == 1000
    assert Change("joined", "a", "n") == history.joined("a", "n")
    assert history.left("a", "n") == history.read_change(b'{"what":"left","member":"a","name":"n"}')
    assert Change("paused").began == 0
    assert Change("paused").count is None
