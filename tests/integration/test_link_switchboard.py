"""Many bells on one subscribed connection: each hears its own channel, whichever of the waiting tasks listens to the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anyio
import pytest

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link import Bell, Link, parse_address, switchboard
from tests.conftest import Backend
from tests.link_chance import Longest
from tests.link_fake import FakeServer, usual_answers
from tests.link_opened import opened
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


def confirm(command: list[bytes]) -> bytes:
    """Return what a server says when it has subscribed a connection to a channel."""
    return b">3\r\n+ssubscribe\r\n+%s\r\n:1\r\n" % command[1]


async def quiet(bell: Bell) -> bool:
    """Return True if it does not ring: what was published before this call has long arrived."""
    with anyio.move_on_after(0.02):
        await bell.wait()
        return False
    return True


async def publish(link: Link, channel: str) -> None:
    """Publish something that one connection hears."""
    assert await link.call(("SPUBLISH", channel, "x")) == [1]


def listeners(server: Server, channel: str) -> int:
    """Return how many connections listen to the channel."""
    return int(server.command("PUBSUB", "SHARDNUMSUB", channel)[1])


async def test_each_hears_its_own(server: Server, channel: str) -> None:
    async with opened(server.url) as link:
        bells = [await link.listen(f"{channel}:{number}") for number in range(3)]
        with anyio.fail_after(HANG_SECONDS):
            for bell in bells:
                assert await quiet(bell), "the first subscription is no ring"
            for number in (1, 0, 2):
                await publish(link, f"{channel}:{number}")
                await bells[number].wait()
                assert [await quiet(bell) for bell in bells] == [True] * 3


async def test_a_bell_of_several_channels_hears_each(server: Server, channel: str) -> None:
    async with opened(server.url) as link:
        own = await link.listen(channel)
        both = await link.listen(channel, f"{channel}:2")
        with anyio.fail_after(HANG_SECONDS):
            assert await quiet(both), "the first subscription is no ring"
            await publish(link, channel)
            await own.wait()
            await both.wait()
            await publish(link, f"{channel}:2")
            await both.wait()
            assert await quiet(own)
        await both.close()
        assert await quiet(own)
        assert (listeners(server, channel), listeners(server, f"{channel}:2")) == (1, 0), "what another listens to stays"


async def test_a_bell_of_several_channels_is_refused_as_a_whole(server: Server, channel: str) -> None:
    server.command("ACL", "SETUSER", "half", "on", "nopass", "~*", "resetchannels", f"&{channel}", "+@all")
    async with opened(f"redis://half:x@127.0.0.1:{server.port}") as link:
        own = await link.listen(channel)
        for channels in ((channel, f"{channel}:2"), (f"{channel}:2", f"{channel}:3")):
            with pytest.raises(ServerError, match="NOPERM"):
                await link.listen(*channels)
        assert server.command("SPUBLISH", channel, "x") == 1
        with anyio.fail_after(HANG_SECONDS):
            await own.wait()
    server.command("ACL", "DELUSER", "half")


async def test_a_bell_half_of_which_is_confirmed_when_the_connection_breaks_waits_for_the_other_half() -> None:
    with FakeServer(usual_answers() | {"SSUBSCRIBE": lambda command: confirm(command) if command[1] != b"second" else b""}) as fake:
        async with opened(fake.url) as link:
            own = await link.listen("first")
            listening = anyio.Event()

            async def listen() -> None:
                await link.listen("first", "second")
                listening.set()

            with anyio.fail_after(HANG_SECONDS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(listen)
                    while fake.words().count("SSUBSCRIBE") < 2:
                        await anyio.sleep(0.001)
                    fake.drop()
                    await own.wait()
                    assert not listening.is_set()
                    fake.send(confirm([b"SSUBSCRIBE", b"second"]))
                    await listening.wait()


async def test_messages_that_came_together_ring_once(valkey_server: Server, channel: str) -> None:
    async with opened(valkey_server.url) as link:
        bell = await link.listen(channel)
        await link.call(*[("SPUBLISH", channel, number) for number in range(100)])
        rings = 0
        with anyio.fail_after(HANG_SECONDS):
            while not await quiet(bell):
                rings += 1
        assert 1 <= rings <= 50


async def test_a_back_off_outlives_cancelled_waits(proxy: Proxy, channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits with short deadlines does not dial more often for it."""
    monkeypatch.setattr(switchboard, "BASE", 1000.0)
    monkeypatch.setattr(switchboard, "CAP", 1000.0)
    link = Link(parse_address(proxy.url), Environment(random=Longest()))
    try:
        bell = await link.listen(channel)
        proxy.refuse()
        assert await quiet(bell)
        proxy.admit()
        for _ in range(5):
            with anyio.move_on_after(0.01):
                await bell.wait()
        assert proxy.accepted == 1
    finally:
        await link.close()


