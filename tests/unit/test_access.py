"""The way to a broker: with which settings it is opened, who closes it, who may use it, and what a fork leaves of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq import environment
from redisaq.brokers import access
from redisaq.brokers.access import DEFAULT_URL, URL_VARIABLE, Access, Shared
from redisaq.errors import ConnectionFailed, SettingsError, WrongThreadError

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

URL = "redis://here"


class Opened:
    """A broker that was opened."""

    def __init__(self, url: str, settings: dict[str, Any]) -> None:
        self.url = url
        self.settings = settings
        self.closed = 0

    async def close(self) -> None:
        await checkpoint()
        self.closed += 1


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All brokers that are opened, in order."""
    brokers: list[Any] = []

    def open_broker(url: str, **settings: Any) -> Opened:
        if not url.startswith("redis://"):
            raise SettingsError("the URL cannot work")
        brokers.append(broker := Opened(url, settings))
        return broker

    monkeypatch.setattr(access, "open_broker", open_broker)
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    return brokers


def shown(broker: Any) -> tuple[Any, ...]:
    return broker.url, *(broker.settings[name] for name in ("namespace", "client", "silence", "time", "confirmed"))


# -- opening and closing ----------------------------------------------------------------------------------------------------------------


async def test_with_a_url_it_is_opened_at_once_and_stays(opened: list[Any]) -> None:
    way = Access(URL, "ns", user="Producer", client="mara", silence=7.0, time=5.0)
    assert [shown(one) for one in opened] == [(URL, "ns", "mara", 7.0, 5.0, False)]
    assert way.broker is opened[0] is way.broker
    assert way.confirmed is opened[1] is way.confirmed
    assert shown(opened[1]) == (URL, "ns", "mara", 7.0, 5.0, True)
    await way.close()
    assert [one.closed for one in opened] == [1, 1]
    assert (way.broker, way.confirmed) == (opened[0], opened[1]), "they connect again by themselves"


