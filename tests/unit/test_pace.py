"""A run in virtual time that would never end is ended, and says who takes the steps."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq import Message
from redisaq.errors import SettingsError
from redisaq.testing import Limits, Simulation, VirtualTimeExceeded, simulate, virtual_run

Backend = Literal["trio", "asyncio"]

both = pytest.mark.parametrize("backend", ["trio", "asyncio"])


async def spin() -> None:
    """Go round without waiting."""
    while True:
        await checkpoint()


async def wait_forever() -> None:
    """Let time go on."""
    while True:
        await anyio.sleep(1.0)


@both
def test_a_loop_that_waits_for_nothing(backend: Backend) -> None:
    async def main() -> None:
        await anyio.sleep(3.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever, name="quiet")
            tasks.start_soon(spin, name="restless")

    with pytest.raises(VirtualTimeExceeded, match=r"at 3 s .*: 10,000 steps were taken while the time stood still.*scenario: restless"):
        virtual_run(main, backend=backend, limits=Limits(steps_at_once=10_000))


@both
def test_time_that_never_ends(backend: Backend) -> None:
    with pytest.raises(VirtualTimeExceeded, match="more than 100 s have passed"):
        virtual_run(wait_forever, backend=backend, limits=Limits(seconds=100.0))
    with pytest.raises(VirtualTimeExceeded, match="more than 500 steps were taken"):
        virtual_run(wait_forever, backend=backend, limits=Limits(steps=500))


STUBBORN = """
import os
import sys
from anyio.lowlevel import checkpoint
from redisaq.testing import Limits, VirtualTimeExceeded, virtual_run

async def stubborn():
    while True:
        try:
            await checkpoint()
        except BaseException:
            pass

try:
    virtual_run(stubborn, backend=sys.argv[1], limits=Limits(steps_at_once=1000))
except VirtualTimeExceeded as error:
    os.write(1, str(error).encode())
    os._exit(7)  # closing that coroutine would loop, too
"""


@both
def test_a_loop_that_swallows_its_cancellation(backend: Backend) -> None:
    """It is given up where it stands: in a process of its own, since what is left of it cannot be cleared away."""
    ended = subprocess.run([sys.executable, "-c", STUBBORN, backend], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout.startswith("at 0 s of virtual time: 1,000 steps were taken while the time stood still")


@both
def test_within_its_limits_a_run_is_what_it_was(backend: Backend) -> None:
    async def main() -> float:
        for _ in range(100):
            await anyio.sleep(1.0)
        return anyio.current_time()

    free = virtual_run(main, backend=backend)
    assert virtual_run(main, backend=backend, limits=Limits(steps_at_once=100, steps=10_000, seconds=1000.0)) == free


@both
def test_a_handler_that_loops_is_a_violation_that_names_its_member(backend: Backend) -> None:
    async def handle(_message: Message[Any]) -> None:
        await spin()

    async def scenario(sim: Simulation) -> None:
        producer = sim.producer("orders", init_partitions=1)
        sim.member("looper", "orders", handle)
        await producer.enqueue({})
        await sim.until_quiet()

    report = simulate(scenario, backend=backend, limits=Limits(steps_at_once=20_000))
    assert not report.ok
    assert any("20,000 steps" in violation and "looper: " in violation for violation in report.violations), report.violations


def test_limits_that_cannot_be() -> None:
    for options in ({"steps": 0}, {"seconds": -1.0}, {"steps_at_once": float("nan")}):
        with pytest.raises(SettingsError):
            Limits(**options)
