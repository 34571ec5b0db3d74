"""The subscribed connection rings, survives whatever breaks it, and never loses a ring to a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link import Link, Subscription, backoff, parse_address
from tests.conftest import Backend
from tests.link_chance import Longest
from tests.link_fake import FakeServer, usual_answers
from tests.link_proxy import DRIBBLE, Proxy
from tests.link_steps import Steps, cancel_at
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("hasty")]

HANG_SECONDS = 30


@pytest.fixture
def proxy(valkey_server: Server) -> Iterator[Proxy]:
    with Proxy(valkey_server.port, chunks=DRIBBLE) as proxy:
        yield proxy


@pytest.fixture
def channel(namespace: str) -> str:
    return f"{{{namespace}}}:channel"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Link]:
    link = Link(parse_address(url))
    try:
        yield link
    finally:
        await link.close()


async def quiet(subscription: Subscription) -> bool:
    """Return True if it does not ring: what was published before this call has long arrived."""
    with anyio.move_on_after(0.1):
        await subscription.wait()
        return False
    return True


async def test_it_rings(server: Server, channel: str) -> None:
    async with opened(server.url) as link:
        subscription = await link.subscribe(channel, f"{channel}:2")
        with anyio.fail_after(HANG_SECONDS):
            assert await quiet(subscription)  # the first subscription is no ring
            for name in (channel, f"{channel}:2"):
                async with anyio.create_task_group() as group:
                    group.start_soon(subscription.wait)
                    await checkpoint()
                    assert await link.call(("SPUBLISH", name, "x")) == [1]
            await link.call(("SPUBLISH", channel, "before the wait"))
            await subscription.wait()
            assert await quiet(subscription)
        await subscription.close()
        assert server.command("PUBSUB", "SHARDNUMSUB", channel) in ([channel.encode(), 0], [channel.encode(), 1])


async def test_messages_that_came_together_ring_once(valkey_server: Server, channel: str) -> None:
    async with opened(valkey_server.url) as link:
        subscription = await link.subscribe(channel)
        await link.call(*[("SPUBLISH", channel, number) for number in range(100)])
        rings = 0
        with anyio.fail_after(HANG_SECONDS):
            while not await quiet(subscription):
                rings += 1
        assert 1 <= rings <= 50


async def test_it_survives_a_broken_connection_and_rings_for_the_gap(proxy: Proxy, channel: str) -> None:
    async with opened(proxy.url) as link:
        subscription = await link.subscribe(channel)
        for _ in range(3):
            proxy.cut()
            with anyio.fail_after(HANG_SECONDS):
                await subscription.wait()  # for what it may have missed
                assert await link.call(("SPUBLISH", channel, "x")) == [1]
                await subscription.wait()


async def test_it_waits_until_the_server_is_back(proxy: Proxy, channel: str) -> None:
    async with opened(proxy.url) as link:
        subscription = await link.subscribe(channel)
        proxy.refuse()
        assert await quiet(subscription)
        proxy.admit()
        with anyio.fail_after(HANG_SECONDS):
            await subscription.wait()
            assert await link.call(("SPUBLISH", channel, "x")) == [1]
            await subscription.wait()


async def test_a_back_off_outlives_cancelled_waits(proxy: Proxy, channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits with short deadlines does not dial more often for it."""
    monkeypatch.setattr(backoff, "BASE", 1000.0)
    monkeypatch.setattr(backoff, "CAP", 1000.0)

    link = Link(parse_address(proxy.url), Environment(random=Longest()))
    subscription = await link.subscribe(channel)
    proxy.refuse()
    assert await quiet(subscription)
    proxy.admit()
    for _ in range(5):
        with anyio.move_on_after(0.01):
            await subscription.wait()
    assert proxy.accepted == 1
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(expect_closed, subscription)
            await anyio.wait_all_tasks_blocked()
            await link.close()


async def expect_closed(subscription: Subscription) -> None:
    with pytest.raises(ConnectionFailed, match="closed"):
        await subscription.wait()


