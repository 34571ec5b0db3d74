"""redisaq: a partitioned job queue on Redis Streams, for asyncio and trio."""

from redisaq.consumer import Consumer
from redisaq.message import BatchCallback, Callback, Message
from redisaq.producer import Producer
from redisaq.run import run

__all__ = ["BatchCallback", "Callback", "Consumer", "Message", "Producer", "run"]
