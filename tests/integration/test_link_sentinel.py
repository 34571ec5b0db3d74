"""A link behind sentinels: which server it uses, when it asks, and what it says if it cannot (C6). The sentinels are played by a fake."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq import Admin
from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed, SettingsError
from redisaq.link import Link, parse_url, sentinel as module
from redisaq.link.address import SentinelAddress
from redisaq.link.sentinel import SentinelLink, Sentinels
from tests.breaking_proxy import BreakingProxy
from tests.link_fake import FakeServer, bulk
from tests.link_tls import Authority, Terminator
from tests.sentinels import PATIENCE, Guarded
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

SECRET = "s3cr3t"  # noqa: S105 -- not one
HELLO = b"%2\r\n" + bulk("server") + bulk("redis") + bulk("mode") + bulk("sentinel")
NEVER = 1e9


class FakeSentinel(FakeServer):
    """A sentinel that names a port as the master's."""

    def __init__(self, port: int, **more: Any) -> None:
        self.named = port
        subscribed = b">3\r\n" + bulk("subscribe") + bulk("+switch-master") + b":1\r\n"
        super().__init__({"HELLO": HELLO, "SUBSCRIBE": subscribed, "SENTINEL": lambda _: self.answer(), **more})

    def answer(self) -> bytes:
        return b"*2\r\n" + bulk("127.0.0.1") + bulk(str(self.named))

    def publish(self, port: int, service: str = "main") -> None:
        """Say that another server has become the master."""
        self.send(b">3\r\n" + bulk("message") + bulk("+switch-master") + bulk(f"{service} 127.0.0.1 {self.named} 127.0.0.1 {port}"))

    def questions(self) -> int:
        """Return how often it was asked who the master is."""
        return sum(command[:2] == [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME"] for command in self.commands)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine make a sentinel late."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", PATIENCE)


@pytest.fixture
def guard(valkey_server: Server) -> Iterator[FakeSentinel]:
    """A sentinel that names the shared Valkey."""
    with FakeSentinel(valkey_server.port) as guard:
        yield guard


def parse(*guards: FakeServer | Server, options: str = "", service: str = "main") -> SentinelAddress:
    address = parse_url(f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in guards)}/{service}{options}")
    assert isinstance(address, SentinelAddress)
    return address


@contextlib.asynccontextmanager
async def opened(*guards: FakeServer | Server, options: str = "") -> AsyncGenerator[SentinelLink]:
    link = SentinelLink(parse(*guards, options=options))
    try:
        yield link
    finally:
        await link.close()


async def run_of(link: Link) -> str:
    """Return the run of the server that answers."""
    (info,) = await link.call(("INFO", "server"))
    assert isinstance(info, bytes)
    return info.decode().partition("run_id:")[2].partition("\r")[0]


def run_id(server: Server) -> str:
    return str(server.command("INFO", "server").decode().partition("run_id:")[2].partition("\r")[0])


async def until_at(link: Link, server: Server) -> None:
    """Call until the answer comes from this server."""
    with anyio.fail_after(30):
        while True:
            with contextlib.suppress(ConnectionFailed):
                if await run_of(link) == run_id(server):
                    return
            await anyio.sleep(0.01)


async def test_it_asks_before_each_connection(guard: FakeSentinel, valkey_server: Server, redis8_server: Server) -> None:
    async with opened(guard) as link:
        assert await run_of(link) == run_id(valkey_server)
        guard.named = redis8_server.port
        reading = await link.open_reading()
        assert reading.run_id == run_id(redis8_server)
        assert await run_of(link) == run_id(redis8_server), "the shared connection stayed at the former master"
        bell = await link.listen("c")
        assert redis8_server.command("SPUBLISH", "c", "x") == 1
        await bell.close()
        await reading.close()


async def test_it_asks_each_second_by_the_way(guard: FakeSentinel, redis8_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY", 0.02)
    async with opened(guard) as link:
        await link.connect()
        guard.named = redis8_server.port
        await until_at(link, redis8_server)


async def test_a_sentinel_that_has_fallen_silent_is_asked_last(
    guard: FakeSentinel, redis8_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question by the way has no more time than one sentinel."""
    monkeypatch.setattr(module, "ASK_EVERY", 0.02)
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.3)
    with FakeSentinel(guard.named) as silent:
        async with opened(silent, guard) as link:
            await link.connect()
            silent.answers["SENTINEL"] = b""
            guard.named = redis8_server.port
            await until_at(link, redis8_server)


async def test_if_no_sentinel_answers_it_asks_less_and_less(guard: FakeSentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = 100.0, list[float]()
    sentinels = Sentinels(parse(guard), lambda: replace(current_environment(), monotonic=lambda: now), None)
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.01)  # from here on: what connects at the end has as long as ever
    guard.answers["SENTINEL"] = b""
    for _ in range(8):
        with pytest.raises(ConnectionFailed):
            await sentinels.ask()
        asked = now
        while not sentinels.due:
            now += 0.5
        waits.append(now - asked)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0, 16.0]
    guard.answers["SENTINEL"] = lambda _: guard.answer()
    monkeypatch.setattr(module, "ANSWER_WITHIN", PATIENCE)
    assert await sentinels.ask() == ("127.0.0.1", guard.named)
    now += 1.0
    assert sentinels.due
    sentinels.close()


async def test_it_does_not_ask_more_often(guard: FakeSentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY", NEVER)
    async with opened(guard) as link:
        for _ in range(20):
            await link.call(("PING",))
    assert guard.questions() == 1


async def test_a_published_switch_counts_at_once(guard: FakeSentinel, redis8_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY", NEVER)
    async with opened(guard) as link:
        await link.connect()
        guard.publish(1, service="another")
        guard.publish(redis8_server.port)
        guard.named = redis8_server.port
        await until_at(link, redis8_server)


async def test_another_master_breaks_readers_and_moves_bells(
    guard: FakeSentinel, valkey_server: Server, redis8_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is called here: a link that only listens asks, too."""
    monkeypatch.setattr(module, "ASK_EVERY", 0.02)
    async with opened(guard) as link:
        bell = await link.listen(namespace)
        assert valkey_server.command("SPUBLISH", namespace, "x") == 1
        await bell.wait()
        reading = await link.open_reading()

        async def read() -> None:
            with pytest.raises(ConnectionFailed, match="another master"):
                await reading.read(("XREAD", "BLOCK", 0, "STREAMS", namespace, "$"), 100)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                tasks.start_soon(bell.wait)  # it rings for what it may have missed
                await anyio.sleep(0.05)
                guard.named = redis8_server.port
        assert redis8_server.command("SPUBLISH", namespace, "x") == 1


async def test_a_silent_master_that_was_replaced_is_left(guard: FakeSentinel, valkey_server: Server, redis8_server: Server) -> None:
    proxy = BreakingProxy(valkey_server.port)
    guard.named = proxy.port
    try:
        async with opened(guard) as link:
            await link.connect()
            proxy.swallow()
            guard.named = redis8_server.port
            with pytest.raises(ConnectionFailed, match="another master") as raised:
                await link.call(("PING",))
            assert raised.value.maybe_executed
            assert raised.value.connections
            assert await run_of(link) == run_id(redis8_server)
    finally:
        proxy.close()


async def test_a_dial_to_a_former_master_is_interrupted(guard: FakeSentinel, valkey_server: Server, redis8_server: Server) -> None:
    with FakeServer({}) as mute, FakeSentinel(mute.port) as first:
        mute.answers = dict.fromkeys(("HELLO", "INFO", "PING", "SELECT", "CLIENT"), b"")
        async with opened(first) as link, anyio.create_task_group() as tasks:

            async def connect() -> None:
                with pytest.raises(ConnectionFailed, match="another master"):
                    await link.connect()

            tasks.start_soon(connect)
            with anyio.fail_after(30):
                while not mute.commands:
                    await anyio.sleep(0.001)
            first.named = redis8_server.port
            await (await link.open_reading()).close()


async def test_a_replica_is_never_used(guarded: Guarded) -> None:
    master, replica = guarded.servers[:2]
    with FakeSentinel(replica.port) as behind, FakeSentinel(master.port) as ahead:
        async with opened(behind, ahead) as link:
            with pytest.raises(ConnectionFailed, match="it is a replica"):
                await link.connect()
            assert await run_of(link) == run_id(master), "the sentinel whose answer was out of date was asked first again"


async def test_a_sentinel_that_does_not_answer_costs_its_time_once(
    guard: FakeSentinel, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 3.0)
    with FakeSentinel(valkey_server.port, SENTINEL=b"") as mute:
        async with opened(mute, guard) as link:
            await link.connect()
            assert (mute.questions(), guard.questions()) == (1, 1)
            await (await link.open_reading()).close()
            assert (mute.questions(), guard.questions()) == (1, 2)


async def refuse(*_: object) -> None:
    raise SettingsError("the CA file cannot be used")


async def test_what_is_connected_stays_in_use_without_sentinels(valkey_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY", 0.02)
    with FakeSentinel(valkey_server.port) as guard:
        link = SentinelLink(parse(guard))
        await link.connect()
        with monkeypatch.context() as patched:  # as for one whose certificate files are gone
            patched.setattr(link._sentinels._dialers[0], "dial", refuse)
            link._sentinels._drop("it is to be dialled again")
            await anyio.sleep(0.03)
            assert await link.call(("PING",)) == [b"PONG"]
    for _ in range(5):
        assert await link.call(("PING",)) == [b"PONG"]
        await anyio.sleep(0.03)
    with pytest.raises(ConnectionFailed, match=r"no sentinel answers .*26379"):
        await link.open_reading()
    await link.close()


async def test_many_ask_one_question(guard: FakeSentinel) -> None:
    async with opened(guard) as link, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(link.connect)
    assert guard.questions() == 1


async def test_if_the_one_who_asks_for_all_is_cancelled_the_next_one_asks(guard: FakeSentinel) -> None:
    answers: list[tuple[str, int]] = []
    async with opened(guard) as link:
        await link.connect()
        guard.answers["SENTINEL"] = b""

        async def ask() -> None:
            answers.append(await link._sentinels.ask())

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as first:
                first.start_soon(ask)
                while guard.questions() < 2:
                    await anyio.sleep(0.001)
                tasks.start_soon(ask)
                await anyio.sleep(0.01)
                guard.named = 7  # another one than was known before
                guard.answers["SENTINEL"] = lambda _: guard.answer()
                first.cancel_scope.cancel()
    assert answers == [("127.0.0.1", 7)]


async def test_it_can_be_used_again_after_it_was_closed(guard: FakeSentinel) -> None:
    async with opened(guard) as link:
        await link.connect()
        await link.close()
        assert await link.call(("PING",)) == [b"PONG"]


async def test_tls_at_sentinels_and_master(guard: FakeSentinel, valkey_server: Server, tmp_path: Path) -> None:
    """The name that a sentinel announces is the one that is verified."""
    authority = Authority(tmp_path)
    with (
        Terminator(guard.port, authority.server_context()) as front,
        Terminator(valkey_server.port, authority.server_context()) as right,
        Terminator(valkey_server.port, authority.server_context("localhost")) as wrong,
    ):
        address = parse_url(f"rediss+sentinel://127.0.0.1:{front.port}/main?ssl_ca_certs={authority.ca_file}")
        assert isinstance(address, SentinelAddress)
        link = SentinelLink(address)
        guard.named = wrong.port
        with pytest.raises(ConnectionFailed, match=r"other than 127\.0\.0\.1: .*sentinel announce-hostnames"):
            await link.connect()
        guard.named = right.port
        assert await run_of(link) == run_id(valkey_server)
        await link.close()


async def test_an_address_that_cannot_be_reached_from_here_is_explained(guard: FakeSentinel) -> None:
    guard.named = 1
    async with opened(guard) as link:
        with pytest.raises(ConnectionFailed, match=r"announced 127\.0\.0\.1:1 .*replica-announce-ip.*announce-hostnames"):
            await link.connect()


@pytest.mark.parametrize(
    ("answers", "words", "permanent"),
    [
        ({"HELLO": b"-NOAUTH HELLO must be called with the client already authenticated\r\n"}, r"\?sentinel_password=", True),
        ({"HELLO": b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"}, "check sentinel_username", True),
        ({"HELLO": b"-DENIED Redis is running in protected mode\r\n"}, "protected mode", True),
        ({"HELLO": b"-ERR max number of clients reached\r\n"}, "max number of clients", False),
        ({"SENTINEL": b"-NOPERM no\r\n"}, "lacks a permission", True),
        ({"HELLO": b"%1\r\n" + bulk("mode") + bulk("standalone")}, "this is no sentinel", True),
        ({"SUBSCRIBE": b"-NOPERM no\r\n", "SENTINEL": b"_\r\n"}, "knows no service 'main', it watches no master", True),
    ],
)
async def test_what_a_sentinel_refuses_is_explained(valkey_server: Server, answers: dict[str, Any], words: str, permanent: bool) -> None:
    with FakeSentinel(valkey_server.port, **answers) as guard:
        async with opened(guard, options=f"?sentinel_username=me&sentinel_password={SECRET}") as link:
            with pytest.raises(ConnectionFailed, match=words) as raised:
                await link.connect()
    assert raised.value.permanent == permanent
    assert SECRET not in str(raised.value)


async def test_an_unknown_service_is_named_with_those_that_are_known(guarded: Guarded) -> None:
    link = SentinelLink(parse(*guarded.sentinels, service="mian"))
    with pytest.raises(ConnectionFailed, match="knows no service 'mian', it knows 'main'") as raised:
        await link.connect()
    assert raised.value.permanent
    await link.close()


async def test_sentinels_have_users_of_their_own(guarded: Guarded) -> None:
    for one in guarded.sentinels:
        one.command("ACL", "SETUSER", "quiet", "on", f">{SECRET}", "+hello", "+auth", "+client|setname", "+sentinel")  # not subscribe
        one.command("ACL", "SETUSER", "guest", "on", f">{SECRET}", "+@all", "&*")
    for name in ("quiet", "guest"):
        async with opened(*guarded.sentinels, options=f"?sentinel_username={name}&sentinel_password={SECRET}") as link:
            assert await run_of(link) == run_id(guarded.servers[0])
    async with opened(*guarded.sentinels, options=f"?sentinel_username=quiet&sentinel_password=0{SECRET}") as link:
        with pytest.raises(ConnectionFailed, match="wrong user name or password for the sentinel"):
            await link.connect()


async def test_doctor_asks_the_sentinels(guarded: Guarded, namespace: str) -> None:
    async with Admin(guarded.url, namespace=namespace) as admin:
        found = {one.about: one for one in await admin.diagnose()}
    assert found["sentinels"].text.startswith("3 sentinel(s)")
    assert found["failover"].text == "takes about 2 s (down-after-milliseconds 1 s)"


async def test_a_question_ends_when_the_link_is_closed(guard: FakeSentinel, valkey_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other sentinel is asked, and the call makes no connection afterwards."""
    monkeypatch.setattr(module, "ASK_EVERY", -1.0)
    with FakeSentinel(valkey_server.port) as other:
        async with opened(guard, other) as link:
            await link.connect()
            guard.answers["SENTINEL"] = b""
            asked = guard.questions()

            async def call() -> None:
                with pytest.raises(ConnectionFailed, match="closed"):
                    await link.call(("PING",))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                with anyio.fail_after(30):
                    while guard.questions() == asked:
                        await anyio.sleep(0.005)
                await link.close()
            assert not link.connected
            assert not other.commands


async def test_a_sentinel_that_repeats_the_password_is_not_quoted() -> None:
    said = f"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' '{SECRET}'\r\n".encode()
    with FakeSentinel(1, HELLO=said) as guard:
        async with opened(guard, options=f"?sentinel_password={SECRET}") as link:
            with pytest.raises(ConnectionFailed, match="does not know HELLO") as caught:
                await link.connect()
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert caught.value.permanent


async def test_a_sentinel_that_cannot_be_reached_says_what_to_check(guard: FakeSentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.1)
    guard.answers["HELLO"] = b""
    async with opened(guard) as link:
        with pytest.raises(ConnectionFailed, match="check host, port and firewall"):
            await link.connect()
