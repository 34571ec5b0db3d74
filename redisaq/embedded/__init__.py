"""A private Valkey for whoever names its directory: no server to install, none left behind."""

from __future__ import annotations

from redisaq.embedded.server import EmbeddedServer, open_embedded, serve

__all__ = ["EmbeddedServer", "open_embedded", "serve"]
