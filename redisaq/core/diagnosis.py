"""What is wrong with a server, as redisaq needs it: pure.

Input: what the server answered when it was examined, and what it refused to answer. Output: findings, each with the command that repairs
it. Nothing here guesses: what a server does not answer is a finding of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import structs

Level = Literal["ok", "warning", "error"]

PARAMETERS = (
    *("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy", "min-replicas-to-write", "tcp-keepalive", "timeout"),
    "cluster-node-timeout",
)
"""The parameters to read of the server's configuration."""

CLOCK = 1.0
"""Seconds by which clocks may differ, beyond what the asking took."""

FULL = 0.9
"""Share of its memory, or of its connections, that a server may use without a warning."""

TTL = 12.0
"""The default of heartbeat_ttl, in seconds."""

MARGIN = 5 / 6
"""The part of heartbeat_ttl for which an owner works on without a heartbeat (M5)."""

FAILOVER = 1.6
"""A cluster's failover takes this many times its cluster-node-timeout (measured): noticing, agreeing, electing."""

ELECTION = 1.5
"""Seconds that sentinels need after they have seen that the primary is down (measured): agreeing, electing, promoting."""

FEWEST_SENTINELS = 3
"""Fewer cannot lose one and still elect."""

SHORT = 60.0
"""Seconds: a server that closes idle connections sooner makes producers connect again and again."""


class Finding(msgspec.Struct, frozen=True):
    """Something that was looked at.

    Attributes:
        level: "ok"; "warning": it works, but may not when it matters; "error": it does not work, or messages get lost.
        about: what was looked at, in a word or two.
        text: what was found.
        fix: a command for redis-cli that mends it; "" if there is none.
    """

    level: Level
    about: str
    text: str
    fix: str = ""


class Denial(msgspec.Struct, frozen=True):
    """A right that the user lacks.

    Attributes:
        command: as access rules name it; "" for a right to keys or channels.
        what: "command", "key" or "channel".
        dispensable: redisaq works without it, less well.
    """

    command: str
    what: Literal["command", "key", "channel"] = "command"
    dispensable: bool = False


class Examination(msgspec.Struct, frozen=True):
    """What a server said.

    Attributes:
        namespace: the namespace of the keys.
        user: as whom it was asked; "" if it does not say.
        info: the fields of INFO, without which nobody can connect.
        config: parameter -> value; None if CONFIG GET was refused.
        denials: rights that are missing.
        clock: seconds by which its clock is ahead of this machine's; None if it was not asked.
        asking: seconds that asking for its time took.
        memory_only: it is no server, but the memory broker.
        url: the server's address, without a password.
        clustered: it was asked as a node of a cluster.
        others: what the other nodes of its cluster said.
        watched: the fields of SENTINEL MASTER, if the server was found by sentinels; None otherwise.
        ttl: the shortest heartbeat_ttl of a member that is alive, in seconds, with its group's name; None if none is known.
        unreadable: topics and groups of which that is not known, as they cannot be read, with the reasons.
    """

    namespace: str
    user: str = ""
    info: Mapping[str, str] = {}
    config: Mapping[str, str] | None = None
    denials: tuple[Denial, ...] = ()
    clock: float | None = None
    asking: float = 0.0
    memory_only: bool = False
    url: str = ""
    clustered: bool = False
    others: tuple[Examination, ...] = ()
    watched: Mapping[str, str] | None = None
    ttl: tuple[float, str] | None = None
    unreadable: Mapping[str, str] = {}

    @property
    def fails_over(self) -> bool:
        """True if somebody puts a replica in the server's place."""
        return self.clustered or bool(self.watched)


