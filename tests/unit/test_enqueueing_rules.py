"""What one enqueue does next, rule by rule, in the few events that it takes to meet the rule."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from redisaq.core.enqueueing import (
    BEGINNING,
    SEALED,
    Connection,
    Enqueue,
    Find,
    Kill,
    Knowledge,
    LearnAnchors,
    MakeTopic,
    Misstep,
    Outgoing,
    Pause,
    ReadTopic,
    Send,
    Step,
    WaitForRoom,
    WaitForTurn,
)
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, RedisaqError, ServerError

OLD, NEW = "run-1", "run-2"
FIRST: Connection = (1, "here", OLD)
SECOND: Connection = (2, "here", OLD)
BROKEN = ConnectionFailed("here", "it broke", maybe_executed=True)
UNWRITTEN = ConnectionFailed("here", "it is away")
NODE_AWAY = ConnectionFailed("here", "a node is away")
NODE_AWAY.of_node = True


def knowledge(*, acked: bool = False, partitions: int = 2) -> Knowledge:
    """Return what a producer knows that has sent something; a key is a partition's number."""
    known = Knowledge("jobs", lambda key, count: int(key or 0) % count, 30.0)
    known.topic_is(0, partitions, 0.0, acked=acked)
    known.named([(partition, b"10-0") for partition in range(partitions)], OLD)
    return known


def call(known: Knowledge, *keys: str, repeatable: bool = False) -> Enqueue:
    return Enqueue(known, [Outgoing(f"{key}{place}", key, []) for place, key in enumerate(keys)], 30.0, repeatable=repeatable)


def after(enqueue: Enqueue, now: float = 0.1) -> Step | None:
    """Return the next step that is no pause."""
    step = enqueue.next(now)
    if isinstance(step, Pause):
        enqueue.paused()
        return enqueue.next(now)
    return step


def broken(known: Knowledge, *keys: str, connections: Sequence[Connection] = (FIRST,), repeatable: bool = False) -> Enqueue:
    """Return a call that broke while it was being sent."""
    enqueue = call(known, *keys, repeatable=repeatable)
    assert isinstance(enqueue.next(0.1), Send)
    enqueue.broke(BROKEN, connections)
    return enqueue


def searching(known: Knowledge, *keys: str) -> tuple[Enqueue, Find]:
    """Return a call that broke, whose connection has been killed, and its search."""
    enqueue = broken(known, *keys)
    assert after(enqueue) == Kill([FIRST])
    enqueue.killed(allowed=True)
    step = enqueue.next(0.1)
    assert isinstance(step, Find)
    return enqueue, step


def test_every_connection_is_killed_before_the_search() -> None:
    """E1, C2."""
    enqueue = broken(knowledge(), "0", connections=[FIRST, SECOND])
    assert after(enqueue) == Kill([FIRST, SECOND])
    enqueue.broke(UNWRITTEN)
    assert after(enqueue) == Kill([FIRST, SECOND]), "a kill that was not answered is sent again"


def test_connections_of_earlier_calls_are_killed_too() -> None:
    """E1: the second break does not make the first connection harmless."""
    known = knowledge()
    first, second, elsewhere = call(known, "0"), call(known, "0"), call(known, "1")
    for enqueue in (first, second, elsewhere):
        assert isinstance(enqueue.next(0.1), Send)
    first.broke(BROKEN, [FIRST])
    second.broke(BROKEN, [SECOND])
    elsewhere.broke(BROKEN, [])
    assert after(second) == Kill([FIRST, SECOND])
    assert isinstance(after(elsewhere), Find), "they carry nothing to its partition"


@pytest.mark.parametrize("grown", [False, True])
def test_a_call_waits_for_no_kill_at_a_server_that_it_does_not_need(grown: bool) -> None:
    """E1: one that cannot be reached, of a cluster. After a growth, the key may have been there before."""
    known = knowledge()
    enqueue = broken(known, "0")
    enqueue.give_up()
    if grown:
        known.topic_is(1, 3, 0.1, acked=False)
        known.named([(2, b"0-0")], OLD)
    step = call(known, "1").next(0.1)
    assert step == Kill([FIRST]) if grown else isinstance(step, Send)


