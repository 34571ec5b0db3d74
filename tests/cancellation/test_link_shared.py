"""Callers of the shared connection are cancelled anywhere, scoped and natively, over a proxy that dribbles.

No caller may get a wrong reply, none may hang, and no cancellation may cost the connection (docs/understand/link.md, rules 1 to 5).
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Iterator, Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.link import Link, parse_address
from tests.link_proxy import DRIBBLE, Proxy
from tests.link_steps import Steps, cancel_at
from tests.servers import Server

pytestmark = pytest.mark.anyio

SEEDS = range(10)
TASKS, CALLS = 12, 8
HANG_SECONDS = 60


@pytest.fixture
def proxy(request: pytest.FixtureRequest, valkey_server: Server) -> Iterator[Proxy]:
    seed = getattr(request, "param", 0)
    with Proxy(valkey_server.port, seed=seed, chunks=DRIBBLE) as proxy:
        yield proxy


async def connect(url: str) -> Link:
    """Return a link whose socket takes little at once, so that writes are partial."""
    link = Link(parse_address(url))
    await link.connect()
    connection = link._connector.current
    assert connection is not None
    connection._wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return link


def make_texts(rnd: random.Random, name: str) -> list[str]:
    size = rnd.randrange(200_000) if rnd.random() < 0.05 else 3
    return [f"{name}-{number}-" + "x" * (1 if number else size) for number in range(rnd.choice((1, 1, 1, 3, 20)))]


class Callers:
    """Tasks that ask for echoes and are cancelled at random; counts what became of it."""

    def __init__(self, link: Link, rnd: random.Random, *, native: bool) -> None:
        self.link = link
        self.count: Counter[str] = Counter()
        self._random = rnd
        self._native = native

    async def run(self) -> None:
        with anyio.move_on_after(HANG_SECONDS) as scope:
            async with anyio.create_task_group() as group:
                for number in range(TASKS):
                    group.start_soon(self._call, f"task{number}")
        self.count["hung"] = int(scope.cancelled_caught)

    async def _call(self, name: str) -> None:
        for number in range(CALLS):
            texts = make_texts(self._random, f"{name}-{number}")
            if self._random.random() < 0.5:
                self._check(texts, await self._echo(texts))
            elif self._native:
                await self._cancel_natively(texts)
            else:
                await self._cancel_scope(texts)

    async def _echo(self, texts: Sequence[str]) -> list[object]:
        return await self.link.call(*[("ECHO", text) for text in texts])

    def _check(self, texts: Sequence[str], replies: list[object]) -> None:
        self.count["right" if replies == [text.encode() for text in texts] else "wrong"] += 1

    async def _cancel_scope(self, texts: Sequence[str]) -> None:
        with anyio.move_on_after(self._random.choice((0, 0.0001, 0.0003, 0.001, 0.003, 0.01))) as scope:
            self._check(texts, await self._echo(texts))
        self.count["cancelled"] += scope.cancelled_caught

    async def _cancel_natively(self, texts: Sequence[str]) -> None:
        task = asyncio.create_task(self._echo(texts))
        for _ in range(self._random.choice((0, 1, 1, 2, 2, 3, 4, 5, 8, 12, 30, 100))):
            await asyncio.sleep(0)
        if self._random.random() < 0.7:
            task.cancel()
        try:
            self._check(texts, await task)
        except asyncio.CancelledError:
            self.count["cancelled"] += 1


@pytest.mark.parametrize("proxy", SEEDS, indirect=True, ids=lambda seed: f"seed{seed}")
async def test_random_cancellation(proxy: Proxy, native: bool, request: pytest.FixtureRequest) -> None:
    seed = request.node.callspec.params["proxy"]
    link = await connect(proxy.url)
    try:
        callers = Callers(link, random.Random(seed), native=native)
        await callers.run()
        assert callers.count["hung"] == 0
        assert callers.count["wrong"] == 0
        assert callers.count["cancelled"] >= 1
        assert callers.count["right"] >= 20
        assert await link.call(("ECHO", "after")) == [b"after"]
        assert proxy.accepted == 1
    finally:
        await link.close()


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "among others"])
async def test_cancellation_at_every_await(proxy: Proxy, native: bool, others: int) -> None:
    """Rules 3 to 5: the place of the cancellation is counted up until the call ends before it is reached."""
    link = await connect(proxy.url)
    big = "x" * 30_000

    async def call(name: str) -> None:
        for number in range(2):
            text = f"{name}-{number}-{big if number else ''}"
            assert await link.call(("ECHO", text), ("ECHO", name)) == [text.encode(), name.encode()]

    async def victim(step: int, steps: Steps) -> None:
        text = f"victim{step}-{big if step % 2 else ''}"
        with anyio.CancelScope() as scope:
            task = asyncio.current_task() if native else None
            coroutine = cancel_at(link.call(("ECHO", text)), step, task.cancel if task else scope.cancel, steps)
            try:
                assert await coroutine == [text.encode()]
            except asyncio.CancelledError:
                if task is None:
                    raise
                task.uncancel()

    try:
        step, reached, ended = 0, 0, 0
        while ended < 2 and step < 40:
            steps = Steps()
            with anyio.fail_after(HANG_SECONDS):
                async with anyio.create_task_group() as group:
                    for number in range(others):
                        group.start_soon(call, f"before{number}")
                    group.start_soon(victim, step, steps)
                    for number in range(others):
                        group.start_soon(call, f"after{number}")
                assert await link.call(("ECHO", "after")) == [b"after"]
            reached += steps.count > step
            ended += steps.count <= step
            step += 1
        assert reached >= 1
        assert proxy.accepted == 1
    finally:
        await link.close()


async def test_the_drivers_role_is_handed_on(proxy: Proxy, native: bool) -> None:
    """Rule 3: the driver is cancelled while others wait for its bytes, and so is each that takes over, but the last."""
    link = await connect(proxy.url)
    replies: list[list[object]] = []
    scopes: list[anyio.CancelScope] = []
    tasks: list[asyncio.Task[object] | None] = []

    async def call(number: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            tasks.append(asyncio.current_task() if native else None)
            try:
                replies.append(await link.call(("ECHO", number)))
            except asyncio.CancelledError:
                if not native:
                    raise
                tasks[number].uncancel()  # type: ignore[union-attr]

    try:
        with anyio.fail_after(HANG_SECONDS):
            proxy.freeze()
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(call, number)
                    await checkpoint()
                for scope, task in list(zip(scopes, tasks, strict=True))[:9]:
                    if task is None:
                        scope.cancel()
                    else:
                        task.cancel()
                    await checkpoint()
                    await checkpoint()
                assert not replies
                proxy.thaw()
        assert replies == [[b"9"]]
        assert proxy.accepted == 1
    finally:
        await link.close()


async def test_a_call_in_a_cancelled_scope_harms_nobody(proxy: Proxy) -> None:
    link = await connect(proxy.url)
    try:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await link.call(("ECHO", "never seen"))
        assert await link.call(("ECHO", "next")) == [b"next"]
        assert proxy.accepted == 1
    finally:
        await link.close()


async def test_what_does_not_fit_is_sent_by_the_one_that_drives(proxy: Proxy, native: bool) -> None:
    """Rule 2: unsent bytes belong to the connection. Their caller is cancelled half-way; the others' replies still come."""
    link = await connect(proxy.url)
    big = "x" * 4_000_000
    replies: list[list[object]] = []
    tasks: list[asyncio.Task[object] | None] = []

    async def send_much() -> None:
        tasks.append(asyncio.current_task() if native else None)
        try:
            await link.call(("ECHO", big))
        except asyncio.CancelledError:
            if not native:
                raise
            tasks[0].uncancel()  # type: ignore[union-attr]

    async def send_little(number: int) -> None:
        replies.append(await link.call(("ECHO", number)))

    connection = link._connector.live
    assert connection is not None
    try:
        with anyio.fail_after(HANG_SECONDS):
            proxy.freeze()
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as victims:
                        victims.start_soon(send_much)
                        for number in range(5):
                            group.start_soon(send_little, number)
                            await checkpoint()
                        if tasks[0] is None:
                            scope.cancel()
                        else:
                            tasks[0].cancel()
                assert connection._wire.handed < len(big)
                proxy.thaw()
        assert sorted(replies) == [[b"%d" % number] for number in range(5)]
        assert connection._wire.handed > len(big)
        assert proxy.accepted == 1
    finally:
        await link.close()
