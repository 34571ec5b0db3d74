"""A parent whose children cannot be started, or refuse to run the program. In virtual time."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator
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


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_end_does_not_wait_for_the_watcher_of_files(backend: Literal["trio", "asyncio"], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread looks now and then whether it should stop, and at nothing else: a cancellation waits for it."""
    stopped: list[bool] = []

    async def awatch(*_: str, stop_event: anyio.Event | None = None, **_more: object) -> AsyncGenerator[None]:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await (anyio.Event() if stop_event is None else stop_event).wait()
        stopped.append(stop_event is not None and stop_event.is_set())
        return
        yield

    async def keep(_worker: Worker, _child: Child) -> None:
        await anyio.sleep(1)

    monkeypatch.setattr("watchfiles.awatch", awatch)
    monkeypatch.setattr(Worker, "_keep", keep)
    virtual_run(Worker(WorkerSettings("shop:app", reload=True)).serve, backend=backend)
    assert stopped == [True]
