"""A state machine: whatever is done, each message is in exactly one of delayed, stream-unread, pending, retry, dead, done.

It drives a memory broker and one on a real server with the same random operations, among them settlements that are sent again, and ones
of owners who have lost their lease. Both must answer the same, and after each step the stores themselves are looked at: who is where must
be what a plain model says.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from redisaq.brokers.steps.settling import Remaining, Resolved, Settled
from redisaq.core.records import Failure
from redisaq.errors import GroupGoneError, LeaseLostError
from tests.conformance.delivery_model import FUTURE, Goal, Hand, Model, Order, Side
from tests.conformance.worlds import MemoryWorld, RedisWorld
from tests.conftest import Backend
from tests.server_fixtures import ServerPool
from tests.servers import Server

EXAMPLES = int(os.environ.get("REDISAQ_MODEL_EXAMPLES", "15"))
STEPS = int(os.environ.get("REDISAQ_MODEL_STEPS", "40"))

counts = st.integers(1, 4)
picks = st.integers(0, 2) | st.integers(0, 1 << 16)  # rather a late one
dues = st.sampled_from([1, 10_000, 20_000, FUTURE, FUTURE + 10_000, FUTURE + 20_000])
GOALS: list[Goal] = ["retry", "retry", "dead", "dead"]
goals = st.sampled_from([*GOALS, "done"])
places = st.lists(st.integers(0, 5), min_size=1, max_size=3)
maybe_places = st.none() | places
TOKEN = 1_700_000_000_123_457


class DeliveryMachine(RuleBasedStateMachine):
    """The same operations on a memory broker, on one on a real server, and on a model."""

    def __init__(self, backend: Backend, server: Server) -> None:
        super().__init__()
        namespace = f"m{uuid.uuid4().hex[:12]}"
        self._open = ExitStack()
        self._portal = self._open.enter_context(start_blocking_portal(backend[0], backend[1]))
        self._server_world = RedisWorld(server, namespace)
        self._model = Model()
        self._token = TOKEN
        self._hands: list[Hand] = []
        self._orders: list[Order] = []
        self._lost = False  # no token stands
        self._released = False  # its holder has let go (M8)
        self._readers = 0  # registered beside the token
        self._steps = 0
        # A memory store belongs to the event loop in which it is asked for.
        self._sides = [self._portal.call(Side, MemoryWorld(namespace)), Side(self._server_world)]

    def teardown(self) -> None:
        """Close the brokers, and leave nothing on the server."""
        for side in self._sides:
            self._portal.call(side.end)
        self._server_world.flush()
        self._open.close()

    def _both(self, step: Callable[[Side], Awaitable[Any]]) -> Any:
        """Do the same on both sides; return the answer, which must be the same."""

        async def attempt(side: Side) -> Any:
            try:
                return await step(side)
            except LeaseLostError:
                return "lease lost"
            except GroupGoneError:
                return "group gone"

        memory, server = (self._portal.call(attempt, side) for side in self._sides)
        assert memory == server
        return memory

    def _on_both(self, step: Callable[[Side], Any]) -> list[Any]:
        return [self._portal.call(step, side) for side in self._sides]

    def _new_names(self, count: int) -> list[bytes]:
        first = len(self._model.messages)
        return [b"m%d" % number for number in range(first, first + count)]

    def _stale(self, stale: bool) -> int:
        """Return the token that the caller shows."""
        return self._token - 1 if stale else self._token

    @property
    def _standing(self) -> int:
        return 0 if self._lost else self._token

    # -- what is always true ----------------------------------------------------------------------------------------------------

    @invariant()
    def each_is_in_one_place(self) -> None:
        """By the stores themselves."""
        expected = sorted(self._model.places().items())
        assert self._on_both(Side.look) == [expected, expected]

    @invariant()
    def what_is_left_is_counted(self) -> None:
        model = self._model
        left = Remaining(
            unread=bool(model.at("unread")),
            pending=len(model.at("pending")),
            retry=len(model.at("retry")),
            delayed=len(model.at("delayed")),
        )
        if self._steps:
            assert self._both(Side.remaining) == [left]

    # -- what may happen --------------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Something of everything, since random steps alone seldom get far."""
        self._both(Side.begin)
        self._both(lambda side: side.take_over(self._token))
        self._readers = self._steps = 1
        self.append(6)
        self.each_is_in_one_place()  # this learns what the entries are called
        self.read(5)
        for hand, to in zip(tuple(self._hands), GOALS, strict=False):
            self._resolve_new([(hand, to, 1, True)], None)
        self.begin_retries(1)

    @rule(count=counts)
    def append(self, count: int) -> None:
        names = self._new_names(count)
        assert self._both(lambda side: side.append(names)) == [False] * count
        for name in names:
            self._model.enter(name, None)

    @rule(dedup_id=st.sampled_from("abc"), due=st.none() | dues)
    def append_once(self, dedup_id: str, due: int | None) -> None:
        """E7: the first one counts."""
        (name,) = self._new_names(1)
        marks = self._model.marks
        assert self._both(lambda side: side.append_once(name, dedup_id, due)) == marks.get(dedup_id, name)
        if marks.setdefault(dedup_id, name) == name:
            self._model.enter(name, due)

    @rule()
    def marks_expire(self) -> None:
        self._on_both(Side.expire_marks)
        self._model.marks.clear()

    @rule(times=st.lists(dues, min_size=1, max_size=3), again=picks)
    def delay(self, times: list[int], again: int) -> None:
        """New messages, and one that is already delayed: it stays unchanged."""
        there = self._model.at("delayed")
        wanted = dict(zip(self._new_names(len(times)), times, strict=True))
        known = {there[again % len(there)]: times[0]} if there else {}
        assert self._both(lambda side: side.delay(known | wanted)) == [True] * len(known | wanted)
        for name, due in wanted.items():
            self._model.enter(name, due)

    @rule(count=counts)
    def read(self, count: int) -> None:
        expected = self._model.unread(count)
        assert self._both(lambda side: side.read(count)) == expected
        for name in expected:
            self._model.messages[name].place = "pending"
            self._hands.append(Hand("stream", name))

    @rule(count=counts, stale=st.booleans())
    def claim(self, count: int, stale: bool) -> None:
        answer = self._both(lambda side: side.claim(self._stale(stale), count))
        if stale or self._lost:
            assert answer == "lease lost"
            return
        order = [name for name in self._model.messages if self._model.messages[name].place == "pending"]
        entries, trimmed, _ = answer
        assert sorted([name for name, _ in entries] + trimmed) == sorted(self._in_stream_order(order)[:count])
        for name, deliveries in entries:
            assert deliveries == self._model.messages[name].deliveries
        for name in trimmed:
            assert self._model.messages[name].trimmed
            self._model.messages[name].place = "done"
        self._hands += [Hand("stream", name) for name, _ in entries]

    def _in_stream_order(self, names: list[bytes]) -> list[bytes]:
        return sorted(names, key=self._entered.index)

    @property
    def _entered(self) -> list[bytes]:
        return [hand.name for hand in self._hands if hand.source == "stream"]

    @rule(chosen=st.lists(picks, min_size=1, max_size=3), stale=st.booleans())
    def acknowledge(self, chosen: list[int], stale: bool) -> None:
        names = list(dict.fromkeys(self._pick(pick).name for pick in chosen if self._hands))
        answer = self._both(lambda side: side.ack(self._stale(stale), names))
        refused = stale or self._lost
        assert answer == [Settled(done=not refused, token=self._standing)]
        for name in names:
            if not refused and self._model.messages[name].place == "pending":
                self._model.messages[name].place = "done"

    @rule(chosen=st.lists(picks, min_size=1, max_size=3), count=counts, stale=st.booleans())
    def note_attempts(self, chosen: list[int], count: int, stale: bool) -> None:
        """A message that is tried again while its lane waits stays pending: its delivery count is its attempt (T5)."""
        names = {self._pick(pick).name: count + place for place, pick in enumerate(chosen) if self._hands}
        refused = stale or self._lost
        assert self._both(lambda side: side.set_deliveries(self._stale(stale), names)) == (not refused)
        for name, deliveries in names.items():
            if not refused:
                self._model.messages[name].deliveries = deliveries

    def _pick(self, pick: int) -> Hand:
        """Return a hand, rather a late one."""
        return self._hands[-1 - pick % len(self._hands)]

    @rule(
        chosen=st.lists(st.tuples(picks, goals, dues, st.booleans()), min_size=1, max_size=4),
        dead_maxlen=st.none() | st.integers(0, 3),
        stale=st.sampled_from([False, False, False, True]),
    )
    def resolve(self, chosen: list[tuple[int, Goal, int, bool]], dead_maxlen: int | None, stale: bool) -> None:
        if self._hands:
            self._resolve_new([(self._pick(pick), to, due, used) for pick, to, due, used in chosen], dead_maxlen, stale=stale)

    def _resolve_new(self, chosen: list[tuple[Hand, Goal, int, bool]], dead_maxlen: int | None, *, stale: bool = False) -> None:
        self._steps += 1
        # No two are due at the same time: the order of such is that of their entry ids, and those are a world's own.
        orders = [
            Order(hand, to, due + len(self._orders) + place, used, Failure("E", "x", "", hand.attempt, self._steps, self._steps, "A"))
            for place, (hand, to, due, used) in enumerate(chosen)
        ]
        self._resolve(orders, dead_maxlen, stale=stale)
        self._orders += orders

    @rule(pick=picks, to=goals, due=dues, used=st.booleans())
    def resolve_what_runs_and_again_at_once(self, pick: int, to: Goal, due: int, used: bool) -> None:
        if running := [hand for hand in self._hands if hand.source == "retry"]:
            self._resolve_new([(running[-1 - pick % len(running)], to, due, used)], None)
            self._resolve(self._orders[-1:], None, stale=False)

    @rule(chosen=st.lists(picks, min_size=1, max_size=4), stale=st.booleans())
    def resolve_again(self, chosen: list[int], stale: bool) -> None:
        """As a client does whose answer was lost, however late."""
        if self._orders:
            self._resolve([self._orders[-1 - pick % len(self._orders)] for pick in chosen], None, stale=stale)

    def _resolve(self, orders: list[Order], dead_maxlen: int | None, *, stale: bool) -> None:
        answer = self._both(lambda side: side.resolve(self._stale(stale), orders, dead_maxlen))
        if stale or self._lost:
            assert answer == Resolved(done=False, token=self._standing)
            return
        moved = tuple(self._model.resolve(order, dead_maxlen) for order in orders)
        assert answer == Resolved(done=True, token=self._token, moved=moved)

    @rule(count=counts)
    def begin_retries(self, count: int) -> None:
        """As an owner does: what is due is begun."""
        before = len(self._hands)
        self.due(count, stale=False)
        for hand in self._hands[before:]:
            self._start(Hand("retry", hand.name, hand.life, hand.attempt + 1), stale=False)

    @rule(pick=picks, ahead=st.sampled_from([0, 1, 1, 1, 2]), stale=st.booleans())
    def start_retry(self, pick: int, ahead: int, stale: bool) -> None:
        hands = [hand for hand in self._hands if hand.source == "retry"]
        if not hands:
            return
        last = hands[-1 - pick % len(hands)]
        self._start(Hand("retry", last.name, last.life, last.attempt + ahead), stale=stale)

    def _start(self, hand: Hand, *, stale: bool) -> None:
        message = self._model.messages[hand.name]
        there = message.place == "retry" and message.life == hand.life and hand.attempt - message.attempt in (0, 1)
        there = there and not stale and not self._lost and not self._released
        assert self._both(lambda side: side.start_retry(self._stale(stale), hand)) == there
        if there:
            message.attempt = hand.attempt
            self._hands.append(hand)

    @rule(count=counts, stale=st.sampled_from([False, False, False, True]))
    def due(self, count: int, stale: bool) -> None:
        answer = self._both(lambda side: side.due(self._stale(stale), count))
        if stale or self._lost:
            assert answer == "lease lost"
            return
        retries, moved, _ = answer
        model = self._model
        due = [name for name in model.at("delayed") if model.messages[name].due < FUTURE]
        expected = sorted(due, key=lambda name: (model.messages[name].due, name))[:count]
        assert moved == len(expected)
        for name in expected:
            model.messages[name].place = "unread"
            model.stream.append(name)
        waiting = [name for name in model.at("retry") if model.messages[name].due < FUTURE]
        assert len(retries) == min(count, len(waiting))
        for name, life, attempt, failure in retries:
            message = model.messages[name]
            assert name in waiting
            assert (life, attempt, failure) == (message.life, message.attempt, message.failure)
            self._hands.append(Hand("retry", name, life, attempt))

    @rule()
    def time_passes(self) -> None:
        self._on_both(Side.pass_time)
        self._model.pass_time()

    @rule()
    def somebody_takes_over(self) -> None:
        self._token += 1
        assert self._both(lambda side: side.take_over(self._token)) == (True, self._token, self._readers)
        self._lost, self._released, self._readers = False, False, 1

    @rule()
    def the_token_is_lost(self) -> None:
        """Until the next install nothing is settled."""
        self._on_both(Side.lose_token)
        self._lost = True

    @rule(stale=st.booleans())
    def it_is_given_back(self, stale: bool) -> None:
        """M8: the token stays, so its owner can still settle. T5: no retry begins any more."""
        refused = stale or self._lost
        assert self._both(lambda side: side.release(self._stale(stale))) == (not refused)
        self._released = self._released or not refused
        self._readers = self._readers if refused else 0

    @rule(maxlen=st.integers(0, 6))
    def trim(self, maxlen: int) -> None:
        self._on_both(lambda side: side.trim(maxlen))
        self._model.trim(maxlen)

    @rule(after=st.integers(0, 5), count=counts)
    def look_at_dead_letters(self, after: int, count: int) -> None:
        first = after if after <= len(self._model.dead) else 0
        found = self._both(lambda side: side.dead(after, count))
        messages = self._model.messages
        expected = [(name, messages[name]) for name in self._model.dead[first : first + count]]
        assert found == [(name, message.life, message.attempt, message.failure) for name, message in expected]

    @rule(chosen=maybe_places, count=counts)
    def redrive(self, chosen: list[int] | None, count: int) -> None:
        names = self._dead_at(chosen)[:count]
        assert self._both(lambda side: side.redrive(chosen, count)) == len(names)
        self._model.redrive(names)

    @rule(chosen=places | st.sampled_from([None, [9], [9]]))
    def purge(self, chosen: list[int] | None) -> None:
        names = self._dead_at(chosen)
        assert self._both(lambda side: side.purge(chosen)) == len(names)
        self._model.bury(names)

    def _dead_at(self, chosen: list[int] | None) -> list[bytes]:
        dead = self._model.dead
        return list(dead) if chosen is None else [dead[place] for place in sorted(set(chosen)) if place < len(dead)]


@pytest.mark.parametrize("kind", ["valkey9", "redis8", "redis7"])
def test_each_message_is_in_one_place(anyio_backend: Backend, server_pool: ServerPool, kind: str) -> None:
    server = server_pool.shared(kind)

    class Machine(DeliveryMachine):
        def __init__(self) -> None:
            super().__init__(anyio_backend, server)

    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    options = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(Machine, settings=options)
