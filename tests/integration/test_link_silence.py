"""A connection that owes replies and is silent breaks; a call whose time is up leaves it alone (docs/understand/link.md, 10 to 12)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator

import anyio
import pytest

from redisaq.environment import time_limit
from redisaq.errors import ConnectionFailed
from redisaq.link import Link, line as line_module, parse_address
from redisaq.link.silence import Alarm
from tests.breaking_proxy import BreakingProxy
from tests.conftest import UVLOOP, Backend
from tests.link_fake import FakeServer, bulk, usual_answers
from tests.servers import Server
from tests.ticks import Ticks

pytestmark = pytest.mark.anyio

SILENCE = 0.5
MARGIN = 0.45  # less than another silence
UVLOOP_EARLY = 0.001  # uvloop counts in whole milliseconds: its timers ring up to one of them too early


@pytest.fixture
def proxy(valkey_server: Server) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(valkey_server.port)
    yield proxy
    proxy.close()


@contextlib.asynccontextmanager
async def opened(url: str, silence: float = SILENCE) -> AsyncGenerator[Link]:
    link = Link(parse_address(url), silence=silence)
    try:
        yield link
    finally:
        await link.close()


@contextlib.contextmanager
def within(least: float, most: float) -> Iterator[None]:
    with Ticks() as ticks:
        began = time.monotonic()
        yield
        ended = time.monotonic()
    assert ended - began >= least - UVLOOP_EARLY
    assert ticks.between(began, ended) <= most + MARGIN


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_silent_connection_breaks_and_the_next_call_takes_another(proxy: BreakingProxy) -> None:
    async with opened(proxy.url) as link:
        await link.connect()
        first = link._connector.live
        proxy.swallow()
        with within(SILENCE, SILENCE), pytest.raises(ConnectionFailed, match=r"silent for 0\.5 s") as raised:
            await link.call(("ECHO", "lost"))
        assert raised.value.maybe_executed
        assert raised.value.silent
        assert len(raised.value.connections) == 1
        proxy.admit()
        assert await link.call(("ECHO", "next")) == [b"next"]
        assert link._connector.live is not first


@pytest.mark.parametrize("policy", ["asyncio", pytest.param("uvloop", marks=UVLOOP)])
def test_it_breaks_in_a_program_that_does_not_run_by_anyio(proxy: BreakingProxy, policy: str) -> None:
    """`asyncio.run` does not tell sniffio that asyncio runs, and an alarm rings outside of tasks."""
    assert "sniffio" in sys.modules, "without it this shows nothing"

    async def main() -> None:
        async with opened(proxy.url) as link:
            await link.connect()
            proxy.swallow()
            with within(SILENCE, SILENCE), pytest.raises(ConnectionFailed, match=r"silent for 0\.5 s"):
                await asyncio.wait_for(link.call(("ECHO", "lost")), 20)

    factory = importlib.import_module("uvloop").new_event_loop if policy == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


async def test_in_a_pipeline_what_was_not_written_is_surely_not_sent(proxy: BreakingProxy, namespace: str) -> None:
    """The first call fills every buffer on the way, so nothing of the second is written: it goes over the next connection."""
    outcomes: dict[str, object] = {}
    async with opened(proxy.url) as link, anyio.create_task_group() as tasks:
        await link.connect()
        with proxy.lock:  # the proxy does not even read

            async def call(name: str, *command: str | bytes) -> None:
                try:
                    outcomes[name] = await link.call(command)
                except ConnectionFailed as error:
                    outcomes[name] = error.maybe_executed

            tasks.start_soon(call, "large", "SET", namespace, b"x" * 64_000_000)
            await anyio.sleep(0.1)
            tasks.start_soon(call, "small", "ECHO", "small")
            await until(lambda: outcomes)
            assert outcomes == {"large": True}
    assert outcomes == {"large": True, "small": [b"small"]}


async def test_it_breaks_though_nobody_waits_any_more(proxy: BreakingProxy, namespace: str) -> None:
    """What cancelled callers left is owed: a later caller begins on another connection, once the silent one is killed (E1)."""
    async with opened(proxy.url) as link:
        await link.connect()
        proxy.swallow()
        with within(SILENCE, SILENCE):
            with anyio.move_on_after(0.1):
                await link.call(("RPUSH", namespace, "late"))
            await until(lambda: not link._connector.live)
        proxy.admit()
        assert await link.call(("RPUSH", namespace, "later")) == [1]
        proxy.let_through()
        await anyio.sleep(0.05)
        assert await link.call(("LRANGE", namespace, 0, -1)) == [[b"later"]]


async def test_new_callers_do_not_keep_it_alive(proxy: BreakingProxy) -> None:
    """Each waits for less than the silence, and one of them comes at any time."""
    async with opened(proxy.url) as link:
        await link.connect()
        proxy.swallow()
        with within(SILENCE, SILENCE + 0.15), anyio.fail_after(30):
            while link._connector.live:
                with anyio.move_on_after(0.15), contextlib.suppress(ConnectionFailed):
                    await link.call(("ECHO", "x"))


async def test_callers_whose_time_is_up_do_not_keep_alive_what_takes_nothing(proxy: BreakingProxy, namespace: str) -> None:
    """A server that reads no more is silent, too, however many callers fill the buffers and leave."""
    async with opened(proxy.url) as link:
        await link.connect()
        first = link._connector.live
        with proxy.lock, within(SILENCE, SILENCE + 0.15), anyio.fail_after(30):  # the proxy does not even read
            command: tuple[str | bytes, ...] = "SET", namespace, b"x" * 16_000_000
            while link._connector.live is first:
                with contextlib.suppress(ConnectionFailed), time_limit(0.15):
                    await link.call(command)
                command = "ECHO", "x"


async def test_a_call_whose_time_is_up_leaves_the_connection_alone(proxy: BreakingProxy) -> None:
    """Its slot stays, so what is answered late is nobody else's answer."""
    async with opened(proxy.url, 10.0) as link:
        await link.connect()
        first = link._connector.live
        proxy.swallow()
        for name in ("first", "second"):
            with within(0.2, 0.2), pytest.raises(ConnectionFailed, match="within the time") as raised, time_limit(0.2):
                await link.call(("ECHO", name))
            assert raised.value.maybe_executed
        proxy.let_through()
        assert await link.call(("ECHO", "third")) == [b"third"]
        assert link._connector.live is first


