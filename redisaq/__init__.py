"""redisaq: a partitioned job queue on Redis Streams, for asyncio and trio."""

from redisaq import startup as _startup  # noqa: F401  # pyright: ignore[reportUnusedImport] -- it acts when it is imported: first
from redisaq.admin import Admin, DeadMessage
from redisaq.app import App, Topic
from redisaq.consumer import Consumer
from redisaq.cron import Tick
from redisaq.message import BatchCallback, Callback, Message
from redisaq.outcomes import DeadLetter, Discard, PartialFailure, RetryAfter
from redisaq.producer import Producer
from redisaq.run import run
from redisaq.settings import RetryPolicy

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
