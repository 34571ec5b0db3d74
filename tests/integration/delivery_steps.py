"""Every step of the Redis broker for what did not simply succeed, once or twice: to look at what they do to a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from redisaq.brokers.growth import redrive
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.growing import SetSwept
from redisaq.brokers.steps.leases import Fence
from redisaq.brokers.steps.producing import Delayed, delay
from redisaq.brokers.steps.retrying import Purge, ReadDead, Redrive, StartRetry, TakeDue
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body, Failure, Resolution

Step = Callable[[RedisBroker], Awaitable[object]]

GROUP = GroupName("orders", "billing")
FAILURE = Failure("ValueError", "no good", "Traceback …", 1, 1000, 2000, "A")

KEYS = ["orders:0:g:billing:dead", "orders:0:g:billing:retry", "orders:0:g:billing:retry:body", "orders:1:delayed", "orders:1:delayed:body"]
"""What `exercise_delivery` leaves, beside what was there."""


def steps(token: int) -> dict[str, Step]:
    """Return steps that take one round trip each, under this token."""
    body = Body(b"1-1", (b"i", b"1"), 0, 1, FAILURE)
    resolutions = [Resolution("stream", "retry", body, due=1), Resolution("retry", "dead", body), Resolution("retry", "done", body)]
    delayed = [Delayed(number % 3, b"%d" % number, 1 << 51, [b"i", b"1"]) for number in range(99)]
    return {
        "resolve": lambda broker: broker.do(Resolve(GROUP, 0, token, resolutions * 100, dead_maxlen=100)),
        "start_retry": lambda broker: broker.do(StartRetry(GROUP, 0, token, entry_id=b"1-1", life=0, attempt=2)),
        "due": lambda broker: broker.do(TakeDue(GROUP, 0, token, count=100)),
        "delay": lambda broker: delay(broker, "orders", delayed, cuts=1),
        "dead_page": lambda broker: broker.do(ReadDead(GROUP, 0, after=b"", count=100)),
        "redrive": lambda broker: broker.do(Redrive(GROUP, 0, [(b"1-1", body)] * 100, cuts=1)),
        "purge": lambda broker: broker.do(Purge(GROUP, 0, None)),
        "purge some": lambda broker: broker.do(Purge(GROUP, 0, [b"1-1"] * 100)),
        "purge none": lambda broker: broker.do(Purge(GROUP, 0, [])),
    }


async def exercise_delivery(broker: RedisBroker, token: int) -> None:
    """Do every step at least once, in partition 0 and 1, which are owned under this token; three entries are read."""
    reader = await broker.open_reader(GROUP, 0, token, "A")
    entries = await reader.read(3, 0)
    await reader.close()
    assert await broker.do(Fence(GROUP, 0, token, [reader.mark]))
    bell = await broker.listen_partition("orders", 1)
    state = await broker.do(ReadTopic("orders"))
    assert state is not None
    await broker.do_each([SetSwept("orders", partition, state.cuts, broker.run_id) for partition in range(2)])
    bodies = [Body(entry_id, tuple(fields or ()), 0, 1, FAILURE) for entry_id, fields in entries]
    to_retry, to_dead, done = bodies
    resolutions = [
        Resolution("stream", "retry", to_retry, due=1),
        Resolution("stream", "dead", to_dead),
        Resolution("stream", "done", done),
    ]
    assert (await broker.do(Resolve(GROUP, 0, token, resolutions, dead_maxlen=10))).moved == (True, True, True)
    assert (await broker.do(TakeDue(GROUP, 0, token, count=10))).retries == (to_retry,)
    assert await broker.do(StartRetry(GROUP, 0, token, entry_id=to_retry.entry_id, life=0, attempt=2))
    running = Body(to_retry.entry_id, to_retry.fields, 0, 2, FAILURE)
    assert (await broker.do(Resolve(GROUP, 0, token, [Resolution("retry", "dead", running)], dead_maxlen=None))).moved == (True,)
    (found, _) = await broker.do(ReadDead(GROUP, 0, after=b"", count=10))
    assert await redrive(broker, GROUP, 0, [found.dead_id], count=10, state=state) == 1
    await delay(broker, "orders", [Delayed(1, b"later", 1 << 51, [b"i", b"1"]), Delayed(1, b"now", 1, [b"i", b"2"])], cuts=state.cuts)
    with anyio.fail_after(30):
        await bell.wait()
    await bell.close()
    assert (await broker.do(TakeDue(GROUP, 1, token, count=10))).moved == 1
    assert await broker.do(Purge(GROUP, 0, [found.dead_id])) == 0
