"""Reads that block in the server are cancelled; no entry is lost (docs/understand/link.md, rule T3)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import cast

import anyio
import pytest

from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link import Command, Link, ReadingConnection
from tests.link_opened import opened
from tests.link_proxy import DRIBBLE, Proxy
from tests.link_steps import Steps, cancel_at
from tests.servers import Server

pytestmark = pytest.mark.anyio

HANG_SECONDS = 60
ENTRIES = 150


@pytest.fixture
async def stream(valkey_server: Server, namespace: str) -> AsyncIterator[str]:
    """The name of a stream with a group `g`."""
    name = f"{namespace}:s"
    valkey_server.command("XGROUP", "CREATE", name, "g", "0", "MKSTREAM")
    yield name
    valkey_server.command("DEL", name)


def read_command(stream: str, *, count: int = 3, block_ms: int = 60_000) -> Command:
    return ("XREADGROUP", "GROUP", "g", "c", "COUNT", count, "BLOCK", block_ms, "STREAMS", stream, ">")


def numbers(reply: object) -> list[int]:
    """Return what the entries of an XREADGROUP reply carry."""
    if reply is None:
        return []
    (entries,) = cast("dict[bytes, list[tuple[bytes, list[bytes]]]]", reply).values()
    return [int(fields[1]) for _, fields in entries]


async def cancelled(start: Callable[[], object], moment: float, *, native: bool, again: bool = False) -> object:
    """Run `start()` and cancel it after `moment` seconds, natively a second time if `again`; return its result, None if cancelled."""
    if not native:
        with anyio.move_on_after(moment):
            return await start()  # type: ignore[misc]
        return None
    task = asyncio.ensure_future(start())  # type: ignore[call-overload]
    await asyncio.sleep(moment)
    task.cancel()
    if again:
        await asyncio.sleep(0)
        task.cancel()
    try:
        return cast("object", await task)
    except asyncio.CancelledError:
        return None


@pytest.mark.parametrize("seed", range(4))
async def test_every_entry_is_seen_once(valkey_server: Server, stream: str, native: bool, seed: int) -> None:
    rnd = random.Random(seed)
    seen: list[int] = []
    cancellations = leftovers = produced = 0
    ended = False

    async def produce(link: Link) -> None:
        nonlocal produced, ended
        while produced < ENTRIES or cancellations < 10 or not leftovers:  # a slow machine takes longer to see them
            await link.call(("XADD", stream, "*", "n", produced))
            produced += 1
            await anyio.sleep(rnd.choice((0, 0, 0.0005, 0.002)))
        ended = True

    async def consume(link: Link, reading: ReadingConnection) -> None:
        nonlocal cancellations, leftovers
        while not ended or len(seen) < produced:
            moment = rnd.choice((0, 0.0002, 0.0005, 0.001, 0.002, 0.005))
            reply = await cancelled(lambda: reading.read(read_command(stream)), moment, native=native, again=rnd.random() < 0.5)
            cancellations += reply is None
            assert reading.settled
            seen.extend(numbers(reply))
            leftover = reading.take_leftover()
            leftovers += leftover is not None
            seen.extend(numbers(leftover))
            assert reading.take_leftover() is None
        assert await link.call(("XPENDING", stream, "g")) != []

    with Proxy(valkey_server.port, seed=seed, chunks=DRIBBLE) as proxy, anyio.fail_after(HANG_SECONDS):
        async with opened(proxy.url) as link, opened(valkey_server.url) as producer:
            reading = await link.open_reading()
            async with anyio.create_task_group() as group:
                group.start_soon(consume, link, reading)
                group.start_soon(produce, producer)
            (pending,) = await link.call(("XPENDING", stream, "g"))
    assert seen == list(range(produced))
    assert cast("list[object]", pending)[0] == produced


async def test_a_read_cancelled_at_every_await(valkey_server: Server, stream: str, native: bool) -> None:
    """With an entry there, without one, and with one that comes meanwhile; whatever is delivered is seen."""
    async with opened(valkey_server.url) as link:
        reading = await link.open_reading()
        number = step = 0
        seen: list[int] = []
        while step < 4:
            for before, after in ((True, False), (False, False), (False, True)):
                if before:
                    await link.call(("XADD", stream, "*", "n", number))
                steps = Steps()

                async def run(step: int = step, steps: Steps = steps) -> None:
                    task = asyncio.current_task() if native else None
                    with anyio.CancelScope() as scope:
                        try:
                            coroutine = reading.read(read_command(stream, block_ms=100))
                            seen.extend(numbers(await cancel_at(coroutine, step, task.cancel if task else scope.cancel, steps)))
                        except asyncio.CancelledError:
                            if task is None:
                                raise
                            task.uncancel()

                with anyio.fail_after(HANG_SECONDS):
                    async with anyio.create_task_group() as group:
                        group.start_soon(run)
                        if after:
                            group.start_soon(link.call, ("XADD", stream, "*", "n", number))
                assert reading.settled
                seen.extend(numbers(reading.take_leftover()))
                if after:
                    seen.extend(numbers((await reading.call(read_command(stream, block_ms=1)))[0]))
                number += before or after
            step += 1
        assert seen == list(range(number))


async def test_a_read_that_nothing_can_end_is_not_settled(valkey_server: Server, stream: str) -> None:
    """T3: after a second without an answer the cancellation propagates, and the connection must not count as settled."""
    with Proxy(valkey_server.port) as proxy, anyio.fail_after(HANG_SECONDS):
        async with opened(proxy.url) as link:
            reading = await link.open_reading()
            async with anyio.create_task_group() as group:

                async def read() -> None:
                    await reading.read(read_command(stream))

                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                proxy.freeze()
                group.cancel_scope.cancel()
            assert not reading.settled
            assert reading.take_leftover() is None
            proxy.thaw()
            with pytest.raises(ConnectionFailed, match="no reply yet"):
                await reading.read(read_command(stream))
            with pytest.raises(ConnectionFailed, match="no reply yet"):
                await reading.call(("PING",))
            await reading.close()
            assert not reading.settled


async def test_a_read_cancelled_without_a_shared_connection(valkey_server: Server, stream: str) -> None:
    """UNBLOCK connects by itself if need be."""
    async with opened(valkey_server.url) as link:
        reading = await link.open_reading()
        assert link._connector.live is None
        with anyio.fail_after(HANG_SECONDS), anyio.move_on_after(0.02):
            await reading.read(read_command(stream))
        assert reading.settled


async def test_a_connection_that_breaks_under_a_read(valkey_server: Server, stream: str) -> None:
    with Proxy(valkey_server.port) as proxy, anyio.fail_after(HANG_SECONDS):
        async with opened(proxy.url) as link:
            reading = await link.open_reading()
            async with anyio.create_task_group() as group:

                async def read() -> None:
                    with pytest.raises(ConnectionFailed) as caught:
                        await reading.read(read_command(stream))
                    assert caught.value.maybe_executed

                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                proxy.cut()
            assert not reading.settled
            with pytest.raises(ConnectionFailed):
                await reading.call(("PING",))


@pytest.mark.parametrize("whose", ["reading", "link", "abort"])
async def test_closed_under_a_read(valkey_server: Server, stream: str, whose: str) -> None:
    async with opened(valkey_server.url) as link:
        reading = await link.open_reading()

        async def read() -> None:
            with pytest.raises(ConnectionFailed, match="closed"):
                await reading.read(read_command(stream))

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                if whose == "abort":
                    reading.abort()
                else:
                    await (reading if whose == "reading" else link).close()
        await reading.close()
        assert not link._opened


async def test_who_it_is_to_the_server(server: Server, namespace: str) -> None:
    """T3: id and address are the server's view, even through a proxy, and kill exactly this connection."""
    with Proxy(server.port) as proxy:
        async with opened(proxy.url) as link, opened(server.unix_url) as other:
            reading, neighbour = await link.open_reading(), await link.open_reading()
            await other.connect()
            (listed,) = await other.call(("CLIENT", "LIST", "ID", reading.client_id))
            assert isinstance(listed, bytes)
            assert f" addr={reading.client_address} " in listed.decode()
            assert reading.run_id == other.run_id
            kill = ("CLIENT", "KILL", "ID", reading.client_id, "ADDR", reading.client_address)
            assert await other.call(kill, kill) == [1, 0]
            with pytest.raises(ConnectionFailed):
                await reading.call(("PING",))
            assert await neighbour.call(("PING",)) == [b"PONG"]