def diagnose(seen: Examination) -> list[Finding]:
    """Return the findings, in the order in which the server was examined.

    What all nodes of a cluster have in common is named once; of everything else the text says which node it is about.
    """
    if seen.memory_only:
        return [Finding("warning", "server", "this is the memory broker: everything is lost when the process ends")]
    if not seen.clustered:
        return [*_findings(seen), *_unreadable(seen)]
    nodes = (seen, *seen.others)
    each = [_findings(node) for node in nodes]
    found = [Finding("ok", "cluster", f"{len(nodes)} masters"), *_failover(seen)]
    found += [one for one in each[0] if all(one in other for other in each)]
    for node, own in zip(nodes, each, strict=True):
        found += [structs.replace(one, text=f"{node.url}: {one.text}") for one in own if not all(one in other for other in each)]
    return [*found, *_unreadable(seen)]


def _unreadable(seen: Examination) -> Iterator[Finding]:
    """Name what cannot be read: members there may have a shorter ttl than is known."""
    for about, reason in seen.unreadable.items():
        yield Finding("warning", "failover", f"{about} cannot be read, so its members' heartbeat_ttl is not known: {reason}")


def _findings(seen: Examination) -> list[Finding]:
    """Return what was found at one server."""
    found = [*_version(seen), *_cluster(seen), *_persistence(seen), *_memory(seen), *_rights(seen)]
    return [*found, *_clock(seen), *_replication(seen), *_sentinels(seen), *_connections(seen)]


def refused(reason: str, rules: Sequence[str]) -> Finding:
    """Return the finding that a server is there and cannot be used: it is too old, a cluster, or does not let us in.

    Args:
        reason: why, in words.
        rules: the access rules of a user who may do all that is needed.
    """
    if "permission" not in reason:
        return Finding("error", "connection", reason)
    named = re.search(r"user '([^']+)'", reason)
    commands = [rule for rule in rules if rule.startswith("+")]  # servers refuse keys beside `allkeys`, and connecting takes no keys
    return Finding("error", "connection", reason, f"ACL SETUSER {named[1] if named else 'default'} {' '.join(commands)}")


def _grant(seen: Examination, *rules: str) -> str:
    return f"ACL SETUSER {seen.user or 'default'} {' '.join(rules)}"


def _info(seen: Examination, field: str, default: str = "") -> str:
    return seen.info.get(field, default)


def _setting(seen: Examination, parameter: str, field: str = "") -> str | None:
    """Return a parameter, from INFO if CONFIG is not permitted and INFO has it; None if it is not known."""
    value = (seen.config or {}).get(parameter)
    return seen.info.get(field) if value is None and field else value


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


def _version(seen: Examination) -> Iterator[Finding]:
    if valkey := _info(seen, "valkey_version"):
        yield Finding("ok", "version", f"Valkey {valkey}")
    else:
        yield Finding("ok", "version", f"Redis {_info(seen, 'redis_version', 'of an unknown version')}")
    if seen.config is None:
        text = "the user may not use CONFIG GET: some settings cannot be seen"
        yield Finding("warning", "settings", text, _grant(seen, "+config|get"))


def _cluster(seen: Examination) -> Iterator[Finding]:
    if _info(seen, "cluster_enabled") == "1" and not seen.clustered:
        text = "cluster mode is on: redisaq works while one node has all slots, and then needs redis+cluster:// in the URL"
        yield Finding("warning", "cluster", text, "cluster-enabled no (in the server's configuration file, then restart it)")


def _failover(seen: Examination) -> Iterator[Finding]:
    """Compare the time that a failover takes with that for which a lease lasts."""
    if timeout := _number(_setting(seen, "cluster-node-timeout")) / 1000:
        most = _rounded(_lease(seen) / FAILOVER)
        fix = f"CONFIG SET cluster-node-timeout {most}" if most else ""
        yield _takes(seen, FAILOVER * timeout, f"cluster-node-timeout {timeout:g} s", fix, "when the topic's node fails")


