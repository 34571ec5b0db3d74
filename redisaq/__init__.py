"""redisaq: a partitioned job queue on Redis Streams, for asyncio and trio.

The large classes are imported when they are first used: a program that only produces does not load what consumes.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from redisaq import startup as _startup  # noqa: F401  # pyright: ignore[reportUnusedImport] -- it acts when it is imported: first
from redisaq.message import BatchCallback, Callback, Message
from redisaq.outcomes import DeadLetter, Discard, PartialFailure, RetryAfter
from redisaq.run import run
from redisaq.settings import RetryPolicy

if TYPE_CHECKING:
    from redisaq.admin import Admin, DeadMessage
    from redisaq.app import App, Topic
    from redisaq.consumer import Consumer
    from redisaq.cron import Tick
    from redisaq.producer import Producer
else:  # a type checker would take `__getattr__` for a promise that every name exists

    def __getattr__(name: str) -> object:
        """Import a name, or its module, that is used for the first time."""
        if f"{__name__}.{name}" in _HOMES.values():
            return _import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(_import_module(_HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Admin",
    "App",
    "BatchCallback",
    "Callback",
    "Consumer",
    "DeadLetter",
    "DeadMessage",
    "Discard",
    "Message",
    "PartialFailure",
    "Producer",
    "RetryAfter",
    "RetryPolicy",
    "Tick",
    "Topic",
    "run",
]

_HOMES = {
    "Admin": "redisaq.admin",
    "App": "redisaq.app",
    "Consumer": "redisaq.consumer",
    "DeadMessage": "redisaq.admin",
    "Producer": "redisaq.producer",
    "Tick": "redisaq.cron",
    "Topic": "redisaq.app",
}
