"""What handlers take: in events, in log records, in the statistics; and those that take too long."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, RetryPolicy, events
from redisaq.consuming.runs import Runs
from redisaq.errors import SettingsError
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce

pytestmark = IN_VIRTUAL_TIME

AGAIN = RetryPolicy(max_attempts=2, backoff=1.0, jitter=False)


@pytest.fixture
def url() -> str:
    return fresh_url()


async def handle(message: Message[Any]) -> None:
    """Take as many seconds as the number says; 3 fails the first time."""
    await anyio.sleep(message.payload["n"])
    if message.payload["n"] == 3 and message.attempt == 1:
        raise ValueError


@pytest.mark.parametrize("blocking", [True, False])
async def test_events_say_how_long_it_took_and_waited(url: str, blocking: bool) -> None:
    await produce(url, 4, headers={"trace": "t"}, key="k")
    await anyio.sleep(100)
    notebook = Notebook()
    policy = RetryPolicy(max_attempts=2, backoff=1.0, jitter=False, blocking=blocking)
    await Consumer("jobs", url, on_event=notebook.note, retry=policy).process(handle, until_empty=True)
    about = [event for event in notebook.events if isinstance(event, events.MessageEvent)]
    assert {(event.key, event.headers["trace"]) for event in about} == {("k", "t")}
    ended = [event for event in about if isinstance(event, events.MessageSucceeded | events.MessageFailed)]
    assert [(type(event).__name__, round(event.took or 0, 1)) for event in ended] == [
        ("MessageSucceeded", 0.0),
        ("MessageSucceeded", 1.0),
        ("MessageSucceeded", 2.0),
        ("MessageFailed", 3.0),
        ("MessageSucceeded", 3.0),
    ]
    began = [event.waited for event in about if isinstance(event, events.MessageStarted)]
    assert [round(waited - 100, 1) for waited in began] == pytest.approx([0, 0, 1, 3, 7], abs=0.2)
    assert [event.waited for event in ended] == began


async def test_in_a_batch_each_took_as_long_as_the_batch(url: str) -> None:
    await produce(url, 3)
    notebook = Notebook()

    async def handle_all(messages: list[Message[Any]]) -> None:
        await anyio.sleep(5 * len(messages))

    await Consumer("jobs", url, on_event=notebook.note).process_batch(handle_all, until_empty=True)
    assert [event.took for event in notebook.events if isinstance(event, events.MessageSucceeded)] == [15.0] * 3


async def test_a_slow_handler_is_reported_once_for_each_run(url: str) -> None:
    await produce(url, 1)
    notebook = Notebook()

    async def take_long(message: Message[Any]) -> None:
        await anyio.sleep(20)
        if message.attempt == 1:
            raise ValueError

    await Consumer("jobs", url, on_event=notebook.note, retry=AGAIN, slow_after=6).process(take_long, until_empty=True)
    slow = [event for event in notebook.events if isinstance(event, events.HandlerSlow)]
    assert [(event.attempt, 6 <= event.took <= 9) for event in slow] == [(1, True), (2, True)]
    notebook.events.clear()
    await produce(url, 1)
    await Consumer("jobs", url, on_event=notebook.note, slow_after=None).process(take_long, until_empty=True)
    assert [event for event in notebook.events if isinstance(event, events.HandlerSlow)] == []
    with pytest.raises(SettingsError, match="slow_after"):
        Consumer("jobs", url, slow_after=0)


async def test_without_an_observer_a_run_is_seen_at_heartbeats(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is noted of a message then, so it costs nothing; what it took is known of those that a heartbeat saw."""
    await produce(url, 3)
    noted: list[object] = []

    def noting(whole: Any) -> Any:
        def note(*about: object) -> Any:
            noted.append(about)
            return whole(*about)

        return note

    for name in ("began", "ended"):
        monkeypatch.setattr(Runs, name, noting(getattr(Runs, name)))

    async def take_long(message: Message[Any]) -> None:
        await anyio.sleep((0, 70, 0)[message.payload["n"]])
        if message.payload["n"]:
            raise ValueError

    logger = logging.getLogger("runs")
    logger.setLevel(logging.WARNING)
    await Consumer("jobs", url, logger=logger, retry=RetryPolicy(max_attempts=1)).process(take_long, until_empty=True)
    assert len(noted) == 2, "only failures ask"
    records = {record.__dict__["redisaq_event"]: record for record in caplog.records if record.name == "runs"}
    slow, failed = records["HandlerSlow"], records["MessageFailed"]
    assert (slow.levelname, slow.__dict__["redisaq_attempt"]) == ("WARNING", 1)
    assert 60 <= slow.__dict__["redisaq_took"] <= 63
    times = [record.__dict__.get("redisaq_took") for record in caplog.records if record.__dict__.get("redisaq_event") == "MessageFailed"]
    assert times == [pytest.approx(70, abs=3), None]
    assert "redisaq_waited" not in failed.__dict__


