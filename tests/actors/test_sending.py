"""What a producer asks of the server when something breaks, step by step (E1 to E7), and an Admin (E1). In virtual time."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from redisaq import Admin, Producer
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.producing import Find
from redisaq.brokers.steps.topics import Terms, TopicState
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.enqueueing import Enqueue, Outgoing, Pause, Send, WaitForTurn
from redisaq.core.entry_ids import format_id
from redisaq.core.partitioner import partition_for
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, ServerError
from redisaq.producing.sender import Sender
from tests.actors.group import Backend, on_both, play, produce, quick, store_of
from tests.actors.hooked import HookedBroker
from tests.changing_steps import Do, change_step

GROUP = GroupName("jobs", "default_group")
LOOKS = {"connect", "topic", "anchors", "make_topic"}


def ids_in(url: str, partition: int = 0) -> list[str]:
    stream = store_of(url).streams["jobs", partition]
    return [fields[1].decode() for _, fields in stream.after((0, 0), 1000)]


class Wire:
    """What one producer, or Admin, asked of its server, over connections that break where a test says so.

    Attributes:
        asked: the names of its steps, in order.
        breaks: of a step's name: how often it still breaks.
        executed: what breaks is carried out before.
        written: what breaks may have been carried out, as far as the caller can tell.
        killed: the connections that were to be killed, each time.
    """

    def __init__(self, url: str, user: Producer | Admin) -> None:
        self.url = url
        self.asked: list[str] = []
        self.breaks: dict[str, int] = {}
        self.executed, self.written = True, True
        self.killed: list[list[int]] = []
        self._connection = 1
        broker = HookedBroker(url.removeprefix("memory://"))
        broker.before, broker.after = self._before, self._after
        user._access.broker = broker
        whole = broker.store.kill

        def kill(marks: Any) -> bool:
            self.killed.append([mark.client_id for mark in marks])
            return whole(marks)

        broker.store.kill = kill  # type: ignore[method-assign]  # noted on the way

    async def _before(self, name: str) -> None:
        self.asked.append(name)
        if not self.executed:
            self._break(name)

    async def _after(self, name: str) -> None:
        if self.executed:
            self._break(name)

    def _break(self, name: str) -> None:
        if self.breaks.get(name):
            self.breaks[name] -= 1
            error = ConnectionFailed(self.url, "for this test", maybe_executed=self.written)
            mark = ReaderMark(self._connection, f"memory:{self._connection}", store_of(self.url).run_id)
            error.connections = ((mark.client_id, mark.address, mark.run_id),)
            self._connection += 1
            raise error

    def steps(self) -> list[str]:
        """Return what was asked since the last time, without what only looks at the topic."""
        asked, self.asked = self.asked, []
        return [name for name in asked if name not in LOOKS]


async def opened(url: str, **more: Any) -> tuple[Producer, Wire, str]:
    """Return a producer that has sent one message."""
    producer = Producer("jobs", url, **more)
    wire = Wire(url, producer)
    first = await producer.enqueue({"n": 0})
    wire.steps()
    return producer, wire, first


# -- a try that breaks --------------------------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("way", ["carried out", "lost", "not sent"])
def test_e1_a_try_that_broke_is_killed_then_looked_for_then_sent_again(backend: Backend, way: str) -> None:
    async def scenario(url: str) -> tuple[list[str], list[list[int]]]:
        producer, wire, first = await opened(url)
        wire.executed, wire.written = way == "carried out", way != "not sent"
        wire.breaks["append"] = 1
        sent = await producer.batch_enqueue([{"n": n} for n in range(3)])
        assert ids_in(url) == [first, *sent]
        steps = wire.steps()
        assert producer.statistics().retried == 1
        await producer.close()
        return steps, wire.killed

    found = {"carried out": ["append", "kill", "find"], "lost": ["append", "kill", "find", "append"], "not sent": ["append", "append"]}
    killed: list[list[int]] = [] if way == "not sent" else [[1]]
    assert play(scenario, backend) == (found[way], killed)


@on_both
def test_e1_every_connection_that_broke_is_killed_before_the_next_look(backend: Backend) -> None:
    """Once: after the server has confirmed that, nothing of it comes any more."""

    async def scenario(url: str) -> tuple[list[str], list[list[int]]]:
        producer, wire, first = await opened(url)
        wire.executed = False
        wire.breaks = {"append": 3}
        sent = await producer.batch_enqueue([{"n": n} for n in range(3)])
        assert ids_in(url) == [first, *sent]
        await producer.close()
        return wire.steps(), wire.killed

    steps, killed = play(scenario, backend)
    assert steps == ["append", *["kill", "find", "append"] * 3]
    assert killed == [[1], [2], [3]]


@on_both
@pytest.mark.parametrize("step", ["kill", "find"])
def test_e1_a_kill_is_repeated_until_it_is_answered_and_then_the_look(backend: Backend, step: str) -> None:
    async def scenario(url: str) -> list[str]:
        producer, wire, first = await opened(url)
        wire.breaks = {"append": 1, step: 2}
        sent = [await producer.enqueue({"n": 1})]
        assert ids_in(url) == [first, *sent]
        await producer.close()
        return wire.steps()

    again = ["kill"] * 3 + ["find"] if step == "kill" else ["kill"] + ["find"] * 3
    assert play(scenario, backend) == ["append", *again]


@on_both
def test_e1_where_killing_is_not_permitted_nobody_can_tell(backend: Backend) -> None:
    """What was sent may arrive at any time: it is neither looked for nor sent again."""

    async def scenario(url: str) -> tuple[list[str], list[str], str]:
        producer, wire, _ = await opened(url)
        store_of(url).permits_killing = False
        wire.executed = False
        wire.breaks = {"append": 1}
        with pytest.raises(AmbiguousEnqueueError, match="CLIENT KILL") as caught:
            await producer.batch_enqueue([{"n": 1}, {"n": 2}])
        steps = wire.steps()
        later = await producer.enqueue({"n": 3})
        ids = ids_in(url)
        await producer.close()
        assert ids[-1] == later
        assert len(ids) == 2
        return steps, list(caught.value.message_ids), later

    steps, unknown, later = play(scenario, backend)
    assert steps == ["append", "kill"]
    assert len(set(unknown)) == 2
    assert later not in unknown


@pytest.mark.parametrize("step", ["kill", "find"])
def test_e2_a_server_that_refuses_to_be_searched_does_not_say_that_nothing_was_sent(step: str) -> None:
    """A right is missing, say, that nothing else needs: the messages are there all the same."""

    async def scenario(url: str) -> tuple[list[str], list[str]]:
        producer, wire, first = await opened(url)
        wire.breaks = {"append": 1}
        broker = producer._access.broker
        assert isinstance(broker, HookedBroker)

        async def before(name: str) -> None:
            if name == step:
                raise ServerError("NOPERM User x has no permissions to run the 'xrange' command")

        broker.before = before
        with pytest.raises(AmbiguousEnqueueError, match="NOPERM") as caught:
            await producer.batch_enqueue([{"n": 1}, {"n": 2}])
        await producer.close()
        return [first, *caught.value.message_ids], ids_in(url)

    named, there = play(scenario, "asyncio")
    assert named == there
    assert len(there) == 3


@on_both
def test_e2_without_its_evidence_nobody_can_tell(backend: Backend) -> None:
    async def scenario(url: str) -> tuple[list[str], int]:
        producer, wire, _ = await opened(url)
        wire.executed = False
        wire.breaks = {"append": 1}

        async def trimmed(name: str) -> None:
            if name == "kill":
                broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
                await broker.append("jobs", [(0, [b"i", b"x", b"d", b"1"])], maxlen=1, approximate=False)

        (broker,) = (producer._access.broker,)
        assert isinstance(broker, HookedBroker)
        broker.after = trimmed
        with pytest.raises(AmbiguousEnqueueError, match="trimming") as caught:
            await producer.enqueue({"n": 1})
        await producer.close()
        return wire.steps(), len(caught.value.message_ids)

    assert play(scenario, backend) == (["append", "kill", "find"], 1)


@on_both
@pytest.mark.parametrize("batch", [False, True])
def test_e2_the_search_begins_after_what_was_appended_last(monkeypatch: pytest.MonkeyPatch, backend: Backend, *, batch: bool) -> None:
    """Further back it would read more, and trimming may have taken what it begins after."""
    anchors: list[bytes] = []

    async def find(step: Find, do: Do) -> Any:
        anchors.append(step.anchor)
        return await do(step)

    change_step(monkeypatch, Find, find)

    async def scenario(url: str) -> bytes:
        producer, wire, _ = await opened(url)
        await (producer.batch_enqueue([{"n": 1}, {"n": 2}]) if batch else producer.enqueue({"n": 1}))
        last = format_id(store_of(url).streams["jobs", 0].last_id)
        wire.breaks["append"] = 1
        await producer.enqueue({"n": 3})
        await producer.close()
        return last

    assert [play(scenario, backend)] == anchors


@on_both
def test_e2_a_long_tail_is_looked_at_in_pieces(backend: Backend) -> None:
    """The server does nothing else while it looks at one."""

    async def scenario(url: str) -> tuple[list[str], bool]:
        producer, wire, _ = await opened(url)
        await produce(url, 20_500)
        wire.breaks["append"] = 1
        sent = await producer.enqueue({"n": 1})
        await produce(url, 1)
        stream = store_of(url).streams["jobs", 0]
        await producer.close()
        return wire.steps(), stream.after((0, 0), 20_503)[-2][1][1] == sent.encode() and len(stream) == 20_503

    assert play(scenario, backend) == (["append", "kill", "find", "find", "find"], True)


@on_both
def test_e4_nothing_later_is_sent_before_what_is_being_recovered(backend: Backend) -> None:
    async def scenario(url: str) -> list[str]:
        producer, wire, first = await opened(url)
        wire.executed = False
        wire.breaks = {"append": 1, "kill": 2}
        order = [first]
        later: list[str] = []

        async def send_first() -> None:
            order.extend(await producer.batch_enqueue([{"n": 0}, {"n": 1}]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_first)
            while wire.breaks["append"]:
                await anyio.lowlevel.checkpoint()
            later.extend(await producer.batch_enqueue([{"n": 2}, {"n": 3}]))
        await producer.close()
        assert ids_in(url) == [*order, *later]
        return wire.steps()

    assert play(scenario, backend) == ["append", "kill", "kill", "kill", "find", "append", "append"]


@on_both
def test_e4_what_is_recovered_in_one_partition_lets_others_pass_there(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    answers = anyio.Event()

    async def find(step: Find, do: Do) -> Any:
        if step.partition == 1:
            await answers.wait()
        return await do(step)

    change_step(monkeypatch, Find, find)
    keys = {partition_for(key, 2): key for key in "abcdef"}

    async def scenario(url: str) -> None:
        producer, wire, _ = await opened(url, init_partitions=2)
        wire.breaks["append"] = 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(producer.batch_enqueue, [{"key": keys[0]}, {"key": keys[1]}], partition_key="key"))
            while wire.breaks["append"]:
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(1):
                await producer.enqueue({"n": 3}, key=keys[0])
            answers.set()
        assert (len(ids_in(url, 0)), len(ids_in(url, 1))) in {(3, 1), (2, 2)}
        await producer.close()

    play(scenario, backend)


@on_both
def test_e5_a_stream_that_is_gone_is_made_again(backend: Backend) -> None:
    async def scenario(url: str) -> list[str]:
        producer, wire, _ = await opened(url)
        store_of(url).forget_stream("jobs", 0)
        wire.asked.clear()
        sent = await producer.batch_enqueue([{"n": n} for n in range(3)])
        assert ids_in(url) == sent
        asked = wire.asked
        await producer.close()
        return [name for name in asked if name != "anchors"]

    assert play(scenario, backend) == ["append", "topic", "read_seal", "make_topic", "append"]


def test_e5_a_stream_that_is_gone_each_time_is_made_with_pauses_between(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(url: str) -> int:
        producer, wire, _ = await opened(url, send_timeout=20.0)
        whole = HookedBroker.append

        async def append(*args: Any, **more: Any) -> Any:
            assert wire.asked.count("append") < 100
            store_of(url).forget_stream("jobs", 0)
            return await whole(*args, **more)

        monkeypatch.setattr(HookedBroker, "append", append)
        began = anyio.current_time()
        with pytest.raises(ConnectionFailed):
            await producer.enqueue({"n": 1})
        assert 17.0 < anyio.current_time() - began <= 20.0  # a pause of at most two seconds had no place any more
        await producer.close()
        return wire.asked.count("append")

    assert 10 < play(scenario, "asyncio") < 40


@on_both
@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("window", [10.0, 1000.0])
def test_e7_what_is_marked_is_repeated_while_its_mark_is_sure_to_stand(backend: Backend, window: float, *, executed: bool) -> None:
    """With a window of less than twice `send_timeout` it is looked for, as without a mark."""

    async def scenario(url: str) -> list[str]:
        producer, wire, first = await opened(url, send_timeout=30.0)
        wire.executed = executed
        wire.breaks = {"append_once": 1}
        sent = await producer.enqueue({"n": 1}, dedup_id="a", dedup_window=window)
        assert ids_in(url) == [first, sent]
        await producer.close()
        return wire.steps()

    looked = ["append_once", "kill", "find"] + ([] if executed else ["append_once"])
    assert play(scenario, backend) == (["append_once"] * 2 if window > 60 else looked)


# -- what is known beforehand -----------------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("retention", [None, "acked"])
def test_e3_anchors_are_learnt_again_when_they_are_half_a_limit_old_where_entries_are_trimmed(backend: Backend, retention: Any) -> None:
    async def scenario(url: str) -> list[int]:
        producer, wire, _ = await opened(url, retention=retention, send_timeout=10.0)
        counts: list[int] = []
        for pause in (0.0, 4.0, 2.0, 4.0, 2.0):
            await anyio.sleep(pause)
            wire.asked.clear()
            await producer.enqueue({"n": 1})
            counts.append(wire.asked.count("anchors"))
        await producer.close()
        return counts

    assert play(scenario, backend) == ([0, 0, 0, 0, 0] if retention is None else [0, 0, 1, 0, 1])


@on_both
def test_the_count_of_partitions_is_asked_for_again_after_half_a_second(backend: Backend) -> None:
    async def scenario(url: str) -> list[int]:
        producer, wire, _ = await opened(url)
        counts: list[int] = []
        for pause in (0.0, 0.4, 0.2, 0.4):
            await anyio.sleep(pause)
            wire.asked.clear()
            await producer.enqueue({"n": 1})
            counts.append(wire.asked.count("topic"))
        await producer.close()
        return counts

    assert play(scenario, backend) == [0, 0, 1, 0]


@on_both
@pytest.mark.parametrize("lost", ["all", "what it keeps", "a part of its limit"])
def test_a_topic_that_does_not_keep_what_this_producer_asks_is_asked_again(backend: Backend, lost: str) -> None:
    """E3, E5."""

    async def scenario(url: str) -> tuple[bool, float, int]:
        producer, _, _ = await opened(url, init_partitions=3, retention="acked", send_timeout=10.0)
        store = store_of(url)
        if lost == "all":
            store.flush()
        elif lost == "a part of its limit":
            store.topics["jobs"] = replace(store.topics["jobs"], send_timeout=1.0)
        else:
            del store.topics["jobs"]
            store.make_topic("jobs", TopicState(0, 3))
        await anyio.sleep(1)
        await producer.enqueue({"n": 1})
        await producer.close()
        state = store.topics["jobs"]
        return state.acked, state.send_timeout, state.partitions

    assert play(scenario, backend) == (True, 10.0, 3)


# -- growing ----------------------------------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("written", [False, True])
def test_growing_is_asked_again_and_says_in_the_end_whether_it_may_have_happened(backend: Backend, *, written: bool) -> None:
    async def scenario(url: str) -> tuple[int, int]:
        producer, wire, _ = await opened(url, send_timeout=10.0)
        wire.executed, wire.written = False, written
        wire.breaks = {"announce": 2}
        assert await producer.request_partition_increase(4) == 4
        tries = wire.steps().count("announce")
        wire.breaks = {"announce": 1 << 30}
        began = anyio.current_time()
        with pytest.raises(AmbiguousEnqueueError if written else ConnectionFailed):
            await producer.request_partition_increase(5)
        assert 8.0 < anyio.current_time() - began <= 10.0
        await producer.close()
        return tries, store_of(url).topics["jobs"].partitions

    assert play(scenario, backend) == (3, 4)


# -- an Admin ---------------------------------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("kills_break", [0, 1, 2])
def test_e1_no_change_of_an_admin_is_sent_before_what_broke_is_killed(backend: Backend, kills_break: int) -> None:
    """A pause that was held up would undo the resume that came after it. If it cannot be killed, nothing is sent."""

    async def scenario(url: str) -> tuple[list[str], list[list[int]]]:
        await produce(url, 1)
        await quick(url).process(lambda _message: None, until_empty=True)
        admin = Admin(url)
        wire = Wire(url, admin)
        await admin.pause("jobs", "default_group")
        wire.steps()
        wire.executed = False
        wire.breaks = {"set_paused": 1, "kill": kills_break}
        with pytest.raises(ConnectionFailed) as caught:
            await admin.pause("jobs", "default_group")
        assert caught.value.maybe_executed
        if kills_break == 2:
            with pytest.raises(ConnectionFailed) as caught:
                await admin.resume("jobs", "default_group")
            assert not caught.value.maybe_executed
        await admin.resume("jobs", "default_group")
        await admin.resume("jobs", "default_group")
        assert not store_of(url).members(GROUP).paused
        await admin.close()
        return wire.steps(), wire.killed

    steps, killed = play(scenario, backend)
    changes = [step for step in steps if step in {"set_paused", "kill"}]
    assert changes == ["set_paused", *["kill"] * (kills_break + 1), "set_paused", "set_paused"]
    assert killed[-1] == [1]


# -- waiting for an earlier call -----------------------------------------------------------------------------------------------------------


def test_e4_what_waits_for_an_outdated_call_goes_on_once_that_is_placed_again() -> None:
    """After a growth it blocked all partitions. Placed again it blocks its own alone, whose node is away."""

    async def scenario(_url: str) -> bool:
        away = ConnectionFailed("redis://a", "the node is away")
        away.of_node = True
        terms = Terms(send_timeout=30.0)
        sender = Sender("jobs", init_partitions=2, maxlen=None, approximate=True, max_backlog=None, terms=terms, confirmed=False)
        known = sender._knowledge
        known.topic_is(0, 2, 0.0, acked=False)
        known.named([(0, b"1-0"), (1, b"1-0")], "run")
        zero = next(key for key in map(str, range(100)) if partition_for(key, 4) == 0)
        earlier = Enqueue(known, [Outgoing("a", zero, [])], 30.0, repeatable=False)
        assert isinstance(earlier.next(0.0), Send)
        earlier.broke(away)
        known.topic_is(1, 4, 0.0, acked=False)
        one = next(key for key in map(str, range(100)) if partition_for(key, 4) == 1)
        later = Enqueue(known, [Outgoing("b", one, [])], 30.0, repeatable=False)
        assert later.next(0.0) == WaitForTurn(earlier)
        passed = anyio.Event()

        async def wait() -> None:
            await sender._wait_for_turn(earlier, math.inf)
            passed.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(1)
            for _ in range(2):
                if isinstance(earlier.next(0.0), Pause):
                    earlier.paused()
                else:
                    earlier.broke(away)  # it cannot learn where its stream ends
                sender._let_pass(earlier)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        later.paused()
        assert not isinstance(later.next(0.0), WaitForTurn)
        return passed.is_set()

    assert play(scenario, "asyncio")


def test_the_statistics_count_calls_that_wait_for_a_connection() -> None:
    """So they show that calls hang where the server does not answer at the very beginning."""

    async def scenario(url: str) -> list[int]:
        reached = anyio.Event()

        class Slow(MemoryBroker):
            async def connect(self) -> None:
                await reached.wait()
                await super().connect()

        producer, seen = Producer("jobs", url), list[int]()
        producer._access.broker = Slow(url.removeprefix("memory://"), "redisaq")
        async with anyio.create_task_group() as tasks:
            for n in range(2):
                tasks.start_soon(producer.enqueue, {"n": n})
            await anyio.sleep(1)
            seen.append(producer.statistics().waiting)
            reached.set()
        seen.append(producer.statistics().waiting)
        await producer.close()
        return seen

    assert play(scenario, "asyncio") == [2, 0]