@pytest.mark.parametrize("repeatable", [True, False])
def test_what_an_ended_call_left_is_killed_before_the_next_one_sends(repeatable: bool) -> None:
    """E1."""
    known = knowledge()
    enqueue = broken(known, "0", repeatable=repeatable)
    enqueue.give_up()
    assert isinstance(enqueue.error, AmbiguousEnqueueError)
    later = call(known, "0")
    assert later.next(0.1) == Kill([FIRST])
    later.killed(allowed=True)
    assert isinstance(later.next(0.1), Send)


def test_a_kill_that_is_not_permitted_leaves_it_unknown() -> None:
    """T4, E1. What comes later is sent all the same."""
    known = knowledge()
    enqueue = broken(known, "0")
    assert isinstance(after(enqueue), Kill)
    enqueue.killed(allowed=False)
    assert enqueue.next(0.1) is None
    assert isinstance(enqueue.error, AmbiguousEnqueueError)
    assert isinstance(call(known, "0").next(0.1), Send)


def test_a_stream_that_cannot_be_searched_leaves_the_others_to_be_searched() -> None:
    """A node that is down makes nothing uncertain that is on another one."""
    enqueue = broken(knowledge(), "0", "1")
    assert after(enqueue) == Kill([FIRST])
    enqueue.killed(allowed=True)
    searched: list[int] = []
    for _ in range(3):
        step = after(enqueue)
        assert isinstance(step, Find)
        searched.append(step.partition)
        if step.partition == 0:
            enqueue.broke(NODE_AWAY)
        else:
            enqueue.found([b"11-0"], complete=True, last=b"11-0", run=OLD)
    assert searched == [0, 1, 0]
    enqueue.give_up()
    assert isinstance(enqueue.error, AmbiguousEnqueueError)
    assert enqueue.error.message_ids == ("00",)


def test_an_anchor_of_another_run_is_no_anchor() -> None:
    """E2: the append went to a server that took over, and may have got a lower id."""
    known = knowledge()
    enqueue = broken(known, "0", connections=[(1, "here", NEW)])
    assert isinstance(after(enqueue), Kill)
    enqueue.killed(allowed=True)
    step = enqueue.next(0.1)
    assert isinstance(step, Find)
    assert step.anchor == BEGINNING


def test_a_part_that_another_run_may_have_carried_out_is_looked_for_from_the_beginning() -> None:
    """E2, C2: the call over several nodes broke at one of them, and another has a new master, which may give out ids below the anchor."""
    enqueue = call(knowledge(), "0", "1")
    assert isinstance(enqueue.next(0.1), Send)
    error = ConnectionFailed("here", "it broke", maybe_executed=True)
    error.another_run = True
    enqueue.broke(error, [FIRST])
    assert after(enqueue) == Kill([FIRST])
    enqueue.killed(allowed=True)
    step = enqueue.next(0.1)
    assert isinstance(step, Find)
    assert step.anchor == BEGINNING


def test_anchors_end_with_the_run_that_named_them() -> None:
    """E2."""
    known = knowledge()
    known.connected_to(NEW)
    enqueue = call(known, "0")
    assert enqueue.next(0.1) == LearnAnchors([0, 1])
    enqueue.learnt([b"5-0", None], NEW)
    assert known.anchors == {0: b"5-0", 1: BEGINNING}
    assert isinstance(enqueue.next(0.1), Send)
    enqueue.sent([b"6-0"], "")
    assert known.anchors == {}, "nobody can tell which run answered"


def test_the_anchor_is_that_of_before_the_sending() -> None:
    """E2: an anchor that a later call brought may lie behind the message."""
    known = knowledge()
    enqueue = broken(known, "0")
    known.named([(0, b"99-0")], OLD)
    assert isinstance(after(enqueue), Kill)
    enqueue.killed(allowed=True)
    step = enqueue.next(0.1)
    assert isinstance(step, Find)
    assert step.anchor == b"10-0"


def test_anchors_of_a_topic_that_is_trimmed_grow_old() -> None:
    """E3."""
    known = knowledge(acked=True)
    enqueue = call(known, "0")
    assert enqueue.next(0.1) == LearnAnchors([0, 1])
    assert isinstance(call(known, "0").next(0.2), Send), "of many enqueues one asks"
    enqueue.leave()
    enqueue = call(known, "0")
    assert enqueue.next(0.2) == LearnAnchors([0, 1]), "and nobody said so"
    enqueue.broke(UNWRITTEN)
    assert after(enqueue) == LearnAnchors([0, 1])
    enqueue.learnt([b"10-0", b"10-0"], OLD)
    enqueue.next(0.3)
    enqueue.sent([b"11-0"], OLD)
    known.topic_is(0, 2, 20.0, acked=True)
    assert known.calm_until == 15.1
    assert call(known, "0").next(20.1) == LearnAnchors([0, 1])


