"""A link is closed: what it had under way ends at once, nothing is left, and it may be opened again (docs/understand/link.md, rule 7)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed
from redisaq.link import Link, parse_address
from redisaq.link.address import Address
from redisaq.link.dial import Dialer
from redisaq.link.greeting import Greeting
from redisaq.link.line import Line
from redisaq.link.shared import SharedConnection
from redisaq.link.wire import RECEIVE_SIZE, Wire
from tests.link_opened import opened
from tests.link_proxy import Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("idle", [True, False])
async def test_close_fails_calls_under_way(proxy: Proxy, idle: bool) -> None:
    """Rule 7. Callers whose bytes had not been written learn that."""
    maybe_executed: dict[str, bool] = {}

    async def call(text: str) -> None:
        with pytest.raises(ConnectionFailed, match="closed") as caught:
            await link.call(("ECHO", text))
        maybe_executed[text[:5]] = caught.value.maybe_executed

    async with opened(proxy.url) as link:
        await link.connect()
        proxy.freeze()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                if not idle:
                    group.start_soon(call, "large" * 6_000_000)
                    await anyio.wait_all_tasks_blocked()
                group.start_soon(call, "small")
                await anyio.wait_all_tasks_blocked()
                await link.close()
        assert maybe_executed == ({"small": True} if idle else {"large": True, "small": False})
        proxy.thaw()
        assert link._connector.live is None


async def test_close_ends_connecting_and_waiting_for_that(proxy: Proxy) -> None:
    async def call(url: str) -> None:
        link = Link(parse_address(url))
        async with anyio.create_task_group() as group:
            group.start_soon(expect_closed, lambda: link.call(("PING",)))
            group.start_soon(expect_closed, lambda: link.call(("PING",)))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(expect_closed, link.open_reading)
            group.start_soon(expect_closed, lambda: link.listen("channel"))
            await anyio.wait_all_tasks_blocked()
            await link.close()

    async def expect_closed(function: Callable[[], Any]) -> None:
        with pytest.raises(ConnectionFailed, match="closed"):
            await function()

    with anyio.fail_after(30):
        proxy.freeze()
        await call(proxy.url)
        proxy.thaw()


async def test_open_and_close_in_any_order_from_any_task(server: Server) -> None:
    producer, consumer = Link(parse_address(server.url)), Link(parse_address(server.url))
    await producer.close()
    async with anyio.create_task_group() as group:
        group.start_soon(producer.connect)
        group.start_soon(consumer.connect)
    async with anyio.create_task_group() as group:
        group.start_soon(producer.close)
    assert await consumer.call(("ECHO", "still here")) == [b"still here"]
    await consumer.close()
    await consumer.close()
    await producer.connect()
    await producer.connect()
    assert await consumer.call(("ECHO", "opened again")) == [b"opened again"]
    async with anyio.create_task_group() as group:
        group.start_soon(consumer.close)
        group.start_soon(producer.close)
    assert producer._connector.live is None


async def test_closing_frees_no_descriptor_under_a_waiting_task() -> None:
    """A driver that is about to wake must not find a stranger behind its descriptor's number.

    Under asyncio its clean-up would take the new socket's registration away, and a task that waits for that socket would wait forever.
    """
    ours, theirs = socket.socketpair()
    connection = SharedConnection(Wire(ours, bytearray(RECEIVE_SIZE)), "redis://test")
    number = ours.fileno()

    async def call() -> None:
        with pytest.raises(ConnectionFailed, match="closed"):
            await connection.call(b"PING\r\n", 1)

    pairs: list[tuple[socket.socket, socket.socket]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        connection.fail("closed")  # the driver is still registered with the event loop, and runs later
        while not pairs or pairs[-1][0].fileno() < number:
            pairs.append(socket.socketpair())
        stranger, peer = pairs[-1]
        stranger.setblocking(False)
        peer.send(b"x")
        with anyio.fail_after(30):
            await anyio.wait_readable(stranger)
    assert ours.fileno() == -1
    for sock in (theirs, *(sock for pair in pairs for sock in pair)):
        sock.close()


async def test_a_connection_is_closed_whose_dial_was_interrupted_after_its_last_wait() -> None:
    lines: list[Line] = []

    async def greet(line: Line, _address: Address, _name: str) -> Greeting:
        return Greeting(1, "", "run")

    async def first(line: Line, _: Greeting) -> None:
        lines.append(line)
        dialer.interrupt("not wanted any more")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialer = Dialer(parse_address(f"redis://127.0.0.1:{listener.getsockname()[1]}"), greet=greet)
        with pytest.raises(ConnectionFailed, match="not wanted any more"):
            await dialer.dial(Environment(), first)
        with listener.accept()[0] as theirs:
            theirs.settimeout(30)
            assert theirs.recv(1) == b""
    (line,) = lines
    assert line.broken == "not wanted any more"


async def test_each_call_is_a_checkpoint_though_it_has_nothing_to_wait_for(server: Server) -> None:
    async with opened(server.url) as link:
        await link.connect()
        for call in (link.connect, link.call, link.watched, link.nodes, link.close):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught, call
        assert not link.connected, "closed all the same"


async def test_what_is_aborted_says_why(server: Server) -> None:
    async with opened(server.url) as link:
        await link.connect()
        reading = await link.open_reading()
        assert link.connected
        link.abort("for a reason")
        assert not link.connected
        with pytest.raises(ConnectionFailed, match="for a reason"):
            await reading.call(("PING",))
        assert not link._opened, "though nobody has closed it"


async def test_other_callers_notice_a_close_by_one_of_them(proxy: Proxy) -> None:
    async with opened(proxy.url) as link:
        await link.connect()
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(link.call, ("ECHO", number))
            await checkpoint()
        await link.close()
        assert await link.call(("ECHO", "after")) == [b"after"]


def test_one_link_in_one_event_loop_after_another(valkey_server: Server) -> None:
    link = Link(parse_address(valkey_server.url))

    async def use(number: int, close: bool) -> None:
        with anyio.move_on_after(0.0005):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(link.call, ("ECHO", "x" * 10_000))
        assert await link.call(("ECHO", number)) == [b"%d" % number]
        if close:
            await link.close()

    loops: list[tuple[str, dict[str, Any]]] = [("asyncio", {}), ("trio", {}), ("asyncio", {"use_uvloop": True})]
    for number, (backend, options) in enumerate(loops * 4):
        anyio.run(use, number, number % 3 == 2, backend=backend, backend_options=options)
