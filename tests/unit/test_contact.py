"""Steps that a consumer repeats forever: after which errors, and with which rests. In virtual time."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest

from redisaq.consuming.contact import FIRST_REST, LONGEST_REST, insist
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError, ServerFull
from redisaq.testing import virtual_run
from tests.link_chance import Longest


def test_what_passes_is_tried_again_after_longer_and_longer_rests() -> None:
    async def main() -> None:
        came, reasons = list[float](), list[str]()

        async def step() -> str:
            came.append(anyio.current_time())
            if len(came) == 9:
                return "done"
            raise ServerFull("OOM full") if len(came) == 2 else ConnectionFailed("redis://x", "away")

        assert await insist(step, Environment(random=Longest()), reasons.append) == "done"
        rests = [after - before for before, after in pairwise(came)]
        assert rests == pytest.approx([min(FIRST_REST * 2**number, LONGEST_REST) for number in range(8)])
        assert reasons == ["away", "OOM full", *["away"] * 6]

    virtual_run(main, backend="asyncio")


def test_any_other_error_ends_it() -> None:
    async def main() -> None:
        async def step() -> None:
            raise ServerError("NOPERM no")

        with pytest.raises(ServerError):
            await insist(step, Environment())

    virtual_run(main, backend="trio")
