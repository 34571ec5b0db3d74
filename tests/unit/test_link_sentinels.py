"""Scripted sentinels: whom a link asks and when, what it makes of the answers, and when it follows another master (C6). In virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from redisaq.environment import current_environment, time_limit
from redisaq.errors import ConnectionFailed
from redisaq.link import parse_address, parse_url
from redisaq.link.address import SentinelAddress
from redisaq.link.line import Line
from redisaq.link.sentinel import SentinelLink, Sentinels, greet_sentinel
from redisaq.link.wire import Wire
from redisaq.testing import virtual_run
from tests.link_fake import bulk
from tests.link_script import Answering, ScriptedDialer, ScriptedWire

SUBSCRIBED = b">3\r\n" + bulk("subscribe") + bulk("+switch-master") + b":1\r\n"
QUESTION = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"main"]
PING = b"*1\r\n$4\r\nPING\r\n"
SUBSCRIPTION = [b"SUBSCRIBE", b"+switch-master"]


def named(port: int) -> bytes:
    return b"*2\r\n" + bulk("10.0.0.1") + bulk(str(port))


def published(port: int, service: str = "main") -> bytes:
    return b">3\r\n" + bulk("message") + bulk("+switch-master") + bulk(f"{service} 10.0.0.1 1 10.0.0.1 {port}")


def address_of(count: int, options: str = "") -> SentinelAddress:
    address = parse_url(f"redis+sentinel://{','.join(f's{number}' for number in range(count))}/main{options}")
    assert isinstance(address, SentinelAddress)
    return address


class Guard(ScriptedDialer):
    """A sentinel.

    Attributes:
        named: what it answers to the question who the master is.
    """

    def __init__(self, number: int) -> None:
        super().__init__(self._answers, f"redis://s{number}:26379")
        self.named = named(1)

    def _answers(self, command: list[bytes]) -> bytes:
        return {b"SUBSCRIBE": SUBSCRIBED, b"SENTINEL": self.named}[command[0]]

    @property
    def asked(self) -> int:
        """How often it was asked."""
        return self.commands.count(QUESTION)


def guarded(count: int) -> tuple[Sentinels, list[Guard]]:
    sentinels = Sentinels(address_of(count), current_environment, None)
    guards = [Guard(number) for number in range(count)]
    sentinels._dialers = [guard() for guard in guards]
    return sentinels, guards


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    virtual_run(story, backend="trio")


async def failure(sentinels: Sentinels) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as failed:
        await sentinels.ask()
    return failed.value


def test_one_connection_serves_all_questions_and_subscribes_once() -> None:
    async def story() -> None:
        sentinels, (first, second) = guarded(2)
        for port in (1, 2, 3):
            first.named = named(port)
            assert await sentinels.ask() == ("10.0.0.1", port)
        assert first.commands == [SUBSCRIPTION, QUESTION, QUESTION, QUESTION]
        assert (len(first.dials), len(second.dials)) == (1, 0)

    play(story)


def test_each_silent_sentinel_costs_a_second_and_the_error_names_all() -> None:
    async def story() -> None:
        sentinels, guards = guarded(3)
        for guard in guards:
            guard.named = b""
        error = await failure(sentinels)
        assert anyio.current_time() == 3.0
        assert [guard.dials for guard in guards] == [[0.0], [1.0], [2.0]]
        assert (error.silent, error.permanent) == (True, False)
        said = "; ".join(f"{guard.display}: no answer within 1 s" for guard in guards)
        assert error.reason.startswith(f"no sentinel answers ({said}): check hosts and ports")
        assert all(wire.closed for guard in guards for wire in guard.wires)

    play(story)


def unreached(guard: Guard) -> None:
    guard.error = ConnectionFailed(guard.display, "cannot connect")


def refusing(guard: Guard) -> None:
    guard.error = ConnectionFailed(guard.display, "wrong password", permanent=True)


@pytest.mark.parametrize(
    ("how", "known", "expected"),
    [
        ([refusing, refusing], False, ("wrong password", True)),
        ([refusing, refusing], True, ("wrong password", False)),
        ([refusing, unreached], False, ("wrong password", False)),
        ([unreached, refusing], False, ("wrong password", False)),
    ],
)
def test_only_if_every_sentinel_refuses_for_good_it_is_of_no_use_to_ask_again(
    how: Sequence[Callable[[Guard], None]], known: bool, expected: tuple[str, bool]
) -> None:
    """And not of a service that was known: they may learn of it again."""

    async def story() -> None:
        sentinels, guards = guarded(2)
        if known:
            await sentinels.ask()
            sentinels._drop("it is to be dialled again")
        for spoil, guard in zip(how, guards, strict=True):
            spoil(guard)
        error = await failure(sentinels)
        assert (error.reason, error.permanent, error.silent) == (*expected, False)

    play(story)


def test_questions_in_vain_become_rare_and_an_answer_makes_them_frequent_again() -> None:
    async def story() -> None:
        sentinels, (guard,) = guarded(1)
        waits: list[float] = []
        for answer in (b"", b"", named(1), *[b""] * 7):
            guard.named = answer
            asked = anyio.current_time()
            if answer:
                await sentinels.ask()
            else:
                await failure(sentinels)
            while not sentinels.due:
                await anyio.sleep(0.5)
            waits.append(anyio.current_time() - asked)
        assert waits == [1.0, 2.0, 1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]

    play(story)


@pytest.mark.parametrize(("after", "asked"), [(0.4, (2, 0)), (0.5, (1, 1)), (0.7, (1, 1))])
def test_a_sentinel_that_kept_a_cancelled_question_waiting_for_half_a_second_is_asked_last(after: float, asked: tuple[int, int]) -> None:
    async def story() -> None:
        sentinels, (first, second) = guarded(2)
        first.named = b""
        with anyio.move_on_after(after):
            await sentinels.ask()
        first.named = named(2)
        assert await sentinels.ask() == ("10.0.0.1", 2 if asked[0] == 2 else 1)
        assert (first.asked, second.asked) == asked

    play(story)


def test_what_is_published_before_the_answer_is_not_the_answer() -> None:
    """But it counts if none comes."""

    async def story() -> None:
        sentinels, (guard,) = guarded(1)
        guard.named = published(9) + named(1)
        assert await sentinels.ask() == ("10.0.0.1", 1)
        guard.named = published(5, service="another") + published(9)
        await failure(sentinels)
        assert sentinels.master == ("10.0.0.1", 9)

    play(story)


def test_the_answer_to_a_cancelled_question_is_not_that_to_the_next() -> None:
    async def story() -> None:
        sentinels, (guard,) = guarded(1)
        guard.named = b""
        with anyio.move_on_after(0.1):
            await sentinels.ask()
        (wire,) = guard.wires
        assert wire.closed
        wire.say(named(8))
        guard.named = named(2)
        assert await sentinels.ask() == ("10.0.0.1", 2)

    play(story)


def test_a_sentinel_that_closed_its_connection_is_asked_over_another_one() -> None:
    """It has been restarted, say; what it said before it closed counts."""

    async def story() -> None:
        sentinels, (first, second) = guarded(2)
        await sentinels.ask()
        assert not sentinels.due
        first.wires[0].say(published(5))
        first.wires[0].hang_up()
        sentinels.hear()
        assert sentinels.master == ("10.0.0.1", 5)
        sentinels.hear()
        assert first.wires[0].closed
        assert sentinels.due
        await sentinels.ask()
        assert (len(first.dials), len(second.dials)) == (2, 0)

    play(story)


def test_an_answer_that_was_out_of_date_is_asked_for_elsewhere_at_once() -> None:
    async def story() -> None:
        sentinels, (first, second, third) = guarded(3)
        await sentinels.ask()
        sentinels.distrust()
        assert sentinels.due
        assert first.wires[0].closed
        await sentinels.ask()
        assert [len(guard.dials) for guard in (first, second, third)] == [1, 1, 0]

    play(story)


def test_closing_ends_what_is_under_way_and_leaves_no_connection() -> None:
    async def story() -> None:
        sentinels, guards = guarded(2)
        await sentinels.ask()
        assert not sentinels.due
        sentinels.close()
        assert guards[0].wires[0].closed
        assert sentinels.due
        assert [guard.ended for guard in guards] == [["the link was closed"]] * 2

    play(story)


def test_doctor_hears_of_the_first_sentinel_what_it_says_within_a_second() -> None:
    async def story() -> None:
        sentinels, (first, second) = guarded(2)
        first.named = b"%2\r\n" + bulk("name") + bulk("main") + bulk("num-other-sentinels") + bulk("2")
        assert await sentinels.describe() == {"name": "main", "num-other-sentinels": "2"}
        assert first.commands == [[b"SENTINEL", b"MASTER", b"main"]]
        first.named = b""
        began = anyio.current_time()
        assert await sentinels.describe() == {}
        assert anyio.current_time() == began + 1.0
        first.named = b"-NOPERM no\r\n"
        assert await sentinels.describe() == {}
        assert all(wire.closed for wire in first.wires)
        assert not second.dials

    play(story)


@pytest.mark.parametrize(
    ("answer", "masters", "reason", "permanent"),
    [
        (b"_\r\n", b"*2\r\n%1\r\n" + bulk("name") + bulk("b") + b"%1\r\n" + bulk("name") + bulk("a"), "it knows 'a', 'b'", True),
        (b"_\r\n", b"*0\r\n", "it watches no master", True),
        (b"-NOPERM no\r\n", b"", "the sentinel's user lacks a permission (NOPERM no)", True),
        (b"-ERR busy\r\n", b"", "the sentinel refused the connection (ERR busy)", False),
    ],
)
def test_a_sentinel_that_names_no_master_says_why(answer: bytes, masters: bytes, reason: str, permanent: bool) -> None:
    async def story() -> None:
        sentinels, (guard,) = guarded(1)
        guard.answer = lambda command: SUBSCRIBED if command == SUBSCRIPTION else masters if command[1:] == [b"MASTERS"] else answer
        error = await failure(sentinels)
        assert reason in error.reason
        assert error.permanent is permanent

    play(story)


# -- log-in ---------------------------------------------------------------------------------------------------------------------------


async def greeted(answer: Answering, user: str) -> list[list[bytes]]:
    wire = ScriptedWire(answer)
    address = parse_address(f"redis://{user}s1:26379")
    await greet_sentinel(Line(cast("Wire", wire), address.display), address, "me")
    return wire.commands


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("", []),
        (":secret@", [b"AUTH", b"default", b"secret"]),
        ("guest:secret@", [b"AUTH", b"guest", b"secret"]),
    ],
)
def test_it_logs_in_at_a_sentinel(user: str, words: list[bytes]) -> None:
    async def story() -> None:
        said = await greeted(lambda _: b"%1\r\n" + bulk("mode") + bulk("sentinel"), user)
        assert said == [[b"HELLO", b"3", *words, b"SETNAME", b"me"]]

    play(story)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"-NOPROTO unsupported protocol version\r\n", "does not know HELLO 3"),
        (b"-ERR unknown command 'HELLO'\r\n", "does not know HELLO 3"),
        (b"+OK\r\n", "this is no sentinel"),
        (b"%1\r\n" + bulk("mode") + bulk("standalone"), "this is no sentinel"),
        (b"-NOPERM no\r\n", r"lacks a permission \(NOPERM no\)"),
    ],
)
def test_what_is_no_sentinel_or_refuses_us_will_not_change(answer: bytes, words: str) -> None:
    async def story() -> None:
        with pytest.raises(ConnectionFailed, match=words) as refused:
            await greeted(lambda _: answer, "")
        assert refused.value.permanent

    play(story)


# -- the link -------------------------------------------------------------------------------------------------------------------------


class Master(ScriptedDialer):
    """What the link dials: whichever server the sentinels name.

    Attributes:
        at: where each connection went.
    """

    def __init__(self, link: SentinelLink) -> None:
        super().__init__(lambda _: b"+PONG\r\n", "redis://master")
        self.at: list[str] = []
        self._link = link

    async def dial(self, environment: Any, first: object = None) -> Any:
        address = await self._link._reach()
        self.at.append(f"{address.host}:{address.port}")
        return await super().dial(environment, first)


class Scene:
    """A link, its sentinels, and the servers that they name."""

    def __init__(self, tasks: anyio.abc.TaskGroup, count: int) -> None:
        self.tasks = tasks
        environment = replace(current_environment(), timers=lambda: self.later)
        self.link = SentinelLink(address_of(count), environment)
        self.guards = [Guard(number) for number in range(count)]
        self.link._sentinels._dialers = [guard() for guard in self.guards]
        self.master = Master(self.link)
        self.link._dialer = self.link._switchboard._dialer = self.master()

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        async def wait() -> None:
            await anyio.sleep(seconds)
            function()

        self.tasks.start_soon(wait)

    async def ping(self) -> None:
        assert await self.link.call(("PING",)) == [b"PONG"]


def with_link(story: Callable[[Scene], Coroutine[Any, Any, None]], count: int = 1) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await story(Scene(tasks, count))
            tasks.cancel_scope.cancel()

    virtual_run(main, backend="trio")


def test_the_call_that_asks_goes_to_the_master_that_it_hears_of() -> None:
    """The first one after a second; the former master's connection is closed, with words that name the new one."""

    async def story(scene: Scene) -> None:
        await scene.ping()
        scene.guards[0].named = named(2)
        await anyio.sleep(0.9)
        await scene.ping()
        assert scene.master.at == ["10.0.0.1:1"]
        former = scene.link._connector.current
        assert former is not None
        await anyio.sleep(0.1)
        await scene.ping()
        assert scene.master.at == ["10.0.0.1:1", "10.0.0.1:2"]
        assert former.broken == "the sentinels have another master, 10.0.0.1:2"
        assert scene.master.ended == [former.broken]
        assert scene.guards[0].asked == 3, "before each of two connections, and once by the way"

    with_link(story)


