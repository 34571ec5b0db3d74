"""The ASGI application: its routes, and what they share.

It owns an Admin and a Sampler, which live as long as the application's lifespan. Where it is mounted in another application, that one
enters `router.lifespan_context`. Each page is rendered with the latest snapshot inside; after that, events say what has changed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import msgspec
from msgspec import structs
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from redisaq.admin import Admin, DeadMessage, MessageSummary, StoredMessage, Whereabouts
from redisaq.brokers.access import RedisURL
from redisaq.dashboard import letters, messages, newest, schedule, views
from redisaq.dashboard.changes import Changes
from redisaq.dashboard.counts import Counts
from redisaq.dashboard.events import EventStream, SearchStream, Streams
from redisaq.dashboard.exports import Download, Export
from redisaq.dashboard.guard import Authorize, Guard, Level, by_token, cookie_name, cookie_of, same
from redisaq.dashboard.jobs import Jobs, RefusedError
from redisaq.dashboard.letters import Kinds
from redisaq.dashboard.newest import Newest
from redisaq.dashboard.pages import Page, command_of, compile_all, render
from redisaq.dashboard.past import Past
from redisaq.dashboard.paths import RawPaths, names_in
from redisaq.dashboard.privacy import Privacy
from redisaq.dashboard.views import Beside, Links, View
from redisaq.errors import ConnectionFailed, RedisaqError, ServerError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.producer import Producer
from redisaq.settings import MOST_PARTITIONS
from redisaq.watching import Sampler, Screen, Snapshot, words

VERSION = importlib.metadata.version("redisaq")

Prepare = Callable[[Mapping[str, str], Mapping[str, str], Snapshot], Awaitable[None]]
"""Asks for what a view shows besides a snapshot, for the names in the path and what else the address asks for."""

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
        self._changer = Changes(admin, self._jobs, self._kinds_of, producer, lambda: sampler.latest.server)
        self._counts = Counts(admin, self._jobs)
        self._produces = producer is not None
        self._streams, self._searches = Streams(), Streams(SEARCHES)
        self._kinds: dict[tuple[str, str] | None, tuple[tuple[int, int], Kinds]] = {}
        self._rendered: dict[tuple[object, ...], Page] = {}
        self._rendered_of = -1
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
            routes.append(Route(path, self._showing(look, prepare)))
            routes.append(Route(f"/events{path}", self._streaming(look, prepare)))
        routes += [
            Route("/api/", self._answering(lambda snapshot, _: snapshot)),
            Route("/api/t/{topic}", self._answering(lambda snapshot, path: snapshot.topic(path["topic"]))),
            Route("/api/t/{topic}/g/{group}", self._answering(lambda snapshot, path: snapshot.group(path["topic"], path["group"]))),
            Route("/api/t/{topic}/g/{group}/cells", self._answering(self._cells)),
            Route("/t/{topic}/messages", self._messages),
            Route("/events/t/{topic}/messages", self._streaming(_around_messages)),
            Route("/api/t/{topic}/export", self._export_messages),
            Route("/api/dead/export", self._export_letters),
            Route("/api/places", self._places),
            Route("/api/dead", self._dead_as_json),
            Route("/api/dead/payload", self._payload),
            Route("/api/jobs/{number:int}", self._changer.job),
            Route("/m/{msg_id}", self._find),
            Route("/m/{topic}/{msg_id}", self._message),
            Route("/api/m/{topic}/{msg_id}", self._message_as_json),
            Route("/events/m/{msg_id}", self._streaming(_around_message)),
            Route("/events/m/{topic}/{msg_id}", self._streaming(_around_message)),
            Route("/search/{msg_id}", self._search),
            Route("/schedule", self._schedule),
            Route("/api/schedule", self._schedule_as_json),
            Route("/events/schedule", self._streaming(_around_schedule)),
            Route("/dead", self._dead),
            Route("/dead/{kind}", self._dead),
            Route("/events/dead", self._streaming(_around_dead)),
            Route("/events/dead/{kind}", self._streaming(_around_dead)),
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

    # -- pages ------------------------------------------------------------------------------------------------------------------

    def _showing(self, look: Look, prepare: Prepare | None) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            snapshot = await self._first(look, request)
            if prepare is not None:
                await prepare(names_in(request), request.query_params, snapshot)
            view = look(snapshot, names_in(request), request.query_params)
            return Response(self._page(view, snapshot, request).html, view.status, media_type="text/html")

        return show

    def _streaming(self, look: Look, prepare: Prepare | None = None) -> Callable[[Request], Awaitable[ASGIApp]]:
        async def stream(request: Request) -> ASGIApp:
            path, query = names_in(request), request.query_params
            screen = look(self._sampler.latest, path, query).screen

            def page(snapshot: Snapshot) -> Page:
                return self._page(look(snapshot, path, query), snapshot, request)

            shape = request.query_params.get("shape", "")
            asks = None if prepare is None else partial(prepare, path, query)
            return EventStream(self._streams, self._sampler.watch, screen, page, shape, jobs=self._jobs, prepare=asks)

        return stream

    async def _first(self, look: Look, request: Request) -> Snapshot:
        """Return the latest snapshot. If there is none yet, look first, for a moment."""
        latest = self._sampler.latest
        if latest.number:
            return latest
        screen = look(latest, names_in(request), request.query_params).screen
        with anyio.move_on_after(FIRST), self._sampler.watch(screen) as watching:
            async for snapshot in watching:
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
            "shows": {"dead": True, "schedule": True},
            "deliveries": views.deliveries,
            "here": here,
            "query": query,
            "stream": f"{root}/events{path}{'?' + asked if asked else ''}",
            "words": words,
            "command": partial(command_of, snapshot.server),
            "colour": views.colour,
            "version": VERSION,
            "may_change": self._changes and level == "change" and snapshot.server.state == "here",
            "may_produce": self._produces,
            "fresh": sum(group.fresh or 0 for topic in snapshot.topics for group in topic.groups),
        }
        page = render(view.template, values, moves=view.moves)
        if view.moves and len(self._rendered) < RENDERED:  # addresses are endless, and there may be no other snapshot for a long time
            self._rendered[key] = page
        return page

    def _knows(self, screen: Screen) -> bool:
        """Return whether there is a view of this kind."""
        return screen.view in ("overview", "topic", "group", "partition", "dead letters", "message", "schedule")

    # -- dead letters -------------------------------------------------------------------------------------------------------------

    async def _dead(self, request: Request) -> Response:
        """Show the kinds of dead letters, one kind's letters, and one of them in full."""
        snapshot = await self._first(_around_dead, request)
        query = request.query_params
        wanted, opened = letters.group_of(query.get("g")), query.get("m", "")
        every = letters.groups_of(snapshot, None)
        name, before = names_in(request).get("kind"), query.get("before")
        found, letter, older = Kinds((), 0, sum(one.dead for one in letters.groups_of(snapshot, wanted))), None, None
        broken: dict[str, str] = {}
        only = next((one for one in every if (one.topic, one.group) == wanted), None)
        if wanted is not None and (after := query.get("count")) is not None:
            self._counts.start(wanted, after, self._changer.made)
        try:
            found = await self._look(snapshot, wanted)
            letter = await letters.open_letter(self._admin, opened) if opened else None
            if before is not None and name is not None and only is not None:
                older = await letters.older(self._admin, only, name, count=views.PAGE, before=before)
        except ConnectionFailed:  # the page says that the server is away
            pass
        except RedisaqError as error:
            broken["What was asked for"] = str(error)
        broken |= {words.group_name(*one): reason for one, reason in found.broken.items()}
        counted = None if wanted is None else self._counts.of(wanted, self._changer.made)
        if wanted is not None:
            found = letters.counted(found, counted, wanted)
        kind = next((one for one in found.kinds if name in (None, one.id)), None)
        if name is not None and older is not None and older.letters:
            kind = letters.kind_of(name, list(older.letters), snapshot.at)
        if name is not None and kind is None and found.looked and older is None:
            view = views.missing("No dead letters of this kind", Screen("dead letters"), snapshot)
            return Response(self._page(view, snapshot, request).html, view.status, media_type="text/html")
        start = views.number_of(query.get("from"), len(kind.letters) if kind else 0)
        near = kind.letters[start : start + views.PAGE] if kind else ()
        values: dict[str, Any] = {
            "dead": found,
            "broken": broken,
            "kind": kind,
            "groups": every[: views.PAGE],
            "g": query.get("g"),
            "only": wanted,
            "chosen_group": " › ".join(wanted) if wanted else "",
            "letters": near if older is None else older.letters,
            "older": older,
            "left_out": letters.left_out(only) if older and only else 0,
            "counted": counted,
            "counting": self._counts.running,
            "last_count": 0 if wanted is None else self._counts.latest(wanted),
            "names": [letters.name_of(one) for one in reversed(older.letters)] if older else (),
            "begin_at": letters.begin_at,
            "start": start,
            "letter": letter,
            "opened": opened,
            "name_of": letters.name_of,
            "ago": partial(views.ago, snapshot.at),
            "moment": views.moment,
            "traceback": letters.lines_of(letter.traceback) if letter else (),
            "payload": self._privacy.payload(letter.data) if letter else None,
            "headers": self._privacy.headers(letter.headers) if letter else {},
            "raw": self._privacy.raw,
        }
        view = View("dead.html", "Dead letters", "dead", Screen("dead letters"), values, moves=False)
        return Response(self._page(view, snapshot, request).html, media_type="text/html")

    async def _look(self, snapshot: Snapshot, wanted: tuple[str, str] | None) -> Kinds:
        """Look at the newest dead letters, once for all who ask during one snapshot, unless some were redriven or purged meanwhile."""
        moment = snapshot.number, self._changer.made
        known = self._kinds.get(wanted)
        if known is not None and known[0] == moment:
            return known[1]
        found = await letters.look(self._admin, letters.groups_of(snapshot, wanted), snapshot.at)
        self._kinds = {name: one for name, one in self._kinds.items() if one[0] == moment}
        self._kinds[wanted] = moment, found
        return found

    async def _kinds_of(self, topic: str, group: str) -> Kinds:
        """Return the kinds as they were last shown."""
        return await self._look(self._sampler.latest, (topic, group))

    async def _dead_as_json(self, request: Request) -> Response:
        found = await self._look(self._sampler.latest, letters.group_of(request.query_params.get("g")))
        listed: list[object] = [letter for kind in found.kinds for letter in kind.letters]
        listed += [{"topic": topic, "group": group, "unreadable": reason} for (topic, group), reason in found.broken.items()]
        return Response(msgspec.json.encode(listed), media_type="application/json")

    async def _payload(self, request: Request) -> Response:
        """Return a payload as it is, to be stored, never shown."""
        letter = await letters.open_letter(self._admin, request.query_params.get("m", "")) if self._privacy.raw else None
        if letter is None:
            return JSONResponse({"error": "there is no such thing"}, HTTPStatus.NOT_FOUND)
        headers = {"content-disposition": 'attachment; filename="payload.bin"'}
        return Response(letter.data, media_type="application/octet-stream", headers=headers)

    # -- the messages of a topic ------------------------------------------------------------------------------------------------

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

    async def _messages(self, request: Request) -> Response:
        """Show the newest messages of a topic in pages."""
        snapshot = await self._first(_around_messages, request)
        name, query = names_in(request)["topic"], request.query_params
        topic = snapshot.topic(name)
        if topic is None:
            view = views.missing(f"No topic {name}", Screen("topic", name), snapshot)
            return Response(self._page(view, snapshot, request).html, view.status, media_type="text/html")
        partition = views.number_of(query.get("p"), topic.partitions) if query.get("p") else None
        first = views.number_of(query.get("first"), topic.partitions)
        asked = newest.block(topic, first) if partition is None else [partition]
        found = await newest.look(self._admin, topic, self._privacy, count=views.PAGE, partitions=asked, before=query.get("before"))
        values = {
            "topic": topic,
            "newest": found,
            "partition": partition,
            "before": query.get("before"),
            "ago": partial(views.ago, snapshot.at),
        }
        view = View("messages.html", f"Messages of {name}", "overview", Screen("topic", name), values, moves=False)
        return Response(self._page(view, snapshot, request).html, media_type="text/html")

    async def _export_messages(self, request: Request) -> ASGIApp:
        """Return all messages of a topic, as lines of JSON."""
        name = names_in(request)["topic"]
        try:
            total = (await self._admin.topic(name)).length
        except (SettingsError, TopicMissingError, UnknownFormatError) as error:
            return JSONResponse({"error": str(error)}, HTTPStatus.NOT_FOUND)
        return self._export(request, name, total, self._admin.messages(name), "messages.jsonl")

    async def _export_letters(self, request: Request) -> ASGIApp:
        """Return the dead letters of a group, as lines of JSON: those that are there now, and not those that arrive meanwhile."""
        group = letters.group_of(request.query_params.get("g"))
        try:
            info = None if group is None else await self._admin.group(*group)
        except (SettingsError, TopicMissingError, UnknownFormatError):
            info = None
        if group is None or info is None:
            return JSONResponse({"error": "say the group, as g=topic/group"}, HTTPStatus.NOT_FOUND)
        return self._export(request, words.group_name(*group), info.dead, letters.of_now(self._admin, info), "dead-letters.jsonl")

    def _export(self, request: Request, name: str, total: int, source: AsyncIterator[StoredMessage | DeadMessage], file: str) -> ASGIApp:
        headers = {"content-type": "application/octet-stream", "content-disposition": f'attachment; filename="{file}"'}
        if request.method == "HEAD":
            return Response(headers=headers)
        try:
            export = self._jobs.add(lambda number: Export(number, name, total=total))
        except RefusedError as error:
            return JSONResponse({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)
        return Download(export, export.lines(source, self._privacy, self._jobs), headers, self._jobs)

    # -- one message --------------------------------------------------------------------------------------------------------------

    async def _find(self, request: Request) -> Response:
        """Look for a message of which the id is known, for a moment; a page then goes on."""
        snapshot = await self._first(_around_message, request)
        links, msg_id = self._links(request), names_in(request)["msg_id"]
        topic = request.query_params.get("t")
        longer = min(LONGEST, float(views.number_of(request.query_params.get("wait"), 1000)))
        if self._searches.open >= self._searches.most:
            longer = 0.0
        self._searches.open += longer > 0
        try:
            progress = await messages.search_quickly(self._admin, msg_id, topic, max(messages.QUICK, longer))
        except (ConnectionFailed, ServerError):
            progress = messages.Progress()
        finally:
            self._searches.open -= longer > 0
        if progress.found is not None:
            return RedirectResponse(_address(links, progress.found), HTTPStatus.SEE_OTHER)
        values = {"progress": progress, "msg_id": msg_id, "topic": topic, "search": links("search", msg_id, t=topic)}
        status = HTTPStatus.NOT_FOUND if progress.ended else HTTPStatus.OK
        view = View("searching.html", msg_id, "", Screen("message"), values, moves=False, status=status)
        return Response(self._page(view, snapshot, request).html, view.status, media_type="text/html")

    async def _search(self, request: Request) -> ASGIApp:
        search = messages.search(self._admin, names_in(request)["msg_id"], request.query_params.get("t"))
        return SearchStream(self._searches, search, partial(_address, self._links(request)))

    async def _whereabouts(self, request: Request) -> Whereabouts | None:
        """Return where the message is that an address names with its topic, partition and entry; None if it is not there."""
        names, query = names_in(request), request.query_params
        partition = views.number_of(query.get("p"), MOST_PARTITIONS)
        try:
            return await self._admin.find(
                names["topic"], names["msg_id"], partition=partition, entry_id=query.get("e"), limit=messages.LIMIT
            )
        except (SettingsError, TopicMissingError, UnknownFormatError):
            return None

    async def _message(self, request: Request) -> Response:
        """Show one message: where it is, what groups have done with it, its payload."""
        snapshot = await self._first(_around_message, request)
        names = names_in(request)
        if "p" not in request.query_params:
            return RedirectResponse(self._links(request)("m", names["msg_id"], t=names["topic"]), HTTPStatus.SEE_OTHER)
        try:
            found = await self._whereabouts(request)
        except ConnectionFailed:  # the page says that the server is away
            found = None
        except ServerError as error:
            view = views.missing(f"{names['topic']} cannot be read: {error}", Screen("message"), snapshot)
            return Response(self._page(view, snapshot, request).html, HTTPStatus.SERVICE_UNAVAILABLE, media_type="text/html")
        kept = None if found is None else messages.content_of(found)
        if found is None or kept is None:
            again = self._links(request)("m", names["msg_id"], t=names["topic"])
            view = views.missing(f"No message {names['msg_id']} at that place", Screen("message"), snapshot, again)
            return Response(self._page(view, snapshot, request).html, view.status, media_type="text/html")
        shown = structs.replace(snapshot, at=self._sampler.now())  # what a group does with it does not wait for a snapshot
        lanes, scale = messages.lanes(found, shown)
        headers = self._privacy.headers(kept.headers)
        failed = [(name, one.retry or one.dead) for name, one in found.groups.items()]
        values: dict[str, Any] = {
            "found": found,
            "alive": found.delayed is not None or any(one.state in ("unread", "pending", "retry") for one in found.groups.values()),
            "several": sum(one.retry is not None or one.dead is not None for one in found.groups.values()) > 1,
            "story": messages.story(found, shown),
            "lanes": lanes,
            "now": scale(scale.now),
            "ticks": scale.ticks(),
            "facts": messages.facts(found, shown, headers),
            "payload": self._privacy.payload(kept.data),
            "failures": [
                (name, f"{one.error_type}: {one.error}", letters.lines_of(one.traceback))
                for name, one in failed
                if one is not None and one.error_type
            ],
            "name_of": letters.name_of,
        }
        screen = Screen("message", found.topic, "", found.partition, request.query_params.get("e", ""), found.msg_id)
        view = View("message.html", found.msg_id, "", screen, values, moves=False)
        return Response(self._page(view, snapshot, request).html, media_type="text/html")

    async def _message_as_json(self, request: Request) -> Response:
        found = await self._whereabouts(request)
        if found is None or not found.found:
            return JSONResponse({"error": "there is no such thing"}, HTTPStatus.NOT_FOUND)
        return Response(msgspec.json.encode(messages.as_json(found, self._privacy)), media_type="application/json")

    def _links(self, request: Request) -> Links:
        return Links(str(request.scope.get("root_path", "")))

    # -- the schedule -------------------------------------------------------------------------------------------------------------

    async def _schedule(self, request: Request) -> Response:
        """Show cron jobs and delayed messages."""
        snapshot = await self._first(_around_schedule, request)
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
        return Response(self._page(view, snapshot, request).html, media_type="text/html")

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
        found = views.places(self._sampler.latest, wanted, self._links(request)) if wanted else []
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


def _around_dead(_snapshot: Snapshot, _path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around the page about dead letters, which itself does not move."""
    return View("nothing.html", "Dead letters", "dead", Screen("dead letters"), {}, moves=False)


def _around_messages(_snapshot: Snapshot, path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around the messages of a topic."""
    return View("nothing.html", f"Messages of {path['topic']}", "overview", Screen("topic", path["topic"]), {}, moves=False)


def _around_schedule(_snapshot: Snapshot, _path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around the schedule."""
    return View("nothing.html", "Schedule", "schedule", Screen("schedule"), {}, moves=False)


def _around_message(_snapshot: Snapshot, path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around a message."""
    return View("nothing.html", path["msg_id"], "", Screen("message", path.get("topic", "")), {}, moves=False)


def _address(links: Links, found: Whereabouts) -> str:
    partition, entry = messages.place_of(found)
    return links("m", found.topic, found.msg_id, p=partition, e=entry)


SEARCHES = 4
"""Searches for a message at once that take longer than a moment."""

LONGEST = 30.0
"""Seconds for which a page without a script waits for a search."""

FIRST = 2.0
"""Seconds for which a page waits for the first snapshot. It is shown empty otherwise, and fills itself."""

RENDERED = 100
"""Pages of one snapshot that are kept."""