def _sentinels(seen: Examination) -> Iterator[Finding]:
    """Look at what the sentinels say of the server, and of themselves."""
    if not seen.watched:
        return
    count, quorum = _number(seen.watched.get("num-other-sentinels")) + 1, _number(seen.watched.get("quorum"))
    text = f"{count} sentinel(s), of which {quorum} must agree that the primary is down"
    if count < FEWEST_SENTINELS:
        yield Finding("warning", "sentinels", f"{text}: with fewer than three, none may be missing when they elect one; start more")
    else:
        yield Finding("ok", "sentinels", text)
    if after := _number(seen.watched.get("down-after-milliseconds")) / 1000:
        most, name = _rounded(_lease(seen) - ELECTION), seen.watched.get("name", "")
        fix = f"SENTINEL SET {name} down-after-milliseconds {most} (at each sentinel)" if most else ""
        yield _takes(seen, after + ELECTION, f"down-after-milliseconds {after:g} s", fix, "when the primary fails")


def _lease(seen: Examination) -> float:
    """Return for how many seconds an owner works on without a heartbeat: where that is shortest, or by default."""
    return (TTL if seen.ttl is None else seen.ttl[0]) * MARGIN


def _takes(seen: Examination, seconds: float, because: str, fix: str, when: str) -> Finding:
    """Return the finding on a failover that takes so long; without a `fix`, no setting makes it shorter than a lease."""
    if seconds <= _lease(seen):
        return Finding("ok", "failover", f"takes about {seconds:.0f} s ({because})")
    which = f"the default heartbeat_ttl of {TTL:g} s" if seen.ttl is None else f"the heartbeat_ttl of {seen.ttl[0]:g} s in {seen.ttl[1]}"
    text = (
        f"a failover takes about {seconds:.0f} s ({because}), longer than a lease lasts with {which}: "
        f"{when}, all of a group's leases run out. {'Lower the setting everywhere, or give' if fix else 'Give'} consumers "
        f"heartbeat_ttl={math.ceil(seconds / MARGIN) + 1}"
    )
    return Finding("warning", "failover", text, fix)


def _rounded(seconds: float) -> int:
    """Return milliseconds, rounded down to half a second; 0 if there is no time at all."""
    return max(0, int(seconds * 1000 // 500 * 500))


def _persistence(seen: Examination) -> Iterator[Finding]:
    append = _setting(seen, "appendonly")
    on = append == "yes" if append is not None else _info(seen, "aof_enabled") == "1"
    save, sync = _setting(seen, "save"), _setting(seen, "appendfsync")
    if on and sync == "no":
        text = (
            "the append-only file is written when the operating system likes (appendfsync no): a crash of the machine loses what came last"
        )
        yield Finding("warning", "persistence", text, "CONFIG SET appendfsync everysec")
    elif on:
        how = {"always": "every change is on disk before it is answered", "everysec": "a crash of the machine loses up to two seconds"}
        yield Finding("ok", "persistence", f"append-only file{', ' + how[sync] if sync in how else ''}")
    elif save == "":
        text = "nothing is written to disk: a restart loses every message, position and dead letter"
        yield Finding("error", "persistence", text, "CONFIG SET appendonly yes")
    else:
        text = "no append-only file: a crash loses what came after the last snapshot"
        yield Finding("warning", "persistence", text, "CONFIG SET appendonly yes")
    for field, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if _info(seen, field, "ok") != "ok":
            yield Finding("error", "persistence", f"the last write of the {what} failed: look at the server's disk and its log")
    if _info(seen, "loading", "0") not in ("0", ""):
        yield Finding("warning", "persistence", "the server is loading its data")


def _memory(seen: Examination) -> Iterator[Finding]:
    policy, limit = _setting(seen, "maxmemory-policy", "maxmemory_policy"), _number(_setting(seen, "maxmemory", "maxmemory"))
    if policy is None:
        return
    used = _number(_info(seen, "used_memory"))
    if policy != "noeviction":
        text = f"the server evicts keys when its memory is full (maxmemory-policy {policy}): messages and retries get lost"
        if not limit:
            text += "; without a maxmemory, as now, that never happens"
        yield Finding("error" if limit else "warning", "memory", text, "CONFIG SET maxmemory-policy noeviction")
    elif not limit:
        yield Finding("ok", "memory", "no limit (maxmemory 0): watch the memory of the machine")
    else:
        yield Finding("ok", "memory", f"{_megabytes(used)} of {_megabytes(limit)} MB, nothing is evicted")
    if limit and used > FULL * limit:
        text = f"{used * 100 // limit} % of the memory is used: when it is full, producers are refused"
        yield Finding("warning", "memory", text, f"CONFIG SET maxmemory {limit * 2}")


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):.0f}"


