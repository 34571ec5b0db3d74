"""The routes of dead letters: their kinds, one in full, its payload as it is, and all letters of a group as lines of JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from redisaq.dashboard import letters, views
from redisaq.dashboard.counts import Counts
from redisaq.dashboard.exports import export
from redisaq.dashboard.letters import Kinds
from redisaq.dashboard.paths import names_in
from redisaq.dashboard.showing import Showing
from redisaq.dashboard.views import View
from redisaq.errors import ConnectionFailed, RedisaqError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.watching import Screen, Snapshot, words


class DeadPages:
    """The pages of dead letters. The newest letters are looked at once for all who ask during one snapshot."""

    def __init__(self, showing: Showing, made: Callable[[], int]) -> None:
        """Look at nothing yet.

        Args:
            showing: shows the pages.
            made: returns how many changes were made: after each, letters are looked at again.
        """
        self._showing = showing
        self._made = made
        self._counts = Counts(showing.admin, showing.jobs)
        self._kinds: dict[tuple[str, str] | None, tuple[tuple[int, int], Kinds]] = {}

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/dead", self._dead),
            Route("/dead/{kind}", self._dead),
            Route("/events/dead", self._showing.streaming(_around)),
            Route("/events/dead/{kind}", self._showing.streaming(_around)),
            Route("/api/dead", self._dead_as_json),
            Route("/api/dead/payload", self._payload),
            Route("/api/dead/export", self._export),
        ]

    async def _dead(self, request: Request) -> Response:
        """Show the kinds of dead letters, one kind's letters, and one of them in full."""
        snapshot = await self._showing.first(_around, request)
        query = request.query_params
        wanted, opened = letters.group_of(query.get("g")), query.get("m", "")
        every = letters.groups_of(snapshot, None)
        name, before = names_in(request).get("kind"), query.get("before")
        found, letter, older = Kinds((), 0, sum(one.dead for one in letters.groups_of(snapshot, wanted))), None, None
        broken: dict[str, str] = {}
        only = next((one for one in every if (one.topic, one.group) == wanted), None)
        if wanted is not None and (after := query.get("count")) is not None:
            self._counts.start(wanted, after, self._made())
        try:
            found = await self._look(snapshot, wanted)
            letter = await letters.open_letter(self._showing.admin, opened) if opened else None
            if before is not None and name is not None and only is not None:
                older = await letters.older(self._showing.admin, only, name, count=views.PAGE, before=before)
        except ConnectionFailed:  # the page says that the server is away
            pass
        except RedisaqError as error:
            broken["What was asked for"] = str(error)
        broken |= {words.group_name(*one): reason for one, reason in found.broken.items()}
        counted = None if wanted is None else self._counts.of(wanted, self._made())
        if wanted is not None:
            found = letters.counted(found, counted, wanted)
        kind = next((one for one in found.kinds if name in (None, one.id)), None)
        if name is not None and older is not None and older.letters:
            kind = letters.kind_of(name, list(older.letters), snapshot.at)
        if name is not None and kind is None and found.looked and older is None:
            view = views.missing("No dead letters of this kind", Screen("dead letters"), snapshot)
            return self._showing.answer(view, snapshot, request)
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
            "payload": self._showing.privacy.payload(letter.data) if letter else None,
            "headers": self._showing.privacy.headers(letter.headers) if letter else {},
            "raw": self._showing.privacy.raw,
        }
        view = View("dead.html", "Dead letters", "dead", Screen("dead letters"), values, moves=False)
        return self._showing.answer(view, snapshot, request)

    async def _look(self, snapshot: Snapshot, wanted: tuple[str, str] | None) -> Kinds:
        """Look at the newest dead letters, once for all who ask during one snapshot, unless some were redriven or purged meanwhile."""
        moment = snapshot.number, self._made()
        known = self._kinds.get(wanted)
        if known is not None and known[0] == moment:
            return known[1]
        found = await letters.look(self._showing.admin, letters.groups_of(snapshot, wanted), snapshot.at)
        self._kinds = {name: one for name, one in self._kinds.items() if one[0] == moment}
        self._kinds[wanted] = moment, found
        return found

    async def kinds_of(self, topic: str, group: str) -> Kinds:
        """Return the kinds as they were last shown."""
        return await self._look(self._showing.sampler.latest, (topic, group))

    async def _dead_as_json(self, request: Request) -> Response:
        found = await self._look(self._showing.sampler.latest, letters.group_of(request.query_params.get("g")))
        listed: list[object] = [letter for kind in found.kinds for letter in kind.letters]
        listed += [{"topic": topic, "group": group, "unreadable": reason} for (topic, group), reason in found.broken.items()]
        return Response(msgspec.json.encode(listed), media_type="application/json")

    async def _payload(self, request: Request) -> Response:
        """Return a payload as it is, to be stored, never shown."""
        letter = await letters.open_letter(self._showing.admin, request.query_params.get("m", "")) if self._showing.privacy.raw else None
        if letter is None:
            return JSONResponse({"error": "there is no such thing"}, HTTPStatus.NOT_FOUND)
        headers = {"content-disposition": 'attachment; filename="payload.bin"'}
        return Response(letter.data, media_type="application/octet-stream", headers=headers)

    async def _export(self, request: Request) -> ASGIApp:
        """Return the dead letters of a group, as lines of JSON: those that are there now, and not those that arrive meanwhile."""
        group = letters.group_of(request.query_params.get("g"))
        try:
            info = None if group is None else await self._showing.admin.group(*group)
        except (SettingsError, TopicMissingError, UnknownFormatError):
            info = None
        if group is None or info is None:
            return JSONResponse({"error": "say the group, as g=topic/group"}, HTTPStatus.NOT_FOUND)
        jobs, privacy, name = self._showing.jobs, self._showing.privacy, words.group_name(*group)
        return export(request, name, info.dead, letters.of_now(self._showing.admin, info), "dead-letters.jsonl", jobs=jobs, privacy=privacy)


def _around(_snapshot: Snapshot, _path: Mapping[str, str], _query: Mapping[str, str]) -> View:
    """Return a view of what is around the page about dead letters, which itself does not move."""
    return View("nothing.html", "Dead letters", "dead", Screen("dead letters"), {}, moves=False)
