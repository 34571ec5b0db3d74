"""Virtual time: no waiting, one interleaving a seed, the same in every process, and an error instead of a hang."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from types import FrameType
from typing import Literal

import anyio
import anyio.to_thread
import pytest
import trio
import trio.testing
from anyio.lowlevel import checkpoint

from redisaq import Producer
from redisaq.environment import current_environment, time_is_up_at, time_limit
from redisaq.errors import RedisaqError, SettingsError
from redisaq.testing import EPOCH, VirtualDeadlock, VirtualTimeUnavailable, standstill, virtual_run
from redisaq.testing.freezing import OWNER, current_freezer
from redisaq.testing.virtual import run_inline
from tests.unit.source import ROOT

Backend = Literal["trio", "asyncio"]
BACKENDS: tuple[Backend, ...] = ("trio", "asyncio")

both = pytest.mark.parametrize("backend", BACKENDS)


async def interleaving() -> tuple[str, ...]:
    """Return an order that depends on the scheduler: of steps, of timers that are due together, of events, of cancellations."""
    trace: list[str] = []
    event = anyio.Event()

    async def step(name: str) -> None:
        for _ in range(3):
            await checkpoint()
            trace.append(name)

    async def sleep(name: str) -> None:
        await anyio.sleep(1)
        trace.append(name)

    async def wait(name: str) -> None:
        await event.wait()
        trace.append(name)

    async def be_cancelled(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            trace.append(name)

    async with anyio.create_task_group() as tasks:
        for work in (step, sleep, wait, be_cancelled):
            for number in range(5):
                tasks.start_soon(work, f"{work.__name__} {number}")
        await anyio.sleep(2)
        event.set()
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    trace.append(f"{current_environment().random.random()} {current_environment().new_id()}")
    return tuple(trace)


def digest() -> str:
    """Return a number for what 10 seeds give on both backends."""
    found = [virtual_run(interleaving, seed=seed, backend=backend) for backend in BACKENDS for seed in range(10)]
    return hashlib.sha256(repr(found).encode()).hexdigest()


@both
def test_arguments_and_result(backend: Backend) -> None:
    async def main(a: int, b: str) -> tuple[int, str]:
        await checkpoint()
        return a, b

    assert virtual_run(main, 1, "two", backend=backend) == (1, "two")


@both
def test_an_error_leaves_as_it_is(backend: Backend) -> None:
    error = LookupError("mine")

    async def main() -> None:
        await anyio.sleep(1)
        raise error

    with pytest.raises(LookupError) as caught:
        virtual_run(main, backend=backend)
    assert caught.value is error


@both
def test_an_hour_passes_in_no_time(backend: Backend) -> None:
    async def main() -> list[float]:
        times = [anyio.current_time()]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 3600)
            for _ in range(360):
                await anyio.sleep(10)
            times.append(anyio.current_time())
            with anyio.move_on_after(3600) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
        return [*times, anyio.current_time()]

    began = time.monotonic()
    assert virtual_run(main, backend=backend) == pytest.approx([0, 3600, 7200])
    assert time.monotonic() - began < 20, "two hours; it takes a tenth of a second"


@both
def test_one_seed_one_interleaving(backend: Backend) -> None:
    traces = [virtual_run(interleaving, seed=seed, backend=backend) for seed in range(100)]
    assert len(set(traces)) > 95
    for seed in (0, 50, 99):
        assert virtual_run(interleaving, seed=seed, backend=backend) == traces[seed]


def test_the_same_in_every_process() -> None:
    """Hashes, and so the order of sets of strings, differ from process to process; so do addresses."""
    command = [sys.executable, "-c", "from tests.unit.test_virtual_time import digest; print(digest())"]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
        )
        for seed in ("1", "2", "random")
    ]
    digests = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert digests == {digest()}


@both
def test_the_environment_is_seeded(backend: Backend) -> None:
    async def main() -> tuple[float, str, float, int]:
        environment = current_environment()
        await anyio.sleep(90)
        assert environment.run_plain is run_inline
        assert environment.clock() == pytest.approx(90)
        thread = await environment.run_plain(threading.get_ident, anyio.CapacityLimiter(1))
        return environment.random.random(), environment.new_id(), environment.wall_clock(), thread

    first = virtual_run(main, seed=5, backend=backend)
    assert first == virtual_run(main, seed=5, backend=backend)
    assert first != virtual_run(main, seed=6, backend=backend)
    assert first[0] == random.Random(5).random()
    assert first[2] == pytest.approx(EPOCH + 90)
    assert first[3] == threading.get_ident()
    assert current_environment().run_plain is not run_inline, "and put back"


@both
def test_child_tasks_see_the_environment(backend: Backend) -> None:
    async def main() -> None:
        async def child() -> None:
            assert current_environment().run_plain is run_inline

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)

    virtual_run(main, backend=backend)


def test_trios_scheduler_is_put_back() -> None:
    from trio._core import _run

    before = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()  # pyright: ignore[reportPrivateUsage]
    virtual_run(interleaving, seed=1, backend="trio")
    with pytest.raises(ZeroDivisionError):
        virtual_run(fail, seed=1, backend="trio")
    assert before == (_run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate())  # pyright: ignore[reportPrivateUsage]


async def fail() -> None:
    await checkpoint()
    raise ZeroDivisionError


def test_there_is_no_such_backend() -> None:
    with pytest.raises(SettingsError, match="uvloop"):
        virtual_run(fail, backend="uvloop")  # type: ignore[arg-type]


# -- when nothing can ever run again ----------------------------------------------------------------------------------------------


@both
def test_a_deadlock_is_an_error(backend: Backend) -> None:
    cleaned_up: list[str] = []

    async def stuck_here() -> None:
        try:
            await anyio.Event().wait()
        finally:
            await anyio.sleep(5)  # a cancelled scope: raises
            cleaned_up.append("not reached")

    async def main() -> None:
        await anyio.sleep(7)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stuck_here, name="the stuck one")
            try:
                await stuck_here()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(5)
                cleaned_up.append("main")

    with pytest.raises(VirtualDeadlock, match="at 7 s of virtual time every task waits") as caught:
        virtual_run(main, backend=backend)
    assert isinstance(caught.value, RedisaqError)
    assert cleaned_up == ["main"]
    waiting = [one for one in caught.value.waiting if "in test_a_deadlock_is_an_error.<locals>.stuck_here" in one]
    assert len(waiting) == 2
    assert any(one.startswith("the stuck one: ") for one in waiting)
    assert __file__ in str(caught.value)


@both
def test_a_shielded_deadlock_is_an_error(backend: Backend) -> None:
    async def main() -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                await anyio.sleep_forever()

    with pytest.raises(VirtualDeadlock):
        virtual_run(main, backend=backend)


@both
def test_a_deadlock_that_is_hushed_up_is_an_error(backend: Backend) -> None:
    async def swallow() -> None:
        with contextlib.suppress(BaseException):
            await anyio.sleep_forever()

    async def swallow_several() -> None:
        for _ in range(5):
            await swallow()

    async def translate() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:  # noqa: BLE001 -- the mistake
            raise LookupError("something else") from None

    for main in (swallow, swallow_several, translate):
        with pytest.raises(VirtualDeadlock):
            virtual_run(main, backend=backend)


def test_when_nothing_helps_it_is_raised_where_it_is_noticed() -> None:
    """First the run is cancelled, then shields are broken; what then still stands is given up."""
    watch = standstill.Watch()
    broken: list[bool] = []
    tasks = [("a", fail())]
    watch.standstill(3.0, tasks, sockets=False, break_shields=lambda: broken.append(True))
    assert broken == [True]
    with pytest.raises(VirtualDeadlock, match=r"at 3 s .*\n  a: .*test_virtual_time.py:\d+ in fail"), contextlib.closing(tasks[0][1]):
        watch.standstill(3.0, tasks, sockets=False, break_shields=lambda: broken.append(True))
    assert broken == [True]


@pytest.mark.parametrize(("count", "more"), [(20, False), (21, True)])
def test_the_error_does_not_name_hundreds_of_tasks(count: int, more: bool) -> None:
    text = str(VirtualDeadlock(1.5, [f"task {number}: x" for number in range(count)]))
    assert text.count("task ") - text.count("every task") == 20
    assert ("and 1 more" in text) == more


@both
def test_a_socket_is_waited_for(backend: Backend) -> None:
    """As a thread is."""

    async def main() -> bytes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            timer = threading.Timer(0.1, theirs.send, [b"x"])
            timer.start()
            await anyio.wait_readable(ours)
            timer.join()
            return ours.recv(1)

    assert virtual_run(main, backend=backend) == b"x"


def slow_three() -> int:
    time.sleep(0.1)
    return 3


@both
def test_a_thread_is_waited_for(backend: Backend) -> None:
    """Real time passes there, so nobody knows whether something comes of it: it is waited for."""

    async def main() -> int:
        return await anyio.to_thread.run_sync(slow_three)

    assert virtual_run(main, backend=backend) == 3


@both
def test_a_thread_gets_its_turn_before_hours_pass(backend: Backend) -> None:
    """A timer that rings all the time keeps the clock going; it may not run away from a thread that is at work."""

    async def main() -> float:
        async def tick() -> None:
            while True:
                await anyio.sleep(1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await anyio.to_thread.run_sync(time.sleep, 0.02)
            passed = anyio.current_time()
            tasks.cancel_scope.cancel()
        return passed

    assert virtual_run(main, backend=backend) < 100


@both
def test_a_thread_of_a_process_that_has_thawed_gets_its_turn_too(backend: Backend) -> None:
    """Its task was ready before, and has been held back."""

    async def main() -> float:
        async def tick() -> None:
            while True:
                await anyio.sleep(1)

        async def work() -> None:
            OWNER.set("frozen")
            await anyio.sleep(1)
            await anyio.to_thread.run_sync(time.sleep, 0.02)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            tasks.start_soon(work)
            await anyio.sleep(0.5)
            current_freezer().freeze("frozen")
            await anyio.sleep(5)
            current_freezer().thaw("frozen")
        return anyio.current_time()

    assert virtual_run(main, backend=backend) < 100


@both
def test_whether_a_task_waits_for_a_thread_is_looked_at_when_it_has_run(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that idles is kept for long. It costs no look at every task, and no pause, each time the clock moves."""
    looks, pauses = list[object](), list[float]()
    frames, others = standstill.frames, threading.active_count()

    def look(coroutine: object) -> list[FrameType]:
        looks.append(coroutine)
        return frames(coroutine)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(anyio.sleep, 1000)
            await anyio.to_thread.run_sync(int)
            assert threading.active_count() > others or backend == "trio", "or it took one that idled before"
            monkeypatch.setattr(time, "sleep", pauses.append)
            for _ in range(100):
                await anyio.sleep(1)
            tasks.cancel_scope.cancel()

    monkeypatch.setattr(standstill, "frames", look)
    virtual_run(main, backend=backend)
    assert 100 <= len(looks) < 500
    assert not pauses


