"""Masters behind sentinels are replaced and killed under load: nothing that was acknowledged is lost, and work goes on at the next one.

The other rows are played by the command `python -m tests.chaos.sentinel_outages`, with bounds for the times.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from tests.chaos.outage import Bounds, play
from tests.chaos.sentinel_outages import kill, plan_coordinated
from tests.sentinels import Guarded
from tests.server_fixtures import ServerPool

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

MARGIN = 10.0
"""Seconds, for a busy machine."""


@pytest.fixture
def own(server_pool: ServerPool) -> Iterator[Guarded]:
    """Servers and sentinels for this test alone."""
    own = server_pool.new_guarded("valkey9")
    yield own
    own.close()


async def test_a_planned_failover_then_a_killed_master(own: Guarded, namespace: str) -> None:
    took = 0.0

    async def fault() -> None:
        nonlocal took
        took = await plan_coordinated(own)
        await anyio.sleep(1.0)
        took = max(took, await kill(own))

    outcome = await play("planned, killed", own.url, namespace, fault, before=1.0, after=1.0)
    assert outcome.acknowledged > 100
    assert outcome.beyond(Bounds(gap=1.3 * took + MARGIN, slowest=1.3 * took + MARGIN)) == []
