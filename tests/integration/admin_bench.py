"""Who works beside an Admin in its tests: producers and consumers of one topic.

Input: a URL and a namespace. Output: messages enqueued and worked off; a number that is to fail becomes a dead letter at its first attempt.
"""

from __future__ import annotations

from typing import Any

import anyio

from redisaq import Admin, Consumer, Message, Producer, RetryPolicy
from redisaq.admin import PartitionInfo
from redisaq.brokers import open_broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.terms import GroupName


class Bench:
    """Producers and consumers of the test's namespace."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.namespace = namespace

    async def produce(self, count: int, partitions: int = 2, start: int = 0, **more: Any) -> list[str]:
        """Append {"n": start} … to the topic "orders"; return the message ids."""
        async with Producer("orders", self.url, init_partitions=partitions, namespace=self.namespace) as producer:
            return await producer.batch_enqueue([{"n": n} for n in range(start, start + count)], **more)

    def consumer(self, **more: Any) -> Consumer[Any]:
        """Return a consumer of the group "billing"."""
        policy = RetryPolicy(max_attempts=1)
        return Consumer("orders", self.url, namespace=self.namespace, group_name="billing", retry=policy, **more)

    async def drain(self, failing: tuple[int, ...] = (), **more: Any) -> list[int]:
        """Let the group work until it is empty; return what succeeded, in order of the numbers."""
        seen: list[int] = []

        async def handle(message: Message[Any]) -> None:
            if message.payload["n"] in failing:
                reason = f"no {message.payload['n']}"
                raise ValueError(reason)
            seen.append(message.payload["n"])

        async with self.consumer(**more) as consumer:
            with anyio.fail_after(30):
                await consumer.process(handle, until_empty=True)
        return sorted(seen)

    async def open_group(self, group: str) -> None:
        """Make a group that nobody is in."""
        broker = open_broker(self.url, self.namespace)
        await make_groups(broker, GroupName("orders", group), [0, 1], latest=False)
        await broker.close()


def _is_due(one: PartitionInfo) -> bool:
    """Return whether a retry is due: what was redriven, say."""
    return one.retry_due is not None and one.retry_due <= 0


async def fail(bench: Bench, pause: float, *, group: str = "billing") -> None:
    """Let a group fail each message once; none is due again soon."""
    policy = RetryPolicy(backoff=pause, max_backoff=pause, jitter=False)
    consumer = Consumer("orders", bench.url, namespace=bench.namespace, group_name=group, retry=policy)
    async with consumer, anyio.create_task_group() as tasks:

        def handle(message: Message[Any]) -> None:
            reason = f"no {message.payload['n']}"
            raise ValueError(reason)

        await tasks.start(consumer.process, handle)
        with anyio.fail_after(30):
            async with Admin(bench.url, namespace=bench.namespace) as admin:
                while (info := await admin.group("orders", group)).unread or info.pending or any(map(_is_due, info.partitions)):
                    await anyio.sleep(0.01)
        await consumer.stop()
