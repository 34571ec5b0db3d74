"""What must be callable and is not is refused at once, not by each message that comes."""

from __future__ import annotations

import contextlib
import functools
import json
from typing import Any
from unittest.mock import AsyncMock, Mock

import anyio
import pytest

from redisaq import Admin, Consumer, DeadLetter, Discard, PartialFailure, Producer, RetryAfter, RetryPolicy
from redisaq.core.codec import serialize
from redisaq.errors import SerializationError, SettingsError
from redisaq.middleware import check_middleware
from redisaq.testing import HandlerKit

WRONG: Any = "handle"


@pytest.mark.parametrize("setting", ["deserializer", "on_event"])
def test_a_consumers_settings(setting: str) -> None:
    options: dict[str, Any] = {setting: WRONG}
    with pytest.raises(SettingsError, match=f"{setting} must be something that can be called, not 'handle'"):
        Consumer("orders", "memory://", **options)


def test_a_producers_serializer() -> None:
    with pytest.raises(SettingsError, match="serializer must be"):
        Producer("orders", "memory://", serializer=WRONG)


@pytest.mark.parametrize("callback", [WRONG, None])
@pytest.mark.parametrize("method", ["process", "process_batch"])
def test_a_handler(method: str, callback: object) -> None:
    consumer = Consumer("orders", "memory://")
    with pytest.raises(SettingsError, match="callback must be"):
        anyio.run(getattr(consumer, method), callback)


# -- what cannot do its work ---------------------------------------------------------------------------------------------------------


def generator(_given: Any) -> Any:
    yield


async def async_generator(_given: Any) -> Any:
    yield


async def handler(_given: Any) -> None:
    pass


async def none_at_all() -> None:
    pass


async def two(_given: Any, _other: Any) -> None:
    pass


async def by_name(_given: Any, *, other: Any) -> None:
    pass


class Methods:
    def generator(self, _given: Any) -> Any:
        yield

    async def none_at_all(self) -> None:
        pass

    async def handler(self, _given: Any) -> None:
        pass

    @staticmethod
    def static(_given: Any) -> Any:
        yield

    @classmethod
    async def two(cls, _given: Any, _other: Any) -> None:
        pass


class Generating:
    async def __call__(self, _given: Any) -> Any:
        yield


class Calling:
    async def __call__(self, _given: Any) -> None:
        pass


class CallingNone:
    def __call__(self) -> None:
        pass


def passing_on(function: Any) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **named: Any) -> Any:
        return await function(*args, **named)

    return call


def injecting(function: Any) -> Any:
    @functools.wraps(function)
    async def call(*args: Any) -> Any:
        return await function(*args, "injected")

    return call


def forgetting(function: Any) -> Any:
    @functools.wraps(function)
    async def call(given: Any) -> Any:
        return function(given)

    return call


def naming(function: Any) -> Any:
    @functools.wraps(function)
    async def call(given: Any, then: Any = None, *_: Any) -> Any:
        await function()
        return given if then is None else await then()

    return call


def hidden(function: Any) -> Any:
    return lambda given: function(given)  # noqa: PLW0108 -- nothing shows what it returns


REFUSED: list[tuple[Any, str]] = [
    (generator, "yield"),
    (async_generator, "yield"),
    (functools.partial(functools.partial(generator)), "yield"),
    (functools.partial(async_generator), "yield"),
    (Methods().generator, "yield"),
    (Methods.static, "yield"),
    (staticmethod(generator), "yield"),
    (Generating(), "yield"),
    (functools.partial(Generating()), "yield"),
    (contextlib.contextmanager(generator), "yield"),
    (contextlib.asynccontextmanager(async_generator), "yield"),
    (Calling, "class"),
    (functools.partial(Calling), "class"),
    (none_at_all, "one argument"),
    (two, "one argument"),
    (by_name, "one argument"),
    (lambda: None, "one argument"),
    (Methods().none_at_all, "one argument"),
    (Methods.two, "one argument"),
    (Methods.handler, "one argument"),
    (CallingNone(), "one argument"),
    (functools.partial(handler, 1), "one argument"),
    (functools.partial(two, 1, 2), "one argument"),
    (passing_on(none_at_all), "one argument"),
]


