"""The requests that change something, and those that show what a change would do. Their routes exist only where changes are allowed.

Short changes are made at once. Many dead letters are treated by a job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, cast

import msgspec
from msgspec import structs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from redisaq import cron
from redisaq.admin import Admin, DeadMessage, DeadSummary, Position
from redisaq.core.schedules import TOPIC_ENDS_WITH
from redisaq.dashboard.jobs import Jobs, Letters, RefusedError, Verb
from redisaq.dashboard.letters import Kinds, parts_of
from redisaq.dashboard.pages import command_of
from redisaq.dashboard.paths import names_in
from redisaq.errors import GroupBusyError, RedisaqError, SettingsError, TopicMissingError
from redisaq.producer import Producer
from redisaq.settings import MOST_PARTITIONS, check_count, is_number
from redisaq.watching import ServerView, previews, words

LETTERS = 100
"""Letters that one request may name."""

GROWN = 10
"""A change is refused if what it is about has grown so many times since it was shown."""

Change = Callable[[str, str, Mapping[str, Any]], Awaitable[dict[str, object]]]
"""Makes a change of a topic, or of a group of it, as a request asks for it."""


class Changes:
    """Makes changes for the page."""

    def __init__(
        self,
        admin: Admin,
        jobs: Jobs,
        kinds: Callable[[str, str], Awaitable[Kinds]],
        producer: Callable[[str], Producer] | None,
        server: Callable[[], ServerView],
    ) -> None:
        """Begin without a change under way.

        Args:
            admin: makes them.
            jobs: runs those that take long.
            kinds: returns the kinds of a group's letters.
            producer: returns a producer of a topic, for payloads that are JSON already; None: nothing is enqueued, and no topic grows.
            server: returns what is known of the server, for commands to copy.
        """
        self._admin = admin
        self._jobs = jobs
        self._kinds = kinds
        self._producer = producer
        self._server = server
        self._made = 0

    @property
    def made(self) -> int:
        """How often letters were redriven or purged: what was known of them before is not true any more."""
        return self._made + self._jobs.made

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        topic, group = "/api/t/{topic}", "/api/t/{topic}/g/{group}"
        changes: list[tuple[str, Change]] = [
            (f"{group}/pause", self._pause),
            (f"{group}/resume", self._resume),
            (f"{group}/seek", self._seek),
            (f"{group}/redrive", self._redrive),
            (f"{group}/purge", self._purge),
            (f"{group}/retry", self._retry),
            (f"{group}/cancel", self._cancel_retry),
            (f"{group}/delete", self._delete_group),
            (f"{topic}/cancel", self._cancel),
            (f"{topic}/delete", self._delete_topic),
        ]
        if self._producer is not None:
            changes += [(f"{topic}/grow", self._grow), (f"{topic}/enqueue", self._enqueue), (f"{topic}/run", self._run_now)]
        return [
            *(Route(path, self._answering(change), methods=["POST"]) for path, change in changes),
            Route(f"{group}/seek", self._answering(self._preview_seek), methods=["GET"]),
            Route(f"{topic}/grow", self._answering(self._preview_growth), methods=["GET"]),
            Route("/api/jobs/{number:int}/stop", self._stop, methods=["POST"]),
        ]

    def _answering(self, change: Change) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            names = names_in(request)
            try:
                asked = request.query_params if request.method == "GET" else _object(await request.json())
                done = await change(names["topic"], names.get("group", ""), asked)
            except (ValueError, RecursionError, RefusedError, SettingsError) as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)
            except TopicMissingError as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.NOT_FOUND)
            except GroupBusyError as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.CONFLICT)
            except RedisaqError as error:
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
        position = _position(asked)
        if asked.get("pause"):
            await self._admin.pause(topic, group)
        await self._admin.seek(topic, group, position)
        return {"text": f"{group} was moved.{' It is paused until you resume it.' if asked.get('pause') else ''}"}

    async def _preview_seek(self, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        position = _position(asked)
        found = await self._admin.preview_seek(topic, group, position)
        return self._preview(previews.of_seek(found, topic, group, position))

    async def _delete_group(self, topic: str, group: str, asked: Mapping[str, Any]) -> dict[str, object]:
        if asked.get("name") != group:
            raise RefusedError(f"type the name of the group, {group}, to delete it")
        await self._admin.delete_group(topic, group)
        return {"text": f"{group} of {topic} is deleted.", "gone": "group"}

    # -- topics -------------------------------------------------------------------------------------------------------------------

    async def _delete_topic(self, topic: str, _: str, asked: Mapping[str, Any]) -> dict[str, object]:
        if asked.get("name") != topic:
            raise RefusedError(f"type the name of the topic, {topic}, to delete it")
        await self._admin.delete_topic(topic)
        return {"text": f"{topic} is deleted.", "gone": "topic"}

    async def _grow(self, topic: str, _: str, asked: Mapping[str, Any]) -> dict[str, object]:
        before, partitions = await self._growth(topic, asked)
        if asked.get("expected") != before:
            raise RefusedError(f"it has {words.many(before, 'partition')} by now: look again first")
        after = await self._admin.grow(topic, partitions)
        return {"text": f"{topic} has {words.many(after, 'partition')}."}

    async def _growth(self, topic: str, asked: Mapping[str, Any]) -> tuple[int, int]:
        """Return how many partitions a topic has, and how many it is to have."""
        before = (await self._admin.topic(topic, partitions=())).partition_count
        partitions = _whole(asked.get("partitions"), "number of partitions")
        if partitions <= before:
            raise RefusedError(f"it has {words.many(before, 'partition')}, and a topic never shrinks")
        return before, check_count("partitions", partitions, most=MOST_PARTITIONS)

    async def _preview_growth(self, topic: str, _: str, asked: Mapping[str, Any]) -> dict[str, object]:
        before, partitions = await self._growth(topic, asked)
        return self._preview(previews.of_growth(before, partitions, topic))

    def _preview(self, preview: previews.Preview) -> dict[str, object]:
        """Return a preview as JSON, with the command that does the same."""
        return {**structs.asdict(preview), "command": command_of(self._server(), *preview.words)}

    async def _enqueue(self, topic: str, _: str, asked: Mapping[str, Any]) -> dict[str, object]:
        payload, delay = _text(asked.get("payload"), "payload"), asked.get("delay") or 0
        try:
            msgspec.json.decode(payload)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RefusedError(f"the payload is not JSON: {error}. A text needs quotes") from error
        if not is_number(delay) or delay < 0:
            raise RefusedError("the delay is a number of seconds")
        await self._admin.topic(topic, partitions=())  # a producer would create it
        async with self._open(topic) as producer:
            msg_id = await producer.enqueue(payload.strip().encode(), key=asked.get("key") or None, delay=delay or None)
        return {"text": f"Enqueued: {msg_id}", "msg_id": msg_id}

    async def _run_now(self, topic: str, _: str, asked: Mapping[str, Any]) -> dict[str, object]:
        """Run a cron job now; the topic is that of its program's ticks."""
        if not topic.endswith(TOPIC_ENDS_WITH):
            raise RefusedError("this is no topic of cron jobs")
        job = _text(asked.get("job"), "job")
        msg_id = await cron.run_now(self._admin, self._open, topic.removesuffix(TOPIC_ENDS_WITH), job)
        return {"text": f"{job} is due now: {msg_id}", "msg_id": msg_id}

    def _open(self, topic: str) -> Producer:
        if self._producer is None:
            raise RefusedError("this page has no producer")
        return self._producer(topic)

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
        careful = asked.get("careful") in (True, "on")
        return self._jobs.start(verb, (topic, group), found, total=total, rate=_rate(asked.get("rate")), careful=careful).as_json()

    async def _act(self, verb: Verb, name: tuple[str, str], letters: Letters) -> int:
        act = self._admin.redrive if verb == "redrive" else self._admin.purge
        try:
            return await act(*name, letters)
        finally:
            self._made += 1

    async def _named(self, topic: str, group: str, names: object) -> list[DeadMessage]:
        if not isinstance(names, list) or not 0 < len(cast("list[object]", names)) <= LETTERS:
            raise RefusedError(f"name from 1 to {LETTERS} letters")
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

    async def job(self, request: Request) -> Response:
        """Return how far a job is, for those who may only look, too."""
        job = self._jobs.get(request.path_params["number"])
        return JSONResponse({"error": "there is no such job"}, HTTPStatus.NOT_FOUND) if job is None else JSONResponse(job.as_json())

    async def _stop(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["number"])
        if job is not None:
            job.stop()
        return await self.job(request)


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


def _whole(value: object, name: str) -> int:
    """Return a whole number of a request or an address."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:  # noqa: PLR2004 -- a billion
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RefusedError(f"say the {name}")
    return value


def _position(asked: Mapping[str, Any]) -> Position:
    """Return where a group is to go on."""
    to = asked.get("to")
    named: dict[str, Position] = {"earliest": "earliest", "latest": "latest"}
    if isinstance(to, str) and to in named:
        return named[to]
    if to == "entry":
        return {_whole(asked.get("partition"), "partition"): _text(asked.get("entry"), "entry")}
    return _moment(asked.get("at"))


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
    if not is_number(value) or not 0 < value <= 10_000:  # noqa: PLR2004 -- more is no limit
        raise RefusedError("rate is a number of letters per second, up to 10,000")
    return float(value)
