"""A parent whose children cannot be started, or refuse to run the program. In virtual time."""

from __future__ import annotations

import errno
import os
from typing import Any, Literal

import anyio
import pytest

from redisaq.testing import virtual_run
from redisaq.worker import parent
from redisaq.worker.crew import Child
from redisaq.worker.parent import Worker
from redisaq.worker.reports import Refused
from redisaq.worker.settings import WorkerSettings


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_child_that_cannot_be_started_has_died_and_is_tried_again(
    backend: Literal["trio", "asyncio"], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    async def start(_pipe: int, _counts: int | None) -> Any:
        tries.append(1)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(parent, "_start", start)

    async def main() -> int:
        worker = Worker(WorkerSettings("shop:app", processes=1))
        await worker.serve()
        return worker.status

    assert virtual_run(main, backend=backend) == 1
    assert len(tries) == parent.DEATHS


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_children_that_refuse_the_program_at_the_same_time_give_one_reason(
    backend: Literal["trio", "asyncio"], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_worker: Worker, child: Child, _changed: anyio.Event) -> tuple[int, Refused]:
        child.start(child.number, anyio.current_time())
        await anyio.sleep(1)
        return 2, Refused(2, "there is no module 'shop'")

    monkeypatch.setattr(Worker, "_run", refuse)

    async def main() -> tuple[int, str]:
        worker = Worker(WorkerSettings("shop:app", processes=3))
        await worker.serve()
        return worker.status, worker.refusal

    assert virtual_run(main, backend=backend) == (2, "there is no module 'shop'")
    assert not caplog.records