@pytest.mark.parametrize("acked", [False, True])
def test_a_stream_that_cannot_be_asked_holds_up_no_other(*, acked: bool) -> None:
    """A node that is down is no reason to wait for the others' producers."""
    known = knowledge(acked=acked)
    known.named((), NEW)
    enqueue = call(known, "0")
    assert enqueue.next(0.1) == LearnAnchors([0, 1])
    enqueue.broke(NODE_AWAY)
    assert after(enqueue) == LearnAnchors([0])
    enqueue.learnt([b"10-0"], NEW)
    assert isinstance(enqueue.next(0.1), Send)
    enqueue.sent([b"11-0"], NEW)
    assert call(known, "1").next(0.2) == LearnAnchors([1])
    known.topic_is(0, 2, 10.1, acked=acked)
    assert call(known, "0").next(10.1) == LearnAnchors([1]), "after a while, all are learned"


def test_what_was_learned_alone_grows_old_too() -> None:
    """E3."""
    known = Knowledge("jobs", lambda key, count: int(key or 0) % count, 4.0)
    known.topic_is(0, 2, 0.0, acked=True)
    enqueue = call(known, "0")
    assert enqueue.next(0.1) == LearnAnchors([0, 1])
    enqueue.broke(NODE_AWAY)
    assert after(enqueue) == LearnAnchors([0])
    enqueue.learnt([b"10-0"], OLD)
    known.topic_is(0, 2, 2.1, acked=True)
    assert call(known, "0").next(2.1) == LearnAnchors([0])


def test_the_stream_ends_at_the_anchor() -> None:
    """C5: then nothing came after it, and the last id is the next anchor, though it is lower."""
    known = knowledge()
    enqueue, _ = searching(known, "0")
    enqueue.found([None], complete=False, last=b"4-0", run=OLD)
    assert isinstance(enqueue.next(0.1), Send)
    assert known.anchors[0] == b"4-0"


def test_an_incomplete_search_makes_it_unknown() -> None:
    """E2. Other partitions' messages are searched for and sent."""
    known = knowledge()
    enqueue, step = searching(known, "0", "1")
    assert step.partition == 0
    enqueue.found([None], complete=False, last=b"20-0", run=OLD)
    step = enqueue.next(0.1)  # type: ignore[assignment]
    assert isinstance(step, Find)
    enqueue.found([None], complete=True, last=b"20-0", run=OLD)
    again = enqueue.next(0.1)
    assert isinstance(again, Send)
    assert [message.msg_id for message in again.messages] == ["11"]
    enqueue.sent([b"21-0"], OLD)
    assert isinstance(enqueue.error, AmbiguousEnqueueError)
    assert enqueue.error.message_ids == ("00",)


def test_what_there_was_no_time_to_send_is_named_too() -> None:
    """E2: whatever is not named is there."""
    enqueue, _ = searching(knowledge(), "0", "1", "1")
    enqueue.found([None], complete=False, last=b"20-0", run=OLD)
    enqueue.next(0.1)
    enqueue.found([b"11-0", None], complete=True, last=b"11-0", run=OLD)
    enqueue.give_up()
    assert isinstance(enqueue.error, AmbiguousEnqueueError)
    assert enqueue.error.message_ids == ("00", "12")


def test_earlier_ones_are_sent_again_first() -> None:
    """E4: in the order of first sending, and only within a partition."""
    known = knowledge()
    enqueues = [call(known, key) for key in ("0", "0", "1")]
    for enqueue in enqueues:
        assert isinstance(enqueue.next(0.1), Send)
    first, second, other = enqueues
    for enqueue in (other, second, first):
        enqueue.broke(BROKEN, [FIRST])
    assert isinstance(after(second), Kill)
    second.killed(allowed=True)
    assert isinstance(second.next(0.1), Find), "searching needs no turn"
    second.found([None], complete=True, last=b"10-0", run=OLD)
    assert second.next(0.1) == WaitForTurn(first)
    assert call(known, "0").next(0.1) == WaitForTurn(second)
    assert isinstance(after(other), Find)
    other.found([None], complete=True, last=b"10-0", run=OLD)
    assert isinstance(other.next(0.1), Send)
    assert isinstance(after(first), Find)
    first.found([None], complete=True, last=b"10-0", run=OLD)
    assert isinstance(first.next(0.1), Send)
    second.paused()
    assert isinstance(second.next(0.1), Send)


