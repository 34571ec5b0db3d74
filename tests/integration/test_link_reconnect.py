"""The shared connection breaks, and is made again.

What may have been carried out is never sent again; what was not sent is; one attempt at a time, however many
wait (docs/understand/link.md, rules 6 to 8).
"""

from __future__ import annotations

import gc
import itertools
import threading

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.errors import ConnectionFailed
from redisaq.link import Link, pack, parse_address
from tests.conftest import Backend
from tests.link_fake import FakeServer, bulk, hello, usual_answers
from tests.link_opened import opened
from tests.link_proxy import Proxy
from tests.link_steps import Steps, cancel_at
from tests.servers import Server

pytestmark = pytest.mark.anyio


async def test_an_idle_connection_that_broke_is_made_again(proxy: Proxy) -> None:
    """The end is seen before anything is sent, so the call does not fail."""
    async with opened(proxy.url) as link:
        assert await link.call(("ECHO", 1)) == [b"1"]
        proxy.cut()
        assert await link.call(("ECHO", 2)) == [b"2"]
        assert proxy.accepted == 2


async def test_what_was_sent_is_never_sent_again(proxy: Proxy, namespace: str) -> None:
    errors: list[ConnectionFailed] = []

    async def call() -> None:
        with pytest.raises(ConnectionFailed) as caught:
            await link.call(("INCR", namespace))
        errors.append(caught.value)

    async with opened(proxy.url) as link:
        await link.connect()
        proxy.freeze()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                proxy.cut()
        assert [(error.maybe_executed, error.silent) for error in errors] == [(True, False)] * 5
        proxy.thaw()
        assert await link.call(("GET", namespace)) == [None]
        await link.call(("DEL", namespace))


async def test_an_append_that_waited_behind_one_that_broke_is_not_sent_over_the_next_connection() -> None:
    """E4: the earlier one may be lacking, and comes first. Steps have no such order: they are sent."""

    async def call(word: bytes, failures: list[ConnectionFailed]) -> None:
        try:
            await link.call_keyed([pack([(b"ECHO", word)])], [word], lambda one: one)
        except ConnectionFailed as error:
            failures.append(error)

    answers = usual_answers()
    with FakeServer({**answers, "ECHO": b""}) as server:
        async with opened(server.url) as link:
            await link.connect()
            first, second = list[ConnectionFailed](), list[ConnectionFailed]()
            async with anyio.create_task_group() as group:
                group.start_soon(call, b"first", first)
                with anyio.fail_after(30):
                    while [b"ECHO", b"first"] not in server.commands:
                        await anyio.sleep(0.001)
                server.answers["ECHO"] = answers["ECHO"]
                group.start_soon(call, b"second", second)
                group.start_soon(breaks, link)
                group.start_soon(call, b"third", second)
            assert [error.maybe_executed for error in (*first, *second)] == [True, False, False]
            assert [command[1] for command in server.commands if command[0] == b"ECHO"] == [b"first"]
            assert await link.call(("ECHO", "now")) == [b"now"]


async def test_connections_that_broke_are_not_kept() -> None:
    with FakeServer({**usual_answers(), "ECHO": lambda _: None}) as server:
        async with opened(server.url) as link:
            for times in range(5):
                with pytest.raises(ConnectionFailed):
                    await link.call(("ECHO", 1))
                assert link.breaks == times + 1
        assert len(link._torn) == 1, "the last one: its caller had not heard of it then"


@pytest.mark.parametrize("address", ["", "10.0.0.1:5"])
async def test_each_connection_that_broke_is_killed_once_by_the_next(address: str) -> None:
    """E1. Where the server does not say its address, by its id alone."""
    numbers = itertools.count(7)

    def client(command: list[bytes]) -> bytes:
        return b":1\r\n" if command[1] == b"KILL" else bulk(f"id=7 addr={address} laddr=127.0.0.1:6") if address else b"-NOPERM no\r\n"

    answers = usual_answers() | {
        "HELLO": lambda _: hello("7.2.4").replace(b":7\r\n", b":%d\r\n" % next(numbers)),
        "CLIENT": client,
        "HANGUP": lambda _: None,
    }
    with FakeServer(answers) as server:
        async with opened(server.url) as link:
            for _ in range(3):
                with pytest.raises(ConnectionFailed):
                    await link.call(("HANGUP",))
            await link.connect()
        killed = [[word.decode() for word in command] for command in server.commands if command[:2] == [b"CLIENT", b"KILL"]]
    where = ["ADDR", address] if address else []
    assert killed == [["CLIENT", "KILL", "ID", str(number), *where] for number in (7, 8, 9)]


