"""What is found wrong with a server, by what it said."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from redisaq.brokers.redis.examination import CONNECTED, tries
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.rights import DISPENSABLE, commands_needed
from redisaq.core.diagnosis import Denial, Examination, Finding, diagnose, refused

INFO = {
    "valkey_version": "9.1.0",
    "role": "master",
    "connected_slaves": "0",
    "maxclients": "100",
    "connected_clients": "7",
    "used_memory": "1048576",
    "cluster_enabled": "0",
}
CONFIG = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory": "104857600",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "0",
    "tcp-keepalive": "300",
    "timeout": "0",
}
GOOD = Examination("shop", user="worker", info=INFO, config=CONFIG, clock=0.3, asking=0.01)


def wrong(seen: Examination) -> list[tuple[str, str, str]]:
    """Return level, subject and fix of what is not right."""
    return [(one.level, one.about, one.fix) for one in diagnose(seen) if one.level != "ok"]


def seen(**changes: str) -> Examination:
    """Return a good server with some settings, or fields of INFO, changed."""
    config = {name.replace("_", "-"): value for name, value in changes.items() if name.replace("_", "-") in CONFIG}
    info = {name: value for name, value in changes.items() if name.replace("_", "-") not in CONFIG}
    return replace(GOOD, config=CONFIG | config, info=INFO | info)


@pytest.mark.parametrize(("after", "level"), [("5000", "ok"), ("8500", "ok"), ("9000", "warning"), ("30000", "warning")])
def test_a_lease_outlasts_what_sentinels_take(after: str, level: str) -> None:
    watched = {"name": "main", "down-after-milliseconds": after, "num-other-sentinels": "2", "quorum": "2"}
    sentinels, failover = [one for one in diagnose(replace(GOOD, watched=watched)) if one.about in ("sentinels", "failover")]
    assert sentinels == Finding("ok", "sentinels", "3 sentinel(s), of which 2 must agree that the primary is down")
    assert failover.level == level
    if level == "warning":
        assert failover.fix == "SENTINEL SET main down-after-milliseconds 8500 (at each sentinel)"
        assert f"heartbeat_ttl={'14' if after == '9000' else '39'}" in failover.text


def test_too_few_sentinels_cannot_elect_when_one_is_away() -> None:
    (found,) = [one for one in diagnose(replace(GOOD, watched={"num-other-sentinels": "1", "quorum": "2"})) if one.about == "sentinels"]
    assert (found.level, found.text.startswith("2 sentinel(s)")) == ("warning", True)
    assert not [one for one in diagnose(replace(GOOD, watched={})) if one.about == "failover"]


def test_a_good_server() -> None:
    assert wrong(GOOD) == []
    assert [(one.about, one.text) for one in diagnose(GOOD)] == [
        ("version", "Valkey 9.1.0"),
        ("persistence", "append-only file, a crash of the machine loses up to two seconds"),
        ("memory", "1 of 100 MB, nothing is evicted"),
        ("rights", "user worker may do all that redisaq needs"),
        ("clock", "the server's clock agrees with this machine's"),
        ("replicas", "none: there is nothing to fail over to"),
        ("connections", "7 of 100"),
    ]


CASES: list[tuple[dict[str, str], list[tuple[str, str, str]]]] = [
    ({"maxmemory_policy": "allkeys-lru"}, [("error", "memory", "CONFIG SET maxmemory-policy noeviction")]),
    ({"maxmemory_policy": "volatile-lru", "maxmemory": "0"}, [("warning", "memory", "CONFIG SET maxmemory-policy noeviction")]),
    ({"maxmemory": "0"}, []),
    ({"used_memory": "100000000"}, [("warning", "memory", "CONFIG SET maxmemory 209715200")]),
    ({"appendonly": "no"}, [("error", "persistence", "CONFIG SET appendonly yes")]),
    ({"appendonly": "no", "save": "3600 1"}, [("warning", "persistence", "CONFIG SET appendonly yes")]),
    ({"appendfsync": "no"}, [("warning", "persistence", "CONFIG SET appendfsync everysec")]),
    ({"aof_last_write_status": "err"}, [("error", "persistence", "")]),
    ({"rdb_last_bgsave_status": "err"}, [("error", "persistence", "")]),
    ({"cluster_enabled": "1"}, [("warning", "cluster", "cluster-enabled no (in the server's configuration file, then restart it)")]),
    ({"role": "slave", "master_host": "db", "master_port": "6379"}, [("error", "replicas", "")]),
    ({"connected_slaves": "1", "slave0": "ip=x,state=online"}, [("warning", "replicas", "CONFIG SET min-replicas-to-write 1")]),
    ({"connected_slaves": "1", "slave0": "state=online", "min_replicas_to_write": "1"}, []),
    ({"connected_slaves": "1", "slave0": "state=wait_bgsave", "min_replicas_to_write": "1"}, [("warning", "replicas", "")]),
    ({"timeout": "10"}, [("warning", "connections", "CONFIG SET timeout 0")]),
    ({"timeout": "1"}, [("warning", "connections", "CONFIG SET timeout 0")]),
    ({"tcp_keepalive": "0"}, [("warning", "connections", "CONFIG SET tcp-keepalive 300")]),
    ({"connected_clients": "95"}, [("warning", "connections", "CONFIG SET maxclients 200")]),
]


@pytest.mark.parametrize(
    ("changes", "expected"), CASES, ids=lambda value: ",".join(map("=".join, value.items())) if isinstance(value, dict) else ""
)
def test_what_is_wrong(changes: dict[str, str], expected: Any) -> None:
    assert wrong(seen(**changes)) == expected


def test_numbers_in_the_texts() -> None:
    """An operator acts on them."""
    full = f"{95 << 20}"
    node = CONFIG | {"cluster-node-timeout": "65000"}
    for examined, about, text in [
        (seen(used_memory=full), "memory", "95 of 100 MB, nothing is evicted"),
        (seen(used_memory=full), "memory", "95 % of the memory is used: when it is full, producers are refused"),
        (seen(timeout="10"), "connections", "idle connections are closed after 10 s"),
        (seen(connected_clients="95"), "connections", "95 of 100 connections are used: further ones are refused"),
        (seen(role="slave", master_host="db", master_port="1"), "replicas", "this is a replica and refuses writes: use its primary, db:1"),
        (seen(connected_slaves="2", slave0="state=online"), "replicas", "1 of 2 replicas are not in step"),
        (seen(connected_slaves="1", slave0="state=online", min_replicas_to_write="1"), "replicas", "1, all in step"),
        (replace(GOOD, config=node, clustered=True), "failover", "a failover takes about 104 s (cluster-node-timeout 65 s), longer"),
        (replace(GOOD, config=node, clustered=True), "failover", "or give consumers heartbeat_ttl=126"),
    ]:
        assert [text] == [text for one in diagnose(examined) if one.about == about and text in one.text]


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (seen(used_memory=f"{90 << 20}"), seen(used_memory=f"{(90 << 20) + 1}")),
        (seen(connected_clients="90"), seen(connected_clients="91")),
        (replace(GOOD, clock=1.5, asking=0.5), replace(GOOD, clock=1.51, asking=0.5)),
        (seen(timeout="60"), seen(timeout="59")),
    ],
    ids=["memory", "connections", "clock", "idle"],
)
def test_where_a_warning_begins(inside: Examination, outside: Examination) -> None:
    assert not wrong(inside)
    assert [one[0] for one in wrong(outside)] == ["warning"]


def test_a_server_that_does_not_say() -> None:
    """INFO tells some of what CONFIG may not be asked for."""
    unknown = ("warning", "settings", "ACL SETUSER worker +config|get")
    assert wrong(replace(GOOD, config=None, info=INFO | {"aof_enabled": "1", "maxmemory_policy": "noeviction"})) == [unknown]
    assert wrong(replace(GOOD, config=None)) == [unknown, ("warning", "persistence", "CONFIG SET appendonly yes")]
    evicts = replace(GOOD, config=None, info=INFO | {"maxmemory": "5000000", "maxmemory_policy": "allkeys-lru", "aof_enabled": "1"})
    assert [one[:2] for one in wrong(evicts)] == [("warning", "settings"), ("error", "memory")]


def test_clocks() -> None:
    assert wrong(replace(GOOD, clock=1.5, asking=0.6)) == []  # so long it may have been on its way
    ahead, behind = (diagnose(replace(GOOD, clock=clock))[4] for clock in (7.0, -7.0))
    assert (ahead.level, behind.level) == ("warning", "warning")
    assert "7.0 s ahead of this machine's" in ahead.text
    assert "7.0 s behind this machine's" in behind.text


def test_rights() -> None:
    denials = (
        Denial("xadd"),
        Denial("set"),
        Denial("client|kill", dispensable=True),
        Denial("", "key"),
        Denial("", "channel", dispensable=True),
    )
    assert wrong(replace(GOOD, denials=denials)) == [
        ("error", "rights", "ACL SETUSER worker ~shop:topics ~{shop:*"),
        ("warning", "rights", "ACL SETUSER worker &{shop:*"),
        ("error", "rights", "ACL SETUSER worker +xadd +set"),
        ("warning", "rights", "ACL SETUSER worker +client|kill"),
    ]


def test_what_an_operator_reads_of_evictions_and_of_missing_rights() -> None:
    def texts(examined: Examination) -> list[str]:
        return [one.text for one in diagnose(examined) if one.level != "ok"]

    evicts = "the server evicts keys when its memory is full (maxmemory-policy allkeys-lru): messages and retries get lost"
    assert texts(seen(maxmemory_policy="allkeys-lru")) == [evicts]
    assert texts(seen(maxmemory_policy="allkeys-lru", maxmemory="0")) == [f"{evicts}; without a maxmemory, as now, that never happens"]
    denials = (Denial("xadd"), Denial("set"), Denial("client|kill", dispensable=True))
    assert texts(replace(GOOD, denials=denials)) == [
        "user worker may not use XADD, SET",
        "user worker may not use CLIENT KILL: redisaq works, less well",
    ]
    assert texts(replace(GOOD, denials=denials[:1], user="")) == ["the user may not use XADD"]


def test_a_server_that_refuses_the_connection() -> None:
    assert refused("the server is Redis 6.2, but redisaq needs at least Redis 7.0", ["+get"]).fix == ""
    assert refused("user 'walker' lacks a permission that is needed to connect (NOPERM)", ["~x", "+get"]).fix == "ACL SETUSER walker +get"


def test_the_nodes_of_a_cluster() -> None:
    """What is the same everywhere is said once; that a node has cluster mode on is no fault."""
    node = replace(GOOD, info=INFO | {"cluster_enabled": "1"}, config=CONFIG | {"cluster-node-timeout": "5000"}, clustered=True)
    full = replace(node, url="redis://b:2/0", info={**node.info, "used_memory": "100000000"})
    seen = replace(node, url="redis://a:1/0", others=(full, replace(node, url="redis://c:3/0")))
    assert wrong(replace(seen, others=())) == []
    found = diagnose(seen)
    assert [(one.level, one.about) for one in found[:2]] == [("ok", "cluster"), ("ok", "failover")]
    assert wrong(seen) == [("warning", "memory", "CONFIG SET maxmemory 209715200")]
    (text,) = (one.text for one in found if one.level != "ok")
    assert text.startswith("redis://b:2/0: ")
    assert sum(one.about == "rights" for one in found) == 1


@pytest.mark.parametrize(("timeout", "level"), [("15000", "warning"), ("6500", "warning"), ("6000", "ok"), ("", None)])
def test_a_failover_that_outlasts_the_leases(timeout: str, level: str | None) -> None:
    """It takes 1.6 times the node timeout; a lease of 12 s lasts 10 s on the owner's clock."""
    config = CONFIG | ({"cluster-node-timeout": timeout} if timeout else {})
    found = [one for one in diagnose(replace(GOOD, config=config, clustered=True)) if one.about == "failover"]
    assert [one.level for one in found] == ([level] if level else [])
    if level == "warning":
        assert found[0].fix == "CONFIG SET cluster-node-timeout 6000"


