"""When a reader looks whether entries were trimmed before it read them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from redisaq.brokers.steps.retention import Sighting
from redisaq.consuming.loss_watch import LossWatch
from tests.actors.group import IN_VIRTUAL_TIME

pytestmark = IN_VIRTUAL_TIME


async def test_it_looks_again_only_after_it_has_read_and_not_too_often() -> None:
    now, sent = [100.0], list[Any]()

    async def do(step: Any) -> Sighting:
        sent.append((step.since, step.read))
        return Sighting()

    around = SimpleNamespace(environment=SimpleNamespace(clock=lambda: now[0]), broker=SimpleNamespace(do=do), group=None)
    watch = LossWatch(cast("Any", around), cast("Any", SimpleNamespace(partition=0, standing=1)))
    assert (watch.due, watch.left) == (True, 0.0), "what was before is not known"
    await watch.look()
    assert (watch.due, watch.left) == (False, None)
    watch.count(3)
    assert watch.left == pytest.approx(2.0), "every other second at most, and not much later"
    now[0] += 1.5
    watch.count(2)
    assert not watch.due
    assert watch.left == pytest.approx(0.5)
    now[0] += 1.0
    assert (watch.due, watch.left) == (True, 0.0)
    await watch.look()
    assert sent == [(None, 0), (Sighting(), 5)]
    watch.forget()
    assert (watch.due, watch.left) == (True, 0.0)
