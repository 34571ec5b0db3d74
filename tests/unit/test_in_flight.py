"""The messages in flight of one partition (T5, T6, T7, S1, S3): everything in any order, and what a rule that is taken out breaks.

What must always hold is checked after each step by tests/unit/flight_world.py.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from redisaq.core import in_flight
from redisaq.core.in_flight import TABLE, InFlight, Misstep, State
from redisaq.core.records import Body
from redisaq.outcomes import Discard, RetryAfter
from redisaq.settings import RetryPolicy
from tests.unit import flight_world
from tests.unit.flight_world import LOSSES, RARE, STEPS, WAYS, World, decode, walk
from tests.unit.source import ROOT

EVERY_STATE = frozenset(State.__args__)  # type: ignore[attr-defined] # a Literal has them
USUAL = [step for _, step in STEPS]


class OnePartition(RuleBasedStateMachine):
    """Hypothesis chooses what happens, and finds the shortest way to a violation."""

    @initialize(way=st.sampled_from(WAYS), blocking=st.booleans(), backoff=st.sampled_from([0.5, 10.0]))
    def begin(self, way: Any, blocking: bool, backoff: float) -> None:
        self.world = World(lambda options: options[0], way=way, blocking=blocking, backoff=backoff)

    def _do(self, step: Callable[[World], None], data: st.DataObject) -> None:
        self.world.choose = lambda options: data.draw(st.sampled_from(list(options)))
        if self.world.flights is None:
            self.world.take()
        step(self.world)

    @rule(microseconds=st.sampled_from([1000, 300_000, 2_000_000]))
    def time_passes(self, microseconds: int) -> None:
        self.world.now += microseconds

    @rule(data=st.data(), step=st.sampled_from(USUAL))
    def something_happens(self, data: st.DataObject, step: Callable[[World], None]) -> None:
        self._do(step, data)

    @rule(data=st.data(), step=st.sampled_from(RARE))
    def an_owner_goes_or_a_connection_breaks(self, data: st.DataObject, step: Callable[[World], None]) -> None:
        self._do(step, data)

    @invariant()
    def what_must_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.choose = lambda options: options[0]
            self.world.finish(ended="goes on")


class OnePartitionOfAForgetfulServer(OnePartition):
    """The same, where the server loses data and an administrator moves the group."""

    @rule(data=st.data(), step=st.sampled_from(LOSSES))
    def something_is_lost_or_moved(self, data: st.DataObject, step: Callable[[World], None]) -> None:
        self._do(step, data)


OnePartition.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
OnePartitionOfAForgetfulServer.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOnePartition = OnePartition.TestCase
TestOnePartitionOfAForgetfulServer = OnePartitionOfAForgetfulServer.TestCase


@pytest.mark.parametrize("start", range(0, 500, 100))
def test_walks(start: int) -> None:
    """Long ways, chosen by seeds; a third of them over losses."""
    for seed in range(start, start + 100):
        try:
            walk(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


# -- the table ---------------------------------------------------------------------------------------------------------------------------


def test_each_row_of_the_table_names_rules_that_there_are() -> None:
    there = set(re.findall(r"\*\*([A-Z]\d+) ", (ROOT / "docs" / "understand" / "protocol.md").read_text()))
    for event, row in TABLE.items():
        assert row.rules.split(), event
        assert set(row.rules.split()) <= there, event


def test_the_table_leads_into_each_state_and_out_of_it() -> None:
    """But for `new` and `repeat`, as which messages enter, and `gone`."""
    into = {state for row in TABLE.values() for state in row.moves.values()}
    out = {state for row in TABLE.values() for state in row.moves}
    assert into == EVERY_STATE
    assert out == EVERY_STATE - {"gone"}


def test_the_module_describes_each_state() -> None:
    described = re.findall(r"^([a-z]+) {2,}\S", inspect.getdoc(in_flight) or "", re.MULTILINE)
    assert set(described) - {"state"} == EVERY_STATE - {"gone"}


def test_an_event_that_a_state_does_not_allow_is_a_misstep() -> None:
    flights = InFlight(0, 1, "me", policy=RetryPolicy(), decode=decode, window=4, page=4)
    (flight,) = flights.delivered([(b"1-0", (b"i", b"x", b"d", b"1"))], 0)
    with pytest.raises(Misstep, match="'returned' was reported for entry 1-0, which is new"):
        flights.returned(flight)
    flights.start(flight)
    with pytest.raises(Misstep, match="'start' was reported for entry 1-0, which is running"):
        flights.start(flight)
    with pytest.raises(Misstep, match="'exhausted' was reported"):
        flights.crashed(flight, "kind", "reason", 3, 0)


# -- moments that walks come by too seldom -------------------------------------------------------------------------------------------------

GOOD = (b"i", b"x", b"d", b"1")


def begun(module: ModuleType, **policy: Any) -> tuple[Any, Any]:
    """Return a record, and the one message in it, on which a handler has begun."""
    flights = module.InFlight(0, 1, "me", policy=RetryPolicy(jitter=False, **policy), decode=decode, window=8, page=4)
    flights.connected("a server")
    flights.claimed(flights.next_read(0), (), None, 0)
    return flights, started(flights, b"5-0")


def claimed(flights: Any) -> Any:
    """Return a message that an earlier owner had left pending."""
    flights.connected("a server")
    (flight,) = flights.claimed(flights.next_read(0), [(b"7-0", GOOD, 1)], None, 0)
    return flight


def started(flights: Any, entry: bytes) -> Any:
    """Return a new message on which a handler has begun."""
    (flight,) = flights.delivered([(entry, GOOD)], 0)
    flights.start(flight)
    return flight


def acknowledge(flights: Any) -> None:
    flights.take_acks()
    flights.acked()


def a_raise_that_is_on_its_way_when_the_group_is_moved_back_is_undone(module: ModuleType) -> None:
    """T5: the message is new, and its count may rise after it was handed back."""
    flights, _ = begun(module)
    flight = claimed(flights)
    counting = flights.prepare([flight])
    assert (counting.counts, flight.state) == ({b"7-0": 2}, "counting")
    assert flights.delivered([(b"7-0", GOOD)], 0) == []
    flights.counted(counting)
    assert (flight.attempt, flights.prepare([flight])) == (1, None)
    assert flights.hand_back() == flights.hand_back_again()[0] == {b"7-0": 0}


def what_was_left_pending_is_new_if_the_group_is_moved_back_before_the_first_read(module: ModuleType) -> None:
    """S5: no earlier read has shown that the group was not made again (T6)."""
    flights = module.InFlight(0, 1, "me", policy=RetryPolicy(jitter=False), decode=decode, window=8, page=4)
    flight = claimed(flights)
    assert flight.count == 1
    assert flights.delivered([(b"7-0", GOOD)], 0) == []
    assert (flight.count, flights.hand_back()) == (0, {b"7-0": 0})


def a_failure_is_written_down_while_its_queue_waits(module: ModuleType) -> None:
    """T5: the member that takes over after a crash goes on counting."""
    flights, flight = begun(module, blocking=True)
    hold = flights.failed(flight, ValueError("v"), 0, Random(0))
    assert flights.to_write([hold.flight]) == {b"5-0": 2}
    flights.written([hold.flight])
    assert (flights.to_write([hold.flight]), flights.hand_back()) == ({}, {})


def what_was_settled_while_the_server_answered_is_not_due(module: ModuleType) -> None:
    """S3: RetryAfter stores the same attempt with a later time, so that an older answer fits it."""
    flights, _ = begun(module)
    body = Body(b"3-0", GOOD, 0, 1)
    (flight,) = flights.due([body], 0)
    flights.prepare([flight])
    flights.noted(flight, found=True)
    flights.start(flight)
    assert flights.ask_due(1) == 2
    flights.failed(flight, RetryAfter(60), 0, Random(0))
    flights.take_endings()
    flights.settled([True])
    assert flights.due([body], 0) == []


def a_page_that_is_older_than_a_settlement_is_asked_for_again(module: ModuleType) -> None:
    """T6: what it names as pending may be done."""
    flights, flight = begun(module)
    flights.connected("another server")
    claim = flights.next_read(0)
    flights.returned(flight)
    acknowledge(flights)
    assert flights.claimed(claim, [(b"5-0", GOOD, 1)], None, 0) == []
    assert flights.next_read(0).after == claim.after


def what_was_not_found_stays_unsettled_until_the_group_has_come_past_it(module: ModuleType) -> None:
    """T6: a group that was made again may be lost once more before that."""
    flights, flight = begun(module)
    flights.failed(flight, Discard(), 0, Random(0))
    flights.take_endings()
    flights.settled([False])
    flights.group_lost()
    flights.group_made()
    flights.claimed(module.Claim(b"", 4, flights.settlements, flights.standing), (), None, 0)
    flights.answered(flights.next_read(0))
    assert b"4-" < flights.group_lost().start < b"5-0"
    flights.returned(started(flights, b"9-0"))
    acknowledge(flights)
    flights.answered(flights.next_read(0))
    assert flights.group_lost().start == b"9-0"


def what_was_cancelled_is_read_again(module: ModuleType) -> None:
    """T6: it is pending nowhere once the group was lost."""
    flights, flight = begun(module)
    flights.cancelled(flight)
    flights.delivered([(b"9-0", GOOD)], 0)
    assert flights.group_lost().evidence == b"5-0"


def what_is_doubtful_is_claimed_when_it_is_settled(module: ModuleType) -> None:
    """T6: the settlement may have come before the server that took over delivered the message."""
    flights, flight = begun(module)
    flights.connected("another server")
    assert flights.claimed(flights.next_read(0), [(b"5-0", GOOD, 1)], None, 0) == []
    flights.returned(flight)
    acknowledge(flights)
    claim = flights.next_read(0)
    assert isinstance(claim, module.Claim)
    assert b"4-" < claim.after < b"5-0"
    assert flights.group_lost().evidence == b"" or flights.unfound == {b"5-0"}


def a_page_from_before_the_group_was_moved_is_asked_for_again(module: ModuleType) -> None:
    """S5: what it names as pending may be new again."""
    flights, _ = begun(module)
    flights.connected("a server")
    claim = flights.next_read(0)
    flights.moved(2, b"0-0", b"7-0")
    assert flights.claimed(claim, [(b"7-0", GOOD, 3)], None, 0) == []
    assert flights.next_read(0).token == 2


def what_came_of_an_earlier_delivery_does_not_count(module: ModuleType) -> None:
    """S5: neither what was done, nor what runs still; what was sent after the seek does."""
    flights, running = begun(module)
    flights.returned(started(flights, b"6-0"))
    flights.failed(started(flights, b"7-0"), Discard(), 0, Random(0))
    flights.returned(started(flights, b"9-0"))
    flights.moved(2, b"0-0", b"7-0")
    flights.returned(running)
    assert (flights.take_acks(), flights.take_endings()) == ([b"9-0"], [])
    flights.acked()
    assert flights.flights == {}
    assert flights.delivered([(b"10-0", GOOD)], 0) == [], "it has to come behind them"
    flights.claimed(flights.next_read(0), (), None, 0)
    assert flights.delivered([(b"5-0", GOOD), (b"6-0", GOOD)], 0)[0].state == "new"


def what_was_delivered_and_done_unnoticed_is_looked_for(module: ModuleType) -> None:
    """S5: it was delivered again before its owner knew, and handled; that does not count, so it is pending."""
    flights, flight = begun(module)
    flights.returned(flight)
    flights.moved(2, b"4-0", b"5-0")
    claim = flights.next_read(0)
    (again,) = flights.claimed(claim, [(b"5-0", GOOD, 1)], None, 0)
    assert (again.entry, again.state) == (b"5-0", "repeat")


def what_was_withheld_as_the_group_is_moved_comes_in_its_order(module: ModuleType) -> None:
    """S5: it was delivered again before its owner knew, around messages that waited. All are claimed, in order."""
    flights, running = begun(module)
    flights.delivered([(b"6-0", GOOD), (b"7-0", GOOD)], 0)
    assert flights.delivered([(b"5-0", GOOD), (b"6-0", GOOD), (b"7-0", GOOD), (b"8-0", GOOD)], 0) == []
    flights.moved(2, b"0-0", b"7-0")
    flights.returned(running)
    claim = flights.next_read(0)
    assert isinstance(claim, module.Claim), claim
    again = flights.claimed(claim, [(entry, GOOD, 1) for entry in (b"5-0", b"6-0", b"7-0", b"8-0")], None, 0)
    assert [flight.entry for flight in again] == [b"5-0", b"6-0", b"7-0", b"8-0"]


def what_was_withheld_behind_a_settled_message_is_claimed_once_the_group_is_moved(module: ModuleType) -> None:
    """S5: the acknowledgement came before the group was moved, and its answer after the message was delivered again."""
    flights, flight = begun(module)
    flights.returned(flight)
    flights.take_acks()
    assert flights.delivered([(b"5-0", GOOD), (b"6-0", GOOD)], 0) == []
    flights.acked()
    flights.moved(2, b"4-0", b"5-0")
    claim = flights.next_read(0)
    assert isinstance(claim, module.Claim), claim
    again = flights.claimed(claim, [(b"5-0", GOOD, 1), (b"6-0", GOOD, 1)], None, 0)
    assert [flight.entry for flight in again] == [b"5-0", b"6-0"]


def a_retry_that_is_delivered_as_new_is_no_retry_in_hand(module: ModuleType) -> None:
    """T6: else the server is asked for more and more of those that are due, one for each message that a move has brought back."""
    flights = begun(module)[0]
    (retry,) = flights.due([Body(b"9-0", GOOD, attempt=2)], 0)
    assert flights.ask_due(3) == 4
    retry.attempt = 2  # as of one for which that was noted
    flights.delivered([(b"9-0", GOOD)], 0)
    assert (retry.attempt, retry.body) == (1, None)
    assert flights.ask_due(3) == 3


def a_retry_that_is_outdated_by_a_move_is_no_retry_in_hand(module: ModuleType) -> None:
    """S5: what is on its way to be settled was none any more."""
    flights = begun(module)[0]
    retries = flights.due([Body(entry, GOOD, attempt=2) for entry in (b"6-0", b"7-0", b"8-0")], 0)
    for flight in retries:
        flights.prepare([flight])
        flights.noted(flight, found=True)
        flights.start(flight)
    flights.returned(retries[0])
    assert flights.ask_due(3) == 3 + 3
    flights.moved(2, b"0-0", b"8-0")
    assert flights.ask_due(3) == 3, "the server does not count any of them as due"


MOMENTS = (
    a_raise_that_is_on_its_way_when_the_group_is_moved_back_is_undone,
    a_failure_is_written_down_while_its_queue_waits,
    what_was_settled_while_the_server_answered_is_not_due,
    a_page_that_is_older_than_a_settlement_is_asked_for_again,
    what_was_not_found_stays_unsettled_until_the_group_has_come_past_it,
    what_was_cancelled_is_read_again,
    what_is_doubtful_is_claimed_when_it_is_settled,
    a_page_from_before_the_group_was_moved_is_asked_for_again,
    what_came_of_an_earlier_delivery_does_not_count,
    what_was_delivered_and_done_unnoticed_is_looked_for,
    what_was_withheld_as_the_group_is_moved_comes_in_its_order,
    what_was_withheld_behind_a_settled_message_is_claimed_once_the_group_is_moved,
    a_retry_that_is_delivered_as_new_is_no_retry_in_hand,
    a_retry_that_is_outdated_by_a_move_is_no_retry_in_hand,
    what_was_left_pending_is_new_if_the_group_is_moved_back_before_the_first_read,
)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_moments(moment: Callable[[ModuleType], None]) -> None:
    moment(in_flight)


# -- what a rule that is taken out breaks -------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, str, int | Callable[[ModuleType], None]]] = {
    # the rule: what goes, what comes, and the seed of a walk that notices it, or the moment that does
    "T5: nothing is handed back": ('if flight.state in ("new", "held", "counting", "counted")}\n', "if False}\n", 4),
    "T5: what was counted is not handed back": (
        'if flight.state in ("new", "held", "counting", "counted")}\n',
        'if flight.state in ("new", "held")}\n',
        25,
    ),
    "T5: what is held is not handed back": (
        'if flight.state in ("new", "held", "counting", "counted")}\n',
        'if flight.state in ("new", "counting", "counted")}\n',
        39,
    ),
    "T5: what is new is not handed back": (
        'if flight.state in ("new", "held", "counting", "counted")}\n',
        'if flight.state in ("held", "counting", "counted")}\n',
        4,
    ),
    "T5: counts are not set again after the release": (
        'if flight.state in ("held", "counting", "counted")}, self._given_back',
        "if False}, self._given_back",
        5,
    ),
    "T5: retries are not given back again after the release": (
        'if flight.state in ("held", "counting", "counted")}, self._given_back',
        'if flight.state in ("held", "counting", "counted")}, []',
        1582,
    ),
    "T5: retries are not given back": ('flight.state in ("counting", "counted")]\n', "False]\n", 7),
    "T5: a handler begins uncounted": ("counts[flight.entry] = flight.count + 1", "counts[flight.entry] = flight.count", 1),
    "T5: a handler begins before the answer": (
        '"prepare": Row("T5", {"repeat": "counting"',
        '"prepare": Row("T5", {"repeat": "counted"',
        7,
    ),
    "T5: RetryAfter forgets that it was counted": (
        'waits": Row("T5 T7", {"running": "counted"})',
        'waits": Row("T5 T7", {"running": "repeat"})',
        197,
    ),
    "T5: a body that was cancelled is taken for counted and used": (
        '"taken back": Row("T5", {"running": "counted"})',
        '"taken back": Row("T5", {"running": "repeat"})',
        25,
    ),
    "T5: attempts never run out": ("return exhausted(self._policy.of(flight), flight.attempt)", "return False", 638),
    "T5: a raise that is on its way is forgotten by a seek": (
        '"held": "counted", "counting": "counted"',
        '"held": "new", "counting": "new"',
        a_raise_that_is_on_its_way_when_the_group_is_moved_back_is_undone,
    ),
    "T5: what is held is not written down": (
        'for flight in flights if flight.state == "held"}',
        "for flight in flights if False}",
        a_failure_is_written_down_while_its_queue_waits,
    ),
    "T7 T5: a failure does not make its queue's message wait": (
        'waits": Row("T5 T7", {"running": "held"})',
        'waits": Row("T5 T7", {"running": "new"})',
        47,
    ),
    "S1: a broken acknowledgement is forgotten": ("self.done, self.acking = self.acking + self.done, []", "self.acking = []", 13),
    "S1: a broken settlement is forgotten": ("self.ending, self.sending = again + self.ending, []", "self.sending = []", 7),
    "S3: due retries in flight run a second time": ("if body.entry_id not in self.flights and body", "if body", 7),
    "S3: an old answer is believed": (
        "and body.entry_id not in settled:",
        "and True:",
        what_was_settled_while_the_server_answered_is_not_due,
    ),
    "S3: a retry that succeeded is acknowledged in the stream": (
        "if flight.body is None:\n            try:",
        "if True:\n            try:",
        11,
    ),
    "T6: an old page is believed": (
        "settled = claim.settlements != self.settlements and",
        "settled = False and",
        a_page_that_is_older_than_a_settlement_is_asked_for_again,
    ),
    "T6: what was not found is not kept": ("self.unfound.add(flight.entry)", "pass", 273),
    "T6: what was not found is confirmed by any answer": (
        "if parse_id(entry) <= reached]",
        "if True]",
        what_was_not_found_stays_unsettled_until_the_group_has_come_past_it,
    ),
    "T6: what was cancelled is not kept": ("self.left.add(flight.entry)", "pass", what_was_cancelled_is_read_again),
    "T6: what is doubtful is not looked at": (
        "if self.doubtful and not self.claiming and not self.ahead:",
        "if False:",
        what_is_doubtful_is_claimed_when_it_is_settled,
    ),
    "T6: a lost group is made again at the position": ('key=parse_id, default=b"")', 'key=parse_id, default=b"") and b""', 108),
    "T6: another server is trusted": ("self._trusted = False\n            self._begin_again()", "pass", 453),
    "T6: what is in flight is recorded a second time": ("if one[0] not in flights], now)", "], now)", 177),
    "S3: due retries do not raise the highest": ("self._highest_due = max(self._highest_due, parse_id(entry))", "pass", 3648),
    "T1: what a broken read brought is not claimed": (
        'self._after, self._until = self._seen or b"", None',
        'self._after = b"" if self._seen is None else None',
        63,
    ),
    "S5: an old page is believed": (
        "or claim.token != self.standing:",
        "or False:",
        a_page_from_before_the_group_was_moved_is_asked_for_again,
    ),
    "S5: what runs while the group is moved counts": (
        '"running": "outdated",\n',
        '"running": "running",\n',
        what_came_of_an_earlier_delivery_does_not_count,
    ),
    "S5: what was sent after a seek does not count": (
        "(parse_id(entry) <= last or",
        "(True or",
        what_came_of_an_earlier_delivery_does_not_count,
    ),
    "S5: what was withheld comes before what waited": (
        "        self.withheld = []\n        self._overtaking",
        "        self._overtaking",
        what_was_withheld_as_the_group_is_moved_comes_in_its_order,
    ),
    "S5: what was withheld is forgotten": (
        "self.doubtful.update([entry for entry, _ in self.withheld])",
        "pass",
        what_was_withheld_behind_a_settled_message_is_claimed_once_the_group_is_moved,
    ),
    "S5: what was handled unnoticed is not looked for": (
        "        self.doubtful |= outdated.keys()\n",
        "",
        what_was_delivered_and_done_unnoticed_is_looked_for,
    ),
    "S3: what was withheld runs beside its earlier run": ("if any(entry in flights for entry, _ in rest):", "if False:", 199),
}


def broken(old: str, new: str) -> ModuleType:
    """Return the module with a piece of its source replaced."""
    source = inspect.getsource(in_flight)
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    module = ModuleType(in_flight.__name__)
    exec(compile(ast.parse(source.replace(old, new)), in_flight.__file__, "exec"), module.__dict__)  # noqa: S102 -- the project's own
    return module


def hunt(first: int) -> None:
    """Walk where the fault was noticed once; then, since any change of the world changes the walks, from the beginning."""
    for seed in (first, *range(4000)):
        walk(seed)


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_that_is_taken_out_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, how = BROKEN[name]
    module = broken(old, new)
    for attribute in ("InFlight", "Flight", "Claim", "HandOver", "Read"):
        monkeypatch.setattr(flight_world, attribute, getattr(module, attribute))
    with pytest.raises((AssertionError, module.Misstep, KeyError, AttributeError, ValueError, TypeError)):
        hunt(how) if isinstance(how, int) else how(module)
