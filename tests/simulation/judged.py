"""`simulate` and `shrink`, with the project's own judges watching: what the project's tests call."""

from __future__ import annotations

from functools import partial

from redisaq import testing
from tests.simulation.judges import PROJECT

simulate = partial(testing.simulate, observers=PROJECT)
shrink = partial(testing.shrink, observers=PROJECT)
