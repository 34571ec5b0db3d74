"""What only a real cluster shows: rights of users on all nodes, TLS by the announced name, deletion while slots move, and doctor."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message, Producer
from redisaq.brokers import open_broker
from redisaq.brokers.redis import administration
from redisaq.brokers.redis.rights import access_rules
from redisaq.brokers.steps.administration import DropTopic
from redisaq.brokers.steps.topics import MakeTopic, ReadTopics
from redisaq.cli import main
from redisaq.errors import ConnectionFailed
from redisaq.link import parse_address
from redisaq.link.link import Link
from redisaq.link.slot_map import slot_of
from tests.clusters import Cluster
from tests.link_tls import Authority
from tests.server_fixtures import ServerPool

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns, pytest.mark.usefixtures("patient")]


@pytest.fixture(scope="module")
def cluster(server_pool: ServerPool) -> Cluster:
    """The shared cluster of three nodes."""
    return server_pool.shared_cluster("cluster")


async def work(url: str, namespace: str, count: int = 20) -> list[int]:
    """Send messages and handle all of them; return their numbers, sorted."""
    got: list[int] = []

    async def handle(message: Message[Any]) -> None:
        got.append(message.payload["n"])

    async with Producer("jobs", url, namespace=namespace, init_partitions=6) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(count)])
        await Consumer("jobs", url, namespace=namespace).process(handle, until_empty=True)
    return sorted(got)


def test_a_slot_is_what_the_servers_call_it(cluster: Cluster) -> None:
    for key in ("{ns:jobs}:meta", "{ns:jobs:3}:0", "ns:topics", "{ns:ünïcode}:meta", "{}x", "{a}{b}", "a{b", "a}{b}"):
        assert cluster.nodes[0].command("CLUSTER", "KEYSLOT", key) == slot_of(key.encode())


async def test_a_user_of_few_rights(cluster: Cluster, namespace: str) -> None:
    """The rules of a single server, on every node."""
    cluster.command("ACL", "SETUSER", namespace, "reset", "on", ">pass", *access_rules(namespace))
    url = cluster.url_of(f"{namespace}:pass@")
    assert await work(url, namespace) == list(range(20))
    async with Admin(url, namespace=namespace) as admin:
        assert [one.level for one in await admin.diagnose() if one.about == "rights"] == ["ok"]
        await admin.delete_topic("jobs")
    assert cluster.command("KEYS", f"*{namespace}:*") == []
    cluster.command("ACL", "SETUSER", namespace, "-cluster|slots")
    with pytest.raises(ConnectionFailed, match=r"NOPERM.*cluster.slots"):
        await work(url, namespace)
    cluster.command("ACL", "DELUSER", namespace)


async def test_admin_sums_over_all_nodes(cluster: Cluster, namespace: str) -> None:
    await work(cluster.url, namespace)
    async with Admin(cluster.url, namespace=namespace) as admin:
        info = await admin.server()
        assert info.url == cluster.url
        assert info.keys == sum(node.command("DBSIZE") for node in cluster.nodes)
        assert info.memory is not None
        assert info.memory > max(_used(node) for node in cluster.nodes)
        assert await admin.topics() == ["jobs"]
        await admin.delete_topic("jobs")


def _used(node: Any) -> int:
    lines = node.command("INFO", "memory").decode().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("used_memory:"))


async def until_deleted(admin: Admin) -> None:
    """Delete the topic, as often as a slot that moves interrupts that."""
    with anyio.fail_after(60):
        while True:
            with contextlib.suppress(ConnectionFailed):
                await admin.delete_topic("jobs")
                return


async def test_a_topic_is_deleted_while_its_slots_move(server_pool: ServerPool, namespace: str) -> None:
    """A slot that moves from a node not yet scanned to one that was: a further round finds it."""
    own = server_pool.new_cluster("cluster")
    try:
        await work(own.url, namespace)
        slots = [slot_of(f"{{{namespace}:jobs:{number}}}".encode()) for number in range(6)]

        def move() -> None:
            for turn in range(9):
                own.migrate(slots, own.nodes[turn % 3])

        moving = threading.Thread(target=move)
        moving.start()
        try:
            async with Admin(own.url, namespace=namespace) as admin:
                await until_deleted(admin)
        finally:
            await anyio.to_thread.run_sync(moving.join)
        assert own.command("KEYS", f"*{namespace}:*") == []
    finally:
        own.close()


async def test_a_topic_that_is_used_is_deleted_all_the_same(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer makes the streams again, sooner than the servers of a cluster are scanned."""
    whole, rounds = administration._drop_found, list[bool]()

    async def make_again_and_drop(*args: Any) -> bool:
        await broker.do(MakeTopic("jobs", 6))
        rounds.append(await whole(*args))
        return rounds[-1]

    monkeypatch.setattr(administration, "_drop_found", make_again_and_drop)
    broker = open_broker(cluster.url, namespace)
    with anyio.fail_after(60):
        await broker.do(MakeTopic("jobs", 6))
        await broker.do(DropTopic("jobs"))
    assert sum(rounds) >= administration.ROUNDS
    assert await broker.do(ReadTopics()) == []
    monkeypatch.undo()
    await broker.do(DropTopic("jobs"))
    assert cluster.command("KEYS", f"*{namespace}:*") == []
    await broker.close()


