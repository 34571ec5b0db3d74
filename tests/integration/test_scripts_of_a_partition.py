"""What the scripts of a partition answer and keep, to the microsecond, where a message comes, goes, or is counted."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from redisaq.brokers.redis.growing import ADOPTED_FOR
from redisaq.brokers.redis.keys import PartitionKeys
from redisaq.brokers.steps.administration import LOOKED_AT, PartitionView, Seek, ViewPartition
from redisaq.brokers.steps.growing import FROM_ELSEWHERE, ReadPassed, TakeIn
from redisaq.brokers.steps.producing import AppendOnce
from redisaq.brokers.steps.retention import Keeping, Trim
from redisaq.brokers.steps.retrying import TakeDue
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body, Resolution, encode_dead, encode_delayed, encode_retry
from tests.still_server import MS, NOW, StillServer, readable

GROUP = GroupName("orders", "billing")
TOKEN = 1_600_000_000_123_457
RING = "{orders:0}"


@pytest.fixture
def share(still: StillServer) -> PartitionKeys:
    """The names of the partition's keys; its stream is there, with the group in it, and the group's lease."""
    share = still.keys.of_partition(GROUP, 0)
    still.server.command("XGROUP", "CREATE", share.stream, "billing", "0", "MKSTREAM")
    still.put(share.lease, {"token": f"{TOKEN}"})
    return share


def deliver(still: StillServer, stream: bytes, count: int, group: str = "billing") -> None:
    """Let the group have read so many entries more."""
    still.server.command("XREADGROUP", "GROUP", group, "A", "COUNT", count, "STREAMS", stream, ">")


def grow(still: StillServer, *history: int) -> PartitionKeys:
    """Let it be known that the topic has grown; return the keys."""
    still.keys.learn("orders", history, still.keys.ask())
    return still.keys.of_partition(GROUP, 0)


# -- what is due --------------------------------------------------------------------------------------------------------------------


def due(still: StillServer, count: int = 10, token: int = TOKEN) -> Any:
    """Return what the script answers; without what is none of anything."""
    names = ("now", "moved", "retries", "next retry", "next delayed", "blocked", "lost retries", "lost delayed", "found", "unswept")
    answered = still.ask(TakeDue(GROUP, 0, token, count))
    return answered and {name: one for name, one in zip(names, answered, strict=True) if one not in (0, [], None)}


def bodies(*names: str) -> dict[str, bytes]:
    """Return bodies of delayed messages."""
    return {name: encode_delayed([b"i", name.encode()]) for name in names}


def messages(still: StillServer, share: PartitionKeys) -> list[list[str]]:
    """Return the words of the stream's entries."""
    return [words for _, words in still.kept(share.stream)]


def test_what_is_due_at_this_microsecond(still: StillServer, share: PartitionKeys) -> None:
    """Delayed messages are moved, retries stay where they are (S3)."""
    still.put(share.delayed, {"d1": NOW, "d2": NOW + 1, "d0": NOW - 5, "d3": NOW + 2})
    still.put(share.delayed_bodies, bodies("d0", "d1", "d2", "d3"))
    retries = {"1-1": NOW, "1-2": NOW + 1, "1-0": NOW - 3, "1-3": NOW + 3}
    still.put(share.retry, retries)
    still.put(share.retry_bodies, {name: f"of {name}" for name in retries})
    assert due(still) == {
        "now": f"{NOW}",
        "moved": 2,
        "retries": ["1-0", "of 1-0", "1-1", "of 1-1"],
        "next retry": f"{NOW + 1}",
        "next delayed": f"{NOW + 1}",
    }
    assert messages(still, share) == [["i", "d0"], ["i", "d1"]]
    assert still.kept(share.delayed) == {"d2": NOW + 1, "d3": NOW + 2}
    assert still.kept(share.delayed_bodies).keys() == {"d2", "d3"}
    assert still.kept(share.retry) == retries


def test_no_more_than_asked_for_is_taken(still: StillServer, share: PartitionKeys) -> None:
    still.put(share.delayed, {"d1": 1, "d2": 2, "d3": 3})
    still.put(share.delayed_bodies, bodies("d1", "d2", "d3"))
    still.put(share.retry, {"1-1": 1, "1-2": 2, "1-3": 3})
    still.put(share.retry_bodies, {"1-1": "a", "1-2": "b", "1-3": "c"})
    first = {"now": f"{NOW}", "moved": 2, "retries": ["1-1", "a", "1-2", "b"], "next retry": "3", "next delayed": "3"}
    assert due(still, 2) == first
    assert due(still, 3) == {"now": f"{NOW}", "moved": 1, "retries": ["1-1", "a", "1-2", "b", "1-3", "c"]}


def test_what_has_lost_its_body_is_dropped_and_named(still: StillServer, share: PartitionKeys) -> None:
    still.put(share.delayed, {"d1": 1, "d2": 2, "d3": 3, "d9": NOW + 9})
    still.put(share.delayed_bodies, bodies("d2", "d9"))
    still.put(share.retry, {"1-1": 1, "1-2": 2, "1-3": 3, "1-9": NOW + 9})
    still.put(share.retry_bodies, {"1-2": "b", "1-9": "c"})
    assert due(still) == {
        "now": f"{NOW}",
        "moved": 1,
        "retries": ["1-2", "b"],
        "next retry": f"{NOW + 9}",
        "next delayed": f"{NOW + 9}",
        "lost retries": ["1-1", "1-3"],
        "lost delayed": ["d1", "d3"],
    }
    assert still.kept(share.retry) == {"1-2": 2, "1-9": NOW + 9}
    assert still.kept(share.delayed) == {"d9": NOW + 9}


def test_what_has_lost_its_time_is_due_now(still: StillServer, share: PartitionKeys) -> None:
    """Once there are more bodies than times: what was lost on both sides is found at the second look."""
    still.put(share.delayed_bodies, bodies("d1", "d2"))
    still.put(share.retry, {"1-1": NOW + 9})
    still.put(share.retry_bodies, {"1-1": "a", "1-2": "b"})
    assert due(still) == {"now": f"{NOW}", "moved": 2, "retries": ["1-2", "b"], "next retry": f"{NOW + 9}", "found": 3}
    assert still.kept(share.retry) == {"1-1": NOW + 9, "1-2": NOW}
    still.put(share.delayed, {"d1": 1})
    still.put(share.delayed_bodies, bodies("d2"))
    still.put(share.retry, {"1-1": 1})
    still.put(share.retry_bodies, {"1-2": "b"})
    assert due(still) == {"now": f"{NOW}", "lost retries": ["1-1"], "lost delayed": ["d1"]}
    assert due(still) == {"now": f"{NOW}", "moved": 1, "retries": ["1-2", "b"], "found": 2}


