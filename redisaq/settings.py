"""The edge: every name and number that a caller gives is checked here, once, before anything is sent."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Literal, TypedDict

from redisaq.errors import SettingsError
from redisaq.events import Event

MAX_NAME = 256


def check_name(kind: str, name: str) -> str:
    """Return the name if it can stand in a key.

    Args:
        kind: what it names ("topic", "group_name", "consumer_name", "namespace"), for the error.
        name: 1 to 256 characters, no braces (they mark the hash slot), no control characters; a namespace has no colon either.

    Raises:
        SettingsError: it cannot.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
        reason = f"{kind} must be a str, not {type(name).__name__}"
        raise SettingsError(reason)
    shown = name if len(name) <= 40 else name[:40] + "…"
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


def check_count(name: str, value: int, *, least: int = 1, most: int = 1 << 31) -> int:
    """Return a whole number within its bounds; SettingsError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
        reason = f"{name} must be a whole number, not {value!r}"
        raise SettingsError(reason)
    if not least <= value <= most:
        reason = f"{name} must be from {least} to {most}, not {value}"
        raise SettingsError(reason)
    return value


def check_seconds(name: str, value: float, *, above: float = 0.0, zero: bool = False) -> float:
    """Return a finite number of seconds above `above` (or zero, where allowed); SettingsError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
        reason = f"{name} must be a number of seconds, not {value!r}"
        raise SettingsError(reason)
    if not math.isfinite(value) or value < above or (value == above and not zero):
        reason = f"{name} must be {'at least' if zero else 'more than'} {above:g} seconds and finite, not {value!r}"
        raise SettingsError(reason)
    return float(value)


class ConsumerOptions(TypedDict, total=False):
    """What `Consumer` takes besides topic, URL and payload type. Times are seconds.

    Attributes:
        group_name: the consumer group; default "default_group".
        consumer_name: a static name: started again under it within `heartbeat_ttl`, the consumer gets its partitions back without a rebalance (M1).
        batch_size: the most entries that one read brings (and, in `process_batch`, that one batch has); default 10.
        heartbeat_interval: between two heartbeats; default 3.
        heartbeat_ttl: after so long without one a member is taken for crashed; default 12, at least twice the interval.
        deserializer: bytes to payload; default: JSON.
        ordering: "partition" (one handler at a time per partition; default), "key" (one per key), "none".
        concurrency: handlers at once; default: one per owned partition.
        timeout: how long a handler may run, if the message says nothing; default: no limit.
        start: where a new group begins, "earliest" (default) or "latest".
        init_partitions: make the topic with so many partitions if it does not exist; default: wait for it.
        drain_timeout: how long handlers may take to finish when a partition is given back or the consumer stops; default 30.
        namespace: the first part of every key; default "redisaq".
        on_event: called with every event of `redisaq.events`.
        debug: log at level DEBUG.
        logger: where to log; default "redisaq.consumer".
    """

    group_name: str
    consumer_name: str | None
    batch_size: int
    heartbeat_interval: float
    heartbeat_ttl: float
    deserializer: Callable[[bytes], Any] | None
    ordering: Literal["partition", "key", "none"]
    concurrency: int | None
    timeout: float | None
    start: Literal["earliest", "latest"]
    init_partitions: int | None
    drain_timeout: float
    namespace: str
    on_event: Callable[[Event], object] | None
    debug: bool
    logger: logging.Logger | None


_CHOICES = {"ordering": ("partition", "key", "none"), "start": ("earliest", "latest")}


def check_consumer(options: ConsumerOptions) -> ConsumerOptions:
    """Return the options with their defaults filled in; SettingsError if one cannot work or is unknown."""
    filled: ConsumerOptions = {
        "group_name": "default_group",
        "consumer_name": None,
        "batch_size": 10,
        "heartbeat_interval": 3.0,
        "heartbeat_ttl": 12.0,
        "deserializer": None,
        "ordering": "partition",
        "concurrency": None,
        "timeout": None,
        "start": "earliest",
        "init_partitions": None,
        "drain_timeout": 30.0,
        "namespace": "redisaq",
        "on_event": None,
        "debug": False,
        "logger": None,
    }
    unknown = sorted(options.keys() - filled.keys())
    if unknown:
        reason = f"Consumer has no setting {unknown[0]!r}; it has {', '.join(filled)}"
        raise SettingsError(reason)
    filled.update(options)
    check_name("group_name", filled["group_name"])
    check_name("namespace", filled["namespace"])
    if filled["consumer_name"] is not None:
        check_name("consumer_name", filled["consumer_name"])
    check_count("batch_size", filled["batch_size"], most=100_000)
    if filled["concurrency"] is not None:
        check_count("concurrency", filled["concurrency"], most=100_000)
    if filled["init_partitions"] is not None:
        check_count("init_partitions", filled["init_partitions"], most=1 << 16)
    if filled["timeout"] is not None:
        check_seconds("timeout", filled["timeout"])
    interval = check_seconds("heartbeat_interval", filled["heartbeat_interval"])
    check_seconds("heartbeat_ttl", filled["heartbeat_ttl"])
    check_seconds("drain_timeout", filled["drain_timeout"], zero=True)
    if filled["heartbeat_ttl"] < 2 * interval:
        reason = f"heartbeat_ttl ({filled['heartbeat_ttl']:g} s) must be at least twice heartbeat_interval ({interval:g} s): one lost heartbeat is no crash"
        raise SettingsError(reason)
    for name, choices in _CHOICES.items():
        if filled[name] not in choices:  # type: ignore[literal-required]
            reason = f"{name} must be one of {', '.join(map(repr, choices))}, not {filled[name]!r}"  # type: ignore[literal-required]
            raise SettingsError(reason)
    return filled