def test_who_serves_a_slot_is_asked_of_the_node_itself(cluster: Cluster) -> None:
    """One of the tests' own tools: while slots move, what a node believes of others lags."""
    lines = sorted(cluster.lines(), key=lambda line: int(line[6]))  # by epoch: the newest one's claim is beyond doubt
    believer, other, owner = (next(node for node in cluster.nodes if f":{node.port}@" in line[1]) for line in lines)
    slot = int(lines[-1][8].partition("-")[0])
    believer.command("CLUSTER", "SETSLOT", slot, "NODE", other.command("CLUSTER", "MYID"))
    try:
        assert cluster.serves(slot) is owner
    finally:
        believer.command("CLUSTER", "SETSLOT", slot, "NODE", owner.command("CLUSTER", "MYID"))


def test_doctor(server_pool: ServerPool, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.command("CONFIG", "SET", "cluster-node-timeout", 15000)
    cluster.nodes[1].command("CONFIG", "SET", "timeout", 5)
    try:
        main(["doctor", "--json", "--url", cluster.url])
    finally:
        cluster.command("CONFIG", "SET", "cluster-node-timeout", 2000)
        cluster.nodes[1].command("CONFIG", "SET", "timeout", 0)
    found = json.loads(capsys.readouterr().out)
    assert [one["text"] for one in found if one["about"] == "cluster"] == ["3 masters"]
    assert [(one["level"], one["fix"]) for one in found if one["about"] == "failover"] == [
        ("warning", "CONFIG SET cluster-node-timeout 6000")
    ]
    (idle,) = (one["text"] for one in found if "idle connections" in one["text"])
    assert f":{cluster.nodes[1].port}/0: " in idle


async def test_doctor_compares_a_failover_with_the_leases_of_the_groups(cluster: Cluster, namespace: str) -> None:
    async def handle(message: Message[Any]) -> None:
        del message

    options: dict[str, Any] = {"heartbeat_interval": 0.5, "heartbeat_ttl": 3.0}
    consumer = Consumer("jobs", cluster.url, namespace=namespace, group_name="quick", init_partitions=2, **options)
    async with Admin(cluster.url, namespace=namespace) as admin, anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        (found,) = [one for one in await admin.diagnose() if one.about == "failover"]
        await consumer.stop()
        await admin.delete_topic("jobs", force=True)
    await consumer.close()
    assert found.level == "warning"
    assert "with the heartbeat_ttl of 3 s in group quick of jobs" in found.text


async def test_a_node_asked_as_a_single_server_names_the_url(cluster: Cluster) -> None:
    with pytest.raises(ConnectionFailed, match=r"redis\+cluster://"):
        await Link(parse_address(cluster.nodes[0].url)).connect()


# -- TLS ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody else trusts."""
    return Authority(tmp_path_factory.mktemp("ca"))


@contextlib.contextmanager
def secured(server_pool: ServerPool, authority: Authority, name: str, *options: str) -> Iterator[Cluster]:
    """Start a cluster that speaks TLS with a certificate for this name."""
    cert_file, key_file = authority.issue(name)
    more = ("--tls-cert-file", cert_file, "--tls-key-file", key_file, "--tls-ca-cert-file", authority.ca_file, "--tls-auth-clients", "no")
    own = server_pool.new_cluster("cluster7", *more, *options, tls=True)  # the wheels speak no TLS
    try:
        yield own
    finally:
        own.close()


@pytest.mark.parametrize("named", [True, False])
async def test_the_announced_name_is_verified(server_pool: ServerPool, authority: Authority, namespace: str, named: bool) -> None:
    """Nodes with a certificate for a name have to announce that name; else the error says what to set."""
    assert Path(authority.ca_file).exists()
    announcing = ("--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname") if named else ()
    with secured(server_pool, authority, "localhost", *announcing) as own:
        url = f"rediss+cluster://localhost:{own.nodes[0].tls_port}?ssl_ca_certs={authority.ca_file}"
        if named:
            assert await work(url, namespace) == list(range(20))
            return
        with pytest.raises(ConnectionFailed, match="cluster-preferred-endpoint-type") as failed:
            await work(url, namespace)
        assert failed.value.permanent
        assert await work(f"{url}&ssl_check_hostname=false", namespace) == list(range(20))


async def test_certificates_for_addresses(server_pool: ServerPool, authority: Authority, namespace: str) -> None:
    with secured(server_pool, authority, "127.0.0.1") as own:
        url = f"rediss+cluster://127.0.0.1:{own.nodes[0].tls_port}?ssl_ca_certs={authority.ca_file}"
        assert await work(url, namespace) == list(range(20))
