"""Log in on a new connection, choose the database, and identify the server.

The input is a fresh Line. The output is a Greeting, or a ConnectionFailed that says what to try. The error is `permanent` if another
attempt cannot help.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.address import Address
from redisaq.link.line import Line
from redisaq.link.resp import Command

OLDEST_REDIS = (7, 0)
OLDEST_VALKEY = (7, 2)

NAMELESS = (
    "the server does not say which run of it answers (run_id in INFO server), as some proxies do not: redisaq could not notice a restart, "
    "or a failover. Connect to the server itself, or use one that says it"
)

CLUSTER = "this is a node of a cluster: begin the URL with redis+cluster:// (rediss+cluster:// for TLS)"

SENTINEL = "this is a sentinel: name it and the service in the URL, as in redis+sentinel://host1,host2/service (rediss+sentinel:// for TLS)"

LOGGED_OUT = frozenset({"DENIED", "NOAUTH", "WRONGPASS"})
"""Error codes that mean that a connection is not, or no longer, logged in. Nothing was executed; the next log-in reports the reason."""

_CLIENT_ADDRESS = re.compile(r"(?:^| )addr=(.*?) laddr=")
# Codes of errors that are temporary.
_PASSING = frozenset({"LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN"})


@dataclass(frozen=True)
class Greeting:
    """What the server reported about itself and about the connection.

    Attributes:
        client_id: of this connection.
        client_address: of this connection as the server sees it (there may be a proxy between); "" if we may not ask.
        run_id: of this run of the server.
        eviction: its `maxmemory-policy`, "" if it does not say.
        role: "master", or "slave" for a replica; "" if it does not say.
    """

    client_id: int
    client_address: str
    run_id: str
    eviction: str = ""
    role: str = ""


async def greet(line: Line, address: Address, name: str, *, in_cluster: bool = False) -> Greeting:
    """Log in, name the connection, and return what the server reported. A node of a cluster is refused unless one is wanted (`in_cluster`).

    Raises:
        ConnectionFailed: the server refuses us, or cannot serve us (yet).
    """
    hello: list[str] = ["HELLO", "3"]
    if address.username is not None or address.password is not None:
        hello += ["AUTH", address.username or "default", address.password or ""]
    hello += ["SETNAME", name]
    info_of = ("INFO", "server", "memory", "replication")
    commands: list[Command] = [tuple(hello), info_of, ("PING",), ("SELECT", address.database), ("CLIENT", "INFO")]
    answered, info, ping, selected, client = await line.ask(*commands)
    if isinstance(answered, ServerError) and answered.code in {"NOPERM", *LOGGED_OUT, *_PASSING}:
        raise _refusal(address, answered)
    if not isinstance(answered, dict):
        # A server that does not know HELLO or its version 3 is older than 6, or the command was renamed or disabled.
        if _unknown(answered) and _version(read_info(info)) >= OLDEST_REDIS:
            raise _renamed(address)
        raise _too_old(address, "older than 6.0", "7.0") if _unknown(answered) else _refusal(address, answered)
    hello_map = cast("dict[bytes, object]", answered)
    _refuse_sentinel(hello_map, address)
    if isinstance(info, ServerError) and info.code in _PASSING:
        raise _refusal(address, info)
    facts = read_info(info)
    name = "valkey" if facts.get("server_name") == "valkey" or "valkey_version" in facts else "redis"
    text = facts.get("valkey_version") or facts.get("redis_version") or _text(hello_map.get(b"version"))
    version = _numbers(text)
    if version < (OLDEST_VALKEY if name == "valkey" else OLDEST_REDIS):
        raise _too_old(address, text or "unknown", "7.0" if name == "redis" else "7.2")
    # While the server loads its data, it refuses PING and all other commands, but not HELLO. On a full disk it refuses PING as if it were
    # a write; commands that only read still work.
    for reply in (info, ping, selected):
        if isinstance(reply, ServerError) and not (reply is ping and reply.code in {"NOPERM", "MISCONF"}):
            raise _refusal(address, reply, selecting=reply is selected)
    if hello_map.get(b"mode") == b"cluster" and not in_cluster:
        await _refuse_cluster(line, address)
    found = _CLIENT_ADDRESS.search(client.decode("utf-8", "surrogateescape")) if isinstance(client, bytes) else None
    return Greeting(
        client_id=_number(hello_map.get(b"id")),
        client_address=found[1] if found else "",
        run_id=_run_of(facts, address),
        eviction=facts.get("maxmemory_policy", ""),
        role=facts.get("role", ""),
    )


def _refuse_sentinel(hello: Mapping[bytes, object], address: Address) -> None:
    if hello.get(b"mode") == b"sentinel":
        raise ConnectionFailed(address.display, SENTINEL, permanent=True)


async def _refuse_cluster(line: Line, address: Address) -> None:
    (state,) = await line.ask(("CLUSTER", "INFO"))
    if _numbers(read_info(state).get("cluster_size", "0")) > (1,):  # a node that has all slots answers like a single server
        raise ConnectionFailed(address.display, CLUSTER, permanent=True)


def _run_of(facts: Mapping[str, str], address: Address) -> str:
    """Return the run of the server; ConnectionFailed if it does not say it: leases (M7) and what comes after a break (E1) need it."""
    if not (run := facts.get("run_id", "")):
        raise ConnectionFailed(address.display, NAMELESS, permanent=True)
    return run


def read_info(info: object) -> dict[str, str]:
    """Return what an answer to INFO says, by name; nothing if it is none, such as an error."""
    lines = info.decode("utf-8", "replace").splitlines() if isinstance(info, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _version(facts: dict[str, str]) -> tuple[int, ...]:
    return _numbers(facts.get("valkey_version") or facts.get("redis_version") or "")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _unknown(answer: object) -> bool:
    return isinstance(answer, ServerError) and (answer.code == "NOPROTO" or "unknown command" in answer.text.lower())


def _too_old(address: Address, found: str, needed: str) -> ConnectionFailed:
    server = "Valkey" if needed == "7.2" else "Redis"
    reason = f"the server is {server} {found}, but redisaq needs at least Redis 7.0 or Valkey 7.2: upgrade it"
    return ConnectionFailed(address.display, reason, permanent=True)


def _renamed(address: Address) -> ConnectionFailed:
    reason = "the server has no HELLO command: it was renamed or disabled (rename-command), and redisaq needs it under its own name"
    return ConnectionFailed(address.display, reason, permanent=True)


def _refusal(address: Address, answer: object, *, selecting: bool = False) -> ConnectionFailed:
    if not isinstance(answer, ServerError):
        return ConnectionFailed(address.display, "it does not answer like a Redis server: check host and port")
    if answer.code in _PASSING:
        return ConnectionFailed(address.display, f"the server is not ready ({answer.text})")
    user = f"user {address.username!r}" if address.username else "the default user"
    permanent = True
    if answer.code == "WRONGPASS":
        reason = f"wrong user name or password for {user}: check those in the URL"
    elif answer.code == "NOAUTH":
        reason = "the server asks for a password: put it into the URL, as in redis://:password@host"
    elif answer.code == "NOPERM":
        reason = f"{user} lacks a permission that is needed to connect ({answer.text})"
    elif answer.code == "DENIED":
        reason = "the server runs in protected mode and answers local clients only: give it a password, or turn protected mode off"
    elif selecting:
        reason = f"database {address.database} does not exist there ({answer.text}): choose another in the URL, or raise `databases`"
    else:
        # Such as "max number of clients reached".
        reason, permanent = f"the server refused the connection ({answer.text})", False
    return ConnectionFailed(address.display, reason, permanent=permanent)