def test_a_time_that_nobody_has_asked_for_is_now(still: StillServer, share: PartitionKeys) -> None:
    """In the year 5138: no more of them at once than are asked for. It is not reported as found."""
    before, beyond = 10**17 - 16, 10**17
    for times, kept in ((share.delayed, share.delayed_bodies), (share.retry, share.retry_bodies)):
        still.put(times, {"1-1": beyond, "1-2": beyond, "1-3": before})
        still.put(kept, bodies("1-1", "1-2", "1-3"))
    (body,) = bodies("1-1").values()
    assert due(still, 1) == {
        "now": f"{NOW}",
        "moved": 1,
        "retries": ["1-1", body.decode()],
        "next retry": "99999999999999984",
        "next delayed": "99999999999999984",
    }
    assert still.kept(share.retry) == {"1-1": NOW, "1-2": beyond, "1-3": before}
    assert still.kept(share.delayed) == {"1-2": beyond, "1-3": before}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"1:i2:xy", ["i", "xy"]),
        (b"0:0:", ["", ""]),
        (b"2:a:1:x", ["a:", "x"]),
        (b"1:i", None),
        (b"1:i1:x1:y", None),
        (b"", None),
        (b"x", None),
        (b"1:i3:xy", None),
        (b"1:i1:xy", None),
        (b"1:i1", None),
        (b" 1:i1:x", None),
        (b"1:i9999999999:x", None),
        (b"1:i" * 7000, ["i"] * 7000),
        (b"1:i" * 7002, None),
    ],
)
def test_what_is_no_message_is_moved_as_it_is(still: StillServer, share: PartitionKeys, body: bytes, words: list[str] | None) -> None:
    """So that each group finds that it cannot be read."""
    still.put(share.delayed, {"d": 1, "e": 2})
    still.put(share.delayed_bodies, {"d": body} | bodies("e"))
    assert due(still)["moved"] == 2
    assert messages(still, share) == [words or ["raw", body.decode()], ["i", "e"]]


def test_under_another_token_nothing_is_due(still: StillServer, share: PartitionKeys) -> None:
    still.put(share.delayed, {"d": 1})
    still.put(share.delayed_bodies, bodies("d"))
    before = still.all_kept()
    assert due(still, token=TOKEN + 1) is None
    assert still.all_kept() == before


@pytest.mark.parametrize(
    ("history", "swept", "moves"),
    [((), None, True), ((1, 2), None, False), ((1, 2), "0", False), ((1, 2), "1", True), ((1, 2, 4), "1", False), ((1, 2, 4), "2", True)],
)
def test_delayed_messages_wait_until_a_growth_has_looked_through_them(
    still: StillServer, share: PartitionKeys, history: tuple[int, ...], swept: str | None, moves: bool
) -> None:
    """G8. Retries belong where they are."""
    lease = share.lease
    share = grow(still, *history)
    assert share.lease == lease
    still.append(share.stream, "0-1")
    still.put(share.delayed, {"lost": 1, "d": 2})
    still.put(share.delayed_bodies, bodies("d"))
    still.put(share.retry, {"1-1": 1})
    still.put(share.retry_bodies, {"1-1": "a"})
    still.put(share.cuts, {"9": "1-1"} if swept is None else {"swept": swept})
    told = {"moved": 1, "lost delayed": ["lost"]} if moves else {"next delayed": "1", "unswept": 1}
    assert due(still) == {"now": f"{NOW}", "retries": ["1-1", "a"]} | told
    assert still.kept(share.delayed) == ({} if moves else {"lost": 1, "d": 2})


@pytest.mark.parametrize("why", ["missing", "exhausted"])
def test_where_the_stream_takes_no_more_what_is_due_stays(still: StillServer, share: PartitionKeys, why: str) -> None:
    still.put(share.delayed, {"d": 1, "lost": 2})
    still.put(share.delayed_bodies, bodies("d"))
    last = (1 << 64) - 1
    still.command("DEL", share.stream) if why == "missing" else still.command("XSETID", share.stream, f"{last}-{last}")
    assert due(still) == {"now": f"{NOW}", "next delayed": "1", "blocked": 1}
    assert still.kept(share.delayed) == {"d": 1, "lost": 2}
    assert still.kept(share.delayed_bodies).keys() == {"d"}


def test_of_a_stream_that_was_cut_nothing_is_taken(still: StillServer, share: PartitionKeys) -> None:
    still.command("DEL", share.stream)
    still.command("SET", share.stream, "1,2")
    still.put(share.delayed, {"lost": 1})
    still.put(share.retry, {"1-1": 1})
    before = still.all_kept()
    with pytest.raises(hiredis.HiredisError, match="WRONGTYPE"):
        due(still)
    assert still.all_kept() == before


@pytest.mark.parametrize("name", ["delayed", "delayed_bodies", "retry", "retry_bodies"])
def test_a_damaged_key_is_found_before_anything_is_moved(still: StillServer, share: PartitionKeys, name: str) -> None:
    still.put(share.delayed, {"d": 1})
    still.put(share.delayed_bodies, bodies("d", "found"))
    still.put(share.retry, {"1-1": 1})
    still.put(share.retry_bodies, {"1-1": "a", "1-2": "b"})
    still.command("DEL", getattr(share, name))
    still.command("SET", getattr(share, name), "something else")
    before = still.all_kept()
    with pytest.raises(hiredis.HiredisError, match="WRONGTYPE"):
        due(still)
    assert still.all_kept() == before


# -- what is settled ----------------------------------------------------------------------------------------------------------------


def body(entry_id: str, life: int = 0, attempt: int = 1) -> Body:
    return Body(entry_id.encode(), (b"i", entry_id.encode()), life, attempt)


def resolve(still: StillServer, *resolutions: Resolution, token: int = TOKEN, keep: int | None = None) -> Any:
    return still.ask(Resolve(GROUP, 0, token, resolutions, keep))