async def test_an_error_is_the_reply(valkey_server: Server, namespace: str) -> None:
    async with opened(valkey_server.url) as link:
        reading = await link.open_reading()
        reply = await reading.read(read_command(f"{namespace}:none"))
        assert isinstance(reply, ServerError)
        assert reply.code == "NOGROUP"
        assert reading.settled


async def test_a_leftover_must_be_taken(valkey_server: Server, stream: str) -> None:
    async with opened(valkey_server.url) as link:
        reading = await link.open_reading()
        reading.leftover = {stream.encode(): [[b"1-0", [b"n", b"1"]]]}
        with pytest.raises(RuntimeError, match="take_leftover"):
            await reading.read(read_command(stream))
        assert numbers(reading.take_leftover()) == [1]
        assert await reading.read(read_command(stream, block_ms=1)) is None


async def test_the_replies_of_a_cancelled_call_are_passed_over(valkey_server: Server, native: bool) -> None:
    async with opened(valkey_server.url) as link:
        reading = await link.open_reading()
        for number in range(20):
            await cancelled(lambda number=number: reading.call(("ECHO", number), ("ECHO", "x" * 50_000)), 0, native=native)  # type: ignore[misc]
            assert await reading.call(("ECHO", -number)) == [b"%d" % -number]
            assert reading.settled
