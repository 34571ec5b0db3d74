"""The demo's producer: makes the topic, waits for the parent's word, then enqueues batch by batch.

In: the settings. Out: Ready, then the ids of each batch that the server has taken, then Finished.
"""

from __future__ import annotations

import anyio

from redisaq.cli.demo.pipes import Inbox, Outbox
from redisaq.cli.demo.reports import ChildSettings, Finished, Produced, Ready
from redisaq.producer import Producer


async def produce(settings: ChildSettings, inbox: Inbox, outbox: Outbox) -> None:
    """Produce everything, or until the parent wants an end.

    Raises:
        RedisaqError: of the Producer, alone or in a group.
    """
    producer = Producer(settings.topic, settings.url, init_partitions=settings.partitions, namespace=settings.namespace)
    if inbox.closed():  # the server is about to go: joining it would start it again
        return
    async with producer, anyio.create_task_group() as tasks:

        async def end_early() -> None:
            await inbox.ended.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(end_early)
        outbox.put(Ready())
        await inbox.told.wait()
        for first in range(0, settings.messages, settings.batch):
            numbers = range(first, min(first + settings.batch, settings.messages))
            outbox.put(Produced(await producer.batch_enqueue([{"n": number} for number in numbers])))
            await anyio.sleep(settings.pause)
        outbox.put(Finished())
        tasks.cancel_scope.cancel()