def kept(*bodies: Body) -> dict[str, bytes]:
    return {one.entry_id.decode(): encode_retry(one) for one in bodies}


def test_each_message_goes_where_its_resolution_says(still: StillServer, share: PartitionKeys) -> None:
    """S1: in one step, in this order; what is not there is not moved."""
    still.append(share.stream, *(f"2-{number}" for number in range(1, 9)))
    deliver(still, share.stream, 6)
    still.put(share.retry, {"1-1": 5, "1-2": 6, "1-3": 7, "1-5": 8})
    still.put(share.retry_bodies, kept(*(body(f"1-{number}") for number in (1, 2, 3, 5))))
    again = body("1-1")
    answered = resolve(
        still,
        Resolution("stream", "retry", body("2-1"), due=100),
        Resolution("stream", "dead", body("2-2")),
        Resolution("stream", "done", body("2-3")),
        Resolution("stream", "retry", body("2-7"), due=100),
        Resolution("retry", "retry", again, due=200, used=False),
        Resolution("retry", "dead", body("1-2")),
        Resolution("stream", "dead", body("2-8")),
        Resolution("retry", "done", body("1-3")),
        Resolution("retry", "done", body("1-4")),
        Resolution("stream", "dead", body("2-5")),
    )
    assert answered == [f"{TOKEN}", [1, 1, 1, 0, 1, 1, 0, 1, 0, 1]]
    assert still.groups(share.stream)["billing"] == ("2-6", ["2-4", "2-6"])
    assert still.kept(share.retry) == {"1-5": 8, "2-1": 100, "1-1": 200}
    unused = Body(again.entry_id, again.fields, 0, 1, unused=1)
    assert still.kept(share.retry_bodies) == readable_values(kept(body("1-5"), body("2-1"), unused))
    assert messages_of(still, share.dead) == [readable(encode_dead(body(name))) for name in ("2-2", "1-2", "2-5")]


def readable_values(kept: dict[str, bytes]) -> dict[str, Any]:
    return {name: readable(one) for name, one in kept.items()}


def messages_of(still: StillServer, stream: bytes) -> list[list[str]]:
    return [words for _, words in still.kept(stream)]


@pytest.mark.parametrize(("keep", "left"), [(None, 5), (4, 4), (3, 3), (1, 1)])
def test_so_many_dead_letters_are_kept_exactly(still: StillServer, share: PartitionKeys, keep: int | None, left: int) -> None:
    still.append(share.dead, "1-1", "1-2", "1-3")
    still.append(share.stream, "2-1", "2-2")
    deliver(still, share.stream, 2)
    assert resolve(still, *(Resolution("stream", "dead", body(name)) for name in ("2-1", "2-2")), keep=keep) == [f"{TOKEN}", [1, 1]]
    assert still.command("XLEN", share.dead) == left
    assert messages_of(still, share.dead)[-1] == readable(encode_dead(body("2-2")))


@pytest.mark.parametrize(
    ("standing", "score", "moved"),
    [
        (body("1-1"), 5, 1),
        (body("1-1", attempt=2), 5, 0),
        (body("1-1", life=1), 5, 0),
        (None, 5, 0),
        (body("1-1", attempt=11), 5, 0),
        (body("1-1"), 100, 0),
        (body("1-1"), 101, 1),
        (body("1-1"), 99, 1),
        (body("1-1"), None, 1),
        (Body(b"1-1", (b"i", b"another"), 0, 1), 100, 1),
    ],
)
def test_a_retry_is_settled_by_the_attempt_that_began(
    still: StillServer, share: PartitionKeys, standing: Body | None, score: int | None, moved: int
) -> None:
    """S1: and not once more, where an answer was lost and the step is repeated: that leaves the body and the time that it has written."""
    still.put(share.retry, {"1-0": 4} if score is None else {"1-0": 4, "1-1": score})
    still.put(share.retry_bodies, {} if standing is None else kept(standing))
    before = still.all_kept()
    assert resolve(still, Resolution("retry", "retry", body("1-1"), due=100)) == [f"{TOKEN}", [moved]]
    if moved:
        assert still.kept(share.retry) == {"1-0": 4, "1-1": 100}
        assert still.kept(share.retry_bodies) == readable_values(kept(body("1-1")))
    else:
        assert still.all_kept() == before


def test_what_cannot_be_read_is_settled_if_it_is_still_the_same(still: StillServer, share: PartitionKeys) -> None:
    still.put(share.retry, {"1-1": 5})
    still.put(share.retry_bodies, {"1-1": "damaged"})
    assert resolve(still, Resolution("retry", "done", body("1-1"), raw=b"damage")) == [f"{TOKEN}", [1]], "as far as its caller has it"
    still.put(share.retry_bodies, {"1-1": "damaged"})
    assert resolve(still, Resolution("retry", "done", body("1-1"), raw=b"damagee")) == [f"{TOKEN}", [0]]


def test_one_that_is_in_retry_already_stays_as_it_is(still: StillServer, share: PartitionKeys) -> None:
    """T6: the group was lost and made again, and the message came once more. It is settled in the stream."""
    still.append(share.stream, "2-1", "2-2")
    deliver(still, share.stream, 2)
    still.put(share.retry, {"2-1": 5})
    still.put(share.retry_bodies, kept(body("2-1", attempt=3)))
    assert resolve(still, Resolution("stream", "retry", body("2-1"), due=100)) == [f"{TOKEN}", [1]]
    assert still.kept(share.retry) == {"2-1": 5}
    assert still.kept(share.retry_bodies) == readable_values(kept(body("2-1", attempt=3)))
    assert still.groups(share.stream)["billing"] == ("2-2", ["2-2"])


def test_where_the_group_is_lost_nothing_is_pending(still: StillServer, share: PartitionKeys) -> None:
    still.append(share.stream, "2-1")
    deliver(still, share.stream, 1)
    still.put(share.retry, {"1-1": 5})
    still.put(share.retry_bodies, kept(body("1-1")))
    still.server.command("XGROUP", "DESTROY", share.stream, "billing")
    both = Resolution("stream", "dead", body("2-1")), Resolution("retry", "done", body("1-1"))
    assert resolve(still, *both) == [f"{TOKEN}", [0, 1]]
    assert (still.kept(share.dead), still.kept(share.retry)) == ({}, {})