async def test_all_may_wait_at_once(server: Server, channel: str) -> None:
    """It does not matter which task listens to the socket: the first to wake may leave, and another goes on."""
    heard: list[int] = []
    async with opened(server.url) as link:
        bells = [await link.listen(f"{channel}:{number}") for number in range(20)]

        async def wait(number: int) -> None:
            await bells[number].wait()
            heard.append(number)

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(wait, number)
                await anyio.wait_all_tasks_blocked()
                for number in range(20):
                    await publish(link, f"{channel}:{number}")
                    while number not in heard:
                        await anyio.sleep(0.001)
    assert heard == list(range(20)), "the first was the one that listened to the socket"


async def test_one_connection_for_all(proxy: Proxy, channel: str) -> None:
    async with opened(proxy.url) as link:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(link.listen, f"{channel}:{number}")
        assert proxy.accepted == 1
        again = await link.listen(f"{channel}:1")
        await publish(link, f"{channel}:1")
        with anyio.fail_after(HANG_SECONDS):
            await again.wait()
        assert proxy.accepted == 2, "the other one is shared, for commands"


async def test_channels_are_taken_and_dropped(valkey_server: Server, channel: str) -> None:
    async with opened(valkey_server.url) as link:
        one, same, other = [await link.listen(name) for name in (channel, channel, f"{channel}:2")]
        assert listeners(valkey_server, channel) == 1
        await one.close()
        await one.close()
        with anyio.fail_after(HANG_SECONDS):
            await publish(link, channel)
            await same.wait()
            await same.close()
            while listeners(valkey_server, channel):
                await anyio.sleep(0.001)
            await publish(link, f"{channel}:2")
            await other.wait()
            again = await link.listen(channel)
            await publish(link, channel)
            await again.wait()
            assert await quiet(other)
            assert await quiet(again)
            await again.close()
            await other.close()
            while listeners(valkey_server, f"{channel}:2"):
                await anyio.sleep(0.001)


async def test_closed_and_taken_again_at_once(valkey_server: Server, channel: str) -> None:
    async with opened(valkey_server.url) as link:
        keeper = await link.listen(f"{channel}:2")
        bell = await link.listen(channel)
        with anyio.fail_after(HANG_SECONDS):
            for _ in range(20):
                await bell.close()
                bell = await link.listen(channel)
                await publish(link, channel)
                await bell.wait()
                assert listeners(valkey_server, channel) == 1
        assert await quiet(keeper)


async def test_everybody_hears_of_a_gap(proxy: Proxy, channel: str) -> None:
    async with opened(proxy.url) as link:
        bells = [await link.listen(f"{channel}:{number}") for number in range(5)]
        for _ in range(3):
            proxy.cut()
            with anyio.fail_after(HANG_SECONDS):
                for bell in bells:
                    await bell.wait()
                await publish(link, f"{channel}:3")
                await bells[3].wait()
                assert [await quiet(bell) for bell in bells] == [True] * 5


async def test_it_waits_until_the_server_is_back(proxy: Proxy, channel: str) -> None:
    async with opened(proxy.url) as link:
        bell = await link.listen(channel)
        proxy.refuse()
        assert await quiet(bell)
        with pytest.raises(ConnectionFailed, match="refused"):
            await link.listen(f"{channel}:2")
        proxy.admit()
        with anyio.fail_after(HANG_SECONDS):
            await bell.wait()
            await publish(link, channel)
            await bell.wait()


