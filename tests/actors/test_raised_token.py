"""T2: the token beside the data is greater than the document's; the document's is raised, whatever connection breaks meanwhile."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Admin
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.steps.coordination import Commit
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.terms import GroupName
from redisaq.errors import ConnectionFailed
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick
from tests.actors.hooked import hooked
from tests.changing_steps import Do, change_step

pytestmark = IN_VIRTUAL_TIME

GREATER = 1 << 52  # microseconds: it is greater than any token given for a century


@pytest.mark.parametrize("executed", [False, True])
async def test_a_token_is_raised_over_a_broken_connection(monkeypatch: pytest.MonkeyPatch, *, executed: bool) -> None:
    url, group = fresh_url(), GroupName("jobs", "default_group")
    await produce(url, 3)
    carry_out(MemoryBroker(url.removeprefix("memory://"), "redisaq").store, Install(group, 0, GREATER, "", foreign=True))
    broken = False

    async def commit(step: Commit, do: Do) -> Any:
        nonlocal broken
        raises = step.document.token.get(0, 0) > GREATER
        done = await do(step) if executed or broken or not raises else False
        if raises and not broken:
            broken = True
            raise ConnectionFailed(url, "for this test", maybe_executed=True)
        return done

    change_step(monkeypatch, Commit, commit)
    notebook = Notebook()
    with anyio.fail_after(10):
        await quick(url).process(notebook.handle, until_empty=True)
    assert broken
    assert notebook.numbers == [0, 1, 2]
    assert all(message.token > GREATER for message in notebook.messages)


async def test_a_token_that_is_raised_for_an_owner_that_has_ended_holds_up_no_end() -> None:
    """The partition is wanted back while its owner waits for the token: it ends under its earlier one."""
    url, group = fresh_url(), GroupName("jobs", "default_group")
    await produce(url, 1)
    carry_out(MemoryBroker(url.removeprefix("memory://"), "redisaq").store, Install(group, 0, GREATER, "", foreign=True))
    installing, looking, asking, asked, ended = (anyio.Event() for _ in range(5))
    leaving = False

    async def before(name: str) -> None:
        if name == "install" and not installing.is_set():
            installing.set()
            await asking.wait()
        elif name == "heartbeat" and leaving and not looking.is_set():
            looking.set()
            await asked.wait()
        elif name == "commit" and leaving:  # it raises the token, and then it leaves
            await ended.wait()

    async def after(name: str) -> None:
        if name == "release":
            ended.set()

    consumer, notebook = quick(url, heartbeat_interval=20.0, heartbeat_ttl=60.0), Notebook()
    broker = hooked(consumer, url)
    broker.before, broker.after = before, after
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, notebook.handle)
        await installing.wait()
        await anyio.wait_all_tasks_blocked()
        assert consumer._runtime is not None
        leaving = True
        consumer._runtime.stop()
        consumer._runtime._coordinator.look()  # it has heard that it is to leave, and looks first
        await looking.wait()
        asking.set()
        while not consumer._runtime._coordinator.mailbox.depth:  # the owner asks for a greater token
            await anyio.lowlevel.checkpoint()
        asked.set()
        began = anyio.current_time()
    assert ended.is_set()
    assert anyio.current_time() - began < 1
    async with Admin(url) as admin:
        assert (await admin.group("jobs", "default_group")).members == ()
    await quick(url).process(notebook.handle, until_empty=True)
    assert notebook.numbers == [0]
