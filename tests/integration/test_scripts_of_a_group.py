"""What the scripts of a group's coordination answer and keep, to the millisecond: heartbeats, commits, the waiting room, giving back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redisaq.brokers.redis.keys import GroupKeys
from redisaq.brokers.steps.coordination import Commit, GiveBack, Heartbeat, Wait
from redisaq.brokers.terms import GroupName
from redisaq.core.deltas import SMALL, delta_of, encode_delta
from redisaq.core.history import Change, encode_change
from redisaq.core.membership import EMPTY, Document, encode_document, join
from redisaq.core.profile import Profile, encode_profile
from redisaq.core.waiting import Newcomer, encode_leases, encode_newcomer
from tests.still_server import MS, NOW, StillServer, readable

GROUP = GroupName("orders", "billing")
TTL = 60.0
EXPIRY = MS + 60_000
FAR = MS + 1_000_086_400_000
"""A day more than any ttl reaches: what lies beyond, redisaq has not written."""


@pytest.fixture
def keys(still: StillServer) -> GroupKeys:
    """The names of the group's keys."""
    return still.keys.group(GROUP)


@pytest.fixture
def run(still: StillServer) -> str:
    """The run of the server."""
    (line,) = (line for line in still.server.command("INFO", "server").split() if line.startswith(b"run_id:"))
    name: str = line.partition(b":")[2].decode()
    return name


def beat(still: StillServer, incarnation: str = "A", known: str = "") -> dict[str, Any]:
    """Return what a heartbeat's script answers."""
    names = ("alive", "now", "version", "document", "expired", "next", "born", "frozen", "paused", "watched", "topic", "crowded", "joined")
    return dict(zip((*names, "last"), still.ask(Heartbeat(GROUP, incarnation, TTL, known)), strict=True))


# -- heartbeats ---------------------------------------------------------------------------------------------------------------------


def test_a_heartbeat_where_nothing_is(still: StillServer) -> None:
    assert beat(still) == {
        "alive": 0,
        "now": f"{NOW}",
        "version": "",
        "document": None,
        "expired": [],
        "next": None,
        "born": "0",
        "frozen": "0",
        "paused": 0,
        "watched": 0,
        "topic": [None] * 8,
        "crowded": 0,
        "joined": 0,
        "last": MS,
    }
    assert still.all_kept() == {}


@pytest.mark.parametrize("now", [NOW, 1_700_000_000_000_045])
def test_the_servers_time_is_answered_to_the_microsecond(still: StillServer, now: int) -> None:
    still.now = now
    assert beat(still)["now"] == f"{now}"


@pytest.mark.parametrize(("expiry", "alive"), [(MS - 1, False), (MS, False), (MS + 1, True)])
def test_a_members_time_is_over_at_its_expiry(still: StillServer, keys: GroupKeys, run: str, expiry: int, alive: bool) -> None:
    """M5: only one that lives is extended, and a steady heartbeat changes nothing else. Others see the same boundary."""
    still.put(keys.members, {"A": expiry, "B": MS + 500})
    still.put(keys.state, {"version": "v", "doc": "D", "run_id": run, "born": "7", "frozen_until": "8", "paused": "1"})
    before = still.all_kept()
    other = beat(still, "B", "v")
    assert (other["expired"], other["next"]) == (([], f"{expiry}") if alive else (["A"], None))
    assert still.all_kept() == before | {keys.members: {"A": expiry, "B": EXPIRY}}
    own = beat(still, "A", "v")
    assert (own["alive"], own["expired"], own["next"]) == (int(alive), [], f"{EXPIRY}")
    assert still.kept(keys.members)["A"] == (EXPIRY if alive else expiry)
    assert (own["born"], own["frozen"], own["paused"], own["document"]) == ("7", "8", 1, None)