def test_a_failover_is_compared_with_the_groups_own_leases() -> None:
    config = CONFIG | {"cluster-node-timeout": "6000"}
    (short,) = [one for one in diagnose(replace(GOOD, config=config, clustered=True, ttl=(5.0, "group g of t"))) if one.about == "failover"]
    assert short.level == "warning"
    assert short.fix == "CONFIG SET cluster-node-timeout 2500"
    assert "longer than a lease lasts with the heartbeat_ttl of 5 s in group g of t" in short.text
    config = CONFIG | {"cluster-node-timeout": "15000"}
    (just,) = [
        one for one in diagnose(replace(GOOD, config=config, clustered=True, ttl=(4.799, "group g of t"))) if one.about == "failover"
    ]
    assert just.fix == "CONFIG SET cluster-node-timeout 2000", "2.4995 s, rounded down to half a second"
    blind = diagnose(replace(GOOD, config=config, clustered=True, unreadable={"topic t": "WRONGTYPE"}))
    assert [one.level for one in blind if "topic t cannot be read" in one.text and "WRONGTYPE" in one.text] == ["warning"]
    (long,) = [one for one in diagnose(replace(GOOD, config=config, clustered=True, ttl=(40.0, "group g of t"))) if one.about == "failover"]
    assert long.level == "ok"