async def test_log_records_carry_the_fields_of_events(url: str, caplog: pytest.LogCaptureFixture) -> None:
    (msg_id,) = await produce(url, 1, headers={"trace": "secret"}, key="k")

    def fail(_: Message[Any]) -> None:
        raise ValueError

    with caplog.at_level(logging.DEBUG, logger="redisaq.consumer"):
        await Consumer("jobs", url, retry=RetryPolicy(max_attempts=1)).process(fail, until_empty=True)
    (record,) = [one for one in caplog.records if one.__dict__.get("redisaq_event") == "MessageFailed"]
    found = {name.removeprefix("redisaq_"): value for name, value in record.__dict__.items() if name.startswith("redisaq_")}
    assert isinstance(found.pop("error"), ValueError)
    assert found.pop("took") >= 0
    assert found.pop("waited") >= 0
    assert found.pop("entry_id")
    assert found.pop("member")
    assert found == {
        "event": "MessageFailed",
        "topic": "jobs",
        "group": "default_group",
        "partition": 0,
        "msg_id": msg_id,
        "attempt": 1,
        "key": "k",
        "headers": {"trace": "secret"},
    }
    assert "secret" not in record.getMessage()
    assert "key='k'" in record.getMessage()
    (joined,) = [one for one in caplog.records if one.__dict__.get("redisaq_event") == "MemberJoined"]
    assert "redisaq_key" not in joined.__dict__


@pytest.mark.parametrize("observed", [True, False])
async def test_statistics_show_what_runs(url: str, observed: bool) -> None:
    msg_ids = await produce(url, 6, partitions=2, key="k")
    finish = anyio.Event()

    async def wait(_: Message[Any]) -> None:
        await finish.wait()

    consumer = Consumer("jobs", url, ordering="none", concurrency=2, on_event=(lambda _: None) if observed else None)
    assert consumer.statistics().running == ()
    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, wait)
        await anyio.sleep(30)
        statistics = consumer.statistics()
        assert [(one.msg_id, one.key, one.attempt) for one in statistics.running] == [(msg_id, "k", 1) for msg_id in msg_ids[:2]]
        assert all(27 <= one.since <= 30 for one in statistics.running)
        assert {one.partition for one in statistics.running} == {one.partition for one in statistics.partitions if one.in_flight}
        assert statistics.last_heartbeat is not None
        assert statistics.last_heartbeat <= 3.0
        finish.set()
        await anyio.sleep(1)
        assert consumer.statistics().running == ()
        await consumer.stop()


async def test_a_pulled_message_runs_while_its_body_does(url: str) -> None:
    (msg_id,) = await produce(url, 1)
    notebook = Notebook()
    async with Consumer("jobs", url, on_event=notebook.note, slow_after=5) as consumer, consumer.messages(until_empty=True) as messages:
        async for message in messages:
            assert consumer.statistics().running == ()
            async with message:
                await anyio.sleep(10)
                running = consumer.statistics().running
            assert [(one.msg_id, one.since) for one in running] == [(msg_id, 10.0)]
    (slow,) = [event for event in notebook.events if isinstance(event, events.HandlerSlow)]
    assert slow.msg_id == msg_id
    assert [event.took for event in notebook.events if isinstance(event, events.MessageSucceeded)] == [10.0]
