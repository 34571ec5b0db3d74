"""One of the demo's consumers: works on what it gets until the parent wants an end.

In: the settings. Out: Ready, then every message processed, every partition acquired and given back or lost, and now and then a look at
the statistics.

What is counted, and why that is honest. A message counts as processed when the handler's work on it is done and the report of that is in
the pipe to the parent. The handler returns only after that, and redisaq acknowledges only after the handler has returned. So SIGKILL can
hit
- before the report is in the pipe: the message is not counted and not acknowledged; somebody else must get it, or it is counted as lost;
- between report and acknowledgement: it is counted, somebody else gets it again, and it is counted as a duplicate as well.
There is no instant at which a killed consumer leaves a message acknowledged and not counted, nor one counted that was not worked on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from redisaq import events
from redisaq.cli.demo.pipes import Inbox, Outbox
from redisaq.cli.demo.reports import Acquired, ChildSettings, Looked, Noted, Processed, Ready, Released
from redisaq.consumer import Consumer
from redisaq.message import Message

LOOK_SECONDS = 0.25
"""Between two looks at the statistics."""

DRAIN_SECONDS = 2.0
"""How long handlers may take at the end."""

PATIENCE = 5.0
"""How long the whole end may take."""


async def consume(settings: ChildSettings, inbox: Inbox, outbox: Outbox) -> None:
    """Consume until the parent wants an end.

    Raises:
        RedisaqError: of the Consumer, alone or in a group.
    """

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(settings.work)
        outbox.put(Processed(message.partition, message.msg_id))
        await outbox.flush()

    consumer = Consumer(
        settings.topic,
        settings.url,
        group_name="demo",
        heartbeat_interval=settings.heartbeat,
        heartbeat_ttl=settings.ttl,
        drain_timeout=DRAIN_SECONDS,
        namespace=settings.namespace,
        on_event=teller(outbox),
    )

    async def look() -> None:
        while True:
            owned = consumer.statistics().partitions
            outbox.put(Looked(sum(one.in_flight for one in owned), sum(one.waiting for one in owned)))
            await anyio.sleep(LOOK_SECONDS)

    async def end() -> None:
        await inbox.ended.wait()
        with anyio.move_on_after(PATIENCE):
            await consumer.stop()
        tasks.cancel_scope.cancel()

    if inbox.closed():  # the server is about to go: joining it would start it again
        return
    async with consumer, anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        await tasks.start(consumer.process, handle)
        outbox.put(Ready())
        tasks.start_soon(look)


def teller(outbox: Outbox) -> Callable[[events.Event], None]:
    """Return what turns a consumer's events into reports."""

    def tell(event: events.Event) -> None:
        if isinstance(event, events.PartitionAcquired):
            outbox.put(Acquired(event.partition))
        elif isinstance(event, events.PartitionRevoked):
            outbox.put(Released(event.partition, lost=False))
        elif isinstance(event, events.LeaseLost):
            outbox.put(Released(event.partition, lost=True))
            outbox.put(Noted(f"lost partition {event.partition}: {event.reason}"))
        elif isinstance(event, events.MessageFailed):
            outbox.put(Noted(f"a handler failed: {event.error!r}"))
        elif isinstance(event, events.Disconnected):
            outbox.put(Noted(f"cannot reach the server: {event.reason}"))
        elif isinstance(event, events.Reconnected | events.GroupLost | events.KillNotPermitted | events.EntriesTrimmed):
            outbox.put(Noted(SENTENCES[type(event)]))

    return tell


SENTENCES: dict[type[events.Event], str] = {
    events.Reconnected: "reaches the server again",
    events.GroupLost: "found the group's data gone from the server",
    events.KillNotPermitted: "may not kill connections on this server (ACL): order across a crash is best effort",
    events.EntriesTrimmed: "found messages trimmed from the stream",
}