@pytest.mark.parametrize(("callback", "said"), REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("method", ["process", "process_batch"])
def test_a_handler_that_cannot_do_its_work_is_refused(method: str, callback: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=f"(?s)callback.*{said}"):
        anyio.run(getattr(Consumer("orders", "memory://"), method), callback)
    with pytest.raises(SettingsError, match=f"(?s)handler.*{said}"):
        HandlerKit(callback, batch=method == "process_batch")


TAKEN: list[Any] = [
    handler,
    Calling(),
    Methods().handler,
    functools.partial(two, 1),
    functools.partial(by_name, other=1),
    passing_on(handler),
    injecting(two),
    naming(none_at_all),
    print,
    [].append,
    lambda _given, _more=1: None,
    lambda *_: None,
    Mock(return_value=None),
    AsyncMock(),
]


@pytest.mark.parametrize("callback", TAKEN, ids=range(len(TAKEN)))
def test_a_handler_that_can_is_taken(callback: Any) -> None:
    assert HandlerKit(callback).deliver(1).to == "done"
    assert [one.to for one in HandlerKit(callback, batch=True).deliver_batch([1])] == ["done"]


def test_a_decorator_makes_middleware_of_less() -> None:
    assert len(check_middleware([naming(none_at_all), injecting(two)])) == 2
    with pytest.raises(SettingsError, match="messages, call_next"):
        check_middleware([passing_on(handler)])


@pytest.mark.parametrize(
    "callback",
    [
        forgetting(generator),
        forgetting(async_generator),
        forgetting(handler),
        forgetting(contextlib.asynccontextmanager(async_generator)),
        hidden(generator),
        hidden(async_generator),
        hidden(forgetting(handler)),
    ],
    ids=range(7),
)
def test_what_returns_something_that_has_not_run_has_failed(callback: Any) -> None:
    policy = RetryPolicy(max_attempts=2)
    outcome = HandlerKit(callback, retry=policy).deliver(1)
    assert (outcome.to, type(outcome.error).__name__) == ("retry", "HandlerNotRun")
    assert [one.to for one in HandlerKit(callback, retry=policy, batch=True).deliver_batch([1, 2])] == ["retry"] * 2


@pytest.mark.parametrize("instruction", [RetryAfter(5), DeadLetter("x"), Discard("y"), PartialFailure({})], ids=repr)
def test_an_instruction_that_is_returned_has_failed(instruction: Exception) -> None:
    """A message that was to be retried, or kept, would be acknowledged."""

    async def handler(_given: Any) -> Exception:
        return instruction

    policy = RetryPolicy(max_attempts=2)
    outcome = HandlerKit(handler, retry=policy).deliver(1)
    assert (outcome.to, type(outcome.error)) == ("retry", TypeError)
    assert "raise it" in str(outcome.error)
    assert [one.to for one in HandlerKit(handler, retry=policy, batch=True).deliver_batch([1, 2])] == ["retry"] * 2


async def asynchronous(_given: Any) -> Any:
    return b"1"


@pytest.mark.parametrize(
    "function", [asynchronous, async_generator, functools.partial(asynchronous), Calling(), none_at_all, two, lambda: b""]
)
def test_what_is_never_awaited_must_be_plain(function: Any) -> None:
    for setting in ("on_event", "deserializer"):
        options: dict[str, Any] = {setting: function}
        with pytest.raises(SettingsError, match=setting):
            Consumer("orders", "memory://", **options)
    with pytest.raises(SettingsError, match="serializer"):
        Producer("orders", "memory://", serializer=function)
    with pytest.raises(SettingsError, match="serializer"):
        HandlerKit(handler, serializer=function)
    with pytest.raises(SettingsError, match="deserializer"):
        Admin("memory://").dead_letters("orders", "billing", deserializer=function)


@pytest.mark.parametrize(
    "function", [json.loads, str, int, bytes.decode, functools.partial(json.loads, parse_int=float), lambda data: data]
)
def test_plain_functions_are_taken(function: Any) -> None:
    Consumer("orders", "memory://", deserializer=function, on_event=function)


def test_what_is_async_without_saying_so_is_an_error_each_time(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SerializationError, match="a coroutine that nobody awaits"):
        serialize(1, hidden(asynchronous))
    outcome = HandlerKit(handler, deserializer=hidden(asynchronous)).deliver(1)
    assert (outcome.to, "must be a plain function" in outcome.reason) == ("dead", True)
    HandlerKit(handler, on_event=hidden(asynchronous)).deliver(1)
    assert any("on_event returned a coroutine" in str(record.exc_info) for record in caplog.records)