def test_the_next_expiry_is_another_members(still: StillServer, keys: GroupKeys) -> None:
    still.put(keys.members, {"A": MS + 1, "B": MS + 1, "C": MS + 1, "X": MS, "Y": MS - 9, "Z": MS + 3})
    assert (beat(still, "A")["next"], beat(still, "nobody")["next"]) == (f"{MS + 1}",) * 2
    still.put(keys.members, {"A": MS + 1, "Z": MS + 3, "Y": MS + 4})
    assert beat(still, "A")["next"] == f"{MS + 3}"
    still.put(keys.members, {"A": MS + 9, "Z": MS + 3, "Y": MS + 4})
    assert beat(still, "A")["next"] == f"{MS + 3}"
    still.put(keys.members, {"A": MS + 9, "X": MS})
    assert (beat(still, "A")["next"], beat(still, "A")["expired"]) == (None, ["X"])


@pytest.mark.parametrize(
    ("field", "time", "stays"),
    [("frozen_until", FAR, True), ("frozen_until", FAR + 1, False), ("born", FAR, True), ("born", FAR + 1, False)],
)
def test_a_time_beyond_all_ttls_is_mended_at_once(
    still: StillServer, keys: GroupKeys, run: str, *, field: str, time: int, stays: bool
) -> None:
    """M7: each of the two, if one of them lies there."""
    kept = {"version": "v", "run_id": run, "frozen_until": "5", "born": "6", field: f"{time}"}
    still.put(keys.state, kept)
    mended = {} if stays else {"frozen_until": f"{EXPIRY}", "born": f"{MS}"}
    answered = beat(still)
    assert still.kept(keys.state) == kept | mended
    assert (answered["frozen"], answered["born"]) == ((kept | mended)["frozen_until"], (kept | mended)["born"])


@pytest.mark.parametrize("damaged", ["frozen_until", "born"])
def test_a_time_that_is_none_counts_as_none(still: StillServer, keys: GroupKeys, run: str, damaged: str) -> None:
    still.put(keys.state, {"version": "v", "run_id": run, "frozen_until": "5", "born": "6", damaged: "x"})
    answered = beat(still)
    assert (answered["frozen"], answered["born"]) == (("0", "6") if damaged == "frozen_until" else ("5", "0"))


def test_no_member_lives_beyond_all_ttls(still: StillServer, keys: GroupKeys) -> None:
    still.put(keys.members, {"B": FAR - 1, "C": FAR, "D": 1 << 52})
    assert beat(still)["next"] == f"{EXPIRY}"
    assert still.kept(keys.members) == {"B": FAR - 1, "C": EXPIRY, "D": EXPIRY}


@pytest.mark.parametrize(("frozen", "after"), [("0", EXPIRY), (f"{EXPIRY - 1}", EXPIRY), (f"{EXPIRY + 1}", EXPIRY + 1), ("x", EXPIRY)])
def test_another_server_freezes_the_group_and_extends_everybody(
    still: StillServer, keys: GroupKeys, run: str, frozen: str, after: int
) -> None:
    """M7: nobody's time gets shorter, and one that was taken for dead lives again; once, not at each heartbeat."""
    still.put(keys.members, {"A": MS + 1, "B": MS - 5, "C": EXPIRY + 1, "D": MS + 7})
    still.put(keys.state, {"version": "v", "run_id": "another", "frozen_until": frozen, "born": "6"})
    answered = beat(still)
    assert (answered["frozen"], answered["alive"], answered["expired"]) == (f"{after}", 1, [])
    assert still.kept(keys.members) == {"A": EXPIRY, "B": EXPIRY, "C": EXPIRY + 1, "D": EXPIRY}
    assert still.kept(keys.state) == {"version": "v", "run_id": run, "frozen_until": f"{after}", "born": "6"}
    still.put(keys.members, {"A": MS + 1, "B": MS - 5})
    assert beat(still)["expired"] == ["B"]
    still.command("HSET", keys.state, "run_id", "another")
    assert beat(still)["expired"] == []
    assert still.kept(keys.members) == {"A": EXPIRY, "B": EXPIRY}