@pytest.mark.parametrize(
    ("lease", "answer"),
    [
        ({"token": "7"}, ["7", [], None]),
        ({"token": "7", "moved_over": "1-1 2-2"}, ["7", [], "1-1 2-2"]),
        ({"holder": "A"}, [None, [], None]),
    ],
)
def test_under_another_token_nothing_is_settled(
    still: StillServer, share: PartitionKeys, lease: dict[str, str], answer: list[object]
) -> None:
    """S1, S5: the answer says which one is current, and whether a seek has moved the group."""
    still.append(share.stream, "2-1")
    deliver(still, share.stream, 1)
    still.put(share.lease, lease)
    before = still.all_kept()
    assert resolve(still, Resolution("stream", "dead", body("2-1"))) == answer
    assert still.all_kept() == before


# -- seeking ------------------------------------------------------------------------------------------------------------------------


SIX = tuple(f"2-{number}" for number in range(1, 7))


@pytest.fixture
def read(still: StillServer, share: PartitionKeys) -> PartitionKeys:
    """Let the group have been given four of six entries, and 2-3 be trimmed since."""
    still.append(share.stream, *SIX)
    deliver(still, share.stream, 4)
    still.server.command("XDEL", share.stream, "2-3")
    return share


@pytest.mark.parametrize(
    ("position", "stands_at", "pending", "retries"),
    [
        ("0-0", "0-0", ["2-3"], ["2-3"]),
        ("2-1", "2-1", ["2-1", "2-3"], ["2-1", "2-3"]),
        ("2-2", "2-2", ["2-1", "2-2", "2-3"], ["2-1", "2-3"]),
        ("2-4", "2-4", ["2-1", "2-2", "2-3", "2-4"], ["2-1", "2-3", "2-4"]),
        ("2-6", "2-6", ["2-1", "2-2", "2-3", "2-4"], ["2-1", "2-3", "2-4"]),
        ("2-7", "2-6", ["2-1", "2-2", "2-3", "2-4"], ["2-1", "2-3", "2-4"]),
        ("9-0", "2-6", ["2-1", "2-2", "2-3", "2-4"], ["2-1", "2-3", "2-4"]),
        ("$", "2-6", ["2-1", "2-2", "2-3", "2-4"], ["2-1", "2-3", "2-4"]),
    ],
)
def test_what_comes_after_the_position_is_new_again(
    still: StillServer, read: PartitionKeys, *, position: str, stands_at: str, pending: list[str], retries: list[str]
) -> None:
    """What is no longer in the stream stays where it is, as does what redisaq did not write. A position beyond the end is the end."""
    elsewhere = {"1-9": 1, "2-4x": 2, "x2-4": 3, "3-1": 4}
    still.put(read.retry, elsewhere | {"2-1": -5, "2-3": 6, "2-4": 700})
    still.put(read.retry_bodies, {"2-1": "a", "2-3": "b", "2-4": "c"})
    still.do(Seek(GROUP, 0, position.encode()))
    assert still.groups(read.stream)["billing"] == (stands_at, pending)
    assert still.kept(read.retry).keys() == {*elsewhere, *retries}
    assert sorted(still.kept(read.retry_bodies)) == retries


@pytest.mark.parametrize("count", [499, 500, 501, 1000, 1001])
def test_however_much_is_pending_all_of_it_is_new_again(still: StillServer, share: PartitionKeys, count: int) -> None:
    script = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '2-' .. i, 'i', i) end"
    still.server.command("EVAL", script, 1, share.stream, count)
    deliver(still, share.stream, count)
    still.do(Seek(GROUP, 0, b"2-1"))
    assert still.groups(share.stream)["billing"] == ("2-1", ["2-1"])


@pytest.mark.parametrize(
    ("token", "after"),
    [(TOKEN, NOW), (NOW - 1, NOW), (NOW, NOW + 1), (NOW + 5, NOW + 6), ("x", NOW)],
    ids=["old", "one", "now", "more", "x"],
)
@pytest.mark.parametrize(("moves", "moved"), [({}, "1"), ({"moves": "4"}, "5"), ({"moves": "x"}, "1")])
def test_a_seek_spends_the_token_and_is_counted(
    still: StillServer, read: PartitionKeys, *, token: int | str, after: int, moves: dict[str, str], moved: str
) -> None:
    """S5, M6: the token never falls. The partition's doorbell rings."""
    still.put(read.lease, {"token": f"{token}", "holder": "A"} | moves)
    still.do(Seek(GROUP, 0, b"2-1"))
    assert still.kept(read.lease) == {"token": f"{after}", "holder": "A", "moves": moved, "moved_over": "2-1 2-4"}
    assert still.rung() == [RING]


def test_a_seek_before_the_first_owner_counts_nothing(still: StillServer, read: PartitionKeys) -> None:
    still.put(read.lease, {"holder": "A"})
    still.do(Seek(GROUP, 0, b"2-1"))
    assert still.kept(read.lease) == {"holder": "A"}
    assert still.rung() == []
    assert still.groups(read.stream)["billing"][0] == "2-1"


@pytest.mark.parametrize(
    ("before", "position", "after"),
    [
        ("", "2-2", "2-2 2-4"),
        ("2-1 2-3", "2-2", "2-1 2-4"),
        ("2-2 2-4", "2-2", "2-2 2-4"),
        ("2-3 2-5", "2-2", "2-2 2-5"),
        ("x 2-5", "2-2", "2-2 2-4"),
        ("2-3", "2-2", "2-2 2-4"),
        ("0-1 9-1", "$", "0-1 9-1"),
    ],
)
def test_what_several_seeks_have_moved_over(still: StillServer, read: PartitionKeys, before: str, position: str, after: str) -> None:
    """S5: from the lowest position up to the last that had been delivered."""
    still.command("HSET", read.lease, "moved_over", before)
    still.do(Seek(GROUP, 0, position.encode()))
    assert still.kept(read.lease)["moved_over"] == after


def test_a_seek_makes_a_missing_group(still: StillServer, read: PartitionKeys) -> None:
    """It may have been anywhere up to the stream's last id."""
    still.server.command("XGROUP", "CREATE", read.stream, "another", "2-5")
    still.server.command("XGROUP", "DESTROY", read.stream, "billing")
    still.put(read.retry, {"2-4": 5, "2-1": 6})
    still.do(Seek(GROUP, 0, b"2-2"))
    assert still.groups(read.stream) == {"billing": ("2-2", []), "another": ("2-5", [])}
    assert still.kept(read.lease)["moved_over"] == "2-2 2-6"
    assert still.kept(read.retry) == {"2-1": 6}