async def test_an_unasked_unsubscription_is_answered_and_rings() -> None:
    """A slot that moves away, or a permission that is withdrawn, unsubscribes us."""
    confirmation = b">3\r\n+ssubscribe\r\n+channel\r\n:1\r\n"
    with FakeServer(usual_answers() | {"SSUBSCRIBE": confirmation}) as fake:
        async with opened(fake.url) as link:
            subscription = await link.subscribe("channel")
            fake.send(b">3\r\n+sunsubscribe\r\n+channel\r\n:0\r\n")
            with anyio.fail_after(HANG_SECONDS):
                await subscription.wait()
            assert fake.words().count("SSUBSCRIBE") == 2
            assert fake.words().count("HELLO") == 1
            fake.answers["SSUBSCRIBE"] = b"-MOVED 1 127.0.0.1:1\r\n"
            fake.send(b">3\r\n+sunsubscribe\r\n+channel\r\n:0\r\n")
            with anyio.fail_after(HANG_SECONDS):
                async with anyio.create_task_group() as group:
                    group.start_soon(subscription.wait)
                    while fake.words().count("HELLO") < 3:  # refused: it begins again on new connections, with back-off
                        await anyio.sleep(0.001)
                    fake.answers["SSUBSCRIBE"] = confirmation


async def test_a_refused_subscription(server: Server, channel: str) -> None:
    server.command("ACL", "SETUSER", "deaf", "on", "nopass", "~*", "resetchannels", "+@all")
    async with opened(f"redis://deaf:x@127.0.0.1:{server.port}") as link:
        with pytest.raises(ServerError, match="NOPERM"):
            await link.subscribe(channel)
        assert not link._opened
    server.command("ACL", "DELUSER", "deaf")


async def test_nobody_listens_at_the_first_attempt(proxy: Proxy, channel: str) -> None:
    proxy.refuse()
    async with opened(proxy.url) as link:
        with pytest.raises(ConnectionFailed, match="refused"):
            await link.subscribe(channel)


@pytest.mark.parametrize("whose", ["subscription", "link", "abort"])
async def test_closed_under_a_wait(proxy: Proxy, channel: str, whose: str) -> None:
    async with opened(proxy.url) as link:
        subscription = await link.subscribe(channel)
        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(expect_closed, subscription)
                await anyio.wait_all_tasks_blocked()
                if whose == "abort":
                    subscription.abort()
                else:
                    await (subscription if whose == "subscription" else link).close()
            await expect_closed(subscription)
        await subscription.close()
        assert not link._opened


@pytest.mark.parametrize("native", [False, True], ids=["scoped", "native"])
@pytest.mark.parametrize("broken", [False, True], ids=["up", "broken"])
async def test_no_ring_is_lost_to_a_cancellation(proxy: Proxy, channel: str, anyio_backend: Backend, broken: bool, native: bool) -> None:
    """Cancelled at every await, during reconnection too: a message published before or after still rings."""
    if native and anyio_backend[0] != "asyncio":
        pytest.skip("trio knows scopes only")
    async with opened(proxy.url) as link:
        subscription = await link.subscribe(channel)
        step, reached = 0, True
        while reached:
            if broken:
                proxy.cut()
            else:
                assert await link.call(("SPUBLISH", channel, step)) == [1]
            steps = Steps()
            rung = False

            async def run(step: int = step, steps: Steps = steps) -> None:
                nonlocal rung
                task = asyncio.current_task() if native else None
                with anyio.CancelScope() as scope:
                    try:
                        await cancel_at(subscription.wait(), step, task.cancel if task else scope.cancel, steps)
                        rung = True
                    except asyncio.CancelledError:
                        if task is None:
                            raise
                        task.uncancel()

            with anyio.fail_after(HANG_SECONDS):
                async with anyio.create_task_group() as group:
                    group.start_soon(run)
                reached = steps.count > step
                assert reached or rung
                if not rung:
                    await subscription.wait()
                while not await quiet(subscription):
                    pass
            step += 1
        assert step >= (4 if broken else 2)