def test_without_a_version_there_is_no_other_server(still: StillServer, keys: GroupKeys) -> None:
    """M8: the document is lost, and what is beside it, too."""
    still.put(keys.members, {"B": MS - 5})
    still.put(keys.state, {"run_id": "another", "frozen_until": "3"})
    before = still.all_kept()
    assert (beat(still)["expired"], still.all_kept()) == (["B"], before)


@pytest.mark.parametrize(
    ("until", "watched"), [(MS - 1, 0), (MS, 0), (MS + 1, 1), (MS + 59_999, 1), (MS + 60_000, 0), ("x", 0), ("9" * 17, 0)]
)
def test_who_watches_says_so_again_within_a_minute(still: StillServer, keys: GroupKeys, until: int | str, watched: int) -> None:
    """What is over, or was never written by redisaq, is forgotten."""
    still.put(keys.state, {"version": "v", "watched": f"{until}"})
    assert beat(still)["watched"] == watched
    assert ("watched" in still.kept(keys.state)) == bool(watched)


@pytest.mark.parametrize(
    ("burst", "answered"),
    [
        (f"3 {MS - 999}", (3, 999)),
        (f"3 {MS}", (3, 0)),
        (f"3 {MS + 9}", (3, 0)),
        ("3", (0, MS)),
        ("", (0, MS)),
        (f"{'9' * 20} {MS - 5}", (0, 5)),
        (f"4 {'9' * 20}", (4, MS)),
    ],
)
def test_one_that_is_no_member_hears_of_a_burst(still: StillServer, keys: GroupKeys, burst: str, answered: tuple[int, int]) -> None:
    """M11. A member does not wait, and hears nothing of it."""
    still.put(keys.members, {"A": MS + 1})
    still.put(keys.state, {"burst": burst})
    own = beat(still)
    assert [own[name] for name in ("alive", "crowded", "joined", "last")] == [1, 0, 0, 0]
    heard = beat(still, "B")
    assert (heard["crowded"], (heard["joined"], heard["last"])) == (0, answered)
    still.put(keys.room, {"C": "waits"})
    assert (beat(still, "A")["crowded"], beat(still, "B")["crowded"]) == (0, 1)


@pytest.mark.parametrize(
    ("kept", "known", "heard"),
    [
        ({"version": "v", "doc": "D"}, "v", None),
        ({"version": "v", "doc": "D"}, "", "D"),
        ({"version": "v", "doc": "D"}, "t", ["d1", "d2"]),
        ({"version": "v", "doc": "D"}, "u", ["d2"]),
        ({"version": "v", "doc": "D"}, "s", "D"),
        ({"doc": "D"}, "", "D"),
        ({"doc": "D"}, "t", "D"),
        ({"version": "v"}, "x", None),
    ],
)
def test_which_document_a_heartbeat_answers(still: StillServer, keys: GroupKeys, kept: dict[str, str], known: str, heard: object) -> None:
    """M10: nothing to one that knows it, deltas to one that knows a late version, else the document; without a version, what is there."""
    still.put(keys.state, kept)
    still.put(keys.deltas, {"t": "u d1", "u": "v d2", "": "t u"})
    answered = beat(still, known=known)
    assert (answered["document"], answered["version"]) == (heard, kept.get("version", ""))


def test_the_topic_is_answered_as_it_is_stored(still: StillServer, keys: GroupKeys) -> None:
    """M9."""
    names = ("generation", "partitions", "retention", "send_timeout", "format", "history", "pending", "grown")
    still.put(keys.meta, {name: f"the {name}" for name in names})
    assert beat(still)["topic"] == [f"the {name}" for name in names]


# -- commits ------------------------------------------------------------------------------------------------------------------------


DOCUMENT = Document(1)
NEW = encode_document(DOCUMENT).decode("utf-8", "backslashreplace")