@both
def test_a_worker_thread_that_idles_is_not_waited_for(backend: Backend) -> None:
    """It is kept for later; nobody waits for it."""

    async def main() -> None:
        await anyio.to_thread.run_sync(int)
        await anyio.sleep_forever()

    began = time.monotonic()
    with pytest.raises(VirtualDeadlock):
        virtual_run(main, backend=backend)
    assert time.monotonic() - began < standstill.PATIENCE / 2


@both
def test_another_thread_is_not_waited_for_without_end(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "PATIENCE", 0.2)
    release = threading.Event()

    async def main() -> None:
        threading.Thread(target=release.wait).start()
        await anyio.sleep_forever()

    try:
        with pytest.raises(VirtualDeadlock):
            virtual_run(main, backend=backend)
    finally:
        release.set()


# -- when a private part is gone --------------------------------------------------------------------------------------------------


def without(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Callable[[], Awaitable[None]]:
    monkeypatch.delattr(owner, name)
    return fail


def test_trio_without_its_private_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from trio._core import _run

    for owner, name in ((_run, "_r"), (_run, "_ALLOW_DETERMINISTIC_SCHEDULING"), (trio.testing.MockClock, "_autojump")):
        with monkeypatch.context() as patch, pytest.raises(VirtualTimeUnavailable, match=f"trio {trio.__version__}: .*{name}"):
            virtual_run(without(patch, owner, name), backend="trio")


@pytest.mark.parametrize(
    ("table", "value"), [("NEEDED", {"_gone": list}), ("NEEDED", {"_ready": str}), ("METHODS", ("_gone",)), ("TIMERS", ("_gone",))]
)
def test_asyncio_without_its_private_parts(monkeypatch: pytest.MonkeyPatch, table: str, value: Iterable[str]) -> None:
    from redisaq.testing import _asyncio

    monkeypatch.setattr(_asyncio, table, value)
    monkeypatch.setattr(_asyncio, "check", _asyncio.check.__wrapped__)
    with pytest.raises(VirtualTimeUnavailable, match=f"asyncio's event loop lacks what virtual time needs: {next(iter(value))}"):
        virtual_run(fail, backend="asyncio")


async def test_a_loop_that_runs_already(anyio_backend: object) -> None:
    with pytest.raises(RuntimeError, match="call virtual_run and simulate from a plain function"):
        virtual_run(fail)


def test_what_cannot_be_called() -> None:
    with pytest.raises(SettingsError, match="main must be something that can be called"):
        virtual_run("main")  # type: ignore[arg-type]


@both
@pytest.mark.parametrize("url", ["redis://user:secret@localhost:1", "redis+sentinel://localhost:1/main", "embedded://"])
def test_no_server_answers_in_virtual_time(url: str, backend: Backend) -> None:
    """The time to connect would be over before the server could answer, and the error would speak of host, port and firewall."""

    async def main() -> None:
        await Producer("orders", url).enqueue(1)

    with pytest.raises(SettingsError, match=r"^[a-z+]+://.* cannot answer in virtual time, .*memory://") as caught:
        virtual_run(main, backend=backend)
    assert "secret" not in str(caught.value)


def test_a_seed_is_a_number() -> None:
    """None would seed the run with chance, so that nothing could repeat it."""
    for wrong in (None, "7", 1.5):
        with pytest.raises(SettingsError, match="seed must be a whole number"):
            virtual_run(fail, seed=wrong)  # type: ignore[arg-type]


@both
def test_the_time_of_a_call_is_virtual_too(backend: Backend) -> None:
    async def main() -> list[float]:
        await anyio.sleep(100)
        left: list[float] = []
        with time_limit(5):
            await anyio.sleep(2)
            left.append(round(time_is_up_at() - anyio.current_time(), 6))
            with time_limit(60):
                left.append(round(time_is_up_at() - anyio.current_time(), 6))
            with time_limit(1):
                left.append(round(time_is_up_at() - anyio.current_time(), 6))
        return [*left, time_is_up_at()]

    assert virtual_run(main, seed=1, backend=backend) == [3, 3, 1, float("inf")]
