"""What an owner's record says after each event: exact records of failures, counts, bounds, and what is asked of the server next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import pytest

from redisaq.core.entry_ids import LAST
from redisaq.core.in_flight import MOST_ENDING, Claim, Ending, Flight, HandOver, InFlight, Read, Remake
from redisaq.core.records import Body, Entry, Failure, Resolution, Unreadable
from redisaq.outcomes import Discard
from redisaq.settings import RetryPolicy
from tests.unit.flight_server import BAD, GOOD, entry_of
from tests.unit.flight_world import decode

SECOND = 1_000_000
Decode = Callable[[Iterable[Entry], int, int], tuple[list[Flight], list[Unreadable]]]


def record(*, window: int = 8, page: int = 4, read: Decode = decode, **policy: Any) -> InFlight:
    """Return an owner's record, before the first claim."""
    return InFlight(0, 1, "me", policy=RetryPolicy(jitter=False, **policy), decode=read, window=window, page=page)


def reading(**options: Any) -> InFlight:
    """Return a record whose first claim found nothing."""
    flights = record(**options)
    flights.connected("a server")
    claimed(flights)
    return flights


def claimed(flights: InFlight, *entries: tuple[bytes, Sequence[bytes], int], last: bytes | None = None) -> list[Flight]:
    claim = flights.next_read(0)
    assert isinstance(claim, Claim)
    return flights.claimed(claim, entries, last, 0)


def delivered(flights: InFlight, *numbers: int) -> list[Flight]:
    return flights.delivered([(entry_of(number), GOOD) for number in numbers], 0)


def started(flights: InFlight, *numbers: int) -> list[Flight]:
    found = delivered(flights, *numbers)
    flights.start_all(found)
    return found


def begun_again(flights: InFlight, body: Body) -> Flight:
    """Return a message of `retry` on which a handler has begun."""
    (flight,) = flights.due([body], 0)
    flights.prepare([flight])
    flights.noted(flight, found=True)
    flights.start(flight)
    return flight


def acknowledge(flights: InFlight) -> None:
    flights.take_acks()
    flights.acked()


def test_a_new_owner_has_nothing_and_may_begin() -> None:
    flights = record()
    assert (flights.may_start, flights.lost, flights.ahead, flights.claiming) == (True, "", False, True)
    assert (flights.waiting, flights.running, flights.unsettled, flights.settled_all) == (0, 0, 0, True)
    assert (flights.handled, flights.failures, flights.trimmed, flights.position) == (0, 0, 0, b"")
    assert flights.group_lost() == Remake(b"", b"")


def test_what_waits_runs_and_has_ended_is_counted() -> None:
    flights = reading()
    first, second, third, fourth, _ = delivered(flights, 1, 2, 3, 4, 5)
    assert (flights.waiting, flights.running, flights.unsettled) == (5, 0, 5)
    flights.start(first)
    assert (flights.waiting, flights.running) == (4, 1)
    assert flights.start_new([second, third, fourth])
    assert not flights.start_new([first])
    assert (flights.waiting, flights.running) == (1, 4)
    flights.returned(first)
    flights.failed(second, Discard(), 0, Random(0))
    flights.failed(third, ValueError("v"), 0, Random(0))
    assert (flights.waiting, flights.running, flights.handled, flights.failures) == (1, 1, 1, 1)
    flights.returned_all([fourth])
    assert (flights.running, flights.handled, flights.unsettled) == (0, 2, 5)
    acknowledge(flights)
    flights.take_endings()
    flights.settled([True, True])
    assert (flights.waiting, flights.running, flights.unsettled) == (1, 0, 1)


# -- what is kept of failures ------------------------------------------------------------------------------------------------------


def failed(flights: InFlight, flight: Flight, now: int) -> Ending:
    """Let a handler raise; return how the message is settled."""
    assert flights.failed(flight, ValueError("v"), now, Random(0)) is None
    (ending,) = flights.take_endings()
    flights.settled([True])
    assert not ending.uncertain
    return ending


def failure_of(ending: Ending) -> Failure:
    failure = ending.resolution.body.failure
    assert failure is not None
    return failure


