"""When a failed actor runs again: back-off, intensity and reset, in virtual time on both schedulers."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import Any, Literal

import anyio
import pytest

from redisaq.actors import RestartPolicy, RestartsExceeded, Supervisor
from redisaq.actors.restart import RestartRecord, consists_of
from redisaq.errors import SettingsError
from redisaq.testing import virtual_run
from tests.actors.kernel import Recorder

Backend = Literal["trio", "asyncio"]

both = pytest.mark.parametrize("backend", ["trio", "asyncio"])


class Timed(Recorder):
    """Notes the times of its starts."""

    def __init__(self, restart: RestartPolicy, failures: int = 0) -> None:
        super().__init__(restart=restart)
        self.starts: list[float] = []
        self.start_failures = [ConnectionError() for _ in range(failures)]

    async def on_start(self) -> None:
        self.starts.append(anyio.current_time())
        await super().on_start()


class Most(Random):
    """Chance that always takes the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_record_doubles_resets_and_counts() -> None:
    record = RestartRecord(RestartPolicy(max_restarts=4, within=50, backoff=1.0, max_backoff=3.0, reset_after=20))
    most = Most()
    assert record.grant(0, None, most) == 1.0
    assert record.grant(1, 0.5, most) == 2.0
    assert record.grant(2, 1.5, most) == 3.0, "max_backoff"
    assert record.grant(30, 2.5, most) == 1.0, "it was up for longer than reset_after"
    assert record.grant(49, None, most) is None, "four within 50 seconds"
    assert record.granted(49) == 4
    assert record.grant(51, None, most) == 2.0, "the first two are out of the window"
    assert record.granted(51) == 3


def test_full_jitter_comes_from_the_random_it_is_given() -> None:
    policy = RestartPolicy(backoff=1.0, max_restarts=math.inf)
    rests = [RestartRecord(policy).grant(0, None, Random(seed)) for seed in range(200)]
    assert all(rest is not None and 0 <= rest <= 1 for rest in rests)
    assert len(set(rests)) == 200


def test_no_limit_keeps_no_record() -> None:
    record = RestartRecord(RestartPolicy(max_restarts=math.inf, backoff=0.1, max_backoff=5))
    rests = [record.grant(number / 1000, None, Most()) for number in range(5000)]
    assert rests[-1] == 5
    assert record.granted(5) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"on": ConnectionError},
        {"on": (KeyboardInterrupt,)},
        {"on": ("ConnectionError",)},
        {"max_restarts": -1},
        {"max_restarts": math.nan},
        {"within": 0},
        {"backoff": -0.1},
        {"backoff": math.inf},
        {"max_backoff": math.nan},
        {"reset_after": -1},
        *({name: value} for name in ("max_restarts", "within", "backoff", "max_backoff", "reset_after") for value in ("5", None, True)),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        RestartPolicy(**settings)


def test_a_policy_at_its_bounds_may_be_made() -> None:
    """Not restarted at all, and at once."""
    policy = RestartPolicy(max_restarts=0, within=1e-9, backoff=0, max_backoff=0, reset_after=math.inf)
    assert RestartRecord(policy).grant(0.0, None, Random(1)) is None


def test_a_policy_is_frozen() -> None:
    policy = RestartPolicy()
    with pytest.raises(AttributeError):
        policy.backoff = 3  # type: ignore[misc]
    assert policy == RestartPolicy()
    assert consists_of(ConnectionResetError(), policy.on)
    assert not policy.names(TimeoutError())


@both
def test_rests_grow_and_are_seeded(backend: Backend) -> None:
    async def main() -> list[float]:
        actor = Timed(RestartPolicy(backoff=1.0, max_backoff=30.0, max_restarts=20, within=1e6), failures=12)
        async with Supervisor() as supervisor:
            await supervisor.start(actor)
        return actor.starts

    starts = virtual_run(main, seed=3, backend=backend)
    rests = [later - earlier for earlier, later in pairwise(starts)]
    assert len(rests) == 12
    assert all(0 <= rest <= min(30.0, 2.0**number) + 1e-9 for number, rest in enumerate(rests))
    assert max(rests) > 5
    assert virtual_run(main, seed=3, backend=backend) == starts
    assert virtual_run(main, seed=4, backend=backend) != starts


@both
def test_the_window_slides(backend: Backend) -> None:
    """Five a minute, one every 13 seconds, for an hour: never too many. One every 9 seconds is."""

    async def main(pause: float) -> int:
        actor = Timed(RestartPolicy(max_restarts=5, within=60.0, backoff=0))
        async with Supervisor() as supervisor:
            ref = await supervisor.start(actor)
            for _ in range(int(3600 / pause)):
                await anyio.sleep(pause)
                await ref.tell(ConnectionError())
        return len(actor.starts)

    assert virtual_run(main, 13.0, backend=backend) > 250
    with pytest.raises(RestartsExceeded) as caught:
        virtual_run(main, 9.0, backend=backend)
    assert caught.value.restarts == 5


@both
def test_messages_wait_while_it_rests(backend: Backend) -> None:
    async def main() -> None:
        actor = Timed(RestartPolicy(backoff=100.0, max_backoff=100.0))
        error = ConnectionError()
        async with Supervisor() as supervisor:
            ref = await supervisor.start(actor)
            for message in (1, error, 2, 3):
                await ref.tell(message)
            await anyio.sleep(0.001)
            (node,) = supervisor.tree().children
            assert (node.status, node.depth, node.handled, node.last_error) == ("restarting", 2, 1, error)
            await anyio.sleep(101)
            (node,) = supervisor.tree().children
            assert (node.status, node.depth, node.handled, node.restarts) == ("running", 0, 3, 1)
        assert [what for _, what in actor.log] == ["start", 1, ("lost", error, error), "stop", "start", 2, 3, "stop"]

    virtual_run(main, backend=backend)


@both
def test_each_message_of_a_batch_is_reported(backend: Backend) -> None:
    class Batches(Recorder):
        async def run(self) -> None:
            while True:
                batch = await self.mailbox.receive_many(3)
                self.note(batch)
                if "bad" in batch:
                    raise ConnectionError

    async def main() -> list[Any]:
        actor = Batches(restart=RestartPolicy(backoff=0))
        async with Supervisor() as supervisor:
            ref = await supervisor.start(actor)
            for message in ("a", "bad", "b", "c"):
                ref.tell_nowait(message)
        return [what[1] for _, what in actor.log if what[0] == "lost"] + [actor.mailbox.handled]

    assert virtual_run(main, backend=backend) == ["a", "bad", "b", 1]


@both
def test_on_lost_and_on_stop_run_though_it_is_being_stopped(backend: Backend) -> None:
    """The failure comes first, the stop while its clean-up is under way."""

    class Slow(Recorder):
        async def on_lost(self, message: object, error: BaseException) -> None:
            await anyio.sleep(2)
            await super().on_lost(message, error)

        async def on_stop(self) -> None:
            await anyio.sleep(2)
            await super().on_stop()

    async def main() -> list[Any]:
        actor = Slow(restart=RestartPolicy(backoff=0))
        error = ConnectionError()
        with anyio.CancelScope() as scope:
            async with Supervisor() as supervisor:
                ref = await supervisor.start(actor)
                await ref.tell(error)
                await anyio.sleep(1)
                scope.cancel()
                await anyio.sleep_forever()
        assert anyio.current_time() == pytest.approx(4.0)
        return [what if isinstance(what, str) else what[0] for _, what in actor.log]

    assert virtual_run(main, backend=backend) == ["start", "lost", "stop"]