def test_a_seek_makes_a_missing_stream(still: StillServer, share: PartitionKeys) -> None:
    still.command("DEL", share.stream)
    still.do(Seek(GROUP, 0, b"$"))
    assert still.groups(share.stream) == {"billing": ("0-0", [])}


def test_a_seek_cuts_a_stream_that_has_an_older_name(still: StillServer, read: PartitionKeys) -> None:
    """G2."""
    grown = grow(still, 1, 2, 4)
    still.do(Seek(GROUP, 0, b"2-1"))
    assert still.groups(grown.stream)["billing"] == ("2-1", ["2-1", "2-3"])
    assert still.kept(grown.cuts) == {"1": "2-6", "2": "2-6"}
    assert [still.kept(still.keys.stream("orders", 0, number)) for number in (0, 1)] == ["1,2", "1,2,4"]


# -- up to a cut --------------------------------------------------------------------------------------------------------------------


def passed(still: StillServer, growth: int = 1, most: int = 0, known: str = "") -> tuple[Any, ...]:
    return tuple(still.ask(ReadPassed(GROUP, 0, growth, most, known.encode())))


@pytest.fixture
def cut(still: StillServer, share: PartitionKeys) -> PartitionKeys:
    """Let the stream have been cut at 2-4, of six entries of which the group has been given all and settled what was before 2-5."""
    still.command("DEL", share.stream)
    share = grow(still, 1, 2)
    still.append(share.stream, *SIX)
    still.server.command("XGROUP", "CREATE", share.stream, "billing", "0")
    deliver(still, share.stream, 6)
    still.server.command("XACK", share.stream, "billing", *SIX[:4])
    still.put(share.cuts, {"1": "2-4"})
    return share


def test_a_partition_is_worked_off_up_to_its_cut(still: StillServer, cut: PartitionKeys) -> None:
    """G5."""
    before = still.all_kept()
    assert passed(still) == (1, 0, "")
    assert passed(still, most=9) == (1, 0, "")
    assert still.all_kept() == before
    still.put(cut.cuts, {"1": "2-5"})
    assert passed(still, most=9) == (0, 1, "2-5")
    still.put(cut.cuts, {"1": "2-6"})
    assert passed(still, most=9) == (0, 2, "2-5")
    assert passed(still, most=1) == passed(still, most=0) == (0, 1, "2-5")


@pytest.mark.parametrize(("delivered", "waiting"), [("0-0", 4), ("2-1", 3), ("2-3", 1), ("2-4", 0), ("2-5", 0)])
def test_what_was_not_delivered_waits(still: StillServer, cut: PartitionKeys, delivered: str, waiting: int) -> None:
    still.server.command("XGROUP", "DESTROY", cut.stream, "billing")
    assert passed(still, most=9) == (0, 4, "2-1"), "a group that is not there has worked off nothing"
    assert passed(still, most=2) == (0, 2, "2-1")
    assert passed(still) == (0, 1, "2-1")
    still.put(cut.cuts, {"1": "0-0"})
    assert passed(still, most=9) == (0, 0, ""), "not even nothing"
    still.put(cut.cuts, {"1": "2-4"})
    still.server.command("XGROUP", "CREATE", cut.stream, "billing", delivered)
    still.server.command("XGROUP", "CREATE", cut.stream, "zeal", "2-6")
    oldest = SIX[4 - waiting] if waiting else ""
    assert passed(still, most=9) == (int(not waiting), waiting, oldest)
    assert passed(still, most=waiting + 1) == (int(not waiting), waiting, oldest)


def test_no_more_is_counted_than_asked_for(still: StillServer, cut: PartitionKeys) -> None:
    """What is pending, what was not delivered, and what is to be tried again, in this order."""
    still.server.command("XGROUP", "DESTROY", cut.stream, "billing")
    still.server.command("XGROUP", "CREATE", cut.stream, "billing", "0")
    deliver(still, cut.stream, 2)
    still.put(cut.retry, {"1-9": 5, "1-8": 6})
    assert [passed(still, most=most) for most in range(1, 8)] == [
        (0, 1, "2-1"),
        (0, 2, "2-1"),
        (0, 3, "2-1"),
        (0, 4, "2-1"),
        (0, 5, "1-8"),
        (0, 6, "1-8"),
        (0, 6, "1-8"),
    ]
    deliver(still, cut.stream, 2)
    still.command("DEL", cut.retry)
    still.command("SET", cut.retry, "no sorted set")
    assert [passed(still), passed(still, most=4)] == [(0, 1, "2-1"), (0, 4, "2-1")], "where there is enough, it looks no further"
    still.put(cut.retry, {"1-9": 5, "1-8": 6})
    assert passed(still, most=5) == (0, 5, "1-8")


@pytest.mark.parametrize(
    ("retry", "counts"),
    [
        ("2-4", True),
        ("2-5", False),
        ("1-9", True),
        ("3-0", False),
        (f"9-{FROM_ELSEWHERE}", True),
        (f"9-{FROM_ELSEWHERE - 1}", False),
        ("x", False),
        ("2-", False),
    ],
)
def test_which_retries_wait(still: StillServer, cut: PartitionKeys, retry: str, counts: bool) -> None:
    """What came from another partition waits, whatever its id."""
    still.put(cut.retry, {retry: 5})
    assert passed(still) == ((0, 1, retry) if counts else (1, 0, ""))


@pytest.mark.parametrize("count", [499, 500, 501, 1001])
def test_a_retry_among_very_many_is_found(still: StillServer, cut: PartitionKeys, count: int) -> None:
    """The last ones due are looked at first; all of them, if need be, each once."""
    still.put(cut.retry, {f"3-{number}": 10 + number for number in range(count - 1)} | {"1-1": 1})
    assert passed(still) == (0, 1, "1-1")
    still.put(cut.retry, {f"1-{number}": 10 + number for number in range(count)})
    assert passed(still, most=5000) == (0, count, "1-0")
    assert passed(still) == (0, 1, f"1-{count - 1}")


