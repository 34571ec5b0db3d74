"""The broker of one producer, consumer or admin: when it is opened, which thread may use it, and what happens to it in a fork.

Input: the URL that the user gave, or none. Output: a Broker. Invariants:

- Without a URL, REDISAQ_URL is read when the object connects, and again when it connects after it was closed.
- Only one event loop at a time uses the object. The first call of a loop claims it, and the end of its last call releases it. A call from
  another thread in between is refused. Claiming and releasing are single operations on a dict, which no thread switch divides, and cost
  nanoseconds.
- A child made by fork opens a broker of its own. The inherited broker belongs to the parent, and the child leaves it alone.
- Objects that share a broker never close it. The owner of the Shared does.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import AsyncGenerator
from functools import partial
from types import TracebackType
from typing import Protocol, TypeAlias

import anyio

from redisaq.brokers import open_broker
from redisaq.brokers.steps import Broker
from redisaq.environment import LONGEST_SILENCE, current_environment, when_forked
from redisaq.errors import ConnectionFailed, SettingsError, WrongThreadError
from redisaq.settings import check_name


class URLObject(Protocol):
    """A URL object of pydantic, such as RedisDsn."""

    def unicode_string(self) -> str:
        """Return the URL as text, with its password."""
        ...


RedisURL: TypeAlias = str | URLObject
"""What a `redis_url` may be."""

URL_VARIABLE = "REDISAQ_URL"
DEFAULT_URL = "redis://localhost:6379/0"


class Shared:
    """One broker for several objects: an App gives it to its producers, or its consumers, in place of a URL.

    It is opened when the first of them connects, in the environment of that moment.
    """

    def __init__(self, redis_url: object, namespace: str, client: str | None = None) -> None:
        """Check the URL; nothing is opened yet.

        Args:
            redis_url: what the user gave; see `Access`.
            namespace: the first part of every key.
            client: the user's label for the connections.

        Raises:
            SettingsError: the URL or the namespace cannot work.
        """
        self._namespace = check_name("namespace", namespace)
        self._client = client
        self._silence = LONGEST_SILENCE
        self._time = 0.0
        self._broker: Broker | None = None
        self._confirmed: Broker | None = None
        self.use(redis_url)
        when_forked(self)

    def use(self, redis_url: object) -> None:
        """Use this URL from the next opening on.

        Raises:
            SettingsError: the URL cannot work.
        """
        url = None if redis_url is None else text_of_url("redis_url", redis_url)
        if url is not None:
            open_at(url, self._namespace, silence=self._silence, time=math.inf)  # only to check it
        self._url = url

    @property
    def url(self) -> str:
        """The URL that the next opening uses; it may hold a password."""
        return os.environ.get(URL_VARIABLE, DEFAULT_URL) if self._url is None else self._url

    def join(self, silence: float, time: float) -> None:
        """Let one more object use the broker: the shortest silence and the longest time apply to all.

        An object without a time limits its calls itself.
        """
        self._silence = min(self._silence, silence)
        self._time = max(self._time, 0.0 if math.isinf(time) else time)

    @property
    def broker(self) -> Broker:
        """The broker, opened now if it is not open.

        Raises:
            SettingsError: the URL, or REDISAQ_URL, cannot work.
        """
        if self._broker is None:
            self._broker = self._open()
        return self._broker

    @property
    def confirmed(self) -> Broker:
        """A broker whose steps return only once a replica has what they wrote (C7), opened now if it is not open."""
        if self._confirmed is None:
            self._confirmed = self._open(confirmed=True)
        return self._confirmed

    def holds(self, broker: Broker) -> bool:
        """Return whether that is one of its open brokers, and not one that it has closed."""
        return broker in (self._broker, self._confirmed)

    async def close(self) -> None:
        """Close the brokers that are open; the next use opens others."""
        brokers, self._broker, self._confirmed = (self._broker, self._confirmed), None, None
        await _close(*brokers)

    def forked(self) -> None:
        """Forget the parent's brokers."""
        self._broker = self._confirmed = None

    def _open(self, *, confirmed: bool = False) -> Broker:
        time = self._time or math.inf
        return open_at(self._url, self._namespace, self._client, silence=self._silence, time=time, confirmed=confirmed)


