"""The routes of messages: the newest of a topic, a single one, a search for it by its id, and all of a topic as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import structs
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from redisaq.admin import Whereabouts
from redisaq.dashboard import letters, messages, newest, views
from redisaq.dashboard.events import SearchStream, Streams
from redisaq.dashboard.exports import export
from redisaq.dashboard.paths import names_in
from redisaq.dashboard.showing import Showing
from redisaq.dashboard.views import Links, View
from redisaq.errors import ConnectionFailed, ServerError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.settings import MOST_PARTITIONS
from redisaq.watching import Screen, Snapshot

SEARCHES = 4
"""Searches for a message at once that take longer than a moment."""

LONGEST = 30.0
"""Seconds for which a page without a script waits for a search."""


class MessagePages:
    """The pages of messages."""

    def __init__(self, showing: Showing) -> None:
        """Search for nothing yet.

        Args:
            showing: shows the pages.
        """
        self._showing = showing
        self._searches = Streams(SEARCHES)

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        streaming = self._showing.streaming
        return [
            Route("/t/{topic}/messages", self._messages),
            Route("/events/t/{topic}/messages", streaming(_around_messages)),
            Route("/api/t/{topic}/export", self._export),
            Route("/m/{msg_id}", self._find),
            Route("/m/{topic}/{msg_id}", self._message),
            Route("/api/m/{topic}/{msg_id}", self._message_as_json),
            Route("/events/m/{msg_id}", streaming(_around_message)),
            Route("/events/m/{topic}/{msg_id}", streaming(_around_message)),
            Route("/search/{msg_id}", self._search),
        ]

    async def _messages(self, request: Request) -> Response:
        """Show the newest messages of a topic in pages."""
        snapshot = await self._showing.first(_around_messages, request)
        name, query = names_in(request)["topic"], request.query_params
        topic = snapshot.topic(name)
        if topic is None:
            view = views.missing(f"No topic {name}", Screen("topic", name), snapshot)
            return self._showing.answer(view, snapshot, request)
        partition = views.number_of(query.get("p"), topic.partitions) if query.get("p") else None
        first = views.number_of(query.get("first"), topic.partitions)
        asked = newest.block(topic, first) if partition is None else [partition]
        found = await newest.look(
            self._showing.admin, topic, self._showing.privacy, count=views.PAGE, partitions=asked, before=query.get("before")
        )
        values = {
            "topic": topic,
            "newest": found,
            "partition": partition,
            "before": query.get("before"),
            "ago": partial(views.ago, snapshot.at),
        }
        view = View("messages.html", f"Messages of {name}", "overview", Screen("topic", name), values, moves=False)
        return self._showing.answer(view, snapshot, request)

    async def _export(self, request: Request) -> ASGIApp:
        """Return all messages of a topic, as lines of JSON."""
        name = names_in(request)["topic"]
        try:
            total = (await self._showing.admin.topic(name)).length
        except (SettingsError, TopicMissingError, UnknownFormatError) as error:
            return JSONResponse({"error": str(error)}, HTTPStatus.NOT_FOUND)
        jobs, privacy = self._showing.jobs, self._showing.privacy
        return export(request, name, total, self._showing.admin.messages(name), "messages.jsonl", jobs=jobs, privacy=privacy)

    async def _find(self, request: Request) -> Response:
        """Look for a message of which the id is known, for a moment; then a page continues the search."""
        snapshot = await self._showing.first(_around_message, request)
        links, msg_id = self._showing.links(request), names_in(request)["msg_id"]
        topic = request.query_params.get("t")
        longer = min(LONGEST, float(views.number_of(request.query_params.get("wait"), 1000)))
        if self._searches.open >= self._searches.most:
            longer = 0.0
        self._searches.open += longer > 0
        try:
            progress = await messages.search_quickly(self._showing.admin, msg_id, topic, max(messages.QUICK, longer))
        except (ConnectionFailed, ServerError):
            progress = messages.Progress()
        finally:
            self._searches.open -= longer > 0
        if progress.found is not None:
            return RedirectResponse(_address(links, progress.found), HTTPStatus.SEE_OTHER)
        values = {"progress": progress, "msg_id": msg_id, "topic": topic, "search": links("search", msg_id, t=topic)}
        status = HTTPStatus.NOT_FOUND if progress.ended else HTTPStatus.OK
        view = View("searching.html", msg_id, "", Screen("message"), values, moves=False, status=status)
        return self._showing.answer(view, snapshot, request)

    async def _search(self, request: Request) -> ASGIApp:
        search = messages.search(self._showing.admin, names_in(request)["msg_id"], request.query_params.get("t"))
        return SearchStream(self._searches, search, partial(_address, self._showing.links(request)))

    async def _whereabouts(self, request: Request) -> Whereabouts | None:
        """Return where the message is that an address names with its topic, partition and entry; None if it is not there."""
        names, query = names_in(request), request.query_params
        partition = views.number_of(query.get("p"), MOST_PARTITIONS)
        try:
            return await self._showing.admin.find(
                names["topic"], names["msg_id"], partition=partition, entry_id=query.get("e"), limit=messages.LIMIT
            )
        except (SettingsError, TopicMissingError, UnknownFormatError):
            return None

    async def _message(self, request: Request) -> Response:
        """Show one message: where it is, what groups have done with it, its payload."""
        snapshot = await self._showing.first(_around_message, request)
        names = names_in(request)
        if "p" not in request.query_params:
            return RedirectResponse(self._showing.links(request)("m", names["msg_id"], t=names["topic"]), HTTPStatus.SEE_OTHER)
        try:
            found = await self._whereabouts(request)
        except ConnectionFailed:  # the page says that the server is away
            found = None
        except ServerError as error:
            view = views.missing(f"{names['topic']} cannot be read: {error}", Screen("message"), snapshot)
            return self._showing.answer(structs.replace(view, status=HTTPStatus.SERVICE_UNAVAILABLE), snapshot, request)
        kept = None if found is None else messages.content_of(found)
        if found is None or kept is None:
            again = self._showing.links(request)("m", names["msg_id"], t=names["topic"])
            view = views.missing(f"No message {names['msg_id']} at that place", Screen("message"), snapshot, again)
            return self._showing.answer(view, snapshot, request)
        shown = structs.replace(snapshot, at=self._showing.sampler.now())  # what a group does with it does not wait for a snapshot
        lanes, scale = messages.lanes(found, shown)
        headers = self._showing.privacy.headers(kept.headers)
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
            "payload": self._showing.privacy.payload(kept.data),
            "failures": [
                (name, f"{one.error_type}: {one.error}", letters.lines_of(one.traceback))
                for name, one in failed
                if one is not None and one.error_type
            ],
            "name_of": letters.name_of,
        }
        screen = Screen("message", found.topic, "", found.partition, request.query_params.get("e", ""), found.msg_id)
        view = View("message.html", found.msg_id, "", screen, values, moves=False)
        return self._showing.answer(view, snapshot, request)

    async def _message_as_json(self, request: Request) -> Response:
        found = await self._whereabouts(request)
        if found is None or not found.found:
            return JSONResponse({"error": "there is no such thing"}, HTTPStatus.NOT_FOUND)
        return Response(msgspec.json.encode(messages.as_json(found, self._showing.privacy)), media_type="application/json")


def _around_messages(_snapshot: Snapshot, path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around the messages of a topic."""
    return View("nothing.html", f"Messages of {path['topic']}", "overview", Screen("topic", path["topic"]), {}, moves=False)


def _around_message(_snapshot: Snapshot, path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around a message."""
    return View("nothing.html", path["msg_id"], "", Screen("message", path.get("topic", "")), {}, moves=False)


def _address(links: Links, found: Whereabouts) -> str:
    partition, entry = messages.place_of(found)
    return links("m", found.topic, found.msg_id, p=partition, e=entry)