async def test_nobody_listens_at_the_first_attempt(proxy: Proxy, channel: str) -> None:
    proxy.refuse()
    async with opened(proxy.url) as link:
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match="refused"):
                await link.listen(channel)
        proxy.admit()
        await link.listen(channel)


async def test_a_refused_channel_harms_no_other(server: Server, channel: str) -> None:
    server.command("ACL", "SETUSER", "hard", "on", "nopass", "~*", "resetchannels", f"&{channel}", "+@all")
    async with opened(f"redis://hard:x@127.0.0.1:{server.port}") as link:
        with pytest.raises(ServerError, match="NOPERM"):
            await link.listen(f"{channel}:2")
        bell = await link.listen(channel)
        with pytest.raises(ServerError, match="NOPERM"):
            await link.listen(f"{channel}:2")
        assert server.command("SPUBLISH", channel, "x") == 1
        with anyio.fail_after(HANG_SECONDS):
            await bell.wait()
        assert await quiet(bell)
    server.command("ACL", "DELUSER", "hard")


async def test_an_unasked_unsubscription_is_answered_and_rings() -> None:
    """A slot that moves away, or a permission that is withdrawn, unsubscribes us."""
    with FakeServer(usual_answers() | {"SSUBSCRIBE": confirm}) as fake:
        async with opened(fake.url) as link:
            first, second = await link.listen("first"), await link.listen("second")
            fake.send(b">3\r\n+sunsubscribe\r\n+first\r\n:0\r\n")
            with anyio.fail_after(HANG_SECONDS):
                await first.wait()
            assert await quiet(second)
            assert (fake.words().count("SSUBSCRIBE"), fake.words().count("HELLO")) == (3, 1)
            fake.answers["SSUBSCRIBE"] = b"-MOVED 1 127.0.0.1:1\r\n"
            fake.send(b">3\r\n+sunsubscribe\r\n+first\r\n:0\r\n")
            with anyio.fail_after(HANG_SECONDS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(first.wait)
                    tasks.start_soon(second.wait)
                    while fake.words().count("HELLO") < 3:  # refused: it begins again on new connections, with back-off
                        await anyio.sleep(0.001)
                    fake.answers["SSUBSCRIBE"] = confirm


async def test_who_joins_a_channel_that_the_server_has_ended_waits_until_it_is_confirmed_again() -> None:
    """Else it would believe that it listens, and hear nothing."""
    with FakeServer(usual_answers() | {"SSUBSCRIBE": confirm}) as fake:
        async with opened(fake.url) as link:
            first, other = await link.listen("first"), await link.listen("other")
            fake.answers["SSUBSCRIBE"] = lambda _: b""
            fake.send(b">3\r\n+sunsubscribe\r\n+first\r\n:0\r\n")
            listening = anyio.Event()

            async def join() -> None:
                await link.listen("first")
                listening.set()

            with anyio.fail_after(HANG_SECONDS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(other.wait)
                    while fake.words().count("SSUBSCRIBE") < 3:
                        await anyio.sleep(0.001)
                    tasks.start_soon(join)
                    await anyio.sleep(0.02)
                    assert not listening.is_set()
                    fake.send(confirm([b"", b"first"]))
                    await listening.wait()
                    await first.wait()
                    tasks.cancel_scope.cancel()


async def ending(bell: Bell) -> str:
    """Wait; return how that ended."""
    try:
        await bell.wait()
    except ConnectionFailed as error:
        return "closed" if "closed" in str(error) else str(error)
    return "rang"


@pytest.mark.parametrize("whose", ["driver", "other"])
@pytest.mark.parametrize("broken", [False, True], ids=["up", "broken"])
async def test_closed_under_a_wait(proxy: Proxy, channel: str, whose: str, broken: bool) -> None:
    """One that is closed hears it; one that is not goes on listening, though the one that listened to the socket for all has left."""
    names = ["driver", "other", "third"]
    endings: dict[str, str] = {}
    async with opened(proxy.url) as link:
        bells = {name: await link.listen(f"{channel}:{name}") for name in names}
        if broken:
            proxy.refuse()

        async def wait(name: str) -> None:
            endings[name] = await ending(bells[name])

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(wait, name)
                    await anyio.wait_all_tasks_blocked()
                await bells[whose].close()
                while not endings:
                    await anyio.sleep(0.001)
                assert endings == {whose: "closed"}
                if broken:
                    proxy.admit()  # connecting again rings
                else:
                    for name in names:
                        await link.call(("SPUBLISH", f"{channel}:{name}", "x"))
        assert endings == dict.fromkeys(names, "rang") | {whose: "closed"}
        assert await ending(bells[whose]) == "closed"


@pytest.mark.parametrize("broken", [False, True], ids=["up", "broken"])
async def test_closing_the_link_ends_all_waits(proxy: Proxy, channel: str, broken: bool) -> None:
    endings: list[str] = []
    async with opened(proxy.url) as link:
        bells = [await link.listen(f"{channel}:{number}") for number in range(3)]
        if broken:
            proxy.refuse()

        async def wait(bell: Bell) -> None:
            endings.append(await ending(bell))

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for bell in bells:
                    tasks.start_soon(wait, bell)
                await anyio.wait_all_tasks_blocked()
                await link.close()
    assert endings == ["closed"] * 3


async def test_a_link_that_was_closed_listens_again(valkey_server: Server, channel: str) -> None:
    async with opened(valkey_server.url) as link:
        old = await link.listen(channel)
        await link.close()
        new = await link.listen(channel)
        await publish(link, channel)
        with anyio.fail_after(HANG_SECONDS):
            await new.wait()
        with pytest.raises(ConnectionFailed, match="closed"):
            await old.wait()
        await old.close()
        await publish(link, channel)
        with anyio.fail_after(HANG_SECONDS):
            await new.wait()


async def cancelled_wait(bell: Bell, step: int, steps: Steps, *, native: bool) -> bool:
    """Wait, cancelled at the await number `step`; return True if it rang before."""
    task = asyncio.current_task() if native else None
    with anyio.CancelScope() as scope:
        try:
            await cancel_at(bell.wait(), step, task.cancel if task else scope.cancel, steps)
        except asyncio.CancelledError:
            if task is None:
                raise
            task.uncancel()
        else:
            return True
    return False


@pytest.mark.parametrize("native", [False, True], ids=["scoped", "native"])
@pytest.mark.parametrize(("broken", "company"), [(False, False), (False, True), (True, False), (True, True)])
async def test_no_ring_is_lost_to_a_cancellation(
    proxy: Proxy, channel: str, anyio_backend: Backend, *, broken: bool, company: bool, native: bool
) -> None:
    """Cancelled at every await, during reconnection too: a message published before or after still rings, for every bell."""
    if native and anyio_backend[0] != "asyncio":
        pytest.skip("trio knows scopes only")
    async with opened(proxy.url) as link:
        bell, other = await link.listen(channel), await link.listen(f"{channel}:2")
        step, reached = 0, True
        while reached:
            steps, rung = Steps(), False

            async def run(step: int = step, steps: Steps = steps) -> None:
                nonlocal rung
                rung = await cancelled_wait(bell, step, steps, native=native)

            with anyio.fail_after(HANG_SECONDS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(run)
                    if company:
                        tasks.start_soon(other.wait)
                    await break_or_publish(proxy, link, channel, broken=broken)
                reached = steps.count > step
                assert reached or rung
                for one in ([] if rung else [bell]) + ([] if company else [other]):
                    await one.wait()
                for one in (bell, other):
                    while not await quiet(one):
                        pass
            step += 1
        assert step >= 2


async def break_or_publish(proxy: Proxy, link: Link, channel: str, *, broken: bool) -> None:
    """Cut all connections, or publish to both bells of a test."""
    if broken:
        proxy.cut()
    else:
        await publish(link, channel)
        await publish(link, f"{channel}:2")