def test_a_sentinel_that_is_silent_holds_a_call_up_for_a_second_at_most() -> None:
    """Or for as long as the call has."""

    async def story(scene: Scene) -> None:
        await scene.ping()
        for guard in scene.guards:
            guard.named = b""
        await anyio.sleep(5.0)
        await scene.ping()
        assert anyio.current_time() == 6.0
        await anyio.sleep(5.0)
        with time_limit(0.25), pytest.raises(ConnectionFailed):
            await scene.ping()
        assert anyio.current_time() == 11.25

    with_link(story, count=2)


def test_a_link_that_only_listens_asks_each_second_and_hears_what_is_published_meanwhile() -> None:
    async def story(scene: Scene) -> None:
        (guard,) = scene.guards
        await scene.ping()
        scene.tasks.start_soon(scene.link._keep_asking)
        await anyio.sleep(3.5)
        assert guard.asked == 4
        assert scene.link._at == ("10.0.0.1", 1)
        await anyio.sleep(0.4)
        await scene.link._sentinels.ask()  # by the way of a call, say: so that it is not due at 4 s
        guard.wires[0].say(published(2))
        await anyio.sleep(0.2)
        assert guard.asked == 5
        assert scene.link._at == ("10.0.0.1", 2)
        guard.named = named(3)
        await anyio.sleep(1.0)
        assert guard.asked == 6
        assert scene.link._at == ("10.0.0.1", 3)

    with_link(story)


