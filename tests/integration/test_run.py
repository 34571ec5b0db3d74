"""`redisaq.run`: what goes in and comes out; that signals end it well is shown by the programs in README.md and in tests/chaos."""

from __future__ import annotations

import os
import signal
from typing import Any, Literal, get_args

import anyio
import pytest
from anyio.lowlevel import checkpoint

import redisaq
from redisaq.errors import ConnectionFailed, SettingsError

Backend = Literal["asyncio", "uvloop", "trio"]


@pytest.fixture(params=get_args(Backend))
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


def test_it_returns_what_main_returns(backend: Backend) -> None:
    async def main(number: int, *, more: int) -> int:
        await checkpoint()
        return number + more

    assert redisaq.run(main, 3, more=4, backend=backend) == 7


def test_it_raises_what_main_raises(backend: Backend) -> None:
    async def main(error: BaseException) -> None:
        await checkpoint()
        raise error

    for error in (ValueError("mine"), ExceptionGroup("mine", [ValueError("one")])):
        with pytest.raises(type(error), match="mine") as caught:
            redisaq.run(main, error, backend=backend)
        assert caught.value.args == error.args  # trio makes a new group of the same


def test_an_unreachable_server_is_reported_as_it_is(backend: Backend) -> None:
    consumer = redisaq.Consumer("orders", "redis://127.0.0.1:1/0")
    with pytest.raises(ConnectionFailed, match=r"redis://127\.0\.0\.1:1/0"):
        redisaq.run(consumer.process, print, backend=backend)


def test_the_first_signal_cancels_what_cannot_be_stopped(backend: Backend) -> None:
    ended: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    assert redisaq.run(main, backend=backend) is None
    assert ended == ["cancelled"]


class Service:
    """Something with `stop()` and `close()`, as a Consumer has."""

    def __init__(self, *, stops: bool) -> None:
        self.told: list[str] = []
        self._stops = stops
        self._stopped = anyio.Event()

    async def serve(self) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        await self._stopped.wait()
        self.told.append("served")
        return "done"

    async def stop(self) -> None:
        self.told.append("stop")
        if self._stops:
            self._stopped.set()
        else:
            os.kill(os.getpid(), signal.SIGINT)

    async def close(self) -> None:
        self.told.append("close")


def test_the_first_signal_stops_a_service_and_its_end_closes_it(backend: Backend) -> None:
    service = Service(stops=True)
    assert redisaq.run(service.serve, backend=backend) == "done"
    assert service.told == ["stop", "served", "close"]


def test_the_second_signal_cancels(backend: Backend) -> None:
    service = Service(stops=False)
    assert redisaq.run(service.serve, backend=backend) is None
    assert service.told == ["stop", "close"]


def test_what_cannot_be_run() -> None:
    """The coroutine instead of its function, as `asyncio.run` takes it; and a consumer instead of its method."""

    async def main() -> None: ...

    with pytest.raises(SettingsError, match=r"not what calling it makes: run\(main\), not run\(main\(\)\)"):
        redisaq.run(main())  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(SettingsError, match=r"must be an async function or an App, not <redisaq\.consumer\.Consumer"):
        redisaq.run(redisaq.Consumer("orders", "memory://run"))  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]


def test_a_backend_that_does_not_exist() -> None:
    name: Any = "gevent"
    with pytest.raises(SettingsError, match="gevent"):
        redisaq.run(anyio.sleep, 0, backend=name)