def test_a_known_one_is_answered_at_once_while_it_is_to_be_tried_again(still: StillServer, cut: PartitionKeys) -> None:
    """Where nothing is to be counted."""
    still.put(cut.retry, {"1-1": 1, "1-2": 2, "1-3": 3})
    assert passed(still) == (0, 1, "1-3")
    assert passed(still, known="1-2") == (0, 1, "1-2")
    assert passed(still, known="1-4") == (0, 1, "1-3")
    assert passed(still, most=9, known="1-2") == (0, 3, "1-1")


def test_a_stream_that_is_not_cut_so_late_is_not_worked_off(still: StillServer, cut: PartitionKeys) -> None:
    """Nor one that is not there. An empty one is."""
    assert passed(still, growth=2) == (0, 0, "")
    still.command("XTRIM", cut.stream, "MAXLEN", 0)
    assert passed(still) == (1, 0, "")
    still.command("DEL", cut.stream)
    assert passed(still) == (0, 0, "")


def test_where_a_cut_was_lost_the_next_one_counts(still: StillServer, cut: PartitionKeys) -> None:
    """G5: and where all were, the stream's last id, which is one from then on."""
    still.command("DEL", cut.stream)
    cut = grow(still, 1, 2, 4, 8)
    still.append(cut.stream, *SIX)
    still.server.command("XGROUP", "CREATE", cut.stream, "billing", "2-4")
    for cuts, answers in (
        ({"1": "2-4", "2": "2-5"}, (1, 0, "")),
        ({"0": "2-4", "2": "2-5", "3": "2-6"}, (0, 1, "2-5")),
        ({"0": "2-4", "3": "2-6"}, (0, 2, "2-5")),
    ):
        still.put(cut.cuts, cuts)
        assert passed(still, most=9) == answers
        assert still.kept(cut.cuts) == cuts
    still.put(cut.cuts, {"0": "2-4", "swept": "1"})
    assert passed(still, most=9) == (0, 2, "2-5")
    assert still.kept(cut.cuts) == {"0": "2-4", "swept": "1", "3": "2-6"}


# -- a look at it -------------------------------------------------------------------------------------------------------------------


def test_a_look_at_a_partition_tells_all_of_it(still: StillServer, share: PartitionKeys) -> None:
    still.append(share.stream, *(f"{MS + number}-0" for number in range(1, 10)))
    still.server.command("XGROUP", "CREATE", share.stream, "zeal", f"{MS + 9}-0")
    deliver(still, share.stream, 5)
    deliver(still, share.stream, 1, group="zeal")
    still.server.command("XACK", share.stream, "billing", f"{MS + 1}-0")
    for number, deliveries in ((2, 3), (4, 3), (5, 7)):
        still.server.command("XCLAIM", share.stream, "billing", "A", 0, f"{MS + number}-0", "RETRYCOUNT", deliveries, "JUSTID")
    still.append(share.dead, "1-1", "1-2", "1-3")
    still.command("XDEL", share.dead, "1-1")
    still.put(share.retry, {"1-1": NOW + 5, "1-2": NOW + 6})
    still.put(share.delayed, {"a": 1, "b": 2, "c": 3, "d": 4})
    still.put(share.lease, {"token": "7", "holder": "A", "lost": "8", "again": "9", "moves": "10"})
    expected = PartitionView(
        there=True,
        length=9,
        unread=4,
        pending=4,
        retry=2,
        dead=2,
        delayed=4,
        token=7,
        holder="A",
        last_delivered=f"{MS + 5}-0".encode(),
        deliveries={1: 1, 3: 2, 7: 1},
        lost=8,
        added=9,
        died=3,
        redriven=9,
        moves=10,
        oldest_unread=MS + 6,
        oldest_pending=MS + 2,
        retry_due=NOW + 5,
        now=NOW,
    )
    assert still.do(ViewPartition(GROUP, 0)) == expected
    assert still.do(ViewPartition(GROUP, 0, deliveries=False)).deliveries == {}
    still.now = 1_700_000_000_000_045
    assert still.do(ViewPartition(GROUP, 0)).now == 1_700_000_000_000_045


def test_a_look_where_nothing_is(still: StillServer) -> None:
    assert still.do(ViewPartition(GROUP, 0)) == PartitionView(
        there=False,
        length=0,
        unread=0,
        pending=0,
        retry=0,
        dead=0,
        delayed=0,
        token=0,
        holder="",
        last_delivered=b"0-0",
        deliveries={},
        now=NOW,
    )
    assert still.all_kept() == {}


def test_a_look_at_a_group_that_is_not_in_the_stream(still: StillServer, share: PartitionKeys) -> None:
    """All of it is unread."""
    still.append(share.stream, *SIX)
    deliver(still, share.stream, 6)
    still.command("DEL", share.lease)
    other = GroupName("orders", "another")
    view = still.do(ViewPartition(other, 0))
    assert (view.there, view.length, view.unread, view.pending, view.added) == (False, 6, 6, 0, 6)
    assert (view.oldest_unread, view.oldest_pending, view.last_delivered) == (2, None, b"0-0")
    own = still.do(ViewPartition(GROUP, 0))
    assert (own.there, own.unread, own.pending, own.oldest_unread, own.oldest_pending) == (True, 0, 6, None, 2)
    assert own.deliveries == {1: 6}


def test_a_look_at_the_last_one(still: StillServer, share: PartitionKeys) -> None:
    still.append(share.stream, "5000-0", "6000-0")
    deliver(still, share.stream, 1)
    view = still.do(ViewPartition(GROUP, 0))
    assert (view.unread, view.oldest_unread, view.pending, view.oldest_pending, view.deliveries) == (1, 6000, 1, 5000, {1: 1})


def test_of_very_many_the_oldest_are_counted(still: StillServer, share: PartitionKeys) -> None:
    script = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '2-' .. i, 'i', i) end"
    still.server.command("EVAL", script, 1, share.stream, LOOKED_AT + 1)
    deliver(still, share.stream, LOOKED_AT + 1)
    assert still.do(ViewPartition(GROUP, 0)).deliveries == {1: LOOKED_AT}


# -- letters from elsewhere ---------------------------------------------------------------------------------------------------------


def take_in(still: StillServer, *names: str, run: str = "") -> None:
    letters = [(f"of {name}".encode(), body(name, life=1, attempt=0)) for name in names]
    assert still.do(TakeIn(GROUP, 0, 3, letters, 0))


