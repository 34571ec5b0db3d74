"""Whatever a handler raises is a failed message: what describes it never raises, and is bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, DeadLetter, Message, PartialFailure, RetryAfter, RetryPolicy, events
from redisaq.actors import Actor
from redisaq.errors import ConsumerError
from tests.actors.group import ASYNCIO_ALONE, IN_VIRTUAL_TIME, Notebook, fresh_url, produce

pytestmark = IN_VIRTUAL_TIME
BOUND = 30_000
"""Characters of a log line: a traceback, and some fields of 1,000."""


class Row:
    """A row of a database whose connection is closed."""

    def __repr__(self) -> str:
        raise RuntimeError("not bound to a session")


class Wordless:
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Exiting:
    def __str__(self) -> str:
        raise SystemExit(3)


class Lying(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, _: Any) -> None:
        pass

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        return Lying()


class Unequal(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("cannot be compared")

    def __hash__(self) -> int:
        raise RuntimeError("cannot be hashed")


class Odd(ExceptionGroup[Exception]):
    def derive(self, _excs: Any) -> Any:
        raise RuntimeError("no derive")


class Named(Exception):
    __module__ = 5  # type: ignore[assignment]


def nested(depth: int) -> Exception:
    error: Exception = ValueError("innermost")
    for _ in range(depth):
        error = ExceptionGroup("outer", [error, KeyError("beside")])
    return error


def chained(length: int) -> Exception:
    first = error = ValueError("first")
    for number in range(length):
        link = ValueError(number)
        link.__context__ = error
        error = link
    first.__cause__ = error  # a ring
    return error


def noted() -> Exception:
    error = ValueError("noted")
    error.__notes__ = [Row(), "n" * 5_000_000]  # type: ignore[list-item]
    return error


def deep() -> Exception:
    def dive() -> None:
        dive()

    try:
        dive()
    except RecursionError as error:
        return error
    raise AssertionError


def forgetful(kind: type[Exception]) -> Exception:
    """Return an error of a subclass that does not call the base class's `__init__`."""

    def forget(_self: Exception) -> None:
        pass

    error: Exception = type("Forgetful", (kind,), {"__init__": forget})()
    return error


def later(seconds: Any) -> RetryAfter:
    error = RetryAfter(1)
    error.seconds = seconds
    return error


RAISED: dict[str, Callable[[], Exception]] = {
    "repr": lambda: ValueError(Row()),
    "exit": lambda: ValueError(Exiting()),
    "group": lambda: nested(400),
    "deep group": lambda: nested(3000),
    "wide group": lambda: ExceptionGroup("wide", [ValueError(number) for number in range(2000)]),
    "odd group": lambda: Odd("odd", [ValueError(Row()), ValueError(2)]),
    "text": lambda: ValueError("x" * 5_000_000),
    "chain": lambda: chained(3000),
    "lying": Lying,
    "unequal": Unequal,
    "module": lambda: Named("named"),
    "name": lambda: type("N" * 1_000_000, (Exception,), {})("named"),
    "notes": noted,
    "surrogates": lambda: ValueError("\ud800"),
    "recursion": deep,
    "dead letter": lambda: DeadLetter(Row()),  # type: ignore[arg-type]
    "forgetful dead letter": lambda: forgetful(DeadLetter),
    "forgetful retry": lambda: forgetful(RetryAfter),
    "endless retry": lambda: later(float("nan")),
    "forgetful partial": lambda: forgetful(PartialFailure),
}


async def run(url: str, log: logging.Logger, handle: Any, *, batch: bool = False, **options: Any) -> Notebook:
    notebook = Notebook()
    consumer = Consumer("jobs", url, on_event=notebook.note, logger=log, retry=RetryPolicy(max_attempts=1), **options)
    with anyio.fail_after(30):
        await (consumer.process_batch if batch else consumer.process)(handle, until_empty=True)
    return notebook


