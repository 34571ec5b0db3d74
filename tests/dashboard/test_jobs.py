"""Long changes: that they say how they ended, stop in time, are bounded, leave one line of history, and are shown over /events."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, RetryPolicy
from redisaq.dashboard import jobs as limits
from redisaq.dashboard.events import EventStream, Streams
from redisaq.dashboard.jobs import FIRST, RUNNING, Job, Jobs, RefusedError
from redisaq.environment import current_environment
from redisaq.errors import ServerError
from tests.dashboard.scenes import Scripted
from tests.dashboard.test_dead_letters import Bench, bench
from tests.dashboard.test_events import GROUP, Browser, page

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W", "-", request.node.name)


async def changes(one: Bench) -> list[tuple[str, int | None]]:
    return [(entry.what, entry.count) for entry in await one.admin.history("orders", "billing") if entry.what in ("redriven", "purged")]


async def test_it_stops_if_the_first_letters_die_again_and_is_one_line_of_history(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOKS", 0.01)
    monkeypatch.setattr(limits, "WAITS", 30.0)  # it does not wait for it: five of them are dead before

    async def handle(_: Message[Any]) -> None:
        raise TimeoutError("still no bank")

    async with bench(name, letters=60) as one, anyio.create_task_group() as tasks:
        consumer = Consumer("orders", one.url, group_name="billing", retry=RetryPolicy(max_attempts=1))
        async with consumer:
            tasks.start_soon(consumer.process, handle)
            answer = await one.post("redrive", {"all": True, "expected": 60, "careful": True})
            said = await one.job(answer, "stopped")
            tasks.cancel_scope.cancel()
        assert re.fullmatch(
            r"orders › billing: redriven 20 of 60, then stopped: \d+ of the first 20 died again, the newest of TimeoutError", said["text"]
        )
        assert said["done"] == FIRST
        assert await changes(one) == [("redriven", FIRST)]


async def test_a_careful_one_whose_letters_do_not_die_goes_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITS", 0.05)
    async with bench(name, letters=45) as one:
        said = await one.job(await one.post("redrive", {"all": True, "expected": 45, "careful": True}))
        assert (said["done"], await one.dead(), await changes(one)) == (45, 0, [("redriven", 45)])


async def test_jobs_at_once_are_bounded_and_a_stopped_one_has_its_line_of_history(name: str) -> None:
    async with bench(name, letters=20) as one:
        slow = {"all": True, "expected": 20, "rate": 1}
        answers = [await one.post("redrive", slow) for _ in range(RUNNING)]
        refused = await one.post("redrive", slow)
        assert (refused.status_code, f"{RUNNING} jobs run already" in refused.json()["error"]) == (400, True)
        with anyio.fail_after(30):
            while (await one.client.get("/api/jobs/1")).json()["done"] < 1:
                await anyio.sleep(0.01)
        for answer in answers:
            await one.post("stop", {}, f"/api/jobs/{answer.json()['job']}")
            await one.job(answer, "stopped")
        assert sum(count or 0 for _, count in await changes(one)) == 20 - await one.dead()


class Broken:
    """An Admin whose changes fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def redriving(self, topic: str, group: str) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "text"),
    [(ServerError("NOPERM no"), "NOPERM no"), (KeyError("x"), "KeyError: 'x'")],
)
async def test_whatever_goes_wrong_is_said(error: Exception, text: str) -> None:
    admin: Any = Broken(error)
    jobs = Jobs(admin)
    with pytest.raises(RefusedError):
        jobs.start("redrive", ("orders", "billing"), [], total=3, rate=0, careful=False)
    async with anyio.create_task_group() as jobs.tasks:
        job = jobs.start("redrive", ("orders", "billing"), [], total=3, rate=0, careful=False)
    assert (job.state, job.text) == ("failed", f"orders › billing: redriven 0 of 3, then failed: {text}")


async def test_finished_jobs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMEMBERED", 2)
    admin: Any = Broken(KeyError())
    jobs = Jobs(admin)
    for number in range(5):
        async with anyio.create_task_group() as jobs.tasks:
            jobs.start("purge" if number % 2 else "redrive", ("orders", "billing"), [], total=3, rate=0, careful=False)
    assert [jobs.get(number) is not None for number in range(1, 6)] == [False, False, False, True, True]


async def test_progress_is_reported_over_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs or has just ended when somebody comes, each change, and how it ended; of what ended before, nothing."""
    monkeypatch.setattr("redisaq.dashboard.events.JOBS", 0.0)
    admin: Any = None
    jobs, browser = Jobs(admin), Browser()

    def add(number: int) -> Job:
        job = jobs._jobs[number] = Job(number, "redrive", ("orders", "billing"), [], total=9, rate=0, careful=False)
        return job

    def end(job: Job, ago: float = 0.0) -> None:
        job.done, job.state, job.ended = 9, "done", current_environment().monotonic() - ago
        jobs.report()

    def told() -> list[Any]:
        events = [json.loads(line.split("data: ")[1]) for line in browser.heard if line.startswith("event: jobs")]
        return [[one["text"][18:] for one in event] for event in events]

    end(add(1), ago=3600.0)
    end(add(2))
    job = add(3)
    async with anyio.create_task_group() as tasks:
        stream = EventStream(Streams(), Scripted().watch, GROUP, page, "shape-1", jobs=jobs)
        tasks.start_soon(stream, {"type": "http"}, browser.receive, browser.send)
        await browser.until(lambda: len(told()) == 1)
        job.done = 4
        jobs.report()
        await browser.until(lambda: len(told()) == 2)
        end(job)
        await browser.until(lambda: len(told()) == 3)
        jobs.report()
        end(add(4))
        await browser.until(lambda: len(told()) == 4)
        browser.gone.set()
    assert told() == [["redriven 9 of 9", "redriven 0 of 9"], ["redriven 4 of 9"], ["redriven 9 of 9"], ["redriven 9 of 9"]]


async def test_how_often_something_was_changed_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the sum could come back to an earlier value when old jobs are forgotten, and what was known then would count again."""
    monkeypatch.setattr(limits, "REMEMBERED", 1)
    gentle: Any = Gentle()
    jobs, seen = Jobs(gentle), list[int]()
    letters: Any = [object()]
    for _ in range(3):
        async with anyio.create_task_group() as jobs.tasks:
            jobs.start("purge", ("orders", "billing"), letters, total=1, rate=0, careful=False)
        seen.append(jobs.made)
    assert seen == [1, 2, 3]


class Gentle:
    """An Admin that purges whatever it is given."""

    @asynccontextmanager
    async def purging(self, _topic: str, _group: str) -> AsyncGenerator[Any]:
        async def treat(page: list[Any]) -> int:
            return len(page)

        yield treat
