"""A private Valkey for whoever names its directory: no server to install, none left behind."""

from __future__ import annotations

from redisaq.embedded.server import EmbeddedServer, hold_embedded, open_embedded, serve

__all__ = ["EmbeddedServer", "hold_embedded", "open_embedded", "serve"]