class Lines(logging.Handler):
    """Formats what it gets, and lets nothing that fails go unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def log(lines: Lines) -> logging.Logger:
    logger = logging.Logger("of-this-test")  # noqa: LOG001 -- of this test alone
    logger.addHandler(lines)
    return logger


@pytest.mark.parametrize("batch", [False, True])
async def test_whatever_is_raised_is_one_failed_message(lines: Lines, log: logging.Logger, batch: bool) -> None:
    url, kinds = fresh_url(), list(RAISED)
    await produce(url, len(kinds))

    async def handle(given: Any) -> None:
        for message in given if batch else [given]:
            error = RAISED[kinds[message.payload["n"]]]()
            raise error

    notebook = await run(url, log, handle, batch=batch, batch_size=1)
    assert [len(notebook.of(kind)) for kind in (events.MessageFailed, events.MessageDead)] == [len(kinds)] * 2
    async with Admin(url) as admin:
        dead = [letter async for letter in admin.dead_letters("jobs", "default_group")]
    assert [letter.payload["n"] for letter in dead] == list(range(len(kinds)))
    assert all(letter.error_type and len(letter.error_type) <= 500 for letter in dead)
    assert all(len(letter.error) <= 1100 and len(letter.traceback) <= 8000 for letter in dead)
    assert len([line for line in lines.lines if line.startswith("MessageFailed")]) == len(kinds)
    assert max(map(len, lines.lines)) < BOUND
    by_kind = dict(zip(kinds, dead, strict=True))
    assert by_kind["repr"].error == "<its text cannot be made: RuntimeError>"
    assert "ValueError: innermost" not in by_kind["group"].traceback
    assert "KeyError: 'beside'" in by_kind["group"].traceback
    assert "in handle" in by_kind["group"].traceback
    assert by_kind["surrogates"].error == "\\ud800"


async def test_a_cancellation_and_a_deep_group_at_once(log: logging.Logger) -> None:
    """Trio raises both as one group, which Python cannot split where it is deep."""
    url = fresh_url()
    await produce(url, 1)

    async def handle(_message: Message[Any]) -> None:
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class() as cancelled:
            raise BaseExceptionGroup("both", [cancelled, nested(400)]) from None

    notebook = await run(url, log, handle, timeout=0.05)
    assert len(notebook.of(events.MessageDead)) == 1


async def test_a_log_that_fails_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter that fails")

    log = logging.Logger("of-this-test")  # noqa: LOG001 -- of this test alone
    log.addFilter(refuse)
    url = fresh_url()
    await produce(url, 2)

    async def handle(_message: Message[Any]) -> None:
        raise ValueError("no good")

    assert len((await run(url, log, handle)).of(events.MessageDead)) == 2
    assert "redisaq could not log (a filter that fails): MessageFailed" in capsys.readouterr().err


async def test_an_on_event_that_fails_is_logged_and_bounded(lines: Lines, log: logging.Logger) -> None:
    url = fresh_url()
    await produce(url, 1)

    def tell(_event: object) -> None:
        raise nested(400)

    async def handle(_message: Message[Any]) -> None:
        pass

    with anyio.fail_after(10):
        await Consumer("jobs", url, on_event=tell, logger=log).process(handle, until_empty=True)
    told = [line for line in lines.lines if line.startswith("on_event failed on MessageStarted")]
    assert told
    assert max(map(len, lines.lines)) < BOUND


@ASYNCIO_ALONE
async def test_an_on_event_that_asks_a_cancelled_task_ends_nothing(lines: Lines, log: logging.Logger) -> None:
    """Only asyncio has a cancellation that anybody can raise."""
    url, notebook = fresh_url(), Notebook()
    await produce(url, 1)
    future = asyncio.get_running_loop().create_future()
    future.cancel()

    with anyio.fail_after(10):
        await Consumer("jobs", url, on_event=lambda _: future.result(), logger=log).process(notebook.handle, until_empty=True)
    assert notebook.numbers == [0]
    assert [line for line in lines.lines if line.startswith("on_event failed on MessageStarted")]


async def test_what_ends_a_consumer_is_described_as_well() -> None:
    """Its text, that is: trio itself makes the repr of what ends a task."""

    class Broken(Actor[None]):
        async def run(self) -> None:
            raise ExceptionGroup("mine", [ValueError(Wordless()), ValueError(2)])

    url = fresh_url()
    await produce(url, 1)
    consumer: Consumer[Any] = Consumer("jobs", url)
    consumer.attach(Broken())

    async def handle(_message: Message[Any]) -> None:
        pass

    with anyio.fail_after(10), pytest.raises(ConsumerError, match="ended"):
        await consumer.process(handle)


async def test_a_tame_exception_reaches_the_log_as_it_is(log: logging.Logger) -> None:
    """A tool that collects exceptions from the log gets the exception itself."""
    records: list[logging.LogRecord] = []

    def note(record: logging.LogRecord) -> bool:
        records.append(record)
        return True

    log.addFilter(note)
    url = fresh_url()
    await produce(url, 1)
    error = ValueError("tame")

    async def handle(_message: Message[Any]) -> None:
        raise error from KeyError("cause")

    await run(url, log, handle)
    failed = next(record for record in records if record.getMessage().startswith("MessageFailed"))
    assert failed.exc_info is not None
    assert failed.exc_info[1] is error