def test_after_a_growth_everything_later_waits() -> None:
    """E4: its key may belong elsewhere by now."""
    known = knowledge()
    enqueue = broken(known, "0")
    known.topic_is(1, 3, 0.2, acked=False)
    assert call(known, "2").next(0.3) == WaitForTurn(enqueue)
    enqueue.leave()
    assert isinstance(call(known, "2").next(0.3), Kill)


def test_a_cancelled_call_holds_nothing_up() -> None:
    """E4."""
    known = knowledge()
    enqueue, _ = searching(known, "0")
    enqueue.leave()
    assert isinstance(call(known, "0").next(0.1), Send)


def test_a_stream_that_is_missing_is_made_and_has_no_anchor() -> None:
    """E5."""
    known = knowledge()
    enqueue = call(known, "0")
    enqueue.next(0.1)
    enqueue.sent([None], OLD)
    assert enqueue.next(0.1) == MakeTopic()
    enqueue.topic_is(0, 2, 0.1, acked=False)
    assert enqueue.next(0.1) == LearnAnchors([0])


def test_a_stream_that_is_gone_again_and_again_is_made_after_longer_and_longer_pauses() -> None:
    """E5."""
    known = knowledge()
    enqueue = call(known, "0")
    asked: list[type[Any]] = []
    failures: list[int] = []
    while len(failures) < 3 and len(asked) < 50:
        step = enqueue.next(0.1)
        asked.append(type(step))
        match step:
            case Send():
                enqueue.sent([None], OLD)
            case MakeTopic():
                enqueue.topic_is(0, 2, 0.1, acked=False)
            case LearnAnchors():
                enqueue.learnt([None] * len(step.partitions), OLD)
            case Pause():
                failures.append(step.failures)
                enqueue.paused()
    again = [MakeTopic, LearnAnchors, Send]
    assert asked == [Send, *again, Pause, *again, Pause, *again, Pause]
    assert failures == [1, 2, 3]


def test_what_was_refused_is_placed_again_after_a_growth() -> None:
    """E6; also when a failover takes the growth back."""
    known = knowledge(partitions=4)
    enqueue = call(known, "7")
    enqueue.next(0.1)
    enqueue.sent([None], OLD)
    assert isinstance(enqueue.next(0.1), MakeTopic)
    known.named([(4, b"0-0"), (5, b"0-0")], OLD)
    for generation, partitions, place in ((1, 6, 1), (2, 8, 7), (1, 2, 1)):
        enqueue.topic_is(generation, partitions, 0.1, acked=False)
        step = enqueue.next(0.1)
        while not isinstance(step, Send):
            assert isinstance(step, LearnAnchors)
            enqueue.learnt([b"0-0"] * len(step.partitions), OLD)
            step = enqueue.next(0.1)
        assert step.messages[0].partition == place
        assert enqueue.generation == generation
        enqueue.sent([None], OLD)
        assert isinstance(enqueue.next(0.1), MakeTopic)


def test_what_is_uncertain_stays_where_it_was_sent_and_moves_once_it_is_not_there() -> None:
    """E6: it may be there."""
    known = knowledge(partitions=4)
    enqueue, search = searching(known, "7")
    known.topic_is(1, 8, 0.1, acked=False)
    assert search.partition == 3
    enqueue.found([None], complete=True, last=b"9-0", run=OLD)
    step = enqueue.next(0.1)
    assert isinstance(step, LearnAnchors)
    enqueue.learnt([b"0-0"] * len(step.partitions), OLD)
    step = enqueue.next(0.1)
    assert isinstance(step, Send)
    assert step.messages[0].partition == 7


