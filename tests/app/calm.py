"""An App whose consumers do little while they wait, so that a test may let days of virtual time pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from redisaq import App, cron
from redisaq.consuming import reader, trimmer


class CalmApp(App[Any]):
    """Sends few heartbeats."""

    interval, ttl = 60.0, 240.0

    def new_consumer(self, topic: Any, group_name: str, batch_size: int, options: Any, **more: Any) -> Any:
        options = {**options, "heartbeat_interval": self.interval, "heartbeat_ttl": self.ttl}
        return super().new_consumer(topic, group_name, batch_size, options, **more)


@contextmanager
def long_waits(seconds: float = 60.0) -> Iterator[None]:
    """Let reads block for longer, and look at what may be trimmed, or scheduled, less often."""
    with ExitStack() as patches:
        for module, name in ((reader, "LONGEST_BLOCK"), (trimmer, "SHORTEST"), (trimmer, "LONGEST"), (cron, "LOOK")):
            patches.enter_context(patch.object(module, name, seconds))
        yield
