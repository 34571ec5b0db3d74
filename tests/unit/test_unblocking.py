"""How a cancelled read is ended on the server, and for how long. In virtual time, over a line that is not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal, cast

import anyio
import pytest

from redisaq.errors import ConnectionFailed
from redisaq.link.reading import ReadingConnection
from redisaq.testing import virtual_run

Outcome = tuple[float, object, int]


class Owing:
    """A line on which one reply is owed, until a test has it arrive."""

    def __init__(self) -> None:
        self.broken: str | None = None
        self.owed = 0  # of earlier commands
        self.arrived = anyio.Event()

    def send(self, command: object, block: float) -> None:
        """Send nothing."""

    async def reply(self) -> object:
        """Wait for it."""
        await self.arrived.wait()
        if self.broken is not None:
            raise ConnectionFailed("redis://nowhere", self.broken)
        return [b"what it still returned"]


async def cancelled(*, answered: bool, arrives: float, breaks: bool = False) -> Outcome:
    """Cancel a read; return how long that took, what is left over, and how often the server was asked to end it."""
    line, asked = Owing(), list[object]()

    async def call(*commands: object) -> list[object]:
        asked.extend(commands)
        if not answered:
            await anyio.sleep_forever()
        return [1]

    async def read() -> None:
        await connection.read(("XREADGROUP",), block=60.0)

    async def arrive() -> None:
        await anyio.sleep(arrives)
        line.broken = "it broke" if breaks else None
        line.arrived.set()

    connection = ReadingConnection(cast("Any", line), cast("Any", SimpleNamespace(client_id=7, client_address="", run_id="")), call, print)
    async with anyio.create_task_group() as others:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.sleep(5.0)
            began = anyio.current_time()
            others.start_soon(arrive)
            tasks.cancel_scope.cancel()
        took = anyio.current_time() - began
        others.cancel_scope.cancel()
    assert set(asked) == {("CLIENT", "UNBLOCK", 7)}
    return took, connection.take_leftover(), len(asked)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize(
    ("how", "took", "left", "most"),
    [
        ({"answered": True, "arrives": 0.001}, 0.001, [b"what it still returned"], 1),
        ({"answered": True, "arrives": 0.1}, 0.1, [b"what it still returned"], 8),
        ({"answered": False, "arrives": 0.1}, 0.25, [b"what it still returned"], 1),  # it comes without that answer
        ({"answered": True, "arrives": 60.0}, 1.0, None, 40),
        ({"answered": False, "arrives": 60.0}, 1.0, None, 4),
        ({"answered": True, "arrives": 0.1, "breaks": True}, 0.1, None, 8),
    ],
)
def test_a_cancelled_read_is_ended(backend: Literal["trio", "asyncio"], how: dict[str, Any], took: float, left: object, most: int) -> None:
    async def main() -> Outcome:
        return await cancelled(**how)

    passed, leftover, asked = virtual_run(main, backend=backend)
    assert passed == pytest.approx(took, abs=0.03)
    assert (leftover, 1 <= asked <= most) == (left, True), asked


def test_it_is_asked_for_soon_and_then_each_twentieth_of_a_second() -> None:
    """One request may arrive before the read has begun to block."""

    async def main() -> list[float]:
        line, asked = Owing(), list[float]()

        async def call(*_: object) -> list[object]:
            asked.append(anyio.current_time() - 5.0)
            return [0]

        greeting = cast("Any", SimpleNamespace(client_id=7, client_address="", run_id=""))
        connection = ReadingConnection(cast("Any", line), greeting, call, print)
        with anyio.move_on_after(5.0):
            await connection.read(("XREADGROUP",), block=60.0)
        return asked

    asked = virtual_run(main)
    assert asked[:8] == pytest.approx([0.0, 0.002, 0.006, 0.014, 0.030, 0.062, 0.112, 0.162])
    assert asked[-1] == pytest.approx(0.962)