def test_letters_from_elsewhere_are_due_now_one_after_another(still: StillServer, share: PartitionKeys) -> None:
    """G8: each once, in the order given, under marks that stay for a week."""
    take_in(still, "1-9", "1-8", "1-7")
    assert still.kept(share.retry) == {"1-9": NOW - 2, "1-8": NOW - 1, "1-7": NOW}
    letters = kept(*(body(name, life=1, attempt=0) for name in ("1-9", "1-8", "1-7")))
    assert still.kept(share.retry_bodies) == readable_values(letters)
    assert still.kept(share.lease) == {"token": f"{TOKEN}", "redriven": f"{NOW}", "again": "3"}
    adopted = still.keys.adopted("orders", 0)
    marks = {f"billing:3:of {name}": "1" for name in ("1-9", "1-8", "1-7")}
    assert still.kept(adopted) == marks
    assert ADOPTED_FOR - 5000 < still.command("PTTL", adopted) <= ADOPTED_FOR
    assert still.rung() == [RING]
    still.command("PEXPIRE", adopted, 1000)
    before = still.all_kept()
    take_in(still, "1-8", "1-7")
    assert still.all_kept() == before, "each once"
    assert ADOPTED_FOR - 5000 < still.command("PTTL", adopted) <= ADOPTED_FOR
    assert still.rung() == []
    still.put(share.retry, {"1-6": 5})
    take_in(still, "1-9", "1-6", "1-5")
    assert still.kept(share.retry) == {"1-6": 5, "1-5": NOW + 1}
    assert still.kept(adopted) == marks | {"billing:3:of 1-6": "1", "billing:3:of 1-5": "1"}
    assert still.kept(share.lease) == {"token": f"{TOKEN}", "redriven": f"{NOW + 1}", "again": "4"}
    assert still.rung() == [RING]


@pytest.mark.parametrize(
    ("redriven", "first"),
    [
        (NOW - 3, NOW - 1),
        (NOW - 1, NOW),
        (NOW + 7, NOW + 8),
        (NOW + 3_599_999_999, NOW + 3_600_000_000),
        (NOW + 3_600_000_000, NOW - 1),
        ("x", NOW - 1),
    ],
)
def test_letters_come_after_those_of_earlier_calls(still: StillServer, share: PartitionKeys, redriven: int | str, first: int) -> None:
    """Also where the clock was set back; but not by a time that redisaq did not write."""
    still.put(share.lease, {"redriven": f"{redriven}", "again": "x"})
    take_in(still, "1-9", "1-8")
    assert still.kept(share.retry) == {"1-9": first, "1-8": first + 1}
    assert still.kept(share.lease) == {"redriven": f"{first + 1}", "again": "2"}


def test_letters_do_not_enter_a_stream_that_was_cut(still: StillServer, share: PartitionKeys) -> None:
    still.command("DEL", share.stream)
    still.command("SET", share.stream, "1,2")
    before = still.all_kept()
    with pytest.raises(hiredis.HiredisError, match="WRONGTYPE"):
        take_in(still, "1-9")
    assert still.all_kept() == before


# -- trimming -----------------------------------------------------------------------------------------------------------------------


def trim(still: StillServer, *groups: str, kept_for: float = 0.0, now: int = NOW, idle: float = 60.0, alone: tuple[str, ...] = ()) -> Any:
    keeping = Keeping(acked=True, now=now, kept_for=kept_for, idle=idle, alone=dict.fromkeys(alone, idle))
    return tuple(still.ask(Trim("orders", 0, keeping, groups)))


def left(still: StillServer, share: PartitionKeys) -> list[int]:
    """Return how many milliseconds before now the stream's entries were appended."""
    return [MS - int(entry_id.partition("-")[0]) for entry_id, _ in still.kept(share.stream)]


@pytest.fixture
def aged(still: StillServer, share: PartitionKeys) -> PartitionKeys:
    """Let there be an entry each second, of which the group has settled all but the last."""
    ids = [f"{MS - 1000 * age}-0" for age in range(6, 0, -1)]
    still.append(share.stream, *ids)
    deliver(still, share.stream, 5)
    still.server.command("XACK", share.stream, "billing", *ids)
    return share


@pytest.mark.parametrize(
    ("kept_for", "now", "answer", "oldest"),
    [
        (0.0, NOW, (4, 0, 0), 2000),
        (2.0, NOW, (4, 0, 0), 2000),
        (2.001, NOW, (3, 0, 1), 3000),
        (3.0, NOW, (3, 0, 1), 3000),
        (6.0, NOW, (0, 0, 1), 6000),
        (6.001, NOW, (0, 0, 1), 6000),
        (3000.0, NOW, (0, 0, 1), 6000),
        (2e9, NOW, (0, 0, 1), 6000),
        (2.0, NOW - 999_456, (3, 0, 1), 3000),
        (2.0, NOW - 456, (4, 0, 0), 2000),
        (2.0, NOW - 457, (3, 0, 1), 3000),
        (3.0, NOW + 5_000_000, (3, 0, 1), 3000),
    ],
)
def test_how_old_an_entry_must_be(
    still: StillServer, aged: PartitionKeys, *, kept_for: float, now: int, answer: tuple[int, ...], oldest: int
) -> None:
    """E3: to the millisecond, by the time at which the caller read it; the last one of that age stays, and the last that was delivered."""
    assert trim(still, "billing", kept_for=kept_for, now=now) == answer
    assert left(still, aged) == [age for age in (6000, 5000, 4000, 3000, 2000, 1000) if age <= oldest]


@pytest.mark.parametrize(
    ("pending", "others", "answer", "oldest"),
    [
        ([], {}, (4, 0, 0), 2000),
        ([3000], {}, (3, 0, 1), 3000),
        ([4000, 3000], {}, (2, 0, 1), 4000),
        ([2000], {}, (4, 0, 0), 2000),
        ([], {"zeal": 5000}, (1, 0, 1), 5000),
        ([4000], {"zeal": 5000}, (1, 0, 1), 5000),
        ([4000], {"zeal": 3000}, (2, 0, 1), 4000),
        ([], {"zeal": 1000}, (4, 0, 1), 2000),
        ([], {"ant": 1000, "zeal": 2000}, (4, 0, 1), 2000),
    ],
)
def test_what_groups_pin(
    still: StillServer,
    aged: PartitionKeys,
    *,
    pending: list[int],
    others: dict[str, int],
    answer: tuple[int, ...],
    oldest: int,
) -> None:
    """E3: from the lowest pending entry on, or the last delivered one; what waits for a group that is behind will go later."""
    for age in pending:
        still.server.command("XCLAIM", aged.stream, "billing", "A", 0, f"{MS - age}-0", "FORCE", "JUSTID")
    for name, age in others.items():
        still.server.command("XGROUP", "CREATE", aged.stream, name, f"{MS - age}-0")
    assert trim(still, "billing", *others) == answer
    assert left(still, aged)[0] == oldest


