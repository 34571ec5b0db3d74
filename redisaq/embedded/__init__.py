"""A private Valkey server per directory: you install no server, and none is left running."""

from __future__ import annotations

from redisaq.embedded.server import EmbeddedServer, hold_embedded, open_embedded, serve

__all__ = ["EmbeddedServer", "hold_embedded", "open_embedded", "serve"]
