"""The listener to one doorbell: when it listens, looks and stops listening. In virtual time."""

from __future__ import annotations

import anyio

from redisaq.actors import Supervisor
from redisaq.consuming.doorbell import SignalListener
from redisaq.errors import ConnectionFailed, ServerError
from tests.actors.group import TRIO_ALONE

pytestmark = TRIO_ALONE


class Bell:
    """A doorbell that rings when a test wants it to, and breaks."""

    def __init__(self) -> None:
        self.rung = anyio.Event()
        self.error: Exception | None = None
        self.closed = 0

    def ring(self, error: Exception | None = None) -> None:
        """Ring, or break."""
        self.error = error
        self.rung.set()

    async def wait(self) -> None:
        """Wait for the next one."""
        await self.rung.wait()
        self.rung = anyio.Event()
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Note it."""
        await anyio.lowlevel.checkpoint()
        self.closed += 1


async def test_it_looks_when_it_begins_to_listen_and_at_each_ring_and_closes_what_broke() -> None:
    bells, looks = list[Bell](), list[int]()

    async def listen() -> Bell:
        bells.append(Bell())
        return bells[-1]

    async with Supervisor() as supervisor:
        ref = await supervisor.start(SignalListener(listen, lambda: looks.append(len(bells)), lambda _: None))
        await anyio.sleep(100.0)
        assert looks == [1]
        for ring in (None, None, ConnectionFailed("redis://x", "broke")):
            bells[0].ring(ring)
            await anyio.sleep(20.0)
        assert looks == [1, 1, 1, 2]
        assert [bell.closed for bell in bells] == [1, 0]
        await supervisor.stop(ref)
    assert [bell.closed for bell in bells] == [1, 1]


async def test_where_listening_is_not_permitted_it_looks_each_second_and_asks_again_each_minute() -> None:
    began, permits = anyio.current_time(), False
    bells, asked, looks, refused = list[Bell](), list[float](), list[float](), list[str]()

    async def listen() -> Bell:
        asked.append(round(anyio.current_time() - began, 6))
        if not permits:
            raise ServerError("NOPERM no channels")
        bells.append(Bell())
        return bells[-1]

    def look() -> None:
        looks.append(round(anyio.current_time() - began, 6))

    async with Supervisor() as supervisor:
        ref = await supervisor.start(SignalListener(listen, look, refused.append))
        await anyio.sleep(119.5)
        assert looks == [float(second) for second in range(120)]
        permits = True
        await anyio.sleep(100.0)
        assert looks[120:] == [120.0], "then it listens"
        assert asked == [0.0, 60.0, 120.0]
        assert refused == ["NOPERM no channels"] * 2
        permits = False
        bells[0].ring(ServerError("NOPERM no more"))
        await anyio.sleep(10.5)
        assert refused[2:] == ["NOPERM no more"]
        assert looks[121:] == [219.5 + second for second in range(11)]
        await supervisor.stop(ref)
    assert bells[0].closed == 1