async def test_of_several_callers_only_those_leave_whose_time_is_up(proxy: BreakingProxy) -> None:
    outcomes: dict[float, object] = {}

    async def call(seconds: float) -> None:
        try:
            with time_limit(seconds):
                outcomes[seconds] = await link.call(("ECHO", seconds))
        except ConnectionFailed as error:
            outcomes[seconds] = error.maybe_executed

    async with opened(proxy.url, 100.0) as link:
        await link.connect()
        proxy.swallow()
        async with anyio.create_task_group() as tasks:
            for seconds in (60.0, 0.1, math.inf, 0.2):
                tasks.start_soon(call, seconds)
            await until(lambda: len(outcomes) >= 2)
            assert outcomes == {0.1: True, 0.2: True}
            proxy.let_through()
        assert outcomes == {0.1: True, 0.2: True, 60.0: [b"60.0"], math.inf: [b"inf"]}


@pytest.mark.parametrize("moment", ["accept", "greeting", "tls"])
async def test_a_dial_takes_no_longer(moment: str) -> None:
    """A listener that never accepts, a server that never answers, one that is silent in the middle of TLS."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        scheme = "rediss" if moment == "tls" else "redis"
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with contextlib.ExitStack() as stack:
            if moment == "greeting":
                url = stack.enter_context(FakeServer({**usual_answers(), "INFO": b""})).url
            async with opened(url) as link:
                for attempt in (link.connect, link.open_reading, lambda: link.listen("bell")):
                    with within(SILENCE, SILENCE), pytest.raises(ConnectionFailed, match=r"answer(ed)? within 0\.5 s") as raised:
                        await attempt()
                    assert not raised.value.maybe_executed
                    assert raised.value.silent
                with within(0.1, 0.1), pytest.raises(ConnectionFailed, match="within the time") as raised, time_limit(0.1):
                    await link.call(("ECHO", "x"))
                assert raised.value.silent


async def test_a_server_that_says_a_little_now_and_then_is_not_silent() -> None:
    def dribble(command: list[bytes]) -> bytes:
        answer = bulk("x" * 5)
        for byte in answer[:-1]:
            server.send(bytes([byte]))
            time.sleep(0.15)
        return answer[-1:]

    with FakeServer({**usual_answers(), "ECHO": dribble}) as server:
        async with opened(server.url, 1.0) as link:
            with within(1.5, 2.5):
                assert await link.call(("ECHO", "x")) == [b"xxxxx"]


async def test_a_process_that_stood_still_does_not_blame_the_server(valkey_server: Server) -> None:
    """The reply came while nobody looked."""
    async with opened(valkey_server.url) as link, anyio.create_task_group() as tasks:
        await link.connect()
        answers: list[object] = []

        async def call() -> None:
            answers.extend(await link.call(("DEBUG", "SLEEP", "0.05"), ("ECHO", "x")))

        tasks.start_soon(call)
        await anyio.sleep(0.02)
        time.sleep(SILENCE + 0.3)
        await until(lambda: answers)
        assert answers == [b"OK", b"x"]


async def test_a_read_may_be_silent_for_as_long_as_it_blocks(proxy: BreakingProxy, namespace: str) -> None:
    async with opened(proxy.url, 1.0) as link:
        reading = await link.open_reading()
        with within(1.2, 1.2):
            assert await reading.read(("BLPOP", namespace, 1.2), 1.2) is None
        proxy.swallow()
        with within(0.3 + 1.0, 0.3 + 1.0), pytest.raises(ConnectionFailed, match="silent") as raised:
            await reading.read(("BLPOP", namespace, 0.3), 0.3)
        assert raised.value.silent
        assert not reading.settled


async def test_what_was_sent_ahead_is_owed(proxy: BreakingProxy) -> None:
    async with opened(proxy.url) as link:
        reading = await link.open_reading()
        proxy.swallow()
        reading.send_ahead(("ECHO", "x"))
        await anyio.sleep(SILENCE + 0.1)
        with within(0.0, 0.0), pytest.raises(ConnectionFailed, match="silent"):
            await reading.reply_ahead()


async def test_who_only_listens_asks_now_and_then(proxy: BreakingProxy, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a silence it connects again and rings, since something may have been missed; a server that answers is left alone."""
    monkeypatch.setattr(line_module, "PING_EVERY", 0.2)
    silence = 1.0
    async with opened(proxy.url, silence) as link:
        bell = await link.listen(namespace)
        with anyio.move_on_after(2 * silence) as quiet:
            await bell.wait()
        assert quiet.cancelled_caught
        proxy.swallow()
        began = time.monotonic()
        with anyio.move_on_after(0.1):
            await bell.wait()
        await anyio.sleep(0.2 + silence + 0.1)  # it is found though nobody waits
        proxy.admit()
        with anyio.fail_after(30):
            await bell.wait()
        assert time.monotonic() - began >= silence
        await link.call(("SPUBLISH", namespace, "x"))
        with anyio.fail_after(30):
            await bell.wait()


