"""The ASGI application: its routes, and what they share.

It owns an Admin and a Sampler, which live as long as the application's lifespan. Where it is mounted in another application, that one
enters `router.lifespan_context`. Each page is rendered with the latest snapshot inside; after that, events say what has changed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from redisaq.admin import Admin
from redisaq.brokers.access import RedisURL
from redisaq.dashboard import views
from redisaq.dashboard.events import EventStream, Streams
from redisaq.dashboard.guard import COOKIE, Authorize, Guard, Level, by_token, cookie_of, same
from redisaq.dashboard.pages import Page, render
from redisaq.dashboard.views import Links, View
from redisaq.errors import SettingsError
from redisaq.watching import Sampler, Screen, Snapshot, words

VERSION = importlib.metadata.version("redisaq")

Look = Callable[[Snapshot, Mapping[str, str], Mapping[str, str]], View]
"""Returns a view of a snapshot, for the names in the path and what else the address asks for."""


def app(
    redis_url: RedisURL | None = None,
    *,
    namespace: str = "redisaq",
    allow_changes: bool = False,
    token: str | None = None,
    authorize: Authorize | None = None,
    hosts: Collection[str] = (),
    always: bool = False,
) -> Starlette:
    """Return the page as an ASGI application, for asyncio and trio.

    Serve it by itself, or mount it. In the latter case the outer application's lifespan must enter `page.router.lifespan_context(page)`,
    since no framework does this for a mounted application.

    Args:
        redis_url: as for an Admin.
        namespace: the namespace of the topics.
        allow_changes: register the routes that change something. Without it they do not exist.
        token: who looks must have this token. Browsers get it as `…/#token=…`, and keep a cookie.
        authorize: decides for each request what its sender may do ("read", "change" or None), instead of a token.
        hosts: names that the page is served as, besides localhost. "*": any, if something in front of it checks the Host header.
        always: continue to look, every 20 s, while nobody watches, so that curves have no gaps.

    Raises:
        SettingsError: a value is not valid.
    """
    if token is not None and authorize is not None:
        raise SettingsError("give token or authorize, not both")
    if token is not None and len(token) < 16:  # noqa: PLR2004 -- shorter ones can be guessed
        raise SettingsError("token must have at least 16 characters")
    if isinstance(hosts, str):
        raise SettingsError("hosts must be several names: put the one into a list")
    admin = Admin(redis_url, namespace=namespace)
    return Dashboard(admin, Sampler(admin, always=always), allow_changes=allow_changes, token=token, authorize=authorize, hosts=hosts).app


class Dashboard:
    """What the routes of one application share."""

    def __init__(
        self,
        admin: Admin,
        sampler: Sampler,
        *,
        allow_changes: bool = False,
        token: str | None = None,
        authorize: Authorize | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        """Build the application around an Admin, which it closes, and a Sampler, which it runs. See `app` for the rest."""
        self._admin = admin
        self._sampler = sampler
        self._changes = allow_changes
        self._token = token
        self._streams = Streams()
        self._rendered: dict[tuple[object, ...], Page] = {}
        self._rendered_of = -1
        level: Level = "change" if allow_changes else "read"
        self._authorize = authorize or (by_token(token, level) if token is not None else lambda _: level)
        self.app = Starlette(
            routes=self._routes(),
            lifespan=self._lifespan,
            middleware=[Middleware(Guard, hosts=hosts, authorize=self._authorize), Middleware(RawPaths)],
        )

    def _routes(self) -> list[BaseRoute]:
        overview: Look = lambda snapshot, _, query: views.overview(snapshot, query)  # noqa: E731
        topic: Look = lambda snapshot, path, query: views.topic(snapshot, path["topic"], query)  # noqa: E731
        group: Look = lambda snapshot, path, query: views.group(snapshot, path["topic"], path["group"], query)  # noqa: E731
        routes: list[BaseRoute] = []
        for path, look in (("/", overview), ("/t/{topic}", topic), ("/t/{topic}/g/{group}", group)):
            routes.append(Route(path, self._showing(look)))
            routes.append(Route(f"/events{path}", self._streaming(look)))
        routes += [
            Route("/api/", self._answering(lambda snapshot, _: snapshot)),
            Route("/api/t/{topic}", self._answering(lambda snapshot, path: snapshot.topic(path["topic"]))),
            Route("/api/t/{topic}/g/{group}", self._answering(lambda snapshot, path: snapshot.group(path["topic"], path["group"]))),
            Route("/api/t/{topic}/g/{group}/cells", self._answering(self._cells)),
            Route("/api/places", self._places),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ]
        if self._token is not None:
            routes.append(Route("/token", self._take_token, methods=["POST"]))
        return routes

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._sampler.run)
                yield
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):  # a link that has to wait for a silent server gives up within a second
                await self._admin.close()

    # -- pages ------------------------------------------------------------------------------------------------------------------

    def _showing(self, look: Look) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            snapshot = await self._first(look, request)
            view = look(snapshot, names_in(request), request.query_params)
            return Response(self._page(view, snapshot, request).html, view.status, media_type="text/html")

        return show

    def _streaming(self, look: Look) -> Callable[[Request], Awaitable[ASGIApp]]:
        async def stream(request: Request) -> ASGIApp:
            path, query = names_in(request), request.query_params
            screen = look(self._sampler.latest, path, query).screen

            def page(snapshot: Snapshot) -> Page:
                return self._page(look(snapshot, path, query), snapshot, request)

            return EventStream(self._streams, self._sampler.watch, screen, page, request.query_params.get("shape", ""))

        return stream

    async def _first(self, look: Look, request: Request) -> Snapshot:
        """Return the latest snapshot. If there is none, or it does not have what the page shows in full, look first, for a moment."""
        latest = self._sampler.latest
        screen = look(latest, names_in(request), request.query_params).screen
        if latest.number and not (screen.group and _lacks(latest, screen)):
            return latest
        with anyio.move_on_after(FIRST), self._sampler.watch(screen) as watching:
            async for snapshot in watching:
                if not _lacks(snapshot, screen):
                    return snapshot
        return self._sampler.latest

    def _page(self, view: View, snapshot: Snapshot, request: Request) -> Page:
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
            "shows": {"dead": False, "schedule": False},
            "deliveries": views.deliveries,
            "here": here,
            "query": query,
            "stream": f"{root}/events{path}{'?' + asked if asked else ''}",
            "words": words,
            "colour": views.colour,
            "version": VERSION,
            "may_change": self._changes and level == "change" and snapshot.server.state == "here",
            "fresh": sum(group.fresh or 0 for topic in snapshot.topics for group in topic.groups),
        }
        page = render(view.template, values, moves=view.moves)
        if view.moves:
            self._rendered[key] = page
        return page

    def _knows(self, screen: Screen) -> bool:
        """Return whether there is a view of this kind."""
        return screen.view in ("overview", "topic", "group", "partition")

    # -- the same as JSON ---------------------------------------------------------------------------------------------------------

    def _answering(self, find: Callable[[Snapshot, Mapping[str, str]], object]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            found = find(self._sampler.latest, names_in(request))
            if found is None:
                return JSONResponse({"error": "there is no such thing"}, HTTPStatus.NOT_FOUND)
            return Response(msgspec.json.encode(found), media_type="application/json")

        return answer

    def _cells(self, snapshot: Snapshot, path: Mapping[str, str]) -> object:
        found = snapshot.group(path["topic"], path["group"])
        return None if found is None else views.cells(found)

    async def _places(self, request: Request) -> Response:
        wanted = request.query_params.get("q", "").strip()
        found = views.places(self._sampler.latest, wanted, Links(str(request.scope.get("root_path", "")))) if wanted else []
        return JSONResponse(found)

    async def _take_token(self, request: Request) -> Response:
        given = await request.json()
        token = given.get("token") if isinstance(given, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if self._token is None or not isinstance(token, str) or not same(token, self._token):
            return JSONResponse({"error": "this is not the token"}, HTTPStatus.FORBIDDEN)
        answer = JSONResponse({})
        answer.set_cookie(
            COOKIE,
            cookie_of(self._token),
            path=str(request.scope.get("root_path", "")) or "/",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer


FIRST = 2.0
"""Seconds for which a page waits for the first snapshot that has what it shows. It is shown without that otherwise."""


def _lacks(snapshot: Snapshot, screen: Screen) -> bool:
    """Return whether a snapshot was made while nobody looked at this group, so that it does not say what is in handlers."""
    if not snapshot.number:
        return True
    found = snapshot.group(screen.topic, screen.group) if screen.group else None
    return found is not None and found.history is None and snapshot.server.state == "here"


class RawPaths:
    """Routes on the path as it was sent, since a topic's name may have a slash in it; `names_in` returns the names."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of the router."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, with its raw path."""
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw is not None:
            scope = {**scope, "path": raw.partition(b"?")[0].decode("latin-1")}
        await self._app(scope, receive, send)


def names_in(request: Request) -> dict[str, str]:
    """Return the names in a request's path."""
    return {name: unquote(str(value)) for name, value in request.path_params.items()}
