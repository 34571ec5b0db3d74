"""Check every name and number that a caller gives, once, before anything is sent.

The checked value is a plain `str`, `int` or `float`, never a subclass. A member of an enumeration is one text to `encode()` and another one
to an f-string, so two parts of the package would see two names.
"""

from __future__ import annotations

import inspect
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from random import Random
from typing import Any, Literal, TypedDict, TypeGuard, TypeVar, cast

from redisaq.callables import function_of, is_async, is_generator, misfit
from redisaq.describing import name_of, shown
from redisaq.errors import SettingsError
from redisaq.events import Event
from redisaq.message import Message
from redisaq.middleware import Middleware, check_middleware

F = TypeVar("F", bound=Callable[..., Any])

MAX_NAME = 256
MOST_PARTITIONS = 1 << 16
"""The most partitions that a topic can have."""
MAX_SECONDS = 1e9
"""Some 31 years. Servers keep times as floating-point numbers, and write those from 2^52 microseconds on (the year 2112) differently."""
_SHOWN = 40  # characters of a bad name in an error


def check_name(kind: str, name: str) -> str:
    """Return the name, as a plain str, if it can be part of a key.

    Args:
        kind: what it names ("topic", "group_name", "consumer_name", "namespace"), for the error.
        name: 1 to 256 characters, no braces (they mark the hash slot), no control characters; a namespace has no colon either.

    Raises:
        SettingsError: it cannot.
    """
    name = check_str(kind, name)
    shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
    if not 1 <= len(name) <= MAX_NAME:
        reason = f"{kind} must have 1 to {MAX_NAME} characters, {shown!r} has {len(name)}"
        raise SettingsError(reason)
    if any(character in "{}" or not character.isprintable() for character in name):
        reason = f"{kind} must not contain braces or control characters: {shown!r}"
        raise SettingsError(reason)
    if kind == "namespace" and ":" in name:
        reason = f"namespace must not contain a colon: {shown!r}"
        raise SettingsError(reason)
    return name


def check_client(client: str | None) -> str | None:
    """Return the label of a member and its connections, as a plain str; SettingsError unless it is 1 to 256 printable characters."""
    if client is None:
        return None
    client = check_text("client", client)
    if not 1 <= len(client) <= MAX_NAME or not client.isprintable():
        raise SettingsError(f"client must be 1 to {MAX_NAME} printable characters, not {shown(client)}")
    return client


def check_str(name: str, value: object) -> str:
    """Return a text as a plain str, whatever its class does in `str()` and f-strings; SettingsError if it is not a str."""
    if not isinstance(value, str):
        raise SettingsError(f"{name} must be a str, not {type(value).__name__}")
    return str.__str__(value)