def test_a_group_that_must_be_there_pins_everything(still: StillServer, aged: PartitionKeys) -> None:
    assert trim(still, "billing", "missing") == trim(still, "missing", "billing") == (0, 0, 0)
    assert len(left(still, aged)) == 6
    assert trim(still, "missing", alone=("missing",)) == (4, 0, 0)


def test_where_nothing_pins_nothing_is_trimmed(still: StillServer, aged: PartitionKeys) -> None:
    still.server.command("XGROUP", "CREATE", aged.stream, "zeal", f"{MS - 5000}-0")
    assert trim(still, "billing", alone=("zeal", "missing")) == (4, 0, 0), "one that has lapsed pins nothing"
    still.server.command("XGROUP", "CREATE", aged.stream, "ant", f"{MS - 5000}-0")
    assert trim(still, alone=("ant", "billing", "zeal"), idle=0.0) == (0, 0, 0)
    assert trim(still, "billing", alone=("ant", "zeal")) == (0, 0, 0)
    still.command("DEL", aged.stream)
    assert trim(still, "billing") == (0, 0, 0)


def test_a_group_that_reads_has_not_lapsed(still: StillServer, aged: PartitionKeys) -> None:
    """Though no member is there: a reader may be."""
    still.server.command("XGROUP", "CREATE", aged.stream, "zeal", f"{MS - 5000}-0")
    still.server.command("XGROUP", "CREATECONSUMER", aged.stream, "zeal", "A")
    assert trim(still, "billing", alone=("zeal",), idle=60.0) == (1, 0, 1)
    assert trim(still, "billing", alone=("zeal",), idle=0.0) == (3, 0, 0)


def test_one_step_trims_whole_nodes_first(still: StillServer, share: PartitionKeys) -> None:
    script = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '2-' .. i, 'i', i) end"
    still.server.command("EVAL", script, 1, share.stream, 10_350)
    still.server.command("XGROUP", "SETID", share.stream, "billing", "2-10331")
    assert [trim(still, "billing") for _ in range(4)] == [(10_000, 1, 0), (300, 1, 0), (30, 0, 0), (0, 0, 0)]
    assert still.command("XLEN", share.stream) == 20


def test_one_entry_may_be_a_whole_node(still: StillServer, share: PartitionKeys) -> None:
    still.append(share.stream, *(f"2-{number}" for number in range(1, 201)))
    still.command("XDEL", share.stream, *(f"2-{number}" for number in range(1, 100)))
    still.server.command("XGROUP", "SETID", share.stream, "billing", "2-150")
    assert [trim(still, "billing") for _ in range(3)] == [(1, 1, 0), (49, 0, 0), (0, 0, 0)]


# -- appending once -----------------------------------------------------------------------------------------------------------------


def once(still: StillServer, msg_id: str = "m", **given: Any) -> Any:
    args: dict[str, Any] = {"dedup_id": "x", "window": 60.0, "due": None, "maxlen": None, "approximate": False} | given
    return still.ask(AppendOnce("orders", 0, [b"i", msg_id.encode(), b"d", b"1"], **args))


def test_a_message_is_appended_once_in_its_window(still: StillServer, share: PartitionKeys) -> None:
    """E7."""
    mark = still.keys.once("orders", 0, "x")
    assert once(still) == "m"
    assert still.kept(mark) == "m"
    assert 55_000 < still.command("PTTL", mark) <= 60_000
    still.command("PEXPIRE", mark, 900_000)
    assert once(still, "n") == once(still, "o", due=NOW + 5) == "m"
    assert still.command("PTTL", mark) > 800_000, "a repeat makes the window no shorter"
    assert messages(still, share) == [["i", "m", "d", "1"]]
    assert still.kept(share.delayed) == {}
    assert still.rung() == []


@pytest.mark.parametrize(("approximate", "left"), [(False, 3), (True, 5)])
def test_a_bound_holds_for_what_is_appended_once(still: StillServer, share: PartitionKeys, approximate: bool, left: int) -> None:
    still.append(share.stream, "1-1", "1-2", "1-3", "1-4")
    assert once(still, maxlen=3, approximate=approximate) == "m"
    assert len(messages(still, share)) == left


def test_nothing_is_appended_where_the_stream_is_missing(still: StillServer, share: PartitionKeys) -> None:
    """E5: nor marked."""
    still.command("DEL", share.stream)
    assert once(still) is once(still, due=NOW + 5) is None
    assert still.all_kept().keys() == {share.lease}
    still.command("SET", share.stream, "1,2")
    for due_at in (None, NOW + 5):
        with pytest.raises(hiredis.HiredisError, match="WRONGTYPE"):
            once(still, due=due_at)
    assert still.all_kept().keys() == {share.lease, share.stream}


def test_a_delayed_message_is_kept_once(still: StillServer, share: PartitionKeys) -> None:
    """The doorbell rings for one that is due before all others."""
    assert once(still, due=NOW + 5) == once(still, "n", due=NOW + 4) == "m"
    assert still.rung() == [RING]
    mark = still.keys.once("orders", 0, "x")
    assert still.kept(mark) == "m"
    assert 55_000 < still.command("PTTL", mark) <= 60_000
    for name, due_at in (("later", NOW + 6), ("same", NOW + 5)):
        assert once(still, name, due=due_at, dedup_id=name) == name
        assert still.rung() == [], name
    assert once(still, "sooner", due=NOW + 4, dedup_id="sooner") == "sooner"
    assert still.rung() == [RING]
    assert still.kept(share.delayed) == {"m": NOW + 5, "later": NOW + 6, "same": NOW + 5, "sooner": NOW + 4}
    encoded = {name: encode_delayed([b"i", name.encode(), b"d", b"1"]).decode() for name in ("m", "later", "same", "sooner")}
    assert still.kept(share.delayed_bodies) == encoded
    assert messages(still, share) == []
