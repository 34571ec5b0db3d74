"""A live page about topics and groups, as an ASGI application (extra `dashboard`): to mount, or to serve by itself."""

from __future__ import annotations

from redisaq.dashboard.application import app

__all__ = ["app"]
