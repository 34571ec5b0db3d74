"""A parent that cannot start a child: no process, or no file descriptor, is left. In virtual time."""

from __future__ import annotations

import errno
import os
from typing import Any, Literal

import pytest

from redisaq.testing import virtual_run
from redisaq.worker import parent
from redisaq.worker.parent import Worker
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
