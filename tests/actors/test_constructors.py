"""What constructors show to tools, and what they do besides storing settings: log, and make the topic as large as requested."""

from __future__ import annotations

import inspect
import io
import logging
import pydoc
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

import redisaq
import redisaq.admin
from redisaq import Admin, Consumer, Producer
from redisaq.actors import Actor
from redisaq.errors import SettingsError
from redisaq.logs import logger_for
from redisaq.settings import ConsumerOptions, ConsumerSettings, HandlingOptions
from tests.actors.group import fresh_url

OPTIONS = [one.name for one in fields(ConsumerSettings)]


def test_a_consumers_parameters_are_shown() -> None:
    """Names and defaults, to programs and to people; what is shown is what is taken."""
    signature = inspect.signature(Consumer)
    assert list(signature.parameters) == ["topic", "redis_url", "payload_type", *OPTIONS]
    assert {name: signature.parameters[name].default for name in OPTIONS} == {one.name: one.default for one in fields(ConsumerSettings)}
    shown = pydoc.plain(pydoc.render_doc(Consumer))
    assert "group_name: 'str' = 'default_group'" in shown or "group_name: str = 'default_group'" in shown
    assert "**options" not in shown
    bound = signature.bind("jobs", group_name="billing")
    assert bound.arguments == {"topic": "jobs", "group_name": "billing"}
    with pytest.raises(TypeError):
        signature.bind("jobs", groupname="billing")


def test_options_settings_and_their_description_agree() -> None:
    assert sorted(get_type_hints(ConsumerOptions)) == sorted(OPTIONS)
    handling = list(get_type_hints(HandlingOptions))
    for options, own in (
        (HandlingOptions, handling),
        (ConsumerOptions, [one for one in get_type_hints(ConsumerOptions) if one not in handling]),
    ):
        lines = (options.__doc__ or "").split("Attributes:")[1].splitlines()
        described = [line.strip().split(":")[0] for line in lines if ":" in line]
        assert [name for name in described if name in OPTIONS] == own


def test_two_classes_have_two_names() -> None:
    assert redisaq.DeadMessage is redisaq.admin.DeadMessage
    assert redisaq.admin.DeadLetter is redisaq.DeadMessage, "the old name, for now"
    assert redisaq.DeadMessage.__name__ == "DeadMessage"
    assert issubclass(redisaq.DeadLetter, Exception)


def test_only_actors_are_attached() -> None:
    """The class instead of an instance is easily given; a run would fail on it later, as a bug would."""
    consumer = Consumer("jobs", fresh_url())
    for wrong in (Actor, 5, None):
        with pytest.raises(SettingsError, match=r"^attach takes an Actor, not "):
            consumer.attach(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] -- that is the point


# -- logging -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Producer, Consumer])
def test_what_cannot_log_is_refused(make: Callable[..., object]) -> None:
    """Before anything is opened: the first line to log would end a consumer. A LoggerAdapter can log, but has no handlers for `debug`."""
    adapter = logging.LoggerAdapter(logging.getLogger("shop"))
    make("jobs", fresh_url(), logger=adapter)
    for wrong, debug in (("shop", False), (5, False), (adapter, True)):
        with pytest.raises(SettingsError, match=r"^logger must be a logging.Logger, not "):
            make("jobs", fresh_url(), logger=wrong, debug=debug)


def loggers() -> dict[str, int]:
    return {name: logging.getLogger(name).level for name in ("redisaq", "redisaq.consumer", "redisaq.producer")}


@pytest.mark.anyio
async def test_debugging_one_debugs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    before, url = loggers(), fresh_url()
    async with Producer("jobs", url):
        assert caplog.records == []
    async with Producer("jobs", url, debug=True), Producer("jobs", url):
        assert [record.levelname for record in caplog.records] == ["DEBUG"]
        assert caplog.records[0].name == "redisaq.producer"
    own = logging.getLogger("shop")
    Consumer("jobs", url, debug=True, logger=own)
    assert own.level == logging.NOTSET
    assert loggers() == before
    assert [
        child for name, child in logging.Logger.manager.loggerDict.items() if "redisaq" in name and getattr(child, "handlers", [])
    ] == []


def test_debugging_shows_something_where_logging_is_not_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest itself has set it up
    logger, shared = logging.getLogger("shop"), io.StringIO()
    with redirect_stderr(io.StringIO()) as shown:
        debugged = logger_for("redisaq.consumer", logger, debug=True)
        debugged.debug("one")
        handler = logging.StreamHandler(shared)
        logging.getLogger().addHandler(handler)  # by a program that sets its logging up after it has made its consumers
        debugged.debug("two")
        logging.getLogger().removeHandler(handler)
    assert shown.getvalue().endswith("DEBUG shop: one\n")
    assert shared.getvalue() == "two\n"


DEBUGGED = """
import anyio
from redisaq import Producer

async def main() -> None:
    async with Producer("jobs", "memory://", debug=True):
        pass

anyio.run(main)
"""


def test_a_script_that_sets_up_nothing_sees_what_is_debugged() -> None:
    result = subprocess.run([sys.executable, "-c", DEBUGGED], check=True, capture_output=True, text=True)
    assert "DEBUG redisaq.producer: producing to topic jobs" in result.stderr


# -- a topic's size --------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("before", [0, 1, 3, 5])
async def test_a_consumer_lets_its_topic_grow(before: int) -> None:
    """As a producer does: what was asked for is there at the end, and nothing shrinks."""
    url = fresh_url()
    if before:
        await Producer("jobs", url, init_partitions=before).connect()
    consumer: Consumer[Any] = Consumer("jobs", url, init_partitions=3)
    async with consumer, Admin(url) as admin:
        assert len((await admin.topic("jobs")).partitions) == max(before, 3)