class Access:
    """An object's way to its broker. As `with access:` it encloses one call.

    Attributes:
        closings: how often `close` was called.
    """

    def __init__(
        self,
        redis_url: object,
        namespace: str,
        *,
        user: str,
        client: str | None = None,
        silence: float = LONGEST_SILENCE,
        time: float = math.inf,
    ) -> None:
        """Check the URL; nothing is connected yet.

        Args:
            redis_url: what the user gave; None for what REDISAQ_URL says, or else DEFAULT_URL; or a Shared.
            namespace: the first part of every key.
            user: the class of the object, for errors.
            client: the user's label for its connections; a Shared has its own.
            silence: see `open_broker`.
            time: see `open_broker`.

        Raises:
            SettingsError: the URL or the namespace cannot work.
        """
        self._shared = redis_url if isinstance(redis_url, Shared) else None
        self._url = None if redis_url is None or self._shared else text_of_url("redis_url", redis_url)
        self._namespace = check_name("namespace", namespace)
        self._user = user
        self._client = client
        self._silence = silence
        self._time = time
        self.closings = 0
        self._claim: dict[str, int] = {}  # holds the thread whose event loop uses the object
        self._calls = 0  # calls under way, all of that thread: no other thread counts here
        if self._shared is not None:
            self._shared.join(silence, time)
        self._broker: Broker | None = None if self._url is None else self._open(self._url)
        self._confirmed: Broker | None = None
        when_forked(self)

    @property
    def namespace(self) -> str:
        """The first part of every key."""
        return self._namespace

    @property
    def broker(self) -> Broker:
        """The broker, opened now if it is not open.

        Raises:
            SettingsError: REDISAQ_URL cannot work.
        """
        if self._shared is not None:
            return self._shared.broker
        if self._broker is None:
            self._broker = self._open(self._url)
        return self._broker

    @broker.setter
    def broker(self, broker: Broker) -> None:
        self._broker = broker

    @property
    def confirmed(self) -> Broker:
        """A broker whose steps return only once a replica has what they wrote (C7), opened now if it is not open.

        Raises:
            SettingsError: the server has no replicas, or REDISAQ_URL cannot work.
        """
        if self._shared is not None:
            return self._shared.confirmed
        if self._confirmed is None:
            self._confirmed = self._open(self._url, confirmed=True)
        return self._confirmed

    async def close(self) -> None:
        """Close the brokers that are open and not shared; the next call opens them again."""
        self.closings += 1
        brokers = self._broker, self._confirmed
        if self._url is None:
            self._broker = self._confirmed = None
        await _close(*brokers)

    @contextlib.asynccontextmanager
    async def opening(self, broker: Broker) -> AsyncGenerator[None]:
        """Enclose steps that open a broker. If `close` is called between two of them, the broker is closed again after the last.

        Raises:
            ConnectionFailed: `close` was called.
        """
        closings = self.closings
        try:
            yield
        finally:
            if self.closings > closings and (self._shared is None or not self._shared.holds(broker)):
                with anyio.CancelScope(shield=True):
                    await broker.close()
        self.check_open(closings)

    def check_open(self, closings: int) -> None:
        """Raise ConnectionFailed if `close` was called since there were so many closings."""
        if self.closings > closings:
            raise ConnectionFailed(f"this {self._user}", "it was closed while it connected")

    def enter(self) -> None:
        """Begin a call.

        Raises:
            WrongThreadError: calls from another thread are under way.
        """
        if self._claim.setdefault("thread", thread := threading.get_ident()) != thread:
            raise WrongThreadError(self._user)
        self._calls += 1

    def leave(self) -> None:
        """End a call."""
        self._calls -= 1
        if not self._calls:
            self._claim.clear()

    def __enter__(self) -> None:
        """Begin a call."""
        self.enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """End the call."""
        self.leave()

    def forked(self) -> None:
        """Forget what the parent had: its brokers and its calls."""
        self._broker = self._confirmed = None
        self._claim, self._calls = {}, 0

    def _open(self, url: str | None, *, confirmed: bool = False) -> Broker:
        return open_at(url, self._namespace, self._client, silence=self._silence, time=self._time, confirmed=confirmed)


async def _close(broker: Broker | None, confirmed: Broker | None) -> None:
    try:
        if broker is not None:
            await broker.close()
    finally:
        if confirmed is not None:
            await confirmed.close()


def open_at(url: str | None, namespace: str, client: str | None = None, *, silence: float, time: float, confirmed: bool = False) -> Broker:
    """Return a broker for the URL, or else for what REDISAQ_URL says, in the environment of the context.

    Raises:
        SettingsError: the URL cannot work; the text names REDISAQ_URL if it came from there.
    """
    open_it = partial(
        open_broker,
        namespace=namespace,
        environment=current_environment(),
        client=client,
        silence=silence,
        time=time,
        confirmed=confirmed,
    )
    if url is not None:
        return open_it(url)
    try:
        return open_it(os.environ.get(URL_VARIABLE, DEFAULT_URL))
    except SettingsError as error:
        problem = f"{URL_VARIABLE}: {error}"
    raise SettingsError(problem)


def text_of_url(name: str, url: object) -> str:
    """Return a URL as a plain str: it may be of any subclass of str, or an object of pydantic, whose URL types are not.

    Raises:
        SettingsError: it is something else. The text does not show a password in it.
    """
    if not isinstance(url, str):
        as_text = getattr(url, "unicode_string", None)
        url = as_text() if callable(as_text) else url
    if not isinstance(url, str):
        raise SettingsError(f"{name} must be a str, a URL of pydantic's, or None, not {type(url).__name__}")
    return str.__str__(url)