def _rights(seen: Examination) -> Iterator[Finding]:
    namespace, user = seen.namespace, f"user {seen.user}" if seen.user else "the user"
    if not seen.denials:
        yield Finding("ok", "rights", f"{user} may do all that redisaq needs")
        return
    kinds = {one.what for one in seen.denials}
    if "key" in kinds:
        text = f"{user} may not use the keys of the namespace {namespace}"
        yield Finding("error", "rights", text, _grant(seen, f"~{namespace}:topics", f"~{{{namespace}:*"))
    if "channel" in kinds:
        text = f"{user} may not use the channels of the namespace {namespace}: consumers look every second instead of being notified"
        yield Finding("warning", "rights", text, _grant(seen, f"&{{{namespace}:*"))
    for dispensable in (False, True):
        commands = [one.command for one in seen.denials if one.what == "command" and one.dispensable is dispensable]
        if commands:
            text = f"{user} may not use {', '.join(command.replace('|', ' ').upper() for command in commands)}"
            if dispensable:
                text += ": redisaq works, less well"
            fix = _grant(seen, *(f"+{command}" for command in commands))
            yield Finding("warning" if dispensable else "error", "rights", text, fix)


def _clock(seen: Examination) -> Iterator[Finding]:
    if seen.clock is None:
        return
    apart = max(0.0, abs(seen.clock) - seen.asking)
    if apart <= CLOCK:
        yield Finding("ok", "clock", "the server's clock agrees with this machine's")
        return
    side = "ahead of" if seen.clock > 0 else "behind"
    text = (
        f"the server's clock is {apart:.1f} s {side} this machine's: messages with `delay` or `at` that are sent from here are due at "
        "another time than is meant; leases and cron jobs are not affected. Synchronize both clocks"
    )
    yield Finding("warning", "clock", text)


def _replication(seen: Examination) -> Iterator[Finding]:
    if _info(seen, "role") == "slave":
        host, port = _info(seen, "master_host"), _info(seen, "master_port")
        yield Finding("error", "replicas", f"this is a replica and refuses writes: use its primary, {host}:{port}")
        return
    replicas = _number(_info(seen, "connected_slaves"))
    if not replicas:
        yield Finding("ok", "replicas", "none: there is nothing to fail over to")
        return
    away = [name for name in (f"slave{number}" for number in range(replicas)) if "state=online" not in _info(seen, name)]
    if away:
        yield Finding("warning", "replicas", f"{len(away)} of {replicas} replicas are not in step")
    least = _setting(seen, "min-replicas-to-write")
    if least == "0":
        text = f"{replicas} replica(s), and a primary that is cut off from them goes on accepting messages, which the failover then forgets"
        yield Finding("warning", "replicas", text, "CONFIG SET min-replicas-to-write 1")
    elif not away:
        yield Finding("ok", "replicas", f"{replicas}, all in step")


def _connections(seen: Examination) -> Iterator[Finding]:
    idle, alive = _setting(seen, "timeout"), _setting(seen, "tcp-keepalive")
    if 0 < _number(idle) < SHORT:
        yield Finding("warning", "connections", f"idle connections are closed after {idle} s", "CONFIG SET timeout 0")
    if alive == "0":
        text = "connections of machines that vanished are never closed (tcp-keepalive 0)"
        yield Finding("warning", "connections", text, "CONFIG SET tcp-keepalive 300")
    used, most = _number(_info(seen, "connected_clients")), _number(_info(seen, "maxclients"))
    if most and used > FULL * most:
        text = f"{used} of {most} connections are used: further ones are refused"
        yield Finding("warning", "connections", text, f"CONFIG SET maxclients {most * 2}")
    elif most:
        yield Finding("ok", "connections", f"{used} of {most}")