def test_when_a_message_failed_is_kept_first_last_and_the_latest_between() -> None:
    """Fourteen of those between, in the server's milliseconds."""
    flights = reading(max_attempts=20, backoff=10.0, factor=1.0)
    (flight,) = started(flights, 5)
    times = [1_700_000_000_000_999 + 3600 * SECOND * number for number in range(20)]
    in_ms = [time // 1000 for time in times]
    for number, now in enumerate(times, 1):
        ending = failed(flights, flight, now)
        failure, dead = failure_of(ending), number == 20
        assert (failure.error_type, failure.error, failure.member) == ("ValueError", "v", "me")
        assert (failure.attempts, failure.first_failed_ms, failure.last_failed_ms) == (number, in_ms[0], in_ms[number - 1])
        assert failure.between_ms == tuple(in_ms[1 : number - 1])[-14:]
        assert (ending.reason, ending.pause) == ("ValueError: v", 0.0 if dead else 10.0)
        source, to, due = "stream" if number == 1 else "retry", "dead" if dead else "retry", 0 if dead else now + 10 * SECOND
        body = Body(b"5-0", GOOD, life=0, attempt=number, failure=failure, unused=0)
        assert ending.resolution == Resolution(source, to, body, due=due, used=True)  # type: ignore[arg-type] # two of each
        if not dead:
            flight = begun_again(flights, body)
            assert flight.attempt == number + 1
    assert flights.unsettled == 0


def test_a_success_of_a_retry_says_no_time() -> None:
    flights = reading()
    body = Body(b"5-0", GOOD, 2, 3)
    flights.returned(begun_again(flights, body))
    (ending,) = flights.take_endings()
    assert ending.resolution == Resolution("retry", "done", Body(b"5-0", GOOD, 2, 4), due=0, used=True)


def test_when_it_first_failed_is_kept_while_its_queue_waits() -> None:
    """T7: and no longer, if the group is moved back (S5)."""
    flights = reading(max_attempts=3, backoff=1.0, blocking=True)
    (flight,) = started(flights, 5)
    for number in (1, 2):
        hold = flights.failed(flight, ValueError("v"), (10 + number) * SECOND, Random(0))
        assert hold is not None
        flight = hold.flight
        assert (flight.first_failed, flight.attempt, flight.count) == (11_000, number, number + 1)
        assert flights.to_write([flight]) == {b"5-0": number + 1}
        counting = flights.prepare([flight])
        assert counting is not None
        assert counting.counts == {b"5-0": number + 2}
        flights.counted(counting)
        flights.start(flight)
    failure = failure_of(failed(flights, flight, 20 * SECOND))
    assert (failure.attempts, failure.first_failed_ms, failure.last_failed_ms) == (3, 11_000, 20_000)

    (flight,) = started(flights, 6)
    hold = flights.failed(flight, ValueError("v"), 11 * SECOND, Random(0))
    assert hold is not None
    assert delivered(flights, 6) == []
    assert (hold.flight.first_failed, hold.flight.attempt, hold.flight.count) == (0, 1, 0)


def unreadable(now_ms: int) -> Failure:
    return Failure("Unreadable", "it says nothing", "", 0, now_ms, now_ms, "me")


def test_what_cannot_be_read_is_to_die_with_the_reason_from_wherever_it_comes() -> None:
    flights = record()
    flights.connected("a server")
    claim = flights.next_read(0)
    assert isinstance(claim, Claim)
    assert flights.claimed(claim, [(b"4-0", BAD, 3)], None, 7 * SECOND) == []
    (new,) = flights.delivered([(b"5-0", BAD), (b"6-0", GOOD)], 8 * SECOND)
    assert flights.due([Body(b"2-0", BAD, 1, 2, None, 1)], 9 * SECOND) == []
    assert (new.entry, flights.waiting, flights.unsettled) == (b"6-0", 1, 4)
    assert [(ending.resolution, ending.reason) for ending in flights.take_endings()] == [
        (Resolution("stream", "dead", Body(b"4-0", BAD, failure=unreadable(7000))), "it says nothing"),
        (Resolution("stream", "dead", Body(b"5-0", BAD, failure=unreadable(8000))), "it says nothing"),
        (Resolution("retry", "dead", Body(b"2-0", BAD, 1, 2, unreadable(9000), 1)), "it says nothing"),
    ]


@pytest.mark.parametrize("source", ["stream", "retry"])
def test_what_can_be_read_once_only_dies_when_its_queue_would_wait(source: str) -> None:
    read = 0

    def once(entries: Iterable[Entry], partition: int, token: int) -> tuple[list[Flight], list[Unreadable]]:
        nonlocal read
        read += 1
        return decode([(entry, fields if read == 1 else BAD) for entry, fields in entries], partition, token)

    flights = reading(read=once, blocking=True)
    body = Body(b"5-0", GOOD, 1, 2)
    (flight,) = started(flights, 5) if source == "stream" else [begun_again(flights, body)]
    assert flights.failed(flight, ValueError("v"), 8 * SECOND, Random(0)) is None
    assert flights.ask_due(0) == 1, "it is on its way"
    (ending,) = flights.take_endings()
    if source == "stream":
        assert ending.resolution == Resolution("stream", "dead", Body(b"5-0", BAD, failure=unreadable(8000)))
    else:
        assert ending.resolution == Resolution("retry", "dead", Body(b"5-0", GOOD, 1, 3, unreadable(8000)))
    flights.settled([True])
    assert (flights.unsettled, flights.ask_due(0)) == (0, 0)


def test_a_settlement_that_may_have_arrived_is_uncertain_and_comes_first_again() -> None:
    """S1: nobody hears of it twice."""
    flights = reading()
    first, second = started(flights, 1, 2)
    flights.failed(first, Discard(), 0, Random(0))
    flights.take_endings()
    flights.broke(maybe_executed=False)
    assert [ending.uncertain for ending in flights.ending] == [False]
    flights.take_endings()
    flights.failed(second, Discard(), 0, Random(0))
    flights.broke(maybe_executed=True)
    assert [(ending.flight, ending.uncertain) for ending in flights.take_endings()] == [(first, True), (second, False)]


def test_a_message_on_which_as_many_handlers_have_begun_as_allowed_is_dead() -> None:
    """T5: attempts that are not used do not count."""
    flights = reading(max_attempts=2)
    poison, put_off = flights.due([Body(b"3-0", GOOD, 0, 2), Body(b"4-0", GOOD, 0, 2, None, 1)], 0)
    counting = flights.prepare([poison, put_off])
    assert counting is not None
    assert (counting.counts, counting.retries) == ({}, [put_off])
    assert put_off.body == Body(b"4-0", GOOD, 0, 3, None, 1)
    flights.noted(put_off, found=True)
    assert (put_off.attempt, flights.exhausted(put_off)) == (2, False)
    assert (poison.attempt, flights.exhausted(poison)) == (3, True)
    flights.crashed(poison, "Crashed", "it ends its process", 2, 9 * SECOND)
    (ending,) = flights.take_endings()
    failure = Failure("Crashed", "it ends its process", "", 2, 9000, 9000, "me")
    assert ending.resolution == Resolution("retry", "dead", Body(b"3-0", GOOD, 0, 2, failure))
    assert ending.reason == "it ends its process"
    assert flights.ask_due(0) == 2


# -- how much is read ----------------------------------------------------------------------------------------------------------------


def test_a_page_is_asked_for_while_there_is_room_for_it_and_two_if_one_is_on_its_way() -> None:
    flights = reading(window=10)
    assert flights.coming == 4
    delivered(flights, 1, 2)
    assert flights.may_ask_ahead(4)
    assert not flights.may_ask_ahead(3), "the page was not full"
    flights.ahead = True
    assert flights.coming == 8
    assert flights.next_read(0) == Read(4, frozenset())
    delivered(flights, 3)
    assert not flights.may_ask_ahead(4)
    assert flights.next_read(0) is None
    flights.ahead = False
    delivered(flights, 4, 5, 6)
    assert flights.next_read(0) == Read(4, frozenset())
    delivered(flights, 7)
    assert flights.next_read(0) is None
    assert [flights.most_waiting(count) for count in (0, 9, 10, 11)] == [10, 1, 0, 0]


def test_nothing_is_read_while_a_thousand_are_to_be_settled_otherwise_than_by_an_acknowledgement() -> None:
    flights = reading()
    flights.delivered([(entry_of(number), BAD) for number in range(1, 1000)], 0)
    assert (MOST_ENDING, flights.has_room(4)) == (1000, True)
    flights.take_endings()
    flights.delivered([(entry_of(1000), BAD)], 0)
    assert not flights.has_room(4)
    flights.settled([True] * 999)
    assert flights.has_room(4)


def test_a_new_connection_claims_what_the_last_one_may_have_been_given() -> None:
    """T1, T6: at another server, everything from the beginning; the page that was asked for ahead does not come."""
    flights = reading()
    started(flights, 5)
    flights.ahead = True
    flights.connected("a server")
    assert not flights.ahead
    assert flights.next_read(0) == Claim(b"5-0", 4, flights.settlements, 1)
    flights.connected("another server")
    assert flights.next_read(0) == Claim(b"", 4, flights.settlements, 1)


def test_a_page_above_all_that_was_settled_is_believed() -> None:
    """T6: nothing on it can have been settled since it was asked for, so it need not be asked for again."""
    flights = reading()
    flights.returned_all(started(flights, 5))
    flights.connected("a server")
    claim = flights.next_read(0)
    assert isinstance(claim, Claim)
    acknowledge(flights)
    assert [flight.entry for flight in flights.claimed(claim, [(b"7-0", GOOD, 1)], None, 0)] == [b"7-0"]


def test_a_look_at_doubtful_messages_ends_with_the_page_that_reaches_the_last() -> None:
    """T6."""
    flights = reading()
    running = started(flights, 5, 6)
    flights.connected("another server")
    assert claimed(flights, (b"5-0", GOOD, 1), (b"6-0", GOOD, 1)) == []
    flights.returned_all(running)
    acknowledge(flights)
    assert [flight.entry for flight in claimed(flights, (b"5-0", GOOD, 1), last=b"5-0")] == [b"5-0"]
    assert flights.claiming
    assert [flight.entry for flight in claimed(flights, (b"6-0", GOOD, 1), last=b"6-0")] == [b"6-0"]
    assert not flights.claiming


# -- a group that is lost or moved ---------------------------------------------------------------------------------------------------


def test_what_was_not_found_is_settled_once_the_group_has_come_to_it_again() -> None:
    """T6: to the very message."""
    flights = reading()
    (flight,) = started(flights, 5)
    flights.failed(flight, Discard(), 0, Random(0))
    flights.take_endings()
    flights.settled([False])
    flights.group_made()
    flights.returned_all(started(flights, 5))
    acknowledge(flights)
    question = flights.next_read(0)
    assert question == Read(4, frozenset([b"5-0"]))
    assert isinstance(question, Read)
    flights.answered(question)
    assert not flights.ahead
    assert flights.group_lost() == Remake(b"5-0", b"5-0")


@pytest.mark.parametrize("made", [True, False])
def test_what_was_cancelled_is_no_longer_left_once_it_has_come_again(*, made: bool) -> None:
    """T6: else a group that is lost later begins before it, and repeats everything since."""
    flights = reading()
    flights.cancelled(*started(flights, 5))
    assert flights.group_lost() == Remake(b"5-0", b"4-%d" % LAST)
    if made:
        flights.group_made()
        flights.returned_all(started(flights, 5))
    else:
        flights.connected("a server")
        flights.claimed(Claim(b"", 4, flights.settlements, 1), [(b"5-0", GOOD, 1)], None, 0)
        (flight,) = flights.flights.values()
        counting = flights.prepare([flight])
        assert counting is not None
        flights.counted(counting)
        assert flight.attempt == 1, "the read counted one, and no handler has ended"
        flights.start(flight)
        flights.returned(flight)
    acknowledge(flights)
    question = flights.next_read(0)
    assert isinstance(question, Read)
    flights.answered(question)
    assert flights.group_lost() == Remake(b"5-0", b"5-0")


def test_a_group_is_made_again_before_what_is_pending_or_from_the_beginning_at_a_server_that_took_over() -> None:
    """T6."""
    flights = record()
    flights.connected("a server")
    claimed(flights, (b"7-0", GOOD, 1))
    assert flights.group_lost() == Remake(b"7-0", b"6-%d" % LAST), "it has been there, though it was never read"
    flights.group_made()
    assert flights.position == b"7-0"
    flights.connected("another server")
    assert flights.group_lost() == Remake(b"", b"")
    flights.group_made()
    assert flights.position == b""


def test_what_is_in_flight_and_comes_again_from_a_group_made_again_is_looked_for_when_it_has_ended() -> None:
    """T6."""
    flights = reading()
    running = started(flights, 5)
    flights.group_made()
    assert [flight.entry for flight in delivered(flights, 5, 6)] == [b"6-0"]
    flights.returned_all(running)
    acknowledge(flights)
    assert flights.next_read(0) == Claim(b"4-%d" % LAST, 4, flights.settlements, 1)


def test_once_a_group_made_again_has_passed_what_was_in_flight_what_comes_again_was_moved_back() -> None:
    """S5, T5: it is withheld until the earlier handler has ended, or handed back as if it had never been delivered."""
    flights = reading()
    (running,) = started(flights, 5)
    flights.group_made()
    delivered(flights, 9)
    assert delivered(flights, 5, 6) == []
    assert flights.hand_back() == {b"9-0": 0, b"6-0": 0}
    flights.returned(running)
    assert flights.next_read(0) is None
    acknowledge(flights)
    assert flights.hand_back() == {b"9-0": 0, b"5-0": 0, b"6-0": 0}
    again = flights.next_read(0)
    assert isinstance(again, HandOver)
    assert [flight.entry for flight in again.flights] == [b"5-0", b"6-0"]
    assert isinstance(flights.next_read(0), Read)


def test_what_is_delivered_behind_outdated_messages_is_claimed_behind_them() -> None:
    """S5."""
    flights = reading()
    (running,) = started(flights, 5)
    flights.moved(2, b"0-0", b"5-0")
    assert delivered(flights, 10) == []
    flights.returned(running)
    assert [flight.entry for flight in claimed(flights, (b"5-0", GOOD, 1), last=b"5-0")] == [b"5-0"]
    assert flights.claiming
    assert [flight.entry for flight in claimed(flights, (b"10-0", GOOD, 1), last=b"10-0")] == [b"10-0"]
    assert not flights.claiming


def test_a_connection_after_a_move_claims_from_the_position_on() -> None:
    """S5, T1: unless it is above all that was seen, or nothing was seen before."""
    for position, begin in ((b"4-0", b"4-0"), (b"9-0", b"6-0")):
        flights = reading()
        flights.returned_all(started(flights, 5, 6))
        acknowledge(flights)
        flights.moved(2, position, b"6-0")
        flights.connected("a server")
        assert flights.next_read(0) == Claim(begin, 4, flights.settlements, 2)
    flights = record()
    flights.moved(2, b"4-0", b"6-0")
    flights.connected("a server")
    assert flights.next_read(0) == Claim(b"", 4, 0, 2)


def test_whatever_comes_of_an_outdated_message_does_not_count() -> None:
    """S5: it is neither settled nor left, and a settlement of it that broke is not sent again."""
    flights = reading(window=20, page=20)
    returned, together, failing, back, cancelled, *sent = started(flights, *range(1, 8))
    for flight in sent:
        flights.failed(flight, Discard(), 0, Random(0))
    flights.take_endings()
    flights.moved(2, b"0-0", b"7-0")
    flights.returned(returned)
    flights.returned_all([together])
    assert flights.failed(failing, ValueError("v"), 0, Random(0)) is None
    flights.taken_back(back)
    flights.cancelled(cancelled)
    assert flights.unsettled == 2
    flights.broke(maybe_executed=True)
    assert (flights.unsettled, flights.settled_all, flights.left, flights.unfound) == (0, True, set(), set())
    assert (flights.handled, flights.failures) == (2, 1)


def test_what_is_taken_back_is_handed_back_as_if_no_handler_had_begun() -> None:
    """T5."""
    flights = reading()
    (flight,) = started(flights, 5)
    flights.taken_back(flight)
    assert (flight.state, flights.waiting, flights.hand_back()) == ("counted", 1, {b"5-0": 0})
    assert flights.prepare([flight]) is None, "the read counted it"


def test_a_raise_that_broke_is_repeated_for_what_was_not_delivered_as_new_meanwhile() -> None:
    """T5."""
    flights = record()
    flights.connected("a server")
    waiting = claimed(flights, (b"7-0", GOOD, 1), (b"8-0", GOOD, 4))
    counting = flights.prepare(waiting)
    assert counting is not None
    assert (counting.counts, flights.waiting) == ({b"7-0": 2, b"8-0": 5}, 2)
    assert delivered(flights, 7) == []
    assert isinstance(flights.next_read(0), Read), "it is in its place already"
    assert flights.still_counting(counting) == {b"8-0": 5}
    flights.counted(counting)
    assert [(flight.state, flight.attempt) for flight in waiting] == [("counted", 1), ("counted", 4)]
    assert flights.still_counting(counting) == {}


def test_a_move_outdates_what_was_delivered_above_its_position_and_what_waits_behind() -> None:
    """S5: neither the message at the position, nor what has been done since the move."""
    flights = reading(window=20, page=20)
    at, above, last = started(flights, 5, 6, 7)
    later = started(flights, 8)
    acked = started(flights, 10, 11)
    (waiting,) = delivered(flights, 12)
    flights.returned_all([above, *acked])
    assert flights.take_acks() == [b"6-0", b"10-0", b"11-0"]
    flights.returned_all(later)
    flights.moved(2, b"5-0", b"7-0")
    assert [flight.state for flight in (at, last, *later, *acked, waiting)] == ["running", "outdated", "done", "done", "done", "gone"]
    assert flights.acking == [b"10-0", b"11-0"]
    assert flights.take_acks() == [b"8-0"]
    assert flights.doubtful == {b"6-0", b"7-0", b"12-0"}


# -- retries ---------------------------------------------------------------------------------------------------------------------------


def test_a_retry_that_has_left_is_no_retry_in_hand() -> None:
    """S3: the server is asked for as many more as are due and in hand."""
    flights = reading()
    flights.cancelled(begun_again(flights, Body(b"3-0", GOOD, 0, 1)))
    assert flights.ask_due(1) == 1
    purged, moved = flights.due([Body(b"3-0", GOOD, 0, 1), Body(b"4-0", GOOD, 0, 1)], 0)
    assert flights.ask_due(1) == 3
    flights.prepare([purged, moved])
    assert not flights.noted(purged, found=False)
    assert (purged.state, flights.ask_due(1)) == ("gone", 2)
    assert delivered(flights, 4) == []
    assert flights.noted(moved, found=False), "it is new again, and not gone"
    assert (moved.state, moved.attempt, flights.unsettled) == ("new", 1, 1)


def test_retries_that_were_counted_and_not_begun_go_back_in_their_order_before_all_others() -> None:
    """T5."""
    flights = reading()
    retries = flights.due([Body(entry_of(number), GOOD, 0, 1) for number in (3, 4)], 0)
    flights.prepare(retries)
    flights.noted(retries[0], found=True)
    flights.give_back()
    endings = flights.take_endings()
    expected = [Resolution("retry", "retry", Body(entry_of(place + 2), GOOD, 0, 2), due=place, used=False) for place in (1, 2)]
    assert [ending.resolution for ending in endings] == expected == flights.hand_back_again()[1]


def test_a_lost_partition_says_why_and_begins_nothing() -> None:
    """M4."""
    flights = reading()
    done, discarded, sent = started(flights, 1, 2, 3)
    flights.returned_all([done])
    flights.failed(sent, Discard(), 0, Random(0))
    flights.take_endings()
    flights.failed(discarded, Discard(), 0, Random(0))
    flights.returned_all([begun_again(flights, Body(b"9-0", GOOD, 0, 1))])
    assert flights.unsettled == 4
    flights.lose("its lease is over")
    flights.lose("another token stands")
    assert (flights.lost, flights.may_start, flights.unsettled, flights.settled_all) == ("its lease is over", False, 0, True)
    draining = reading()
    draining.begin_drain()
    assert not draining.may_start