@pytest.mark.parametrize("ttl", [0.5, 2.0])
def test_no_setting_is_advised_that_a_server_would_refuse(ttl: float) -> None:
    """A lease is shorter than any failover: then only a longer lease helps."""
    watched = {"name": "main", "down-after-milliseconds": "5000", "num-other-sentinels": "2", "quorum": "2"}
    behind_sentinels = replace(GOOD, watched=watched, ttl=(ttl, "group g of t"))
    config = CONFIG | {"cluster-node-timeout": "5000"}
    in_a_cluster = replace(GOOD, config=config, clustered=True, ttl=(min(ttl, 0.9), "group g of t"))
    for examined, least in ((behind_sentinels, 9), (in_a_cluster, 11)):
        (found,) = [one for one in diagnose(examined) if one.about == "failover"]
        assert (found.level, found.fix) == ("warning", "")
        assert found.text.endswith(f"run out. Give consumers heartbeat_ttl={least}")


def test_the_memory_broker() -> None:
    assert diagnose(Examination("", memory_only=True)) == [
        Finding("warning", "server", "this is the memory broker: everything is lost when the process ends")
    ]


def test_each_command_can_be_tried() -> None:
    needed = set(commands_needed())
    assert needed - CONNECTED <= tries(Keys("shop")).keys()
    assert needed >= DISPENSABLE - {"dbsize"}