def commit(still: StillServer, incarnation: str = "A", **given: Any) -> bool:
    step = Commit(GROUP, incarnation, TTL, known_version="v1", new_version="v2", document=DOCUMENT)
    answered: int = still.ask(msgspec.structs.replace(step, **given))
    return {0: False, 1: True}[answered]


def admitted(incarnation: str, ttl: float) -> Newcomer:
    return Newcomer(incarnation, Profile(f"of {incarnation}", ttl=ttl))


@pytest.fixture
def state(still: StillServer, keys: GroupKeys, run: str) -> dict[str, str]:
    """Let the group have a document, the members A and B, and somebody that waits; return what is beside the document."""
    kept = {"version": "v1", "doc": "D", "run_id": run, "born": "5", "frozen_until": "0", "member:A": "4 {}", "changed": "3"}
    still.put(keys.state, kept)
    still.put(keys.members, {"A": MS + 1, "B": MS + 500})
    still.put(keys.room, {"C": "c", "D": "d", "": "the turn", "W": "w"})
    still.append(keys.history, "1-1")
    return kept


def test_a_commit_changes_all_of_it_at_once(still: StillServer, keys: GroupKeys, state: dict[str, str]) -> None:
    """M2, M11: the document, the members, what they say of themselves, the burst, the waiting room, the history, the doorbell."""
    more = {"member:F1": "1 {}", "member:F2": "2 {}", "member:E1": "3 {}", "burst": f"3 {MS - 999}"}
    still.put(keys.state, state | more)
    still.put(keys.members, {"A": MS + 500, "F1": MS + 500, "F2": MS + 500, "E1": MS, "E2": MS - 7})
    still.command("HSET", keys.room, "N", "n")
    document = EMPTY
    for incarnation in "ABC":
        document = join(document, name=None, incarnation=incarnation, partitions=2 * SMALL)
    changed = msgspec.structs.replace(document, epoch=document.epoch + 1)
    delta = delta_of(document, changed)
    people, changes = [admitted("C", 30.0), admitted("D", 40.5)], [Change("one"), Change("two")]
    profile = Profile("of N", ttl=TTL)
    assert commit(
        still,
        "N",
        document=changed,
        joins=True,
        former=["F1", "F2"],
        expired=["E1", "E2", "unknown"],
        profile=profile,
        changes=changes,
        admitted=people,
        delta=delta,
    )
    assert still.kept(keys.members) == {"A": MS + 500, "N": EXPIRY, "C": MS + 30_000, "D": MS + 40_500}
    said = {one.incarnation: one.profile for one in people} | {"N": profile}
    assert still.kept(keys.state) == state | {
        "version": "v2",
        "doc": readable(encode_document(changed)),
        "changed": f"{MS}",
        "burst": f"6 {MS}",
        **{f"member:{name}": f"{MS} {encode_profile(one).decode()}" for name, one in said.items()},
    }
    assert still.kept(keys.room) == {"W": "w"}
    entries = [["i", "1-1"], *(["c", readable(encode_change(change))] for change in changes)]
    assert [words for _, words in still.kept(keys.history)] == entries
    encoded = readable(encode_delta(delta, encode_document(changed)))
    assert encoded
    assert still.kept(keys.deltas) == {"v1": f"v2 {encoded}", "": "v1"}
    assert still.rung() == ["{orders}:g:billing"]


def test_a_members_commit_changes_the_document_alone(still: StillServer, keys: GroupKeys, state: dict[str, str]) -> None:
    before = still.all_kept()
    assert commit(still, profile=Profile("A again"))
    changed = {"version": "v2", "doc": NEW, "changed": f"{MS}"}
    assert still.all_kept() == before | {keys.state: state | changed}


