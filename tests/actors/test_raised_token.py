"""T2: the token beside the data is greater than the document's; the document's is raised, whatever connection breaks meanwhile."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.steps.coordination import Commit
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.terms import GroupName
from redisaq.errors import ConnectionFailed
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick
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