def test_a_try_that_may_still_arrive_is_repeated_in_its_partition_though_that_is_lost() -> None:
    """E6, E7: a failover has taken the growth back, and may not be the last one."""
    known = knowledge(partitions=8)
    enqueue = broken(known, "7", repeatable=True)
    known.topic_is(1, 4, 0.1, acked=False)
    step = after(enqueue)
    while not isinstance(step, Send):
        assert isinstance(step, LearnAnchors)
        enqueue.learnt([b"0-0"] * len(step.partitions), OLD)
        step = enqueue.next(0.1)
    assert (step.messages[0].partition, enqueue.generation) == (7, 0)


def test_an_earlier_try_that_a_seal_keeps_out_is_no_doubt_any_more() -> None:
    """E6, E7: it is sent again to its old place until that answers, with its mark or as sealed."""
    known = knowledge(partitions=4)
    enqueue = broken(known, "7", repeatable=True)
    known.topic_is(1, 8, 0.1, acked=False)
    known.named([(place, b"0-0") for place in range(8)], OLD)
    step = after(enqueue)
    assert isinstance(step, Send)
    assert (step.messages[0].partition, enqueue.generation) == (3, 0)
    enqueue.sent([SEALED], OLD)
    assert isinstance(enqueue.next(0.1), MakeTopic)
    enqueue.topic_is(1, 8, 0.1, acked=False)
    step = after(enqueue)
    while not isinstance(step, Send):
        assert isinstance(step, LearnAnchors)
        enqueue.learnt([b"0-0"] * len(step.partitions), OLD)
        step = enqueue.next(0.1)
    assert (step.messages[0].partition, enqueue.generation) == (7, 1)
    enqueue.give_up()
    assert isinstance(enqueue.error, AmbiguousEnqueueError), "that try is under way"


@pytest.mark.parametrize("answer", [None, ServerError("OOM")])
def test_only_an_answer_makes_a_repeatable_call_certain(answer: ServerError | None) -> None:
    """E7: an earlier try may still arrive."""
    enqueue = broken(knowledge(), "0", repeatable=True)
    assert isinstance(after(enqueue), Send)
    enqueue.sent([answer], OLD)
    enqueue.give_up()
    assert isinstance(enqueue.error, AmbiguousEnqueueError)


def test_a_refusal_that_passes_is_sent_again_unless_it_was_overtaken() -> None:
    """C1, C3: a later message of the call and stream was accepted, and one of another stream."""
    enqueue = call(knowledge(), "0", "1", "0")
    enqueue.next(0.1)
    enqueue.sent([UNWRITTEN, UNWRITTEN, b"11-0"], OLD)
    assert enqueue.next(0.1) == Pause(1)
    enqueue.paused()
    step = enqueue.next(0.1)
    assert isinstance(step, Send)
    assert [message.msg_id for message in step.messages] == ["11"]
    enqueue.sent([b"12-0"], OLD)
    assert isinstance(enqueue.error, ServerError)
    assert enqueue.error.appended == [None, b"12-0", b"11-0"]


def test_what_an_error_of_a_connection_shows_as_appended_is_there() -> None:
    enqueue, _ = searching(knowledge(), "0", "1")
    enqueue.found([b"11-0"], complete=True, last=b"11-0", run=OLD)
    enqueue.next(0.1)
    enqueue.found([None], complete=True, last=b"10-0", run=OLD)
    enqueue.give_up()
    assert isinstance(enqueue.error, ConnectionFailed)
    assert enqueue.error.appended == [b"11-0", None]
    assert not enqueue.error.maybe_executed


def test_a_refused_search_says_what_is_there_and_names_what_may_be() -> None:
    """E2: of a call that broke, the server's refusal to be searched says nothing about the messages themselves."""
    refusal = ServerError("NOPERM no permissions to run the 'xrange' command")
    uncertain, _ = searching(knowledge(), "0", "1")
    uncertain.found([b"11-0"], complete=True, last=b"11-0", run=OLD)
    uncertain.next(0.1)
    uncertain.give_up(refusal)
    assert isinstance(uncertain.error, AmbiguousEnqueueError)
    assert uncertain.error.message_ids == ("11",)
    assert "NOPERM" in uncertain.error.reason

    certain, _ = searching(knowledge(), "0", "1")
    certain.found([b"11-0"], complete=True, last=b"11-0", run=OLD)
    certain.next(0.1)
    certain.found([None], complete=True, last=b"10-0", run=OLD)
    certain.give_up(refusal)  # it may not be sent: no step that comes before is permitted
    assert certain.error is refusal
    assert refusal.appended == [b"11-0", None]


