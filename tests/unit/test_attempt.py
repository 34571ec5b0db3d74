"""One attempt at a time, for all who need its result (docs/understand/link.md, rule 8). In virtual time."""

from __future__ import annotations

from typing import Literal

import anyio
import pytest

from redisaq.errors import ConnectionFailed
from redisaq.link.attempt import Attempts
from redisaq.testing import virtual_run

Outcome = Literal["made", "failed", "left"]


async def shared(outcome: Outcome) -> list[tuple[float, object]]:
    """Let three need the same attempt, one of them for half a second only; return when each knew what."""
    attempts, known, made = Attempts(), list[tuple[float, object]](), list[float]()
    maker = anyio.CancelScope()

    async def make() -> None:
        made.append(anyio.current_time())
        await anyio.sleep(2.0)
        if outcome == "failed":
            raise ConnectionFailed("redis://host", "no", permanent=True, silent=True) from OSError("why")

    async def need(scope: anyio.CancelScope) -> None:
        with scope:
            try:
                done = await attempts.share(make, "redis://others")
                known.append((anyio.current_time(), done))
            except ConnectionFailed as error:
                known.append((anyio.current_time(), error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(need, maker)
        await anyio.sleep(0.5)
        assert attempts.current is not None
        for seconds in (0.5, 60.0, 60.0):
            tasks.start_soon(need, anyio.CancelScope(deadline=anyio.current_time() + seconds))
        await anyio.sleep(1.0)
        if outcome == "left":
            maker.cancel()
    assert attempts.current is None
    assert made == [0.0]
    return known


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize(("outcome", "result"), [("made", [(2.0, True)] * 3), ("left", [(1.5, False)] * 2)])
def test_all_who_wait_know_how_it_ended(outcome: Outcome, result: list[tuple[float, bool]], backend: Literal["trio", "asyncio"]) -> None:
    assert virtual_run(shared, outcome, backend=backend) == result


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_each_gets_an_error_of_its_own(backend: Literal["trio", "asyncio"]) -> None:
    errors = [error for _, error in virtual_run(shared, "failed", backend=backend)]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, ConnectionFailed)
        assert (error.reason, error.permanent, error.silent, str(error.__cause__)) == ("no", True, True, "why")