@pytest.mark.parametrize(
    ("kept", "members", "given", "done"),
    [
        ({}, {"A": MS}, {}, False),
        ({}, {"A": MS + 1}, {}, True),
        ({}, {"B": MS + 1}, {}, False),
        ({"version": "another"}, {"A": MS + 1}, {}, False),
        ({}, {"A": MS + 1}, {"known_version": ""}, False),
        ({}, {"A": MS + 1}, {"known_version": "v"}, False),
        ({"run_id": "another"}, {"A": MS + 1}, {}, False),
        ({"run_id": "another"}, {}, {"joins": True}, False),
        ({}, {"A": MS + 1, "E": MS}, {"expired": ["E"]}, True),
        ({}, {"A": MS + 1, "E": MS + 1}, {"expired": ["E"]}, False),
        ({}, {"A": MS + 1, "E": MS + 1, "F": MS}, {"expired": ["E", "F"]}, False),
        ({}, {"A": MS + 1, "E": MS, "F": MS + 1}, {"expired": ["E", "F"]}, False),
        ({}, {"A": MS + 1, "E": MS}, {"expired": ["E", "unknown"]}, True),
        ({"frozen_until": f"{MS}"}, {"A": MS + 1}, {"expired": ["E"]}, True),
        ({"frozen_until": f"{MS + 1}"}, {"A": MS + 1}, {"expired": ["E"]}, False),
        ({"frozen_until": f"{MS + 1}"}, {"A": MS + 1}, {}, True),
        ({"frozen_until": f"{MS + 1}"}, {"F": MS + 1}, {"joins": True, "former": ["F"]}, True),
        ({"frozen_until": "x"}, {"A": MS + 1}, {"expired": ["E"]}, True),
        ({}, {}, {"joins": True, "admitted": [admitted("C", 1.0), admitted("D", 1.0)]}, True),
        ({}, {}, {"joins": True, "admitted": [admitted("C", 1.0), admitted("gone", 1.0)]}, False),
        ({}, {}, {"joins": True, "admitted": [admitted("gone", 1.0), admitted("C", 1.0)]}, False),
    ],
)
def test_what_a_commit_is_refused_for(
    still: StillServer,
    keys: GroupKeys,
    state: dict[str, str],
    *,
    kept: dict[str, str],
    members: dict[str, int],
    given: dict[str, Any],
    done: bool,
) -> None:
    """M3, M5, M7, M11: to the millisecond, and then nothing is changed."""
    still.put(keys.state, state | kept)
    still.put(keys.members, members)
    before = still.all_kept()
    assert commit(still, **given) == done
    assert still.rung() == ["{orders}:g:billing"] * done
    if not done:
        assert still.all_kept() == before


@pytest.mark.parametrize("freeze", [False, True])
def test_a_document_where_there_is_none(still: StillServer, keys: GroupKeys, run: str, freeze: bool) -> None:
    """M8: what was beside a lost one counts for nothing, not even another server's run, or that the group was frozen."""
    still.put(keys.state, {"run_id": "another", "born": "1", "frozen_until": f"{FAR}", "burst": f"7 {MS - 1000}"})
    assert commit(still, known_version="", joins=True, freeze=freeze, expired=["E"])
    assert still.kept(keys.state) == {
        "version": "v2",
        "doc": NEW,
        "changed": f"{MS}",
        "run_id": run,
        "born": f"{MS}",
        "frozen_until": f"{EXPIRY}" if freeze else "0",
        "burst": f"1 {MS}",
    }
    assert still.kept(keys.members) == {"A": EXPIRY}


@pytest.mark.parametrize(
    ("freeze", "frozen", "after"),
    [
        (True, "0", EXPIRY),
        (True, f"{EXPIRY - 1}", EXPIRY),
        (True, f"{EXPIRY + 1}", EXPIRY + 1),
        (True, "x", EXPIRY),
        (False, "7", 7),
    ],
)
def test_how_long_a_commit_freezes_the_group(
    still: StillServer, keys: GroupKeys, state: dict[str, str], *, freeze: bool, frozen: str, after: int
) -> None:
    """M8: never shorter than it was."""
    still.put(keys.state, state | {"frozen_until": frozen})
    assert commit(still, freeze=freeze)
    kept = still.kept(keys.state)
    assert (kept["frozen_until"], kept["born"], kept["run_id"]) == (f"{after}", "5", state["run_id"])


