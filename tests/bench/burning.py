"""The App that `python -m tests.bench.worker` runs: its handler burns CPU. What it needs comes from its environment."""

from __future__ import annotations

import os

from redisaq import App, Message

TURNS = "BURNING_TURNS"
"""The variable that says how many turns of a loop a handler does."""


def burn(turns: int) -> None:
    """Burn CPU, the same amount whatever else the machine does."""
    for _ in range(turns):
        pass


app = App(namespace="bench")
numbers = app.topic("numbers", int, partitions=16)
turns = int(os.environ.get(TURNS, "0"))


@numbers.consumer("burners", batch_size=100)
async def handle(message: Message[int]) -> None:
    """Burn."""
    burn(turns)
