"""Nodes of a cluster are replaced, killed and emptied under load: nothing that was acknowledged is lost, and work goes on.

The other rows are played by the command `python -m tests.chaos.cluster_outages`, with bounds for the times.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from tests.chaos.cluster_outages import Place, fail_over, kill, move_slot_by_slot
from tests.chaos.outage import Bounds, play
from tests.clusters import Cluster
from tests.server_fixtures import ServerPool

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns, pytest.mark.usefixtures("patient")]

MARGIN = 10.0
"""Seconds, for a busy machine."""


@pytest.fixture
def own(server_pool: ServerPool) -> Iterator[Cluster]:
    """A cluster with replicas for this test alone."""
    own = server_pool.new_cluster("cluster", replicas=1)
    yield own
    own.close()


async def test_slots_move_nodes_are_replaced_and_one_is_killed(own: Cluster, namespace: str) -> None:
    took = 0.0

    async def fault() -> None:
        nonlocal took
        place = Place(own, namespace)
        for topic in (False, True):
            await fail_over(place, topic=topic)
            await move_slot_by_slot(place, topic=topic, held=0.1)
        await anyio.sleep(0.5)
        took = await kill(place, topic=False)

    outcome = await play("replaced, emptied, killed", own.url, namespace, fault, before=1.0, after=1.0)
    assert outcome.acknowledged > 100
    assert outcome.beyond(Bounds(gap=1.3 * took + MARGIN, slowest=1.3 * took + MARGIN)) == []
