"""Batch production, three consumers that share a topic, rebalancing as they come and go, and a second group that reads all of it again.

Run it with `python examples/basic/main.py`: it brings a server of its own. With REDISAQ_URL in the environment it uses that one.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

from redisaq import Consumer, Message, Producer, events

REDISAQ_URL = os.environ.get("REDISAQ_URL", "embedded://")
TOPIC = "notifications"
PARTITIONS = 6
MESSAGES = 600

handled: Counter[str] = Counter()
"""Message id -> how often the first group handled it."""


class Worker:
    """One consumer of the group "senders", as a service would run it: usually each in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.consumer = Consumer(TOPIC, REDISAQ_URL, group_name="senders", batch_size=10, on_event=self.tell)

    async def handle(self, message: Message[Any]) -> None:
        await asyncio.sleep(0.01)  # the work
        handled[message.msg_id] += 1
        self.count += 1

    def tell(self, event: events.Event) -> None:
        match event:
            case events.PartitionAcquired(partition=partition):
                print(f"  {self.name} takes partition {partition}")
            case events.PartitionRevoked(partition=partition):
                print(f"  {self.name} gives partition {partition} back")
            case _:
                pass

    async def run(self) -> None:
        async with self.consumer:
            await self.consumer.process(self.handle, until_empty=True)


async def produce() -> list[str]:
    """Enqueue in batches; messages of one user go to one partition, and so are handled in their order."""
    ids: list[str] = []
    async with Producer(TOPIC, REDISAQ_URL, init_partitions=PARTITIONS, maxlen=10_000) as producer:
        for first in range(0, MESSAGES, 100):
            payloads = [{"user": f"user-{n % 40}", "number": n} for n in range(first, first + 100)]
            ids += await producer.batch_enqueue(payloads, partition_key="user")
    return ids


async def shared_out(*workers: Worker) -> None:
    """Wait until each of them has its share, and tell who has what; give up when all is done, for then nobody has anything."""
    share = PARTITIONS // len(workers)
    while any(len(worker.consumer.assignment) != share for worker in workers) and handled.total() < MESSAGES:
        await asyncio.sleep(0.01)
    for worker in workers:
        print(f"  {worker.name}: partitions {sorted(worker.consumer.assignment)}")


async def main() -> None:
    ids = await produce()
    print(f"enqueued {len(ids)} messages into {PARTITIONS} partitions")

    anna, ben, cleo = Worker("anna"), Worker("ben"), Worker("cleo")
    async with asyncio.TaskGroup() as tasks:
        print("anna starts")
        tasks.create_task(anna.run())
        await shared_out(anna)
        print("ben joins")
        tasks.create_task(ben.run())
        await shared_out(anna, ben)
        print("cleo joins")
        tasks.create_task(cleo.run())
        await shared_out(anna, ben, cleo)
        while handled.total() < MESSAGES // 2:
            await asyncio.sleep(0.01)
        print("half-way, ben leaves")
        await ben.consumer.stop()
        await shared_out(anna, cleo)
        print("anna and cleo work until nothing is left")
    for worker in (anna, ben, cleo):
        print(f"  {worker.name} handled {worker.count}")
    missing, repeated = set(ids) - set(handled), sum(count - 1 for count in handled.values())
    print(f"group senders: {len(ids) - len(missing)} of {len(ids)} handled, {repeated} more than once")

    again: set[str] = set()

    async def read(messages: list[Message[Any]]) -> None:
        again.update(message.msg_id for message in messages)

    async with Consumer(TOPIC, REDISAQ_URL, group_name="archive") as archive:
        await archive.process_batch(read, batch_size=100, until_empty=True)
    print(f"group archive: {len(again & set(ids))} of {len(ids)} read again")


if __name__ == "__main__":
    asyncio.run(main())