async def test_without_a_url_the_variable_is_read_at_each_opening(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    way = Access(None, "ns", user="Producer")
    assert opened == []
    assert way.broker is way.broker is opened[0]
    await way.close()
    monkeypatch.setenv(URL_VARIABLE, "redis://there")
    assert [way.broker, way.confirmed] == opened[1:]
    assert [one.url for one in opened] == [DEFAULT_URL, "redis://there", "redis://there"]
    assert [one.closed for one in opened] == [1, 0, 0]
    await way.close()
    assert [one.closed for one in opened] == [1, 1, 1]


async def test_all_that_share_a_broker_get_the_same_and_none_closes_it(opened: list[Any]) -> None:
    """The shortest silence and the longest time apply to all; one that limits its calls itself has no time."""
    shared = Shared(URL, "ns", "mara")
    assert (len(opened), shared.url) == (1, URL), "opened only to check the URL"
    ways = [
        Access(shared, "ns", user="Producer", silence=silence, time=time) for silence, time in ((5.0, 3.0), (4.5, math.inf), (20.0, 4.0))
    ]
    brokers = {way.broker for way in ways} | {shared.broker}
    confirmed = {way.confirmed for way in ways} | {shared.confirmed}
    assert [*brokers, *confirmed] == opened[1:]
    assert [shown(one) for one in opened[1:]] == [(URL, "ns", "mara", 4.5, 4.0, False), (URL, "ns", "mara", 4.5, 4.0, True)]
    for way in ways:
        await way.close()
    assert [one.closed for one in opened] == [0, 0, 0]
    both: list[Any] = opened[1:]
    assert all(shared.holds(one) for one in both)
    await shared.close()
    assert [one.closed for one in opened] == [0, 1, 1]
    assert not any(shared.holds(one) for one in both)
    assert ways[0].broker is opened[3]


async def test_without_a_time_of_anybody_there_is_none(opened: list[Any]) -> None:
    shared = Shared(None, "ns")
    assert (opened, shared.url) == ([], DEFAULT_URL)
    Access(shared, "ns", user="Admin")
    first: Any = shared.broker
    assert first is opened[0]
    assert first.settings["time"] == math.inf
    shared.use("redis://there")
    assert (shared.url, shared.broker) == ("redis://there", opened[0]), "from the next opening on"
    with pytest.raises(SettingsError):
        shared.use("nothing")
    await shared.close()
    last: Any = shared.broker
    assert last is opened[-1]
    assert last.url == "redis://there"


async def test_the_second_broker_is_closed_though_the_first_fails(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    way = Access(URL, "ns", user="Producer")
    confirmed: Any = way.confirmed

    async def fail() -> None:
        await checkpoint()
        raise OSError("no such socket")

    monkeypatch.setattr(opened[0], "close", fail)
    with pytest.raises(OSError, match="no such socket"):
        await way.close()
    assert (len(opened), confirmed.closed) == (2, 1)


# -- closed while it opens --------------------------------------------------------------------------------------------------------------


async def test_what_is_opened_while_it_is_closed_is_closed_again(opened: list[Any]) -> None:
    """Even if the caller is cancelled; and not if nobody closed it, or if a Shared goes on with it."""
    way = Access(URL, "ns", user="Producer")
    broker = opened[0]
    async with way.opening(broker):
        pass
    assert opened[0].closed == 0
    with pytest.raises(ConnectionFailed, match="this Producer: it was closed while it connected"):
        async with way.opening(broker):
            await way.close()
    assert opened[0].closed == 2
    with anyio.CancelScope() as scope:
        async with way.opening(broker):
            await way.close()
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught
    assert opened[0].closed == 4


async def test_a_broker_that_others_share_is_closed_with_the_shared_only(opened: list[Any]) -> None:
    shared = Shared(URL, "ns")
    way = Access(shared, "ns", user="Consumer")
    broker: Any = way.broker
    with pytest.raises(ConnectionFailed):
        async with way.opening(broker):
            await way.close()
    assert opened[1].closed == 0

    async def close_both() -> None:
        async with way.opening(broker):
            await way.close()
            await shared.close()

    with pytest.raises(ConnectionFailed):
        await close_both()
    assert opened[1].closed == 2, "once by each"


# -- threads and forks ------------------------------------------------------------------------------------------------------------------


def use(*ways: Access) -> None:
    """Begin a call of each, and end it."""
    for way in ways:
        with way:
            pass


def elsewhere(call: Callable[[], object]) -> BaseException | None:
    """Call it in another thread; return what it raises."""
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            raised.append(None)
        except WrongThreadError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0]


@pytest.mark.usefixtures("opened")
def test_one_thread_at_a_time_uses_it() -> None:
    way = Access(URL, "ns", user="Producer")
    for _ in range(2):
        with way, way:
            assert isinstance(elsewhere(way.enter), WrongThreadError)
        assert elsewhere(lambda: use(way)) is None


@pytest.mark.usefixtures("opened")
def test_a_child_has_nothing_of_its_parents(opened: list[Any]) -> None:
    shared = Shared(URL, "ns")
    ways = [Access(None, "ns", user="Producer"), Access(shared, "ns", user="Producer")]
    mine: list[Any] = [shared, *ways]
    assert all(one in environment._forkable for one in mine)  # pyright: ignore[reportPrivateUsage] -- calling all of them would reach other tests' objects
    inherited = [one for way in ways for one in (way.broker, way.confirmed)]
    for way in ways:
        way.enter()
    for one in mine:
        one.forked()
    for _ in range(2):
        assert elsewhere(lambda: use(*ways)) is None, "no call is under way"
    assert not {way.broker for way in ways} & set(inherited)
    assert not {way.confirmed for way in ways} & set(inherited)
    assert sum(one.closed for one in opened) == 0, "they belong to the parent"