def check_count(name: str, value: int, *, least: int = 1, most: int = 1 << 31) -> int:
    """Return a whole number within its bounds, as a plain int; SettingsError otherwise. An index (numpy's integers) counts, too."""
    try:
        number = None if isinstance(value, bool) else int.__int__(operator.index(value))
    except TypeError:
        number = None
    if number is None:
        raise SettingsError(f"{name} must be a whole number, not {shown(value)}")
    if not least <= number <= most:
        raise SettingsError(f"{name} must be from {least} to {most}, not {number}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return True or False; SettingsError for any other value: `"no"` would count as true."""
    if not isinstance(value, bool):
        raise SettingsError(f"{name} must be True or False, not {shown(value)}")
    return value


def check_seconds(name: str, value: float, *, zero: bool = False) -> float:
    """Return a number of seconds above 0 (or equal to it, if `zero`), at most MAX_SECONDS; SettingsError otherwise."""
    value = _check_number(name, "a number of seconds", value)
    if not 0 <= value <= MAX_SECONDS or (value == 0 and not zero):  # NaN is in no range
        reason = f"{name} must be {'at least' if zero else 'more than'} 0 and at most {MAX_SECONDS:g} seconds, not {shown(value)}"
        raise SettingsError(reason)
    return float(value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether the value is a number, and none of True and False: callers without type checks may pass anything."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_factor(name: str, value: float) -> float:
    """Return a finite number of 1 or more; SettingsError otherwise."""
    value = _check_number(name, "a number", value)
    if not 1 <= value <= MAX_SECONDS:
        raise SettingsError(f"{name} must be from 1 to {MAX_SECONDS:g}, not {shown(value)}")
    return float(value)


def _check_number(name: str, kind: str, value: object) -> float:
    """Return a plain int or float, so that no comparison or conversion of the caller's class is used."""
    if is_number(value):
        return float.__float__(value) if isinstance(value, float) else int.__int__(value)
    raise SettingsError(f"{name} must be {kind}, not {shown(value)}")


def check_text(name: str, value: object) -> str:
    """Return a text that can be encoded as UTF-8, as a plain str; SettingsError otherwise."""
    text = check_str(name, value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{name} must be text that can be written as UTF-8, not {text[:_SHOWN]!r}") from error
    return text


def check_retention(retention: Literal["acked"] | None) -> Literal["acked"] | None:
    """Return the topic's retention; SettingsError unless it is None or "acked"."""
    if retention is None:
        return None
    if retention != "acked":
        raise SettingsError(f"retention must be None or 'acked', not {shown(retention)}")
    return "acked"


def check_acks(acks: Literal["primary", "replica"]) -> bool:
    """Return whether a replica has to confirm; SettingsError unless it is "primary" or "replica"."""
    if acks not in ("primary", "replica"):
        raise SettingsError(f"acks must be 'primary' or 'replica', not {shown(acks)}")
    return acks == "replica"


def check_callable(name: str, value: object) -> None:
    """Raise SettingsError unless the value can be called."""
    if not callable(value):
        reason = f"{name} must be something that can be called, not {shown(value)}"
        raise SettingsError(reason)


def check_plain(name: str, value: object) -> None:
    """Raise SettingsError unless the value is a plain function of one argument, as far as that can be known."""
    check_callable(name, value)
    if is_async(value) or is_generator(value):
        kind = "async" if is_async(value) else "a generator"
        raise SettingsError(f"{name} must be a plain function, and {shown(value)} is {kind}: what it makes would never run")
    _check_fit(name, value)


def check_handler(name: str, value: object) -> None:
    """Raise SettingsError unless the value can be a handler: a call with one argument does its work, as far as that can be known."""
    check_callable(name, value)
    if isinstance(function_of(value), type):
        raise SettingsError(f"{name} must be a function, or an object with `__call__`: calling the class {shown(value)} makes an object")
    if is_generator(value):
        raise SettingsError(f"{name} must not have a `yield`: calling {shown(value)} makes a generator, and runs nothing of it")
    _check_fit(name, value)


def _check_fit(name: str, value: object) -> None:
    if reason := misfit(value):
        raise SettingsError(f"{name} is called with one argument, and {shown(value)} cannot be: {reason}")


def check_payloads(payloads: object) -> list[object]:
    """Return the payloads of a batch; SettingsError for an iterable that is one payload: a text, a mapping, a record."""
    kind = type(payloads)
    record = any(hasattr(kind, name) for name in ("keys", "_fields", "__struct_fields__", "__dataclass_fields__", "__pydantic_fields__"))
    if record or isinstance(payloads, str | bytes | bytearray | memoryview) or not isinstance(payloads, Iterable):
        raise SettingsError(f"payloads must be several: a list of them, say, not one {name_of(kind)}")
    return list(cast("Iterable[object]", payloads))


def check_aware(name: str, value: object) -> datetime:
    """Return a datetime with a time zone; SettingsError for anything else."""
    if not isinstance(value, datetime) or value.tzinfo is None or value.utcoffset() is None:
        raise SettingsError(f"{name} must be an aware datetime (with a time zone), not {shown(value)}")
    return value


def check_several(name: str, values: object) -> Iterable[Any]:
    """Return the values; SettingsError unless they are an iterable, and not one text."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise SettingsError(f"{name} must be several: a list of them, say, not {shown(values)}")
    return values  # pyright: ignore[reportUnknownVariableType] -- callers without types give whatever they have


def _set(settings: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass while it is made."""
    object.__setattr__(settings, name, value)


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after which pauses, a message is tried again.

    Attributes:
        max_attempts: the most handler runs that are started for one message; then it is a dead letter. 1 means no retry.
        backoff: bound of the first pause, seconds.
        factor: by which the bound grows with each attempt.
        max_backoff: bound of every pause, seconds.
        jitter: a random pause below the bound; False: the bound itself.
        blocking: hold the message's partition (or its key) until it has succeeded or is dead, which keeps the order. Otherwise the others
            continue.
        give_up_on: exceptions that retrying cannot help: dead letter at once.
    """

    max_attempts: int = 5
    backoff: float = 1.0
    factor: float = 2.0
    max_backoff: float = 300.0
    jitter: bool = True
    blocking: bool = False
    give_up_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        """Check every value; SettingsError if one cannot work."""
        _set(self, "max_attempts", check_count("max_attempts", self.max_attempts, most=1 << 20))
        _set(self, "backoff", check_seconds("backoff", self.backoff, zero=True))
        _set(self, "factor", check_factor("factor", self.factor))
        _set(self, "max_backoff", check_seconds("max_backoff", self.max_backoff, zero=True))
        check_flag("jitter", self.jitter)
        check_flag("blocking", self.blocking)
        classes: object = self.give_up_on  # callers without type checks may pass anything
        if not isinstance(classes, tuple) or not all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
            raise SettingsError(f"give_up_on must be a tuple of exception classes, not {shown(self.give_up_on)}")

    def of(self, message: Message[Any]) -> RetryPolicy:
        """Return the policy of a message: this one, unless a subclass has several."""
        del message
        return self

    def pause(self, attempt: int, random: Random) -> float:
        """Return the seconds to wait after attempt number `attempt`."""
        try:
            bound = min(self.max_backoff, self.backoff * float(self.factor) ** (attempt - 1))
        except OverflowError:
            bound = self.max_backoff if self.backoff else 0.0
        return random.uniform(0.0, bound) if self.jitter else bound


def check_retry(policy: RetryPolicy) -> RetryPolicy:
    """Return the policy; SettingsError if it is none."""
    if not isinstance(policy, RetryPolicy):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
        raise SettingsError(f"retry must be a RetryPolicy, not {type(policy).__name__}")
    return policy


class HandlingOptions(TypedDict, total=False):
    """Options of `Consumer`, and also of `Topic.consumer` of an App. Times are seconds.

    Attributes:
        consumer_name: a static name. If the consumer starts again under it within `heartbeat_ttl`, it gets its partitions back without a
            rebalance (M1).
        heartbeat_interval: between two heartbeats; default 3.
        heartbeat_ttl: a member without a heartbeat for this long counts as crashed; default 12, at least twice the interval.
        deserializer: bytes to payload; default: JSON.
        ordering: "partition" (one handler at a time per partition; default), "key" (one per key), "none".
        concurrency: handlers at once; default: one per owned partition.
        retry: what happens to messages whose handler fails; default `RetryPolicy()`.
        dead_maxlen: dead letters kept per partition and group, the newest; default: all.
        timeout: how long a handler may run, if the message does not say; default: no limit.
        start: where a new group begins, "earliest" (default) or "latest".
        drain_timeout: how long handlers may take to finish when a partition is given back or the consumer stops; default 30.
        durability: "replica": a partition is taken only once a replica knows of it (one WAIT for each), and a failover to such a replica
            forgets no lease. While no replica confirms, nothing is taken. The memory broker has no replicas and ignores it. Default None:
            the primary alone answers.
        slow_after: after this long a running handler is reported once (`HandlerSlow`); default 60; None: never.
        middleware: async functions around the handler, outermost first; pulled messages have none. See `redisaq.middleware`.
        on_event: called with every event of `redisaq.events`.
        debug: log from level DEBUG on, to standard error if no logging is set up; other consumers log as before.
        logger: where to log; default "redisaq.consumer".
    """

    consumer_name: str | None
    heartbeat_interval: float
    heartbeat_ttl: float
    deserializer: Callable[[bytes], Any] | None
    ordering: Literal["partition", "key", "none"]
    concurrency: int | None
    retry: RetryPolicy
    dead_maxlen: int | None
    timeout: float | None
    start: Literal["earliest", "latest"]
    drain_timeout: float
    durability: Literal["replica"] | None
    slow_after: float | None
    middleware: Sequence[Middleware]
    on_event: Callable[[Event], object] | None
    debug: bool
    logger: logging.Logger | None


class ConsumerOptions(HandlingOptions, total=False):
    """Options of `Consumer` besides topic, URL and payload type: these, and `HandlingOptions`.

    Attributes:
        group_name: the consumer group; default "default_group".
        batch_size: the most entries that one read returns (and, in `process_batch`, that one batch has); default 10.
        client: the label of the member, and part of the names of its connections (CLIENT SETNAME); default: "host:pid".
        init_partitions: make the topic with this many partitions, or let it grow to them, as a Producer's does; default: wait for the
            topic.
        namespace: the first part of every key; default "redisaq".
    """

    group_name: str
    batch_size: int
    client: str | None
    init_partitions: int | None
    namespace: str


@dataclass(frozen=True)
class ConsumerSettings:
    """All options of a consumer, each with its value; SettingsError if one cannot work."""

    group_name: str = "default_group"
    consumer_name: str | None = None
    batch_size: int = 10
    client: str | None = None
    heartbeat_interval: float = 3.0
    heartbeat_ttl: float = 12.0
    deserializer: Callable[[bytes], Any] | None = None
    ordering: Literal["partition", "key", "none"] = "partition"
    concurrency: int | None = None
    retry: RetryPolicy = RetryPolicy()
    dead_maxlen: int | None = None
    timeout: float | None = None
    start: Literal["earliest", "latest"] = "earliest"
    init_partitions: int | None = None
    drain_timeout: float = 30.0
    durability: Literal["replica"] | None = None
    slow_after: float | None = 60.0
    namespace: str = "redisaq"
    middleware: Sequence[Middleware] = ()
    on_event: Callable[[Event], object] | None = None
    debug: bool = False
    logger: logging.Logger | None = None

    def __post_init__(self) -> None:
        """Check every value, and keep the plain value that the check returns."""
        _set(self, "group_name", check_name("group_name", self.group_name))
        _set(self, "namespace", check_name("namespace", self.namespace))
        if self.consumer_name is not None:
            _set(self, "consumer_name", check_name("consumer_name", self.consumer_name))
        _set(self, "batch_size", check_count("batch_size", self.batch_size, most=100_000))
        _set(self, "client", check_client(self.client))
        counts = (("concurrency", self.concurrency, 100_000), ("init_partitions", self.init_partitions, MOST_PARTITIONS))
        for name, count, most in (*counts, ("dead_maxlen", self.dead_maxlen, 1 << 31)):
            if count is not None:
                _set(self, name, check_count(name, count, most=most))
        check_retry(self.retry)
        for name, seconds in (("timeout", self.timeout), ("slow_after", self.slow_after)):
            if seconds is not None:
                _set(self, name, check_seconds(name, seconds))
        if self.durability not in (None, "replica"):
            raise SettingsError(f"durability must be None or 'replica', not {shown(self.durability)}")
        interval = check_seconds("heartbeat_interval", self.heartbeat_interval)
        ttl = check_seconds("heartbeat_ttl", self.heartbeat_ttl)
        _set(self, "heartbeat_interval", interval)
        _set(self, "heartbeat_ttl", ttl)
        _set(self, "drain_timeout", check_seconds("drain_timeout", self.drain_timeout, zero=True))
        if ttl < 2 * interval:
            reason = f"heartbeat_ttl ({ttl:g} s) must be at least twice heartbeat_interval ({interval:g} s)"
            raise SettingsError(f"{reason}: one lost heartbeat is no crash")
        if self.deserializer is not None:
            check_plain("deserializer", self.deserializer)
        if self.on_event is not None:
            check_plain("on_event", self.on_event)
        _set(self, "middleware", check_middleware(self.middleware))
        _set(self, "ordering", check_choice("ordering", self.ordering, ("partition", "key", "none")))
        _set(self, "start", check_choice("start", self.start, ("earliest", "latest")))


def shows_options(settings: type[Any]) -> Callable[[F], F]:
    """Return a decorator for a function whose `**options` are the fields of a dataclass: `help()` and `inspect.signature` show each."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [inspect.Parameter(one.name, keyword, default=one.default, annotation=one.type) for one in fields(settings)]
        vars(function)["__signature__"] = signature.replace(parameters=[*own, *options])
        return function

    return decorate


def consumer_settings(options: ConsumerOptions) -> ConsumerSettings:
    """Return the settings; SettingsError if an option is unknown or cannot work."""
    known = [field.name for field in fields(ConsumerSettings)]
    for name in options:
        if name not in known:
            raise SettingsError(f"Consumer has no setting {name!r}; it has {', '.join(known)}")
    return ConsumerSettings(**options)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return one of the choices; SettingsError for any other value."""
    for choice in choices:
        if isinstance(value, str) and str.__str__(value) == choice:  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
            return choice
    raise SettingsError(f"{name} must be one of {', '.join(map(repr, choices))}, not {shown(value)}")