@pytest.mark.parametrize(
    ("burst", "after"),
    [
        (f"3 {MS - 999}", "4"),
        (f"3 {MS - 1000}", "1"),
        (f"3 {MS + 7}", "4"),
        ("x", "1"),
        (f"{'9' * 20} {MS}", "1"),
        (f"3 {'9' * 20}", "1"),
    ],
)
def test_who_joins_within_a_second_belongs_to_the_burst(
    still: StillServer, keys: GroupKeys, state: dict[str, str], burst: str, after: str
) -> None:
    """M11. A change of the document by a member does not."""
    still.put(keys.state, state | {"burst": burst})
    assert commit(still)
    assert still.kept(keys.state)["burst"] == burst
    assert commit(still, "N", known_version="v2", new_version="v3", joins=True)
    assert still.kept(keys.state)["burst"] == f"{after} {MS}"


def test_one_that_joins_without_having_waited_ends_nobodys_turn(still: StillServer, keys: GroupKeys, state: dict[str, str]) -> None:
    assert state
    before = still.kept(keys.room)
    assert commit(still, "N", joins=True)
    assert still.kept(keys.room) == before
    assert still.kept(keys.members) == {"A": MS + 1, "B": MS + 500, "N": EXPIRY}
    assert commit(still, "C", known_version="v2", new_version="v3", joins=True)
    assert still.kept(keys.room) == {"D": "d", "W": "w"}, "its own is over"


def test_one_that_leaves_takes_what_it_said_along(still: StillServer, keys: GroupKeys, state: dict[str, str]) -> None:
    assert commit(still, leaves=True)
    assert still.kept(keys.members) == {"B": MS + 500}
    del state["member:A"]
    assert still.kept(keys.state) == state | {"version": "v2", "doc": NEW, "changed": f"{MS}"}


def test_what_older_versions_left_is_cleared_once_it_is_much(still: StillServer, keys: GroupKeys, state: dict[str, str]) -> None:
    """Sixteen fields and two for each member may be there; of those above, the group's own stay, and what living members said."""

    def leave(fields: int) -> dict[str, str]:
        kept = state | {"member:B": "2 {}", "burst": "1 1", "paused": "1", "member of no form": "x"}
        kept |= {f"member:{number}": "1 {}" for number in range(fields - len(kept))}
        still.put(keys.state, kept)
        still.put(keys.members, {"A": MS + 1, "B": MS + 500})
        return kept

    few = leave(2 * 3 + 16)
    assert commit(still, "N", joins=True)
    assert still.kept(keys.state).keys() == few.keys()
    many = leave(2 * 3 + 17)
    assert commit(still, "A")
    assert still.kept(keys.state).keys() == many.keys(), "by those that join alone"
    leave(2 * 3 + 17)
    assert commit(still, "N", joins=True)
    assert still.kept(keys.state).keys() == few.keys() - {f"member:{number}" for number in range(100)}


# -- the waiting room ---------------------------------------------------------------------------------------------------------------


def waits(name: str) -> Newcomer:
    return Newcomer(name, Profile(f"of {name}", ttl=TTL))


def said(name: str) -> str:
    word: str = readable(encode_newcomer(waits(name)))
    return word


def wait(still: StillServer, name: str = "A", *, stop: bool = False) -> tuple[Any, ...]:
    return tuple(still.ask(Wait(GROUP, name, None if stop else waits(name))))


def test_the_first_that_waits_has_the_turn(still: StillServer, keys: GroupKeys) -> None:
    """M11: for a second. What is there expires after five seconds without anybody."""
    assert wait(still) == (0, 0, MS, 0, said("A"))
    assert still.kept(keys.room) == {"A": f"{MS} {MS} {said('A')}", "": f"{MS + 1000} A"}
    assert 4000 < still.command("PTTL", keys.room) <= 5000