@pytest.mark.parametrize("in_order", [False, True])
def test_what_was_held_up_by_a_question_passes_no_call_that_broke_meanwhile(in_order: bool) -> None:
    """E4; what has no order to keep is sent over the next connection."""

    async def story(scene: Scene) -> None:
        await scene.ping()
        scene.master.answer = lambda command: b"" if command == [b"GET", b"k"] else b"+PONG\r\n"
        broken: list[bool] = []

        async def call() -> None:
            with pytest.raises(ConnectionFailed) as failed:
                await scene.link.call(("GET", "k"))
            broken.append(failed.value.maybe_executed)

        def answer() -> None:
            guard.named = named(1)
            guard.wires[-1].say(guard.named)

        scene.tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        (guard,) = scene.guards
        guard.named = b""
        scene.link._sentinels._asked = -math.inf  # so that the next call asks
        scene.later(0.25, lambda: scene.link.give_up("cut"))
        scene.later(0.5, answer)
        if in_order:
            with pytest.raises(ConnectionFailed, match="nothing was sent") as refused:
                await scene.link.call_packed(PING, 1, in_order=True)
            assert not refused.value.maybe_executed
        else:
            assert await scene.link.call_packed(PING, 1) == [b"PONG"]
        assert broken == [True]

    with_link(story)