async def test_what_was_held_up_while_a_connection_broke_passes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """E4: it waited for a connection, and that one broke under another call, which may lack something now."""
    with FakeServer(usual_answers()) as server:
        async with opened(server.url) as link:
            whole = link._connection

            async def connection() -> object:
                link.breaks += 1
                return await whole()

            monkeypatch.setattr(link, "_connection", connection)
            with pytest.raises(ConnectionFailed) as caught:
                await link.call_keyed([pack([(b"ECHO", b"first")])], [b"k"], lambda one: one)
            assert not caught.value.maybe_executed
            link.give_up("a test broke it")
            assert await link.call(("ECHO", "second")) == [b"second"], "a step passes"
        assert [command[1] for command in server.commands if command[0] == b"ECHO"] == [b"second"]


async def test_only_connections_of_the_run_that_answers_are_killed() -> None:
    """E1: another run gives their ids to others. A link that is not connected finds out first."""
    with FakeServer(usual_answers() | {"CLIENT": b":1\r\n"}) as server:
        async with opened(server.url) as link:
            assert await link.kill([(3, "10.0.0.1:3", "a" * 40), (4, "10.0.0.1:4", "b" * 40)]) == [1]
            assert await link.kill([(4, "10.0.0.1:4", "b" * 40)]) == []
    assert [command for command in server.commands if command[1:2] == [b"KILL"]] == [
        [b"CLIENT", b"KILL", b"ID", b"3", b"ADDR", b"10.0.0.1:3"]
    ]


async def breaks(link: Link) -> None:
    """Break the connection before anything that was queued in this round of the loop is written."""
    link.give_up("a test broke it")


async def test_a_server_that_restarts(breakable_server: Server) -> None:
    async with opened(breakable_server.url) as link:
        await link.connect()
        first = link.run_id
        breakable_server.restart(keep_data=False)
        assert await link.call(("ECHO", "again")) == [b"again"]
        assert link.run_id
        assert link.run_id != first


async def test_reconnecting_is_single_flight(proxy: Proxy) -> None:
    """Rule 8: fifty callers, one connection."""
    replies: list[list[object]] = []

    async def call(number: int) -> None:
        replies.append(await link.call(("ECHO", number)))

    async with opened(proxy.url) as link:
        for round_number in (1, 2, 3):
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(call, number)
            assert sorted(int(str(reply[0], "ascii")) for reply in replies if isinstance(reply[0], bytes)) == list(range(50))
            assert proxy.accepted == round_number
            replies.clear()
            proxy.cut()


async def test_a_failed_attempt_fails_all_who_wait_for_it_once(proxy: Proxy) -> None:
    errors: list[ConnectionFailed] = []
    proxy.refuse()

    async def call() -> None:
        with pytest.raises(ConnectionFailed) as caught:
            await link.call(("PING",))
        errors.append(caught.value)

    async with opened(proxy.url) as link:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call)
        assert len({id(error) for error in errors}) == 20
        assert not any(error.maybe_executed or error.permanent for error in errors)


async def test_the_connecting_callers_role_is_handed_on(anyio_backend: Backend) -> None:
    """Rule 8: who connects for all is cancelled; the next connects."""
    held = threading.Event()

    def hold(_: list[bytes]) -> bytes:
        held.wait(20)
        return b"+PONG\r\n"

    with FakeServer(usual_answers() | {"PING": hold}) as fake:
        replies: list[list[object]] = []

        async def call(number: int) -> None:
            replies.append(await link.call(("ECHO", number)))

        async with opened(fake.url) as link:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    async with anyio.create_task_group() as victims:
                        victims.start_soon(call, 0)
                        await anyio.wait_all_tasks_blocked()
                        for number in range(1, 5):
                            group.start_soon(call, number)
                        await anyio.wait_all_tasks_blocked()
                        victims.cancel_scope.cancel()
                    held.set()
        assert sorted(replies) == [[b"%d" % number] for number in range(1, 5)]