@pytest.mark.parametrize(
    ("turn", "taken"),
    [(f"{MS} B", True), (f"{MS + 1} B", False), (f"{MS + 1000} B", False), (f"{MS + 1001} B", True), (f"{MS + 1} A", True), ("x", True)],
)
def test_until_when_one_has_the_turn(still: StillServer, keys: GroupKeys, turn: str, taken: bool) -> None:
    """A turn further ahead than one lasts is from before the clock was set back."""
    still.put(keys.room, {"": turn})
    assert wait(still) == (0, 0, MS, *((0, said("A")) if taken else ()))
    assert still.kept(keys.room) == {"": f"{MS + 1000} A" if taken else turn, "A": f"{MS} {MS} {said('A')}"}


@pytest.mark.parametrize(
    ("asked", "counts"), [(MS - 3000, False), (MS - 2999, True), (MS, True), (MS + 9, True)], ids=["late", "just", "now", "future"]
)
def test_how_long_one_that_no_longer_asks_counts(still: StillServer, keys: GroupKeys, asked: int, counts: bool) -> None:
    still.put(keys.room, {"B": f"{MS - 5000} {asked} b", "C": f"{MS - 4000} {asked} c c"})
    assert wait(still) == (0, 0, MS, *((5000, "b", 4000, "c c") if counts else ()), 0, said("A"))
    assert still.kept(keys.room).keys() == ({"", "A", "B", "C"} if counts else {"", "A"})


def test_those_that_wait_are_answered_in_the_order_in_which_they_came(still: StillServer, keys: GroupKeys) -> None:
    """Of those that came at once, by their incarnations. One that came in the future came now; damage is nobody."""
    came = {"H": -7, "D": -7, "B": 5, "E": -9, "G": -7, "C": -7, "F": -7, "Z": 0}
    rows = {name: f"{MS + since} {MS} {9 - number}{name}" for number, (name, since) in enumerate(came.items())}
    still.put(keys.room, rows | {"X": "damaged", "Y": f"{'9' * 20} {MS} y", "V": f"{MS} {'9' * 20} v", "A": f"{MS - 8} {MS - 4000} old"})
    expected = [9, "6E", 8, said("A"), 7, "4C", 7, "8D", 7, "3F", 7, "5G", 7, "9H", 0, "2Z", 0, "7B"]
    assert wait(still) == (0, 0, MS, *expected)
    assert still.kept(keys.room) == rows | {"A": f"{MS - 8} {MS} {said('A')}", "": f"{MS + 1000} A"}
    still.put(keys.room, {"A": f"{MS + 8} {MS + 8} old", "B": f"{MS} {MS} B"})
    assert wait(still) == (0, 0, MS, 0, said("A"), 0, "B")
    assert still.kept(keys.room)["A"] == f"{MS} {MS} {said('A')}"


@pytest.mark.parametrize(("member", "stop"), [(True, False), (False, True), (True, True)])
def test_a_member_and_one_that_stops_wait_no_more(still: StillServer, keys: GroupKeys, member: bool, stop: bool) -> None:
    """And the one that has the turn passes it on."""
    still.put(keys.members, {"A": MS - 5} if member else {"B": MS})
    still.put(keys.state, {"burst": f"4 {MS - 30}"})
    still.put(keys.room, {"A": f"{MS} {MS} a", "B": f"{MS} {MS} b", "": f"{MS + 5} B"})
    still.command("PEXPIRE", keys.room, 900_000)
    assert wait(still, stop=stop) == (int(member), 4, 30)
    assert still.kept(keys.room) == {"B": f"{MS} {MS} b", "": f"{MS + 5} B"}
    assert 4000 < still.command("PTTL", keys.room) <= 5000
    still.put(keys.room, {"A": f"{MS} {MS} a", "B": f"{MS} {MS} b", "": f"{MS + 5} A"})
    assert wait(still, stop=stop) == (int(member), 4, 30)
    assert still.kept(keys.room) == {"B": f"{MS} {MS} b"}


