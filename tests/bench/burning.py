"""The App that `python -m tests.bench.worker` runs: its handler burns CPU. What it needs comes from its environment."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redisaq import App, Message

TURNS, PLACE = "BURNING_TURNS", "BURNING_PLACE"
"""The variables that say how many turns of a loop a handler does, and where each process writes down when it did the last one."""


def burn(turns: int) -> None:
    """Burn CPU, the same amount whatever else the machine does."""
    for _ in range(turns):
        pass


last = 0.0


@asynccontextmanager
async def written_down(app: App[Any]) -> AsyncGenerator[None]:
    """Write down, at the end, when the last handler ended: the clock is the same in all processes."""
    del app
    yield
    if PLACE in os.environ:
        (Path(os.environ[PLACE]) / str(os.getpid())).write_text(str(last))


app = App(namespace="bench", lifespan=written_down)
numbers = app.topic("numbers", int, partitions=16)
turns = int(os.environ.get(TURNS, "0"))


@numbers.consumer("burners", batch_size=100)
async def handle(message: Message[int]) -> None:
    """Burn."""
    global last  # noqa: PLW0603 -- a benchmark of one function
    burn(turns)
    last = time.monotonic()