async def test_a_server_that_forbids_ping_is_heard_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "PING_EVERY", 0.1)
    confirmed = b">3\r\n$10\r\nssubscribe\r\n$4\r\nbell\r\n:1\r\n"
    forbidden = b"-NOPERM User x has no permissions to run the 'ping' command\r\n"
    with FakeServer({**usual_answers(), "SSUBSCRIBE": confirmed, "PING": forbidden}) as server:
        async with opened(server.url) as link:
            bell = await link.listen("bell")
            async with anyio.create_task_group() as tasks:

                async def hear() -> None:
                    await bell.wait()
                    pytest.fail("it rang")

                tasks.start_soon(hear)
                await until(lambda: server.words().count("PING") >= 3)
                tasks.cancel_scope.cancel()
            assert server.words().count("HELLO") == 1


async def test_a_subscription_that_is_never_confirmed_ends() -> None:
    with FakeServer({**usual_answers(), "SSUBSCRIBE": b""}) as server:
        async with opened(server.url) as link:
            with within(SILENCE, SILENCE), pytest.raises(ConnectionFailed, match="silent"):
                await link.listen("bell")


async def test_it_costs_nothing_per_call(valkey_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One alarm in as many seconds as the connection may be silent, however many calls there are."""
    alarms: list[float] = []
    real = Alarm.set

    def set_alarm(alarm: Alarm, when: float) -> None:
        alarms.append(when)
        real(alarm, when)

    monkeypatch.setattr(Alarm, "set", set_alarm)
    async with opened(valkey_server.url, 60.0) as link:
        for _ in range(300):
            await link.call(("ECHO", "x"))
    assert len(alarms) == 1


def test_it_works_in_one_event_loop_after_another(valkey_server: Server, anyio_backend: Backend) -> None:
    """An alarm that died with its loop is set again in the next, whether the time at which it was to ring has passed or not."""
    name, options = anyio_backend
    proxy = BreakingProxy(valkey_server.port)
    link = Link(parse_address(proxy.url), silence=SILENCE)

    async def once() -> None:
        assert await link.call(("ECHO", "x")) == [b"x"]

    async def silent() -> None:
        with within(SILENCE, SILENCE), pytest.raises(ConnectionFailed, match="silent"), anyio.fail_after(20):
            await link.call(("ECHO", "x"))
        await link.close()

    try:
        for pause in (0.0, SILENCE + 0.05):
            proxy.admit()
            anyio.run(once, backend=name, backend_options=options)
            time.sleep(pause)
            proxy.swallow()
            anyio.run(silent, backend=name, backend_options=options)
    finally:
        proxy.close()
