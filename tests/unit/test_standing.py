"""After a step was refused: whether the partition is still this member's, and what the server is asked for that (T2, S5)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq.brokers.steps.leases import Install, Installed
from redisaq.brokers.steps.settling import Resolve, Resolved
from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.standing import still_owned
from redisaq.errors import ConnectionFailed
from tests.actors.answering import Answering, surroundings_of
from tests.actors.group import TRIO_ALONE
from tests.unit.owning import owned_partition, read

pytestmark = TRIO_ALONE
MOVED = (b"1-0", b"2-0")


class Refused:
    """A partition whose step was refused under token 5, and a broker with these answers."""

    def __init__(self, *, spent: bool, installed: Installed | None = None) -> None:
        self.broken = False
        self.installed, self.resolved = installed, Resolved(False, 9, spent=spent)
        self.broker = Answering(self.answer)
        self.around = surroundings_of(self.broker, dead_maxlen=77)
        self.lease = Lease("me", 60.0, self.around.environment)
        self.lease.deadline = anyio.current_time() + 60.0
        self.owned: OwnedPartition = owned_partition(token=5, lease=self.lease)

    def answer(self, step: Any) -> Any:
        if isinstance(step, Resolve):
            return self.resolved
        if step.token != 5 and not self.broken:
            self.broken = True
            raise ConnectionFailed("redis://x", "broke")
        return Installed(True, step.token, "me") if step.token != 5 else self.installed

    async def still_owned(self) -> bool:
        return await still_owned(self.around, self.owned, 5, "refused")

    @property
    def steps(self) -> list[tuple[str, int]]:
        return [(step.name, step.token) for _, step in self.broker.steps]  # type: ignore[attr-defined]


async def test_what_another_member_has_is_lost() -> None:
    refused = Refused(spent=False)
    assert not await refused.still_owned()
    assert refused.owned.lost == "refused"
    assert refused.steps == [("resolve", 5)]
    (step,) = refused.broker.of(Resolve)
    assert (tuple(step.resolutions), step.dead_maxlen) == ((), 77)
    assert not await refused.still_owned()
    assert len(refused.steps) == 1, "that is known"


async def test_where_another_task_has_found_out_nothing_is_asked() -> None:
    refused = Refused(spent=False)
    refused.owned.flights.standing = 6
    assert await refused.still_owned()
    assert (refused.owned.lost, refused.steps) == ("", [])


@pytest.mark.parametrize(
    ("installed", "kept"),
    [
        (Installed(True, 5, "me"), True),
        (Installed(False, 9, "other"), False),
        (Installed(False, 9, "other", moved=MOVED), False),
        (Installed(False, 9, "me"), False),
        (Installed(False, 9, "me", moved=MOVED), True),
    ],
)
async def test_it_goes_on_under_a_token_that_is_lost_or_that_a_seek_has_left_to_it(installed: Installed, *, kept: bool) -> None:
    refused = Refused(spent=True, installed=installed)
    assert await refused.still_owned() is kept
    assert refused.owned.lost == ("" if kept else "refused")
    moved = kept and not installed.done
    assert refused.steps == [("resolve", 5), ("install", 5), *[("install", 9)] * 2 * moved], "the last one until it is answered"
    assert [(step.incarnation, step.foreign) for step in refused.broker.of(Install)] == [("me", False)] * (1 + 2 * moved)
    assert (refused.owned.token, refused.owned.standing) == (5, 9 if moved else 5)


async def test_who_waits_for_what_a_seek_has_made_new_again_waits_no_longer() -> None:
    refused = Refused(spent=True, installed=Installed(False, 9, "me", moved=(b"0-0", b"2-0")))
    owned, woken = refused.owned, list[str]()
    for flight in read(owned, 1, 2):
        owned.flights.start(flight)
        owned.flights.returned(flight)

    async def wait() -> None:
        await owned.wait_settled()
        woken.append("settled")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(1.0)
        assert woken == []
        assert await refused.still_owned()
        await anyio.sleep(1.0)
        assert woken == ["settled"]
        tasks.cancel_scope.cancel()
