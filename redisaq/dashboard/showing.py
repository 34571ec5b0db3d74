"""Shows views as pages, and streams what changes in them: what all routes of one application share.

Input: the sampler's snapshots. Invariant: a page that moves with snapshots is rendered once for all who look at it during one snapshot.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from redisaq.admin import Admin
from redisaq.dashboard import views
from redisaq.dashboard.events import EventStream, Streams
from redisaq.dashboard.guard import Level
from redisaq.dashboard.jobs import Jobs
from redisaq.dashboard.pages import Page, command_of, render
from redisaq.dashboard.paths import names_in
from redisaq.dashboard.privacy import Privacy
from redisaq.dashboard.views import Links, View
from redisaq.watching import Sampler, Screen, Snapshot, words

VERSION = importlib.metadata.version("redisaq")

FIRST = 2.0
"""Seconds for which a page waits for the first snapshot. It is shown empty otherwise, and fills itself."""

RENDERED = 100
"""Pages of one snapshot that are kept."""

Prepare = Callable[[Mapping[str, str], Mapping[str, str], Snapshot], Awaitable[None]]
"""Asks for what a view shows besides a snapshot, for the names in the path and what else the address asks for."""

Look = Callable[[Snapshot, Mapping[str, str], Mapping[str, str]], View]
"""Returns a view of a snapshot, for the names in the path and what else the address asks for."""


class Showing:
    """The pages of one application.

    Attributes:
        admin: asks the server.
        sampler: looks at the server.
        privacy: decides what of payloads is shown.
        jobs: the long changes under way.
    """

    def __init__(self, admin: Admin, sampler: Sampler, privacy: Privacy, jobs: Jobs, *, may_change: bool, may_produce: bool) -> None:
        """Show nothing yet.

        Args:
            admin: asks the server.
            sampler: looks at the server.
            privacy: decides what of payloads is shown.
            jobs: the long changes under way.
            may_change: whether there are routes that change something.
            may_produce: whether these enqueue, too.
        """
        self.admin = admin
        self.sampler = sampler
        self.privacy = privacy
        self.jobs = jobs
        self._may_change = may_change
        self._may_produce = may_produce
        self._streams = Streams()
        self._rendered: dict[tuple[object, ...], Page] = {}
        self._rendered_of = -1

    def showing(self, look: Look, prepare: Prepare | None) -> Callable[[Request], Awaitable[Response]]:
        """Return what shows a view of the latest snapshot.

        Args:
            look: makes the view.
            prepare: asks for what the view shows besides the snapshot.
        """

        async def show(request: Request) -> Response:
            snapshot = await self.first(look, request)
            if prepare is not None:
                await prepare(names_in(request), request.query_params, snapshot)
            view = look(snapshot, names_in(request), request.query_params)
            return self.answer(view, snapshot, request)

        return show

    def streaming(self, look: Look, prepare: Prepare | None = None) -> Callable[[Request], Awaitable[ASGIApp]]:
        """Return what sends the changes of a view with each snapshot; see `showing`."""

        async def stream(request: Request) -> ASGIApp:
            path, query = names_in(request), request.query_params
            screen = look(self.sampler.latest, path, query).screen

            def page(snapshot: Snapshot) -> Page:
                return self.page(look(snapshot, path, query), snapshot, request)

            shape = request.query_params.get("shape", "")
            asks = None if prepare is None else partial(prepare, path, query)
            return EventStream(self._streams, self.sampler.watch, screen, page, shape, jobs=self.jobs, prepare=asks)

        return stream

    async def first(self, look: Look, request: Request) -> Snapshot:
        """Return the latest snapshot. If there is none yet, look first, for a moment."""
        latest = self.sampler.latest
        if latest.number:
            return latest
        screen = look(latest, names_in(request), request.query_params).screen
        with anyio.move_on_after(FIRST), self.sampler.watch(screen) as watching:
            async for snapshot in watching:
                return snapshot
        return self.sampler.latest

    def page(self, view: View, snapshot: Snapshot, request: Request) -> Page:
        """Render a page, once for all who look at it with the same snapshot."""
        root = str(request.scope.get("root_path", ""))
        level: Level = request.state.level
        path = str(request.scope["path"])[len(root) :].removeprefix("/events")
        query = {name: value for name, value in request.query_params.items() if name != "shape"}
        key = (root, path, tuple(sorted(query.items())), level)
        if self._rendered_of != snapshot.number:
            self._rendered.clear()
            self._rendered_of = snapshot.number
        if view.moves and (page := self._rendered.get(key)) is not None:
            return page
        links = Links(root)
        here = f"{root}{path}"
        asked = "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
        values: dict[str, Any] = {
            **view.values,
            "title": view.title,
            "section": view.section,
            "snapshot": snapshot,
            "links": links,
            "about": lambda one: views.about(one, links, self._knows),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
            "shows": {"dead": True, "schedule": True},
            "deliveries": views.deliveries,
            "here": here,
            "query": query,
            "stream": f"{root}/events{path}{'?' + asked if asked else ''}",
            "words": words,
            "command": partial(command_of, snapshot.server),
            "colour": views.colour,
            "version": VERSION,
            "may_change": self._may_change and level == "change" and snapshot.server.state == "here",
            "may_produce": self._may_produce,
            "fresh": sum(group.fresh or 0 for topic in snapshot.topics for group in topic.groups),
        }
        page = render(view.template, values, moves=view.moves)
        if view.moves and len(self._rendered) < RENDERED:  # addresses are endless, and there may be no other snapshot for a long time
            self._rendered[key] = page
        return page

    def _knows(self, screen: Screen) -> bool:
        """Return whether there is a view of this kind."""
        return screen.view in ("overview", "topic", "group", "partition", "dead letters", "message", "schedule")

    def answer(self, view: View, snapshot: Snapshot, request: Request) -> Response:
        """Return a page as the answer to a request."""
        return Response(self.page(view, snapshot, request).html, view.status, media_type="text/html")

    def links(self, request: Request) -> Links:
        """Return addresses, for where the application is mounted."""
        return Links(str(request.scope.get("root_path", "")))
