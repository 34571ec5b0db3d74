"""What happened in groups before the latest changes, which snapshots have: for pages that show hours.

Each group is asked again after a while only, and what nobody has asked for lately is forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from redisaq.admin import Admin, HistoryEntry
from redisaq.dashboard.views import WINDOWS, Window
from redisaq.errors import ConnectionFailed, ServerError, SettingsError, UnknownFormatError

MOST = 1000
"""Changes of a group that are read: about as many as it keeps."""

FRESH = 20.0
"""Seconds after which a group is asked again. What has happened meanwhile is in the snapshot."""


class Past:
    """The histories that somebody looks at."""

    def __init__(self, admin: Admin) -> None:
        """Begin without any."""
        self._admin = admin
        self._known: dict[tuple[str, str], tuple[float, Sequence[HistoryEntry]]] = {}

    async def look(self, topic: str, group: str, window: Window, now: float) -> None:
        """Read the history of a group, if the window needs it and what is known of it is old. What cannot be read has no past."""
        if window is WINDOWS[0]:
            return
        self._known = {name: one for name, one in self._known.items() if abs(now - one[0]) < FRESH}
        if (topic, group) in self._known:
            return
        found: Sequence[HistoryEntry] = ()
        # The page says what is away, or cannot be read.
        with contextlib.suppress(ConnectionFailed, ServerError, SettingsError, UnknownFormatError):
            found = await self._admin.history(topic, group, count=MOST)
        self._known[topic, group] = now, [one for one in found if now - one.at.timestamp() < WINDOWS[-1].seconds]

    def of(self, topic: str, group: str, window: Window) -> Sequence[HistoryEntry]:
        """Return the latest changes of a group, the latest first; none if the window needs none."""
        return () if window is WINDOWS[0] else self._known.get((topic, group), (0.0, ()))[1]
