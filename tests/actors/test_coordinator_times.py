"""When a coordinator asks, and what it asks first: while its topic is missing, and after a connection broke. In virtual time."""

from __future__ import annotations

from typing import Any

import anyio

from redisaq import Consumer
from redisaq.errors import ConnectionFailed
from tests.actors.group import TRIO_ALONE, Notebook, fresh_url, produce, quick, store_of
from tests.actors.hooked import HookedBroker, grow_at, hooked

pytestmark = TRIO_ALONE


class Asked:
    """A consumer, and the steps of its coordinator with their times."""

    def __init__(self) -> None:
        self.began, self.url = anyio.current_time(), fresh_url()
        self.notebook = Notebook()
        self.consumer: Consumer[Any] = quick(self.url, heartbeat_interval=10.0, heartbeat_ttl=60.0, on_event=self.notebook.note)
        self.broker: HookedBroker = hooked(self.consumer, self.url)
        self.steps: list[tuple[float, str]] = []
        self.breaks = ""
        self.broker.before, self.broker.after = self.before, self.after

    async def before(self, name: str) -> None:
        if name in {"heartbeat", "commit", "listen"}:
            self.steps.append((round(anyio.current_time() - self.began, 2), name))

    async def after(self, name: str) -> None:
        if name == self.breaks:
            self.breaks = ""
            raise ConnectionFailed(self.url, "for this test", maybe_executed=True)


async def test_a_topic_that_is_missing_is_looked_for_each_second() -> None:
    asked = Asked()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asked.consumer.process, asked.notebook.handle)
        await anyio.sleep(4.5)
        assert [time for time, name in asked.steps if name == "heartbeat"] == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0], "and when it begins to listen"
        await asked.consumer.stop()


async def test_after_a_change_whose_answer_was_lost_it_looks_before_it_changes_anything() -> None:
    """M3: what it knows may be out of date, and the change may have been made."""
    asked = Asked()
    await produce(asked.url, 1)
    async with anyio.create_task_group() as tasks:
        await tasks.start(asked.consumer.process, asked.notebook.handle)
        await anyio.sleep(1.0)
        asked.steps.clear()
        asked.breaks = "commit"
        grow_at(store_of(asked.url), "jobs", 2)
        await anyio.sleep(12.0)
        assert len(asked.consumer.assignment) == 2
        names = [name for _, name in asked.steps]
        assert names[names.index("commit") : names.index("commit") + 2] == ["commit", "heartbeat"]
        assert names.count("commit") == 1
        await asked.consumer.stop()


async def test_one_that_knows_its_group_asks_for_nothing_but_heartbeats() -> None:
    """No look, no change and no new listening while nothing happens."""
    asked = Asked()
    await produce(asked.url, 1)
    async with anyio.create_task_group() as tasks:
        await tasks.start(asked.consumer.process, asked.notebook.handle)
        await anyio.sleep(1.0)
        asked.steps.clear()
        await anyio.sleep(100.0)
        assert [name for _, name in asked.steps] == ["heartbeat"] * 10
        await asked.consumer.stop()