def test_of_many_enqueues_one_reads_the_topic() -> None:
    known = knowledge()
    enqueue = call(known, "0")
    assert enqueue.next(1.0) == ReadTopic()
    assert isinstance(call(known, "0").next(1.0), Send)


def test_an_event_that_is_not_in_the_row_is_a_misstep() -> None:
    enqueue = call(knowledge(), "0")
    with pytest.raises(Misstep):
        enqueue.broke(BROKEN)
    assert isinstance(enqueue.next(0.1), Send)
    with pytest.raises(Misstep):
        enqueue.next(0.1)
    with pytest.raises(Misstep):
        enqueue.killed(allowed=True)
    with pytest.raises(Misstep):
        enqueue.found([], complete=True, last=b"", run="")
    enqueue.sent([b"11-0"], OLD)
    assert enqueue.next(0.1) is None


def test_a_call_is_over_at_the_instant_at_which_its_time_is_up() -> None:
    known = knowledge()
    known.topic_is(0, 2, 29.9, acked=False)
    enqueue = call(known, "0")
    assert isinstance(enqueue.next(math.nextafter(30.0, 0.0)), Send)
    enqueue.sent([UNWRITTEN], OLD)
    assert enqueue.next(30.0) is None
    assert enqueue.state == "over"


def test_a_producer_knows_nothing_before_it_has_asked() -> None:
    known = Knowledge("jobs", lambda _key, _count: 0, 30.0)
    assert (known.partitions, known.generation, known.number, known.broken, known.calm_until) == (0, 0, 0, 0, -math.inf)
    assert not SEALED, "as None: `all` shows whether every message has an entry"


def test_what_was_sent_while_all_was_calm_is_searched_for_if_it_broke() -> None:
    known = knowledge()
    enqueue = call(known, "0")
    for message in enqueue.messages:
        message.partition = 0
    enqueue.already_sent(1, 0, {0: b"10-0"}, OLD)
    assert (enqueue.state, enqueue.sending) == ("sending", 1)
    enqueue.broke(BROKEN, [FIRST])
    assert after(enqueue) == Kill([FIRST])
    enqueue.killed(allowed=True)
    assert enqueue.next(0.1) == Find(0, b"10-0", enqueue.messages)


def test_what_is_being_sent_is_counted() -> None:
    enqueue = call(knowledge(), "0", "1")
    assert enqueue.sending == 0
    enqueue.next(0.1)
    assert enqueue.sending == 2
    enqueue.sent([b"11-0", b"11-0"], OLD)
    assert enqueue.sending == 0


def test_an_answer_is_the_anchor_of_what_comes_next_and_a_delayed_message_has_none() -> None:
    """E2."""
    known = knowledge()
    enqueue = call(known, "0", "1")
    enqueue.next(0.1)
    enqueue.sent([b"11-0", b""], OLD)
    assert enqueue.error is None
    assert [message.entry for message in enqueue.messages] == [b"11-0", b""]
    assert known.anchors == {0: b"11-0", 1: b"10-0"}


def test_each_failure_in_a_row_makes_the_pause_longer_until_the_server_answers() -> None:
    known = knowledge()
    enqueue = broken(known, "0")
    assert known.broken == 1
    assert enqueue.next(0.1) == Pause(1)
    enqueue.paused()
    for failures in (2, 3):
        assert isinstance(enqueue.next(0.1), Kill)
        enqueue.broke(UNWRITTEN)
        assert (enqueue.next(0.1), known.broken) == (Pause(failures), failures)
        enqueue.paused()
    enqueue.next(0.1)
    enqueue.killed(allowed=True)
    enqueue.next(0.1)
    enqueue.found([None], complete=True, last=b"10-0", run=OLD)
    assert isinstance(enqueue.next(0.1), Send)
    enqueue.sent([None], OLD)
    assert enqueue.next(0.1) == MakeTopic()
    enqueue.broke(UNWRITTEN)
    assert enqueue.next(0.1) == Pause(1)


