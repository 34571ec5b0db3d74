"""What `redis_url` may be, and what applies if it is not given."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import pydantic
import pytest

from redisaq import Admin, Consumer, Producer
from redisaq.errors import ConnectionFailed, SettingsError
from tests.actors.group import fresh_url

SECRET = "sesame"  # noqa: S105 -- of no server
MAKERS: list[Any] = [Producer, Consumer]


class Url(str, Enum):  # noqa: UP042 -- `str()` of a member says "Url.QUEUE"
    QUEUE = "memory://an enumeration's"


def urls_of(thing: Any) -> str:
    """Return where it goes, password included."""
    link = thing._access.broker._link
    return f"{link.address.scheme} {link.address.username} {link.address.password} {link.address.host} {link.address.database}"


@pytest.mark.parametrize("make", [*MAKERS, Admin])
def test_pydantics_urls_are_read(make: Any) -> None:
    dsn = pydantic.RedisDsn(f"rediss://ann:{SECRET}%40@queue.example:7000/3")
    thing = make("jobs", dsn) if make is not Admin else make(dsn)
    assert urls_of(thing) == f"rediss ann {SECRET}@ queue.example 3"


@pytest.mark.anyio
async def test_a_str_of_any_class_is_read() -> None:
    async with Producer("jobs", Url.QUEUE) as producer, Admin(Url.QUEUE.value) as admin:
        await producer.enqueue(1)
        assert await admin.topics() == ["jobs"]


@pytest.mark.parametrize("make", [*MAKERS, Admin])
@pytest.mark.parametrize(
    "url", [f"redis://:{SECRET}@h".encode(), Path("/run/socket"), 6379, pydantic.SecretStr(f"redis://:{SECRET}@h"), True]
)
def test_everything_else_is_refused(make: Any, url: Any) -> None:
    with pytest.raises(SettingsError, match=rf"redis_url must be a str.*not {type(url).__name__}") as caught:
        make("jobs", url) if make is not Admin else make(url)
    assert SECRET not in str(caught.value)


@pytest.mark.anyio
async def test_the_variable_is_read_when_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all three; and again after a close."""
    monkeypatch.delenv("REDISAQ_URL", raising=False)
    producer, consumer, admin, told = Producer("jobs"), Consumer[Any]("jobs"), Admin(None), list[Any]()
    first, second = fresh_url(), fresh_url()
    for url, topics in ((first, ["jobs"]), (second, ["jobs"])):
        monkeypatch.setenv("REDISAQ_URL", url)
        await producer.enqueue(1)
        assert await admin.topics() == topics
        await consumer.process(told.append, until_empty=True)
        for one in (producer, consumer, admin):
            await one.close()
    assert len(told) == 2
    assert len({message.msg_id for message in told}) == 2


@pytest.mark.anyio
async def test_an_argument_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    url = fresh_url()
    monkeypatch.setenv("REDISAQ_URL", "redis://nowhere.invalid")
    async with Producer("jobs", url), Admin(url) as admin:
        assert await admin.topics() == ["jobs"]


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["", "localhost", f"https://{SECRET}@h"])
async def test_a_variable_that_cannot_work_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable does not mean the default: it may be a leftover."""
    monkeypatch.setenv("REDISAQ_URL", url)
    for connect in (Producer("jobs").connect, Consumer[Any]("jobs").connect, Admin().connect):
        with pytest.raises(SettingsError, match="REDISAQ_URL") as caught:
            await connect()
        assert SECRET not in str(caught.value)


@pytest.mark.anyio
async def test_without_both_it_is_the_usual_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDISAQ_URL", raising=False)
    admin = Admin()
    assert urls_of(admin) == "redis None None localhost 0"
    with pytest.raises(SettingsError, match=r"^the URL begins with none"):
        Admin("")
    monkeypatch.setenv("REDISAQ_URL", "unix:///nonexistent/redisaq")
    with pytest.raises(ConnectionFailed, match="/nonexistent/redisaq"):
        await Producer("jobs").connect()
