"""What the acknowledger does when a lease is over: the next owner settles what is done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio

from redisaq.actors import Supervisor
from redisaq.consuming.acknowledger import Acknowledger
from tests.actors.group import IN_VIRTUAL_TIME
from tests.unit.owning import owned_partition, read

pytestmark = IN_VIRTUAL_TIME


async def test_what_is_done_after_the_lease_is_forgotten_and_nothing_is_sent() -> None:
    """M4: also where nothing but the clock tells, since the process was paused, and no other partition is owned."""
    acknowledger = Acknowledger(cast("Any", SimpleNamespace(broker=None, group=None)))
    owned = owned_partition(ring=acknowledger.ring)
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        done = read(owned, 1, 2)
        assert owned.flights.start_new(done)
        owned.lease.deadline = anyio.current_time() - 1
        owned.flights.returned_all(done)
        owned.changed()
        assert (owned.dirty, owned.flights.unsettled) == (True, 2)
        with anyio.fail_after(10):
            await owned.wait_settled()
        assert (owned.dirty, owned.flights.unsettled) == (False, 0)