def test_a_stream_that_ends_at_the_very_anchor_has_got_nothing_since() -> None:
    """C5."""
    enqueue, _ = searching(knowledge(), "0")
    enqueue.found([None], complete=False, last=b"10-0", run=OLD)
    assert isinstance(enqueue.next(0.1), Send)


def test_a_failure_that_lasts_ends_the_call_at_once() -> None:
    """A wrong password does not become right."""
    enqueue = call(knowledge(), "0")
    enqueue.next(0.1)
    error = ConnectionFailed("here", "wrong password", permanent=True)
    enqueue.broke(error)
    assert enqueue.next(0.1) is None
    assert isinstance(enqueue.error, ConnectionFailed)
    assert (enqueue.error.reason, enqueue.error.permanent) == ("wrong password", True)


def test_while_no_call_holds_up_another_calls_may_be_sent_without_a_look() -> None:
    """For half a second, if all anchors are known and nothing is to be killed or to be sent again; also of a topic of one partition."""
    single, known = knowledge(partitions=1), knowledge(partitions=2)
    for either in (single, known):
        either.look()
        assert either.calm_until == 0.5
    assert Knowledge("jobs", lambda _key, _count: 0, 30.0).calm_until == -math.inf
    enqueue = broken(known, "0")
    assert known.calm_until == -math.inf
    assert isinstance(after(enqueue), Kill)
    enqueue.killed(allowed=True)
    enqueue.next(0.1)
    known.topic_is(0, 2, 0.1, acked=False)
    assert known.calm_until == -math.inf
    enqueue.found([b"11-0"], complete=True, last=b"11-0", run=OLD)
    assert (enqueue.state, known.calm_until) == ("over", 0.6)


def test_anchors_that_are_too_old_are_not_used_though_a_node_cannot_be_asked_for_new_ones() -> None:
    """E3: half of send_timeout, to the very instant."""
    known = knowledge(acked=True)
    assert call(known, "0").next(0.1) == LearnAnchors([0, 1])
    known.topic_is(0, 2, 15.0, acked=True)
    assert isinstance(call(known, "0").next(math.nextafter(15.1, 0.0)), Send)
    enqueue = call(known, "0")
    assert enqueue.next(15.1) == LearnAnchors([0, 1])
    known.topic_is(0, 2, 15.2, acked=True)
    assert known.calm_until == 15.7, "one asks for all"
    enqueue.broke(NODE_AWAY)
    assert known.calm_until == -math.inf
    assert after(enqueue, 15.2) == LearnAnchors([0])
    enqueue.learnt([b"10-0"], OLD)
    assert known.anchors == {0: b"10-0"}


def test_what_breaks_after_a_growth_holds_up_everything_later_until_it_is_placed_again() -> None:
    """E4: then only where it goes now."""
    known = knowledge()
    enqueue = call(known, "2")
    enqueue.next(0.1)
    known.topic_is(1, 3, 0.2, acked=False)
    known.named([(2, b"0-0")], OLD)
    enqueue.broke(BROKEN, [FIRST])
    assert call(known, "1").next(0.2) == WaitForTurn(enqueue)
    assert isinstance(after(enqueue, 0.2), Kill)
    enqueue.killed(allowed=True)
    enqueue.next(0.2)
    enqueue.found([None], complete=True, last=b"10-0", run=OLD)
    assert call(known, "1").next(0.2) == WaitForTurn(enqueue)
    known.anchors.clear()
    assert enqueue.next(0.2) == LearnAnchors([0, 1, 2])
    assert (enqueue.messages[0].partition, *enqueue.holds) == (2, 2)
    assert call(known, "2").next(0.2) == WaitForTurn(enqueue)
    assert isinstance(call(known, "1").next(0.2), LearnAnchors)


@pytest.mark.parametrize(("place", "other", "partitions", "again"), [(0, 1, 2, 0), (1, 0, 2, 1), (1, 0, 3, 1), (2, 0, 2, 0), (3, 1, 2, 1)])
def test_a_message_without_a_key_stays_in_its_partition_unless_that_is_gone(place: int, other: int, partitions: int, again: int) -> None:
    """E6: also after a growth. A failover may take a growth back."""
    places = iter((place, other))
    known = Knowledge("jobs", lambda _key, _count: next(places), 30.0)
    known.topic_is(0, 4, 0.0, acked=False)
    known.named([(number, b"10-0") for number in range(4)], OLD)
    enqueue = Enqueue(known, [Outgoing("m", None, [])], 30.0, repeatable=False)
    assert enqueue.messages[0].partition == -1
    enqueue.next(0.1)
    enqueue.sent([UNWRITTEN], OLD)
    known.topic_is(1, partitions, 0.1, acked=False)
    step = after(enqueue)
    assert isinstance(step, Send)
    assert step.messages[0].partition == again


