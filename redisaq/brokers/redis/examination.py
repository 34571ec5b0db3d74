"""Examines a real server: what it says of itself, and what its access rules forbid.

Rights are asked for with ACL DRYRUN. A user who may not use that tries the commands themselves, in a form that changes nothing, or on keys
of a topic that cannot exist, which are removed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import structs

from redisaq.brokers.redis.commands import PASSING, checked
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import commands
from redisaq.brokers.redis.rights import DISPENSABLE, commands_needed
from redisaq.brokers.steps import examination as steps
from redisaq.core.diagnosis import PARAMETERS, Denial, Examination
from redisaq.environment import current_environment
from redisaq.errors import ServerError
from redisaq.link import Caller, read_info

NOBODY = "\x7fdoctor"
"""A topic that cannot exist: names have no control characters."""

CONNECTED = frozenset({"hello", "auth", "ping", "select"})
"""Commands that are used to connect: who is connected may use them."""

LEAVES = frozenset({"sadd", "hsetnx"})
"""Commands that leave a key behind when they are tried."""

Words = tuple[str | bytes, ...]


def tries(keys: Keys) -> dict[str, Words]:
    """Return, for each command that redisaq uses, words with which it does nothing: its key does not exist, or it is refused."""
    key, channel, names = keys.stream(NOBODY, 0), keys.partition_doorbell(NOBODY, 0), keys.topics
    made: dict[str, Words] = {
        "info": ("INFO", "server"),
        "client|info": ("CLIENT", "INFO"),
        "client|kill": ("CLIENT", "KILL", "ID", "9223372036854775807"),
        "client|unblock": ("CLIENT", "UNBLOCK", "9223372036854775807"),
        "cluster|info": ("CLUSTER", "INFO"),
        "cluster|slots": ("CLUSTER", "SLOTS"),
        "dbsize": ("DBSIZE",),
        "eval": ("EVAL", "return 1", "0"),
        "evalsha": ("EVALSHA", "0" * 40, "0"),
        "scan": ("SCAN", "0", "COUNT", "1"),
        "time": ("TIME",),
        "wait": ("WAIT", "0", "1"),
        "smembers": ("SMEMBERS", names),
        "spublish": ("SPUBLISH", channel, ""),
        "ssubscribe": ("SSUBSCRIBE", channel),
        "sunsubscribe": ("SUNSUBSCRIBE", channel),
        "set": ("SET", key, "x", "XX"),
        "pexpire": ("PEXPIRE", key, "1"),
        "rename": ("RENAME", key, key),  # refused, since there is no such key
        "hset": ("HSET", key, "x", "x", "x"),  # a word is missing
        "hsetnx": ("HSETNX", key, "x", "x"),
        "sadd": ("SADD", key, "x"),
        "zadd": ("ZADD", key, "XX", "1", "x"),
        "xadd": ("XADD", key, "NOMKSTREAM", "*", "x", "x"),
        "xack": ("XACK", key, "x", "1-1"),
        "xautoclaim": ("XAUTOCLAIM", key, "x", "x", "0", "0"),
        "xclaim": ("XCLAIM", key, "x", "x", "0", "1-1"),
        "xpending": ("XPENDING", key, "x"),
        "xreadgroup": ("XREADGROUP", "GROUP", "x", "x", "STREAMS", key, ">"),
        "xtrim": ("XTRIM", key, "MAXLEN", "0"),
        "xgroup|create": ("XGROUP", "CREATE", key, "x", "$"),
        "xgroup|destroy": ("XGROUP", "DESTROY", key, "x"),
        "xgroup|setid": ("XGROUP", "SETID", key, "x", "$"),
        "xinfo|consumers": ("XINFO", "CONSUMERS", key, "x"),
        "xinfo|groups": ("XINFO", "GROUPS", key),
        "xinfo|stream": ("XINFO", "STREAM", key),
    }
    of_key = ("del", "exists", "get", "hgetall", "hkeys", "hlen", "type", "unlink", "xlen", "zcard")
    one_more = ("hdel", "hexists", "hget", "hmget", "srem", "xdel", "zrem", "zscore")
    ranges = ("xrange", "xrevrange", "zcount", "zrange", "zrangebyscore", "zrevrange")
    made |= {name: (name.upper(), key) for name in of_key}
    made |= {name: (name.upper(), key, "1-1") for name in one_more}
    made |= {name: (name.upper(), key, "0", "1") for name in ranges}
    return made


@commands(steps.Examine)
async def examine(step: steps.Examine, link: Caller, keys: Keys) -> Examination:
    """Examine each node.

    This is a sequence because it asks what the user may do by doing it, and each refusal is an answer of its own.
    """
    del step
    clustered = "+cluster://" in link.url
    first, *others = [await _examine(node, keys, clustered=clustered) for node in await link.nodes()]
    return structs.replace(first, others=tuple(others), watched=await link.watched())


async def _examine(link: Caller, keys: Keys, *, clustered: bool) -> Examination:
    """Ask, one thing after another: what is refused is left out."""
    clock = current_environment()
    info, config, user = await _ask(link, ("INFO",), ("CONFIG", "GET", *PARAMETERS), ("ACL", "WHOAMI"))
    sent = clock.wall_clock()
    (time,) = await _ask(link, ("TIME",))
    took = clock.wall_clock() - sent
    name = "" if isinstance(user, ServerError) else _text(user)
    return Examination(
        namespace=keys.namespace,
        url=link.url,
        clustered=clustered,
        user=name,
        info=read_info(info),
        config=None if isinstance(config, ServerError) else {_text(key): _text(value) for key, value in config.items()},
        denials=await _denials(link, keys, name),
        clock=None if isinstance(time, ServerError) else int(time[0]) + int(time[1]) / 1e6 - (sent + took / 2),
        asking=took,
    )


async def _denials(link: Caller, keys: Keys, user: str) -> tuple[Denial, ...]:
    """Return which rights are missing."""
    made = tries(keys)
    asked = {command: made[command] for command in commands_needed() if command not in CONNECTED}
    answers = await _ask(link, *(("ACL", "DRYRUN", user, *words) for words in asked.values())) if user else []
    if not answers or any(isinstance(answer, ServerError) for answer in answers):
        answers = await _try(link, asked, keys)
    found: dict[tuple[str, str], Denial] = {}
    for command, answer in zip(asked, answers, strict=True):
        what = _denied(answer)
        if what is not None:
            denial = Denial(command if what == "command" else "", what, what == "channel" or (what == "command" and command in DISPENSABLE))
            found[denial.command, what] = denial
    return tuple(found.values())


async def _try(link: Caller, asked: dict[str, Words], keys: Keys) -> list[Any]:
    """Return the answers to the commands themselves."""
    sent = {command: words for command, words in asked.items() if command not in ("ssubscribe", "sunsubscribe", *LEAVES)}
    answers: dict[str, Any] = dict(zip(sent, await _ask(link, *sent.values()), strict=True))
    key = keys.stream(NOBODY, 0)
    for command in LEAVES & asked.keys():  # a command may leave its key only if another may remove it
        if any(_denied(answers[name]) is None for name in ("del", "unlink")):
            answers[command], *_ = await _ask(link, asked[command], ("DEL", key), ("UNLINK", key))
    answers["ssubscribe"] = answers["sunsubscribe"] = b"OK"
    try:  # over a connection of its own: on the shared one its messages would get in the way
        bell = await link.listen(keys.partition_doorbell(NOBODY, 0).decode())
    except ServerError as error:
        answers["ssubscribe"] = error
    else:
        await bell.close()
    return [answers.get(command) for command in asked]


def _denied(answer: object) -> Literal["command", "key", "channel"] | None:
    """Return what an answer says is missing; None if it says nothing of that kind."""
    text = answer.text if isinstance(answer, ServerError) else _text(answer) if isinstance(answer, bytes) else ""
    forbidden = isinstance(answer, ServerError) and answer.forbidden
    if not forbidden and "no permissions" not in text.lower():
        return None
    lower = text.lower()
    if "to run the" in lower or "unknown command" in lower:
        return "command"
    return "channel" if "channel" in lower else "key" if "key" in lower else "command"


async def _ask(link: Caller, *words: Words) -> list[Any]:
    """Return the answers, with what was refused as ServerError; ConnectionFailed if the server cannot answer now."""
    answers: Sequence[Any] = await link.call(*words)
    passing = PASSING - {"ASK", "MOVED"}  # a node of a cluster does not have this slot: that is no lack of a right
    return [checked(answer, link) if isinstance(answer, ServerError) and answer.code in passing else answer for answer in answers]


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
