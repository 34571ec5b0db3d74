"""Clusters of real servers on loopback.

Input: which server program, how many masters, and how many replicas each has. Output: `Cluster`, with plain, blocking methods, which tests
may call from any backend. No process outlives this one (tests/servers.py). It starts in about two seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hiredis

from redisaq.link.slot_map import SLOTS, slot_of
from tests.bus_proxy import BusProxies
from tests.servers import Server, Watchdog, free_port, wait_for

PAGE = 100
"""How many keys one MIGRATE takes."""


@dataclass
class Cluster:
    """One cluster, from its start to its end.

    Attributes:
        tls: the nodes speak TLS, too, on ports of their own.
        proxied: the nodes reach each other over proxies, so that `isolate` can cut one off.
        nodes: first those that were masters at the beginning, then the replicas of the first master, of the second, and so on.
    """

    kind: str
    program: Path
    watchdog: Watchdog
    masters: int = 3
    replicas: int = 0
    node_timeout: float = 2.0
    tls: bool = False
    options: tuple[str, ...] = ()
    proxied: bool = False
    nodes: list[Server] = field(default_factory=list)
    bus: BusProxies | None = None

    @property
    def port(self) -> int:
        """The port of the first node."""
        return self.nodes[0].port

    @property
    def url(self) -> str:
        """The cluster's address."""
        return self.url_of()

    def each(self) -> list[Server]:
        """Return the servers that keep keys."""
        return self.masters_now()

    def url_of(self, user: str = "") -> str:
        """Return the cluster's address for a user; all first masters are seeds."""
        return f"redis+cluster://{user}{','.join(f'127.0.0.1:{node.port}' for node in self.nodes[: self.masters])}"

    @property
    def running(self) -> bool:
        """True if all nodes run."""
        return all(node.running for node in self.nodes)

    def start(self) -> None:
        """Start all nodes, give out the slots, and return when every node agrees that all is well."""
        timeout = str(round(self.node_timeout * 1000))
        own = ("--cluster-enabled", "yes", "--cluster-node-timeout", timeout, "--repl-diskless-sync-delay", "0")
        self.bus = BusProxies() if self.proxied else None
        for _ in range(self.masters * (1 + self.replicas)):
            port = free_port()
            more = ("--cluster-port", str(port), "--cluster-announce-ip", "127.0.0.1", *self.options)
            if self.bus is not None:
                more += ("--cluster-announce-bus-port", str(self.bus.add(port)))
            secure = ("--tls-port", str(free_port()), "--tls-cluster", "yes") if self.tls else ()
            self.nodes.append(Server(self.kind, self.program, self.watchdog, (*own, *more, *secure)))
            self.nodes[-1].start()
        first, *others = self.nodes
        each = SLOTS // self.masters
        for number, node in enumerate(self.nodes[: self.masters]):
            node.command("CLUSTER", "ADDSLOTSRANGE", number * each, SLOTS - 1 if number == self.masters - 1 else (number + 1) * each - 1)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in others:
            bus = _bus_port(node)
            first.command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_for(lambda: all(len(self.lines(node)) == len(self.nodes) for node in self.nodes), "all nodes know each other")
        names = {node.port: node.command("CLUSTER", "MYID").decode() for node in self.nodes}
        for number, replica in enumerate(self.nodes[self.masters :]):
            master = names[self.nodes[number // self.replicas].port]
            wait_for(partial(_done, replica, "CLUSTER", "REPLICATE", master), "a replica follows")
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Return when every node that runs serves, and every replica follows."""
        wait_for(self._whole, "the cluster is whole")

    def _whole(self) -> bool:
        running = [node for node in self.nodes if node.running]
        if not all(b"cluster_state:ok" in node.command("CLUSTER", "INFO") for node in running):
            return False
        said = [node.command("INFO", "replication") for node in running]
        return all(b"role:master" in one or b"master_link_status:up" in one for one in said)

    def close(self) -> None:
        """End every node."""
        for node in self.nodes:
            node.close()
        if self.bus is not None:
            self.bus.close()

    def isolate(self, node: Server) -> None:
        """Cut a node off from all other nodes, its replicas, too; clients still reach it."""
        assert self.bus is not None
        self.bus.isolate(node.command("CLUSTER", "MYID").decode(), int(_bus_port(node)))
        node.command("ACL", "SETUSER", "default", "-psync", "-sync", "-replconf")
        node.command("CLIENT", "KILL", "TYPE", "replica")

    def heal(self, node: Server) -> None:
        """Let the node be reached again."""
        assert self.bus is not None
        node.command("ACL", "SETUSER", "default", "+@all")
        self.bus.heal()

    # -- who serves what ---------------------------------------------------------------------------------------------------------------

    def lines(self, node: Server | None = None) -> list[list[str]]:
        """Return what a node (None: the first that runs and answers) knows of all: id, address, flags, master, ..., slots."""
        node = node or next(node for node in self.nodes if node.running and not node.paused)
        return [line.split() for line in node.command("CLUSTER", "NODES").decode().splitlines()]

    def serves(self, slot: int) -> Server:
        """Return the node that serves a slot: of several that say so, the newest."""
        (node,) = self._who_serve([slot])
        return node

    def _who_serve(self, slots: Sequence[int]) -> list[Server]:
        """Return the node that serves each of these slots, as `serves` does; the nodes are asked once."""
        claims = self._claims()
        found: list[Server] = []
        for slot in slots:
            mine = [(epoch, node) for epoch, node, served in claims if any(slot in some for some in served)]
            if not mine:
                message = f"nobody serves slot {slot}"
                raise RuntimeError(message)
            found.append(max(mine, key=lambda claim: claim[0])[1])
        return found

    def _claims(self) -> list[tuple[int, Server, list[range]]]:
        """Return of each node its configuration epoch, the node, and the slots that it says it serves itself.

        What a node says of another may lag: where the node that takes a slot over tells a third one so before the former owner's last
        heartbeat arrives there, the third one believes the former owner again, until the next heartbeat.
        """
        said = [(node, *_said(node)[node.port]) for node in self.nodes if node.running and not node.paused]
        return [(epoch, node, slots) for node, epoch, slots in said]

    def _agreed(self, slot: int, owner: Server) -> bool:
        """Return whether each node has heard of the owner's newest epoch, so that nothing older takes the slot from it again.

        A slot that moves on before that may end as nobody's: a node that lags tells the owner that a former one, whose epoch another
        slot has raised since, serves it; the owner believes that, and the former one knows nothing of it.
        """
        said = [_said(node)[owner.port] for node in self.nodes if node.running and not node.paused]
        return len({epoch for epoch, _ in said}) == 1 and all(any(slot in some for some in slots) for _, slots in said)

    def wait_until_known(self, slot: int) -> None:
        """Return when every node that runs has heard which one serves the slot.

        Until then a node may take the former master for the master, or refuse a slot of the new one ("Target node is not a master").
        """
        wait_for(lambda: self._agreed(slot, self.serves(slot)), f"all nodes have heard who serves slot {slot}")

    def node_of(self, key: str | bytes) -> Server:
        """Return the node that serves a key."""
        (node,) = self._nodes_of([key])
        return node

    def _nodes_of(self, keys: Sequence[str | bytes]) -> list[Server]:
        return self._who_serve([slot_of(key.encode() if isinstance(key, str) else key) for key in keys])

    def replica_of(self, master: Server) -> Server:
        """Return a replica of this master."""
        name = master.command("CLUSTER", "MYID").decode()
        line = next(line for line in self.lines() if line[3] == name and "fail" not in line[2])
        port = int(line[1].partition("@")[0].rpartition(":")[2])
        return next(node for node in self.nodes if node.port == port)

    def wait_for_another(self, slot: int, than: Server) -> None:
        """Return when another node than this serves the slot."""
        wait_for(lambda: any(node is not than and any(slot in some for some in slots) for _, node, slots in self._claims()), "a failover")

    # -- as of one server ----------------------------------------------------------------------------------------------------------------

    def command(self, *words: Any) -> Any:
        """Send a command to the node of its key; what has no key goes to all masters.

        The answers to KEYS are joined; of others, the last one is returned.
        """
        name = str(words[0]).upper()
        if name in KEYLESS:
            answers = [node.command(*words) for node in self.masters_now()]
            return [one for answer in answers for one in answer] if name == "KEYS" else answers[-1]
        if name == "DEL":
            return sum(node.command("DEL", key) for node, key in zip(self._nodes_of(words[1:]), words[1:], strict=True))
        place = 2 if name in ("XGROUP", "XINFO", "OBJECT", "MEMORY", "DEBUG") else 3 if name in ("EVAL", "EVALSHA") else 1
        return self.node_of(words[place]).command(*words)

    def masters_now(self) -> list[Server]:
        """Return the nodes that serve slots."""
        ports = {master[1] for _, _, master, *_ in next(n for n in self.nodes if n.running and not n.paused).command("CLUSTER", "SLOTS")}
        return [node for node in self.nodes if node.port in ports]

    def pause(self) -> None:
        """Stop all nodes (SIGSTOP)."""
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        """Let all nodes go on (SIGCONT)."""
        for node in self.nodes:
            node.resume()

    # -- slots that move -----------------------------------------------------------------------------------------------------------------

    def migrate(self, slots: Sequence[int], target: Server, *, held: float = 0.0) -> None:
        """Move slots, one after the other, key by key, as redis-cli does it; each stays open for `held` seconds before its keys move."""
        for slot in slots:
            self.wait_until_known(slot)
            source = self.serves(slot)
            if source is target:
                continue
            names = {node.port: node.command("CLUSTER", "MYID") for node in (source, target)}
            target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
            source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
            time.sleep(held)
            while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, PAGE):
                source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            for node in (target, source, *self.masters_now()):
                with contextlib.suppress(hiredis.HiredisError):
                    node.command("CLUSTER", "SETSLOT", slot, "NODE", names[target.port])
            wait_for(partial(self._agreed, slot, target), f"all nodes have heard that slot {slot} has moved")

    def migrate_at_once(self, first: int, last: int, target: Server) -> None:
        """Move a range of slots in one step (Valkey 9)."""
        source = self.serves(first)
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target.command("CLUSTER", "MYID"))
        wait_for(lambda: self.serves(first) is target, "the slots have moved")

    @contextlib.contextmanager
    def frozen(self, node: Server) -> Iterator[None]:
        """Stop a node for a while (SIGSTOP)."""
        node.pause()
        try:
            yield
        finally:
            node.resume()


KEYLESS = frozenset({"ACL", "CLIENT", "CONFIG", "FLUSHALL", "INFO", "KEYS", "SCRIPT", "TIME"})


def _done(node: Server, *words: str) -> bool:
    try:
        return bool(node.command(*words) == b"OK")
    except hiredis.HiredisError:
        return False


def _said(node: Server) -> dict[int, tuple[int, list[range]]]:
    """Return, by port, the configuration epoch of each node that a node knows, and the slots it serves."""
    known: dict[int, tuple[int, list[range]]] = {}
    for line in node.command("CLUSTER", "NODES").decode().splitlines():
        _, address, _, _, _, _, epoch, _, *places = line.split()
        bounds = [place.partition("-") for place in places if not place.startswith("[")]  # "[": a slot that moves
        port = int(address.partition("@")[0].rpartition(":")[2])
        known[port] = int(epoch), [range(int(first), int(last or first) + 1) for first, _, last in bounds]
    return known


def _bus_port(node: Server) -> str:
    """Return the port at which other nodes reach the node."""
    name = "--cluster-announce-bus-port"
    return node.options[node.options.index(name if name in node.options else "--cluster-port") + 1]
