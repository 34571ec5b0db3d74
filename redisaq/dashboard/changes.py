"""The requests that change something. Their routes exist only where changes are allowed.

Short changes are made at once. Many dead letters are treated by a job, in pages and at the rate that was asked for; it can be watched and
stopped, and ends with the application.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal, cast

import anyio
from anyio.abc import TaskGroup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from redisaq.admin import Admin, DeadMessage, DeadSummary, Position
from redisaq.dashboard.letters import Kinds, parts_of
from redisaq.dashboard.paths import names_in
from redisaq.errors import ConnectionFailed, GroupBusyError, RedisaqError, SettingsError, TopicMissingError
from redisaq.watching import words

PAGE = 100
"""Letters that a job treats at a time."""

JOBS = 50
"""Finished jobs that are remembered."""

GROWN = 10
"""A change is refused if what it is about has grown so many times since it was shown."""

Verb = Literal["redrive", "purge"]
Letters = Sequence[DeadMessage | DeadSummary]


class RefusedError(Exception):
    """Raised where a request cannot be done as it is. Its text says why."""


class Job:
    """Many dead letters that are being redriven or purged."""

    def __init__(self, number: int, verb: Verb, name: tuple[str, str], found: list[DeadSummary] | None, *, total: int, rate: float) -> None:
        """Begin with nothing done.

        Args:
            number: its number.
            verb: what is done with the letters.
            name: topic and group.
            found: the letters, the oldest first; None: all of the group.
            total: how many they are.
            rate: letters per second; 0: as fast as possible.
        """
        self.number = number
        self.verb: Verb = verb
        self.name = name
        self.found = found
        self.total = total
        self.rate = rate
        self.done = 0
        self.state: Literal["running", "done", "stopped", "failed"] = "running"
        self.error = ""
        self.scope = anyio.CancelScope()

    def as_json(self) -> dict[str, object]:
        """Return its state."""
        past = {"redrive": "Redriven", "purge": "Purged"}[self.verb]
        text = f"{past}: {words.count(self.done)} of {words.count(self.total)}"
        if self.state in ("stopped", "failed"):
            text += f", then {self.state}{': ' + self.error if self.error else ''}"
        return {"job": self.number, "done": self.done, "total": self.total, "state": self.state, "text": text}


class Changes:
    """Makes changes for the page.

    Attributes:
        made: how often letters were redriven or purged: what was known of them before is not true any more.
        tasks: runs the jobs, while the application does.
    """

    def __init__(self, admin: Admin, kinds: Callable[[str, str], Awaitable[Kinds]]) -> None:
        """Take what changes are made with.

        Args:
            admin: makes them.
            kinds: returns the kinds of a group's letters.
        """
        self._admin = admin
        self._kinds = kinds
        self._jobs: dict[int, Job] = {}
        self._number = 0
        self.made = 0
        self.tasks: TaskGroup | None = None

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        group = "/api/t/{topic}/g/{group}"
        return [
            Route(f"{group}/pause", self._answering(self._pause), methods=["POST"]),
            Route(f"{group}/resume", self._answering(self._resume), methods=["POST"]),
            Route(f"{group}/seek", self._answering(self._seek), methods=["POST"]),
            Route(f"{group}/redrive", self._answering(self._redrive), methods=["POST"]),
            Route(f"{group}/purge", self._answering(self._purge), methods=["POST"]),
            Route(f"{group}/retry", self._answering(self._retry), methods=["POST"]),
            Route(f"{group}/cancel", self._answering(self._cancel_retry), methods=["POST"]),
            Route("/api/t/{topic}/cancel", self._answering(self._cancel), methods=["POST"]),
            Route("/api/jobs/{number:int}", self._job, methods=["GET"]),
            Route("/api/jobs/{number:int}/stop", self._stop, methods=["POST"]),
        ]

    def _answering(
        self, change: Callable[[str, str, Mapping[str, Any]], Awaitable[dict[str, object]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            names = names_in(request)
            try:
                done = await change(names["topic"], names.get("group", ""), _object(await request.json()))
            except (ValueError, RecursionError, RefusedError, SettingsError) as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)
            except TopicMissingError as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.NOT_FOUND)
            except GroupBusyError as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.CONFLICT)
            except ConnectionFailed as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)
            return JSONResponse(done, HTTPStatus.ACCEPTED if "job" in done else HTTPStatus.OK)

        return answer

    # -- groups -------------------------------------------------------------------------------------------------------------------

    async def _pause(self, topic: str, group: str, _: Mapping[str, Any]) -> dict[str, object]:
        await self._admin.pause(topic, group)
        return {"text": f"{group} is paused. What runs is finished."}

    async def _resume(self, topic: str, group: str, _: Mapping[str, Any]) -> dict[str, object]:
        await self._admin.resume(topic, group)
        return {"text": f"{group} continues."}

    async def _seek(self, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        to = asked.get("to")
        position: Position = to if to in ("earliest", "latest") else _moment(asked.get("at"))
        if asked.get("pause"):
            await self._admin.pause(topic, group)
        await self._admin.seek(topic, group, position)
        return {"text": f"{group} was moved.{' It is paused until you resume it.' if asked.get('pause') else ''}"}

    # -- single messages ----------------------------------------------------------------------------------------------------------

    async def _retry(self, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        """Try a message again at once that waits for a retry. Its place is given, so that it is not searched for."""
        msg_id, partition, entry = _text(asked.get("id"), "id"), asked.get("partition"), _text(asked.get("entry"), "entry")
        if not isinstance(partition, int):
            raise RefusedError("say the partition")
        found = await self._admin.find(topic, msg_id, partition=partition, entry_id=entry, limit=1)
        standing = found.groups.get(group)
        if standing is None or standing.retry is None:
            raise RefusedError(f"it does not wait for a retry in {group} any more")
        made = await self._admin.retry_now(topic, group, [standing.retry])
        return {"text": "It is tried again now." if made else "It is due already: it is tried as soon as there is room."}

    async def _cancel_retry(self, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        if not await self._admin.cancel(topic, _text(asked.get("id"), "id"), group):
            raise RefusedError(f"it does not wait for a retry in {group} any more")
        return {"text": f"Its retry in {group} is cancelled."}

    async def _cancel(self, topic: str, _group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        if not await self._admin.cancel(topic, _text(asked.get("id"), "id")):
            raise RefusedError("it is not delayed any more")
        return {"text": "The message is cancelled."}

    # -- dead letters -------------------------------------------------------------------------------------------------------------

    async def _redrive(self, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        return await self._treat("redrive", topic, group, asked)

    async def _purge(self, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        if asked.get("name") != group:
            raise RefusedError(f"type the name of the group, {group}, to purge its dead letters")
        return await self._treat("purge", topic, group, asked)

    async def _treat(self, verb: Verb, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        """Treat the letters that are named, or those of a kind, or all."""
        if "letters" in asked:
            done = await self._act(verb, (topic, group), await self._named(topic, group, asked["letters"]))
            return {"done": done, "text": f"{'Redriven' if verb == 'redrive' else 'Purged'}: {words.count(done)}"}
        dead = (await self._admin.group(topic, group)).dead
        kind = asked.get("kind")
        found: list[DeadSummary] | None = None
        if kind is not None:
            found = [one for each in (await self._kinds(topic, group)).kinds if each.id == kind for one in reversed(each.letters)]
        elif asked.get("all") is not True:
            raise RefusedError("say letters, kind or all")
        total, expected = dead if found is None else len(found), asked.get("expected")
        if not isinstance(expected, int) or total > GROWN * max(1, expected):
            raise RefusedError(f"there are {words.count(total)} now: look again first")
        self._number += 1
        return self._start(Job(self._number, verb, (topic, group), found, total=total, rate=_rate(asked.get("rate")))).as_json()

    async def _act(self, verb: Verb, name: tuple[str, str], letters: Letters) -> int:
        act = self._admin.redrive if verb == "redrive" else self._admin.purge
        try:
            return await act(*name, letters)
        finally:
            self.made += 1

    async def _named(self, topic: str, group: str, names: object) -> list[DeadMessage]:
        if not isinstance(names, list) or not 0 < len(cast("list[object]", names)) <= PAGE:
            raise RefusedError(f"name from 1 to {PAGE} letters")
        letters: list[DeadMessage] = []
        for name in cast("list[object]", names):
            parts = parts_of(name) if isinstance(name, str) else None
            if parts is None or parts[:2] != (topic, group):
                raise RefusedError("that is no letter of this group")
            letter = await self._admin.dead_letter(*parts)
            if letter is not None:
                letters.append(letter)
        if not letters:
            raise RefusedError("these letters are not there any more")
        return letters

    def _start(self, job: Job) -> Job:
        if self.tasks is None:
            raise RefusedError("the application has not been started")
        self._jobs[job.number] = job
        while len(self._jobs) > JOBS and (over := next((one for one in self._jobs.values() if one.state != "running"), None)):
            del self._jobs[over.number]
        self.tasks.start_soon(self._run, job)
        return job

    async def _run(self, job: Job) -> None:
        with job.scope:
            try:
                async with aclosing(self._pages(job)) as pages:
                    async for page in pages:
                        job.done += await self._act(job.verb, job.name, page)
                        if job.rate:
                            await anyio.sleep(len(page) / job.rate)
            except RedisaqError as error:
                job.state, job.error = "failed", str(error)
            else:
                job.state = "done"
        if job.scope.cancelled_caught:
            job.state = "stopped"

    async def _pages(self, job: Job) -> AsyncGenerator[Letters]:
        """Yield the letters in pages, the oldest of a partition first; not more than there were: one that dies again is left alone."""
        size = PAGE if not job.rate else max(1, min(PAGE, int(job.rate)))
        if job.found is not None:
            for start in range(0, len(job.found), size):
                yield job.found[start : start + size]
            return
        left = {one.partition: one.dead for one in (await self._admin.group(*job.name)).partitions}
        page: list[DeadMessage] = []
        async for letter in self._admin.dead_letters(*job.name):
            if left.get(letter.partition, 0) > 0:
                left[letter.partition] -= 1
                page.append(letter)
            if len(page) == size:
                yield page
                page = []
        if page:
            yield page

    async def _job(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["number"])
        return JSONResponse({"error": "there is no such job"}, HTTPStatus.NOT_FOUND) if job is None else JSONResponse(job.as_json())

    async def _stop(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["number"])
        if job is not None:
            job.scope.cancel()
        return await self._job(request)


def _object(asked: object) -> dict[str, Any]:
    """Return the body of a request, which must be a JSON object."""
    if not isinstance(asked, dict):
        raise RefusedError("the body must be a JSON object")
    return cast("dict[str, Any]", asked)


def _text(value: object, name: str) -> str:
    """Return a text of a request."""
    if not isinstance(value, str) or not value:
        raise RefusedError(f"say the {name}")
    return value


def _moment(text: object) -> datetime:
    """Return a moment of an address or a form: an ISO time with a zone."""
    if not isinstance(text, str):
        raise RefusedError("say earliest, latest, or a time with a zone")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise RefusedError("the time has no zone")
    return moment


def _rate(value: object) -> float:
    """Return letters per second; 0: as fast as possible."""
    if value in (None, "", 0):
        return 0.0
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 10_000:  # noqa: PLR2004 -- more is no limit
        raise RefusedError("rate is a number of letters per second, up to 10,000")
    return float(value)
