"""The ASGI application: its routes, and those of topics and groups, which move with each snapshot.

It owns an Admin and a Sampler, which live as long as the application's lifespan. Where it is mounted in another application, that one
enters `router.lifespan_context`. Each page is rendered with the latest snapshot inside; after that, events say what has changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

import anyio
import msgspec
from msgspec import structs
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from redisaq.admin import Admin, MessageSummary
from redisaq.brokers.access import RedisURL
from redisaq.dashboard import newest, schedule, views
from redisaq.dashboard.changes import Changes
from redisaq.dashboard.dead_pages import DeadPages
from redisaq.dashboard.guard import Authorize, Guard, by_token, cookie_name, cookie_of, same
from redisaq.dashboard.jobs import Jobs
from redisaq.dashboard.message_pages import MessagePages
from redisaq.dashboard.newest import Newest
from redisaq.dashboard.pages import compile_all
from redisaq.dashboard.past import Past
from redisaq.dashboard.paths import RawPaths, names_in
from redisaq.dashboard.privacy import Privacy
from redisaq.dashboard.showing import Look, Prepare, Showing
from redisaq.dashboard.views import Beside, View
from redisaq.errors import ConnectionFailed, RedisaqError, ServerError, SettingsError
from redisaq.producer import Producer
from redisaq.watching import Sampler, Screen, Snapshot


def app(
    redis_url: RedisURL | None = None,
    *,
    namespace: str = "redisaq",
    allow_changes: bool = False,
    token: str | None = None,
    authorize: Authorize | None = None,
    hosts: Collection[str] = (),
    always: bool = False,
    payloads: bool = True,
    redact: str | None = None,
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
        payloads: show payloads and headers of dead letters.
        redact: a regular expression: values of payloads whose place in the JSON, such as "order.card.number", has a match, and headers
            whose name has one, are not shown.

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
    return Dashboard(
        admin,
        Sampler(admin, always=always),
        allow_changes=allow_changes,
        token=token,
        authorize=authorize,
        hosts=hosts,
        privacy=Privacy(payloads=payloads, redact=redact),
        producer=lambda topic: Producer(topic, redis_url, namespace=namespace, serializer=_as_it_is),
    ).app


def _as_it_is(data: bytes) -> bytes:
    """Serialize what is JSON already."""
    return data


class Dashboard:
    """One application."""

    def __init__(
        self,
        admin: Admin,
        sampler: Sampler,
        *,
        allow_changes: bool = False,
        token: str | None = None,
        authorize: Authorize | None = None,
        hosts: Collection[str] = (),
        privacy: Privacy | None = None,
        producer: Callable[[str], Producer] | None = None,
    ) -> None:
        """Build the application.

        Args:
            admin: asks the server, and makes changes. The application closes it.
            sampler: looks at the server. The application runs it.
            allow_changes: as for `app`; so are the others.
            token: as above.
            authorize: as above.
            hosts: as above.
            privacy: what is shown of payloads.
            producer: returns a producer of a topic, for payloads that are JSON already. Without it, the page does not enqueue or grow.
        """
        self._admin = admin
        self._sampler = sampler
        self._changes = allow_changes
        self._token = token
        self._privacy = privacy or Privacy()
        self._jobs = Jobs(admin)
        self._showing = Showing(admin, sampler, self._privacy, self._jobs, may_change=allow_changes, may_produce=producer is not None)
        self._dead = DeadPages(self._showing, lambda: self._changer.made)
        self._messages = MessagePages(self._showing)
        self._changer = Changes(admin, self._jobs, self._dead.kinds_of, producer, lambda: sampler.latest.server)
        self._newest: dict[str, Newest] = {}
        self._newest_of = -1
        self._past = Past(admin)
        self._following: dict[tuple[str, str, int], Sequence[MessageSummary]] = {}
        self._following_of = -1
        everybody: Authorize = lambda _: "change"  # noqa: E731 -- what may be changed is what there are routes for
        self._authorize = authorize or (by_token(token) if token is not None else everybody)
        self.app = Starlette(
            routes=self._routes(),
            lifespan=self._lifespan,
            exception_handlers={RedisaqError: _away},
            middleware=[Middleware(Guard, hosts=hosts, authorize=self._authorize), Middleware(RawPaths)],
        )

    def _routes(self) -> list[BaseRoute]:
        overview: Look = lambda snapshot, _, query: views.overview(snapshot, query)  # noqa: E731
        topic: Look = lambda snapshot, path, query: views.topic(snapshot, path["topic"], query, self._newest.get(path["topic"]))  # noqa: E731
        group: Look = lambda snapshot, path, query: views.group(  # noqa: E731
            snapshot, path["topic"], path["group"], query, self._beside(path, query)
        )
        routes: list[BaseRoute] = []
        looks: list[tuple[str, Look, Prepare | None]] = [
            ("/", overview, None),
            ("/t/{topic}", topic, self._look_at_newest),
            ("/t/{topic}/g/{group}", group, self._look_beside),
        ]
        for path, look, prepare in looks:
            routes.append(Route(path, self._showing.showing(look, prepare)))
            routes.append(Route(f"/events{path}", self._showing.streaming(look, prepare)))
        routes += [
            Route("/api/", self._answering(lambda snapshot, _: snapshot)),
            Route("/api/t/{topic}", self._answering(lambda snapshot, path: snapshot.topic(path["topic"]))),
            Route("/api/t/{topic}/g/{group}", self._answering(lambda snapshot, path: snapshot.group(path["topic"], path["group"]))),
            Route("/api/t/{topic}/g/{group}/cells", self._answering(self._cells)),
            Route("/api/places", self._places),
            Route("/api/jobs/{number:int}", self._changer.job),
            Route("/schedule", self._schedule),
            Route("/api/schedule", self._schedule_as_json),
            Route("/events/schedule", self._showing.streaming(_around_schedule)),
            *self._dead.routes(),
            *self._messages.routes(),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ]
        if self._changes:
            routes = [*self._changer.routes(), *routes]
        if self._token is not None:
            routes.append(Route("/token", self._take_token, methods=["POST"]))
        return routes

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        compile_all()
        try:
            async with anyio.create_task_group() as tasks:
                self._jobs.tasks = tasks
                await tasks.start(self._sampler.run)
                yield
                tasks.cancel_scope.cancel()
        finally:
            self._jobs.tasks = None
            with anyio.CancelScope(shield=True):  # a link that has to wait for a silent server gives up within a second
                await self._admin.close()

    # -- what pages of topics and groups show besides a snapshot ------------------------------------------------------------------

    async def _look_beside(self, path: Mapping[str, str], query: Mapping[str, str], snapshot: Snapshot) -> None:
        """Look at what a page about a group shows and no snapshot has: its hours, and what comes next in the chosen partition."""
        found = snapshot.group(path["topic"], path["group"])
        if found is None:
            return
        await self._past.look(found.topic, found.group, views.window_of(query), snapshot.at)
        if self._following_of != snapshot.number:
            self._following.clear()
            self._following_of = snapshot.number
        number = views.partition_of(query)
        chosen = next((one for one in found.partitions if one.partition == number), None)
        if chosen is not None and chosen.unread and (name := (found.topic, found.group, chosen.partition)) not in self._following:
            following = await newest.next_in_line(self._admin, found.topic, chosen)
            if self._following_of == snapshot.number:
                self._following[name] = following

    def _beside(self, path: Mapping[str, str], query: Mapping[str, str]) -> Beside:
        name = path["topic"], path["group"]
        number = views.partition_of(query)
        return Beside(self._past.of(*name, views.window_of(query)), () if number is None else self._following.get((*name, number), ()))

    async def _look_at_newest(self, path: Mapping[str, str], _query: Mapping[str, str], snapshot: Snapshot) -> None:
        """Look at the newest messages of a topic, once for all who look at it during one snapshot."""
        if self._newest_of != snapshot.number:
            self._newest.clear()
            self._newest_of = snapshot.number
        topic = snapshot.topic(path["topic"])
        if topic is not None and topic.topic not in self._newest:
            found = await newest.look(self._admin, topic, self._privacy, count=newest.FEW, partitions=newest.liveliest(topic))
            if self._newest_of == snapshot.number:
                self._newest[topic.topic] = structs.replace(found, rows=found.rows[: newest.FEW])

    # -- the schedule -------------------------------------------------------------------------------------------------------------

    async def _schedule(self, request: Request) -> Response:
        """Show cron jobs and delayed messages."""
        snapshot = await self._showing.first(_around_schedule, request)
        window, values = schedule.values(request.query_params, self._sampler.now())
        jobs, broken, delayed = list[schedule.Job](), dict[str, str](), schedule.Delayed(0, 0, (), ())
        try:
            jobs, broken = await schedule.jobs(self._admin, snapshot, window)
            delayed = await schedule.delayed(self._admin, snapshot, window, request.query_params.get("after"))
        except ConnectionFailed:  # the page says that the server is away
            pass
        except ServerError as error:
            broken["The schedule"] = str(error)
        values |= {"jobs": jobs, "broken": {**broken, **delayed.broken}, "delayed": delayed}
        view = View("schedule.html", "Schedule", "schedule", Screen("schedule"), values, moves=False)
        return self._showing.answer(view, snapshot, request)

    async def _schedule_as_json(self, _: Request) -> Response:
        return Response(msgspec.json.encode(await self._admin.schedules()), media_type="application/json")

    # -- the same as JSON ---------------------------------------------------------------------------------------------------------

    def _answering(self, find: Callable[[Snapshot, Mapping[str, str]], object]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            names, snapshot = names_in(request), self._sampler.latest
            found = find(snapshot, names)
            if found is None:
                reason = snapshot.unreadable(names["topic"], names.get("group", ""))
                status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.NOT_FOUND
                return JSONResponse({"error": reason or "there is no such thing"}, status)
            return Response(msgspec.json.encode(found), media_type="application/json")

        return answer

    def _cells(self, snapshot: Snapshot, path: Mapping[str, str]) -> object:
        found = snapshot.group(path["topic"], path["group"])
        return None if found is None else views.cells(found)

    async def _places(self, request: Request) -> Response:
        wanted = request.query_params.get("q", "").strip()
        found = views.places(self._sampler.latest, wanted, self._showing.links(request)) if wanted else []
        return JSONResponse(found)

    async def _take_token(self, request: Request) -> Response:
        try:
            given = await request.json()
        except (ValueError, RecursionError):
            given = None
        token = given.get("token") if isinstance(given, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if self._token is None or not isinstance(token, str) or not same(token, self._token):
            return JSONResponse({"error": "this is not the token"}, HTTPStatus.FORBIDDEN)
        answer = JSONResponse({})
        answer.set_cookie(
            cookie_name(request),
            cookie_of(self._token),
            path=str(request.scope.get("root_path", "")) or "/",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer


async def _away(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)


def _around_schedule(_snapshot: Snapshot, _path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around the schedule."""
    return View("nothing.html", "Schedule", "schedule", Screen("schedule"), {}, moves=False)