async def test_connect_cancelled_at_every_await_leaves_nothing(proxy: Proxy) -> None:
    step, reached = 0, True
    while reached:
        link = Link(parse_address(proxy.url))
        steps = Steps()
        with anyio.CancelScope() as scope:
            await cancel_at(link.connect(), step, scope.cancel, steps)
        reached = steps.count > step
        assert link._connector.live is not None or scope.cancelled_caught
        assert await link.call(("ECHO", step)) == [b"%d" % step]
        await link.close()
        step += 1
    gc.collect()  # an unclosed socket warns, which is an error here
    assert step > 3


async def test_a_pushed_message_disturbs_no_reply(proxy: Proxy, namespace: str) -> None:
    """The server is made to push (client tracking) between the replies, and while nobody calls."""
    async with opened(proxy.url) as link, opened(proxy.url) as other:
        await link.call(("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", namespace))
        for number in range(20):
            await other.call(("SET", f"{namespace}:{number}", number))
            replies = await link.call(("GET", f"{namespace}:{number}"), ("ECHO", number), ("DEL", f"{namespace}:{number}"))
            assert replies == [b"%d" % number, b"%d" % number, 1]
        assert proxy.accepted == 2


async def test_a_reply_that_nothing_asked_for_breaks_the_connection() -> None:
    with FakeServer(usual_answers()) as fake:
        async with opened(fake.url) as link:
            await link.connect()
            first = link._connector.live
            fake.send(b">2\r\n+pushed\r\n+message\r\n")
            assert await link.call(("ECHO", "one")) == [b"one"]
            fake.send(b"+stray\r\n")
            assert first is not None
            while not first._wire.arrived():
                await checkpoint()
            assert await link.call(("ECHO", "two")) == [b"two"]
            assert link._connector.live is not first


async def test_garbage_breaks_the_connection() -> None:
    with FakeServer(usual_answers() | {"GARBLE": b"?what\r\n"}) as fake:
        async with opened(fake.url) as link:
            with pytest.raises(ConnectionFailed) as caught:
                await link.call(("GARBLE",))
            assert caught.value.maybe_executed
            assert await link.call(("ECHO", "two")) == [b"two"]


async def test_a_reply_of_a_size_that_there_is_no_memory_for_breaks_the_connection() -> None:
    """Wherever replies are parsed: hiredis raises MemoryError, which is no bug of ours."""
    with FakeServer(usual_answers() | {"HUGE": b"*4294967295\r\n", "GET": b"+OK\r\n"}) as fake:
        link = Link(parse_address(fake.url))
        try:
            with pytest.raises(ConnectionFailed):
                await link.call(("HUGE",))
            assert await link.call(("GET", "x")) == [b"OK"]
            reading = await link.open_reading()
            with pytest.raises(ConnectionFailed):
                await reading.read(("HUGE",))
            await reading.close()
        finally:
            await link.close()


async def test_replies_before_the_end_are_delivered() -> None:
    """A server that answers and hangs up at once: the answer counts."""
    held = threading.Event()

    def hold(_: list[bytes]) -> bytes:
        held.wait(20)
        return b"+OK\r\n"

    with FakeServer(usual_answers() | {"HOLD": hold, "HANGUP": lambda _: None}) as fake:
        async with opened(fake.url) as link:
            results: list[object] = []

            async def call(*commands: tuple[str, ...]) -> None:
                try:
                    results.append(await link.call(*commands))
                except ConnectionFailed as error:
                    results.append(error.maybe_executed)

            await link.connect()
            async with anyio.create_task_group() as group:
                for commands in [(("HOLD",),), (("ECHO", "kept"), ("ECHO", "kept, too")), (("HANGUP",),)]:
                    group.start_soon(call, *commands)
                    await anyio.wait_all_tasks_blocked()
                held.set()
            assert results == [[b"OK"], [b"kept", b"kept, too"], True]