@pytest.mark.parametrize(
    ("burst", "heard"), [(f"4 {MS + 30}", (4, 0)), ("4", (0, MS)), (f"{'9' * 20} {MS - 7}", (0, 7)), (f"4 {'9' * 20}", (4, MS))]
)
def test_one_that_waits_hears_of_a_burst(still: StillServer, keys: GroupKeys, burst: str, heard: tuple[int, int]) -> None:
    still.put(keys.state, {"burst": burst})
    still.put(keys.room, {"": f"{MS + 5} B"})
    assert wait(still) == (0, *heard)
    assert wait(still, "B")[:3] == (0, *heard)
    assert wait(still, stop=True) == (0, *heard)


# -- giving back --------------------------------------------------------------------------------------------------------------------


LEASES = readable(encode_leases({0: 7}))


def give_back(still: StillServer, gather: float = 0.2) -> list[Any]:
    answered: list[Any] = still.ask(GiveBack(GROUP, "A", {0: 7}, gather))
    return answered


def test_who_gives_back_first_has_the_turn(still: StillServer, keys: GroupKeys) -> None:
    """M13."""
    assert give_back(still) == [200]
    assert still.kept(keys.freed) == {"A": f"{MS} {LEASES}", "": f"{MS} A"}
    assert 4000 < still.command("PTTL", keys.freed) <= 5000
    still.forget_everything()
    assert give_back(still, 0.0) == [0, "A", LEASES]
    assert still.kept(keys.freed) == {"A": f"{MS} {LEASES}"}


@pytest.mark.parametrize(
    ("turn", "answer", "after"),
    [
        (f"{MS - 199} A", [1], f"{MS - 199} A"),
        (f"{MS - 200} A", [0, "A", LEASES], None),
        (f"{MS - 699} A", [0, "A", LEASES], None),
        (f"{MS - 700} A", [200], f"{MS} A"),
        (f"{MS + 1} A", [200], f"{MS} A"),
        (f"{MS} B", [-1], f"{MS} B"),
        (f"{MS - 699} B", [-1], f"{MS - 699} B"),
        (f"{MS - 700} B", [200], f"{MS} A"),
        (f"{MS + 1} B", [200], f"{MS} A"),
        ("x", [200], f"{MS} A"),
        (f"{'9' * 20} B", [200], f"{MS} A"),
    ],
)
def test_until_when_a_turn_to_give_back_lasts(
    still: StillServer, keys: GroupKeys, turn: str, answer: list[object], after: str | None
) -> None:
    still.put(keys.freed, {"": turn})
    assert give_back(still) == answer
    kept = {"A": f"{MS} {LEASES}"}
    assert still.kept(keys.freed) == (kept if after is None else kept | {"": after})


def test_how_long_what_was_given_back_is_answered(still: StillServer, keys: GroupKeys) -> None:
    """Four seconds, and not if it was in the future: the clock was set back. Damage is forgotten."""
    fresh = {"B": f"{MS} b b", "C": f"{MS - 3999} c"}
    stale = {"D": f"{MS - 4000} d", "E": f"{MS + 1} e", "F": "damaged", "G": f"{'9' * 20} g"}
    still.put(keys.freed, fresh | stale | {"A": f"{MS - 1} old"})
    assert give_back(still)[0] > 0
    assert still.kept(keys.freed).keys() == {*fresh, *stale, "A", ""}, "one whose turn has just begun waits"
    still.put(keys.freed, fresh | stale | {"A": f"{MS - 1} old"})
    answer = give_back(still, 0.0)
    assert answer[:3] == [0, "A", LEASES]
    assert sorted(zip(answer[3::2], answer[4::2], strict=True)) == [("B", "b b"), ("C", "c")]
    assert still.kept(keys.freed) == fresh | {"A": f"{MS} {LEASES}"}
