"""What a producer knows of each message of a call that broke (E2, E7, C3): on a memory broker whose steps fail as they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from redisaq import Producer
from redisaq.brokers import memory_brokers
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.producing import Found
from redisaq.environment import Environment
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, ServerError

pytestmark = pytest.mark.anyio


class FailingBroker(MemoryBroker):
    """Breaks the first appends, before or after they are carried out, and has lost the evidence of some partitions."""

    def __init__(self, name: str, namespace: str, environment: Environment | None) -> None:
        super().__init__(name, namespace, environment)
        self.broken = 0
        self.carried_out = False
        self.trimmed: set[int] = set()
        self.refused: set[int] = set()  # places in a call that find no stream

    async def append(self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], **more: Any) -> list[bytes | None]:
        if self.broken:
            self.broken -= 1
            raise self._failure()
        refused, self.refused = self.refused, set()
        answers = await super().append(topic, [one for place, one in enumerate(entries) if place not in refused], **more)
        for place in sorted(refused):
            answers.insert(place, None)
        return answers

    async def append_once(self, *words: Any, **more: Any) -> bytes | None:
        if self.broken:
            self.broken -= 1
            if self.carried_out:
                await super().append_once(*words, **more)
            raise self._failure()
        return await super().append_once(*words, **more)

    async def find(self, topic: str, partition: int, anchor: bytes, msg_ids: Sequence[bytes]) -> Found:
        found = await super().find(topic, partition, anchor, msg_ids)
        return Found(found.present, complete=False, last=found.last) if partition in self.trimmed else found

    def _failure(self) -> ConnectionFailed:
        return ConnectionFailed("memory://", "the connection broke", maybe_executed=True)


@pytest.fixture
def broker(namespace: str) -> Any:
    made: list[FailingBroker] = []

    def make(*words: Any) -> FailingBroker:
        made.append(FailingBroker(*words))
        return made[-1]

    token = memory_brokers.set(make)
    producer = Producer("jobs", f"memory://{namespace}", init_partitions=2, send_timeout=0.5)
    memory_brokers.reset(token)
    return producer, made[0]


async def test_one_partition_without_evidence_does_not_keep_the_others_from_being_sent(broker: Any) -> None:
    """E2: only what cannot be told is named, all of it; what is surely missing is sent again."""
    producer, failing = broker
    async with producer:
        await producer.batch_enqueue([{}, {}])
        before = [failing.store.append("jobs", [(p, [b"i", b"x", b"d", b"1"])], None) for p in range(2)]
        assert all(before)
        failing.broken, failing.trimmed = 1, {0}
        with pytest.raises(AmbiguousEnqueueError, match="trimming") as raised:
            await producer.batch_enqueue([{"n": n} for n in range(6)])
        assert len(raised.value.message_ids) == 3
        lengths = [view.length for view in await failing.view_streams("jobs", [0, 1])]
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
