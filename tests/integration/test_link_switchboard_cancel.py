"""Opening a bell is cancelled: nothing is left listening. Waiting for one is: nothing is lost."""

from __future__ import annotations

import anyio
import pytest

from redisaq.link import Bell
from tests.integration.test_link_switchboard import HANG_SECONDS, channel, listeners, publish
from tests.link_opened import opened
from tests.link_steps import Steps, cancel_at
from tests.servers import Server

__all__ = ["channel"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("hasty")]


@pytest.mark.parametrize("first", [False, True], ids=["one more", "the first"])
async def test_a_cancelled_listen_leaves_nothing(valkey_server: Server, channel: str, first: bool) -> None:
    async with opened(valkey_server.url) as link:
        other = None if first else await link.listen(f"{channel}:2")
        step, reached = 0, True
        while reached:
            steps = Steps()
            bell: Bell | None = None
            with anyio.fail_after(HANG_SECONDS):
                with anyio.CancelScope() as scope:
                    bell = await cancel_at(link.listen(channel), step, scope.cancel, steps)
                reached = steps.count > step
                if bell is not None:
                    await bell.close()
                while listeners(valkey_server, channel):
                    await anyio.sleep(0.001)
                if other is not None:
                    await publish(link, f"{channel}:2")
                    await other.wait()
            step += 1
        assert step >= 2


async def test_waiting_for_a_bell_that_has_rung_is_a_checkpoint(valkey_server: Server, channel: str) -> None:
    async with opened(valkey_server.url) as link:
        bell = await link.listen(channel)
        bell.ring()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bell.wait()
        assert scope.cancelled_caught
        with anyio.fail_after(HANG_SECONDS):
            await bell.wait()  # nothing is lost
        await bell.close()