def test_a_call_waits_for_room_before_it_is_first_sent_and_again_after_a_growth() -> None:
    known = knowledge()
    known.limited = True
    enqueue = call(known, "0", "1", "1")
    assert enqueue.next(0.1) == WaitForRoom(Counter({1: 2, 0: 1}))
    enqueue.room()
    known.topic_is(1, 2, 0.1, acked=False)
    assert isinstance(enqueue.next(0.1), WaitForRoom)
    enqueue.room()
    assert isinstance(enqueue.next(0.1), Send)
    enqueue.sent([UNWRITTEN] * 3, OLD)
    known.topic_is(2, 2, 0.1, acked=False)
    assert isinstance(after(enqueue), Send)


# -- what the caller hears -----------------------------------------------------------------------------------------------------------


def ended(enqueue: Enqueue, reason: RedisaqError | str | None = None) -> ConnectionFailed:
    enqueue.give_up(reason)
    assert isinstance(enqueue.error, ConnectionFailed)
    return enqueue.error


def test_why_nothing_was_sent_is_reported() -> None:
    """Of a call that heard nothing in time: that it was silent."""
    error = ended(call(knowledge(), "0"))
    assert (error.url, error.reason, error.silent, error.maybe_executed) == ("topic jobs", "there was no time left", True, False)
    error = ended(call(knowledge(), "0"), "the producer was closed")
    assert (error.url, error.reason, error.silent) == ("topic jobs", "the producer was closed", True)

    known = knowledge()
    broken(known, "0")
    behind = call(known, "0")
    behind.next(0.1)
    error = ended(behind)
    assert (error.reason, error.silent) == ("the result of an earlier call of this producer is still unknown: nothing was sent", True)
    elsewhere = call(known, "1")
    elsewhere.next(0.1)
    elsewhere.sent([UNWRITTEN], OLD)
    error = ended(elsewhere)
    assert (error.reason, error.appended, error.__cause__) == ("it is away", None, UNWRITTEN)


def test_why_it_is_not_known_what_arrived_is_reported() -> None:
    enqueue = broken(knowledge(), "0")
    enqueue.give_up()
    assert isinstance(enqueue.error, AmbiguousEnqueueError)
    assert (enqueue.error.reason, enqueue.error.__cause__) == ("it broke, and no answer within send_timeout", BROKEN)
    enqueue = broken(knowledge(), "0")
    enqueue.give_up("the producer was closed during the call")
    assert isinstance(enqueue.error, AmbiguousEnqueueError)
    assert enqueue.error.reason == "the producer was closed during the call"


def test_a_refusal_of_all_of_a_call_has_no_parts() -> None:
    refusal = ServerError("OOM")
    enqueue = call(knowledge(), "0", "1")
    enqueue.next(0.1)
    enqueue.sent([refusal, refusal], OLD)
    assert (enqueue.error, refusal.appended, refusal.__cause__) == (refusal, None, None)


def test_a_stream_that_was_made_in_the_middle_of_a_call_is_named() -> None:
    """C3, E5: what was accepted after it would come before it."""
    enqueue = call(knowledge(), "1", "1", "0")
    enqueue.next(0.1)
    enqueue.sent([None, b"1-0", b"11-0"], OLD)
    assert isinstance(enqueue.error, ServerError)
    assert "NOSTREAM the stream of partition 1 was made while a call was appending to it" in str(enqueue.error)
    assert enqueue.error.appended == [None, b"1-0", b"11-0"]


def test_a_part_of_a_call_that_was_refused_holds_up_its_own_partition_alone() -> None:
    """E4: and no other, from the answer on."""
    known = knowledge()
    enqueue = call(known, "0", "1")
    enqueue.next(0.1)
    enqueue.sent([b"11-0", UNWRITTEN], OLD)
    assert call(known, "1").next(0.1) == WaitForTurn(enqueue)
    assert isinstance(call(known, "0").next(0.1), Send)
