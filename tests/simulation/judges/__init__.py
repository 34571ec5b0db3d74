"""Judges that only this project needs, beside those of `redisaq.testing`; `playing.play` lets them judge every scenario."""

from __future__ import annotations

from tests.simulation.judges.idleness import Idleness
from tests.simulation.judges.numbers import Numbers

__all__ = ["PROJECT", "Idleness", "Numbers"]

PROJECT = (Idleness, Numbers)
