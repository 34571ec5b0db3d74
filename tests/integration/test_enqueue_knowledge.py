"""What a producer knows of each message of a call that broke (E2, E7, C3): on a memory broker whose steps fail as a test says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel
import pytest
from msgspec import structs

from redisaq import Producer
from redisaq.brokers import memory_brokers
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import ViewStream
from redisaq.brokers.steps.producing import AppendOnce, Find, Found, ReadMark
from redisaq.core.partitioner import partition_for
from redisaq.environment import Environment
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, ServerError

pytestmark = pytest.mark.anyio

R = TypeVar("R")


class FailingBroker(MemoryBroker):
    """Breaks the first appends, before or after they are carried out, and has lost the evidence of some partitions."""

    def __init__(self, name: str, namespace: str, environment: Environment | None) -> None:
        super().__init__(name, namespace, environment)
        self.broken = 0
        self.carried_out = False
        self.trimmed: set[int] = set()
        self.refused: set[int] = set()  # places in a call that find no stream
        self.busy: set[int] = set()  # places in a call that the server refuses for a while
        self.answers_lost = 0
        self.away = self.gone = False  # what is sent again is not written; streams are missing
        self.away_from: set[int] = set()  # partitions that cannot be searched
        self.barrier = 0  # so many appends fail together
        self._together = anyio.Event()
        self.connections: tuple[tuple[int, str, str], ...] = ()  # that break
        self.full_for: set[bytes] = set()  # ids of messages that the server refuses
        self.order: list[bytes] = []  # of the messages that were sent, however often
        self.held: dict[type | str, anyio.Event] = {}  # appends, or steps of a class, that wait

    async def append(self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], **more: Any) -> list[bytes | None]:
        await self._while_held("append")
        if self.broken:
            self.broken -= 1
            if self.barrier:  # all that are under way break at the same moment, the last one first
                together = self._together
                turns = self.broken
                if not self.broken:
                    self._together = anyio.Event()
                    together.set()
                await together.wait()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
            raise self._failure()
        if self.away:
            await anyio.lowlevel.checkpoint()
            raise ConnectionFailed("memory://", "nobody is there")
        self.order += [fields[1] for _, fields in entries]
        if any(fields[1] in self.full_for for _, fields in entries):
            raise ServerError("OOM command not allowed", appended=[None] * len(entries))
        refused, self.refused = self.refused, set()
        busy, self.busy = self.busy, set()
        answers = await super().append(topic, [one for place, one in enumerate(entries) if place not in refused | busy], **more)
        for place in sorted(refused | busy):
            answers.insert(place, None)
        if busy:
            failure = ConnectionFailed("memory://", "CLUSTERDOWN")
            failure.appended = answers
            raise failure
        if self.answers_lost:
            self.answers_lost -= 1
            raise self._failure()
        return answers

    async def do(self, step: Step[R]) -> R:
        if isinstance(step, AppendOnce) and self.broken:
            self.broken -= 1
            if self.carried_out:
                await super().do(step)
            raise self._failure()
        if isinstance(step, AppendOnce) and self.gone:
            await anyio.lowlevel.checkpoint()
            return cast("R", None)
        if isinstance(step, Find) and step.partition in self.away_from:
            await anyio.lowlevel.checkpoint()
            raise ConnectionFailed("memory://", "nobody is there")
        answer = await super().do(step)
        if isinstance(step, Find) and step.partition in self.trimmed:
            assert isinstance(answer, Found)
            answer = structs.replace(answer, complete=False)
        return answer

    async def do_each(self, steps: Sequence[Step[R]]) -> list[R]:
        if steps:
            await self._while_held(type(steps[0]))
        return await super().do_each(steps)

    async def _while_held(self, what: type | str) -> None:
        if what in self.held:
            await self.held[what].wait()

    def _failure(self) -> ConnectionFailed:
        failure = ConnectionFailed("memory://", "the connection broke", maybe_executed=True)
        failure.connections = self.connections
        return failure


@pytest.fixture
def broker(namespace: str) -> Any:
    made: list[FailingBroker] = []

    def make(name: str, space: str, environment: Any, confirmed: bool) -> FailingBroker:
        assert not confirmed
        made.append(FailingBroker(name, space, environment))
        return made[-1]

    token = memory_brokers.set(make)
    producer = Producer("jobs", f"memory://{namespace}", init_partitions=2, send_timeout=0.5)
    memory_brokers.reset(token)
    return producer, made[0]


async def test_one_partition_without_evidence_does_not_keep_the_others_from_being_sent(broker: Any) -> None:
    """E2: only messages whose fate is unknown are named, all of them; what is surely missing is sent again."""
    producer, failing = broker
    async with producer:
        await producer.batch_enqueue([{}, {}])
        before = [failing.store.append("jobs", [(p, [b"i", b"x", b"d", b"1"])], None) for p in range(2)]
        assert all(before)
        failing.broken, failing.trimmed = 1, {0}
        with pytest.raises(AmbiguousEnqueueError, match="trimming") as raised:
            await producer.batch_enqueue([{"n": n} for n in range(6)])
        assert len(raised.value.message_ids) == 3
        lengths = [view.length for view in await failing.do_each([ViewStream("jobs", 0), ViewStream("jobs", 1)])]
        assert lengths == [2, 5]


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_repeatable_call_that_gives_up_does_not_say_that_nothing_was_sent(broker: Any, carried_out: bool) -> None:
    """E7: each try may have been carried out, and none was answered."""
    producer, failing = broker
    async with producer:
        failing.broken, failing.carried_out = 1000, carried_out
        with pytest.raises(AmbiguousEnqueueError, match="no answer within send_timeout") as raised:
            await producer.enqueue({}, dedup_id="one")
        assert len(raised.value.message_ids) == 1


async def test_an_earlier_message_is_not_sent_behind_an_accepted_later_one(broker: Any) -> None:
    """C3: a stream came back in the middle of a call. What was refused of another partition may be sent again."""
    producer, failing = broker
    async with producer:
        failing.refused = {0, 1}
        assert len(await producer.batch_enqueue([{"n": n} for n in range(2)])) == 2
        failing.refused = {0}
        with pytest.raises(ServerError, match="NOSTREAM") as raised:
            await producer.batch_enqueue([{"n": n} for n in range(4)], key="one")
        assert raised.value.appended is not None
        assert [answer is None for answer in raised.value.appended] == [True, False, False, False]


async def test_of_a_stream_what_was_refused_for_a_while_is_sent_again_if_it_is_a_suffix(broker: Any) -> None:
    """C3."""
    producer, failing = broker
    async with producer:
        failing.busy = {2}
        ids = await producer.batch_enqueue([{"n": n} for n in range(3)], key="one")
        assert failing.order == [entry.encode() for entry in (*ids, ids[2])]
        failing.busy = {0}
        with pytest.raises(ServerError, match="OVERTAKEN") as raised:
            await producer.batch_enqueue([{"n": n} for n in range(3)], key="one")
        assert raised.value.appended is not None
        assert [answer is None for answer in raised.value.appended] == [True, False, False]
        assert len(failing.order) == 7


async def test_an_earlier_message_that_a_search_misses_is_not_sent_behind_a_later_one_that_it_finds(broker: Any) -> None:
    """C3 after a search: the first message found no stream, the others did, and the answer was lost."""
    producer, failing = broker
    async with producer:
        await producer.enqueue({}, key="one")
        failing.refused, failing.answers_lost = {0}, 1
        with pytest.raises(ServerError, match="OVERTAKEN") as raised:
            await producer.batch_enqueue([{"n": n} for n in range(3)], key="one")
        assert raised.value.appended is not None
        assert [answer is None for answer in raised.value.appended] == [True, False, False]
        assert sum(view.length for view in await failing.do_each([ViewStream("jobs", partition) for partition in [0, 1]])) == 3


async def test_an_error_tells_what_of_the_whole_call_was_appended(broker: Any) -> None:
    """What a search found is there, too, when what was missing is refused in the end."""
    producer, failing = broker
    async with producer:
        await producer.batch_enqueue([{}, {}])
        failing.refused, failing.answers_lost = {3}, 1
        sent = [b""] * 4

        async def fill() -> None:
            while len(failing.order) < 6:
                await anyio.lowlevel.checkpoint()
            sent[:] = failing.order[2:]
            failing.full_for = {sent[3]}

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fill)
            with pytest.raises(ServerError, match="OOM") as raised:
                await producer.batch_enqueue([{"n": n} for n in range(4)])
        assert raised.value.appended is not None
        assert [answer is None for answer in raised.value.appended] == [False, False, False, True]


async def test_whatever_an_ambiguous_call_does_not_name_is_there(broker: Any) -> None:
    """E2: what was surely not appended is named as well, if there was no time left to send it."""
    producer, failing = broker
    async with producer:
        await producer.batch_enqueue([{}, {}])
        before = [failing.store.append("jobs", [(p, [b"i", b"x", b"d", b"1"])], None) for p in range(2)]
        assert all(before)
        failing.broken, failing.trimmed = 1, {0}
        failing.away = True
        with pytest.raises(AmbiguousEnqueueError, match="trimming") as raised:
            await producer.batch_enqueue([{"n": n} for n in range(4)])
        assert len(raised.value.message_ids) == 4
        assert [view.length for view in await failing.do_each([ViewStream("jobs", partition) for partition in [0, 1]])] == [2, 2]


async def test_calls_that_broke_are_sent_again_in_their_order(broker: Any) -> None:
    """E4: whichever of them pauses longest."""
    producer, failing = broker
    async with producer:
        await producer.enqueue({}, key="one")
        for _ in range(5):
            failing.order.clear()
            failing.broken = 8
            failing.barrier = 8
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(functools.partial(producer.enqueue, {"n": number}, key="one"))
            assert failing.order == sorted(failing.order, key=lambda msg_id: int(msg_id.rpartition(b"-")[2], 16))


async def test_a_call_to_another_partition_does_not_wait_for_one_that_is_searched_for(broker: Any) -> None:
    """E4: only what is later in the same partition."""
    producer, failing = broker
    one, other = (next(f"k{n}" for n in range(100) if partition_for(f"k{n}", 2) == partition) for partition in (0, 1))
    async with producer:
        await producer.batch_enqueue([{}, {}])
        failing.broken, failing.away_from = 1, {0}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(functools.partial(producer.enqueue, {}, key=one))
            while failing.broken:
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(10):  # the first one is searched for until its time is up, 30 s
                await producer.enqueue({}, key=other)
            failing.away_from = set()


async def test_a_server_with_a_slow_clock_that_took_over_is_searched_from_the_beginning(broker: Any) -> None:
    """E2, C5: it gives the message an id below the one at which the producer would begin to look."""
    producer, failing = broker
    async with producer:
        await producer.enqueue({}, key="one")
        store = failing.store
        partition = partition_for("one", 2)
        stream = store.streams["jobs", partition]
        store.restart()
        stream.last_id, stream._ids[:] = (1, 0), []  # as a replica that never heard of the first message, and whose clock is behind
        stream._fields.clear()
        store._last_now, store.environment = 0, dataclasses.replace(store.environment, wall_clock=lambda: 1.0)
        failing.connections = ((7, "here", store.run_id),)
        failing.answers_lost = 1
        await producer.enqueue({"n": 1}, key="one")
        assert [view.length for view in await failing.do_each([ViewStream("jobs", partition) for partition in [partition]])] == [1]


async def test_a_repeatable_call_whose_stream_went_does_not_say_that_nothing_was_sent(broker: Any) -> None:
    """E7: no answer but that of the mark makes it certain."""
    producer, failing = broker
    async with producer:
        await producer.enqueue({}, key="one")
        failing.broken, failing.gone = 1, True
        with pytest.raises(AmbiguousEnqueueError, match="no answer within send_timeout"):
            await producer.enqueue({}, dedup_id="one")


async def test_what_waited_for_its_marks_of_before_a_growth_does_not_pass_a_call_that_broke(broker: Any) -> None:
    """E4, E7."""
    producer, failing = broker
    key = next(f"k{n}" for n in range(100) if partition_for(f"k{n}", 2) != partition_for(f"k{n}", 5))
    there = partition_for(key, 5)
    async with producer:
        await producer.request_partition_increase(5)
        await producer.batch_enqueue([{} for _ in range(5)])
        failing.held = {"append": anyio.Event(), ReadMark: anyio.Event()}
        failing.broken = 1
        ids: dict[str, str] = {}

        async def enqueue(name: str, **how: Any) -> None:
            ids[name] = await producer.enqueue({}, key=key, **how)

        async with anyio.create_task_group() as tasks:
            for name, how in (("first", {}), ("second", {"dedup_id": "one"})):
                tasks.start_soon(functools.partial(enqueue, name, **how))
                await anyio.wait_all_tasks_blocked()
            failing.held.pop("append").set()
            while failing.broken:
                await anyio.lowlevel.checkpoint()
            failing.held.pop(ReadMark).set()
        sent = [fields[1].decode() for fields in failing.store.streams["jobs", there]._fields.values()]
        assert sent[-2:] == [ids["first"], ids["second"]]
