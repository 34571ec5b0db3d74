"""T2: a greater token stands beside the data than the document has; the document's is raised, whatever breaks on the way."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq.brokers.base import GroupName
from redisaq.brokers.memory import MemoryBroker
from redisaq.errors import ConnectionFailed
from tests.actors.group import Notebook, fresh_url, produce, quick

pytestmark = pytest.mark.anyio

GREATER = 1 << 52  # microseconds: it is greater than any token given for a century


@pytest.mark.parametrize("executed", [False, True])
async def test_a_token_is_raised_over_a_broken_connection(monkeypatch: pytest.MonkeyPatch, *, executed: bool) -> None:
    url, group = fresh_url(), GroupName("jobs", "default_group")
    await produce(url, 3)
    MemoryBroker(url.removeprefix("memory://"), "redisaq").store.install(group, 0, GREATER, "", foreign=True)
    whole, broken = MemoryBroker.commit, False

    async def commit(self: MemoryBroker, *arguments: Any, **more: Any) -> str | None:
        nonlocal broken
        raises = more["document"].token.get(0, 0) > GREATER
        version = await whole(self, *arguments, **more) if executed or broken or not raises else None
        if raises and not broken:
            broken = True
            raise ConnectionFailed(url, "for this test", maybe_executed=True)
        return version

    monkeypatch.setattr(MemoryBroker, "commit", commit)
    notebook = Notebook()
    with anyio.fail_after(10):
        await quick(url).process(notebook.handle, until_empty=True)
    assert broken
    assert notebook.numbers == [0, 1, 2]
    assert all(message.token > GREATER for message in notebook.messages)
