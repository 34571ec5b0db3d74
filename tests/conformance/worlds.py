"""The worlds in which brokers are compared: a store, brokers that meet in it, and a back door for what happens to servers.

Input: a namespace, and a server where there is one. Output: brokers, and plain calls that lose, trim or expire things behind the brokers'
backs. Invariant: a world touches nothing outside its namespace but connections.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from redisaq.brokers import open_broker
from redisaq.brokers.memory import MemoryBroker, MemoryStore
from redisaq.brokers.steps import Broker
from redisaq.brokers.terms import GroupName
from tests.clusters import Cluster
from tests.sentinels import Guarded
from tests.servers import Server

PASSWORD = "a secret"  # noqa: S105 -- of a server that lives as long as the test


class World(Protocol):
    """One store, with its back door."""

    def broker(self, suffix: str = "") -> Broker:
        """Return another broker, not connected yet. It meets the world's others of the same suffix to the namespace."""
        ...

    def weak_broker(self) -> Broker:
        """Return a broker whom the server does not permit to kill connections (T4)."""
        ...

    def expire(self, group: GroupName, incarnation: str) -> None:
        """Let a member's time have run out."""
        ...

    def change_server(self, group: GroupName) -> None:
        """Let the group's state, which must be there, have been written by another server (M7)."""
        ...

    def break_connections(self) -> None:
        """Break every connection."""
        ...

    def blocked_reads(self) -> int:
        """Return how many reads wait at the server."""
        ...

    def freeze(self) -> contextlib.AbstractContextManager[None]:
        """Let the server stand still, where there is one."""
        ...

    def full(self) -> contextlib.AbstractContextManager[None]:
        """Let the server's memory be full."""
        ...

    def flush(self) -> None:
        """Lose everything."""
        ...

    def damage(self, group: GroupName, what: str, data: bytes) -> None:
        """Damage a record: "retry" `7-1` or "delayed" `m` of partition 0, which are due then, the group's "document", or add to "dead"."""
        ...

    def forget_group(self, group: GroupName) -> None:
        """Lose the group's members and document."""
        ...

    def forget_topic(self, topic: str) -> None:
        """Lose the topic's partition count."""
        ...

    def set_format(self, topic: str, layout: int) -> None:
        """Let another version have written the topic."""
        ...

    def forget_partition(self, topic: str, partition: int) -> None:
        """Lose a partition's stream with the groups in it, and all that stands beside it."""
        ...

    def forget_stream(self, topic: str, partition: int) -> None:
        """Lose a partition's stream with the groups in it, and nothing beside it."""
        ...

    def forget_cursor(self, group: GroupName, partition: int) -> None:
        """Lose the group in one stream."""
        ...

    def trim(self, topic: str, partition: int, maxlen: int) -> None:
        """Drop a stream's oldest entries until `maxlen` are left."""
        ...

    def delete(self, topic: str, partition: int, entry_ids: Sequence[bytes]) -> None:
        """Drop entries."""
        ...

    def length(self, topic: str, partition: int) -> int:
        """Return how many entries a stream has."""
        ...


class MemoryWorld:
    """A memory store of the running event loop."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def broker(self, suffix: str = "") -> MemoryBroker:
        return MemoryBroker("conformance", self._namespace + suffix)

    def weak_broker(self) -> Broker:
        self.store.permits_killing = False
        return self.broker()

    def expire(self, group: GroupName, incarnation: str) -> None:
        members = self.store.members(group).members
        if incarnation in members:
            members[incarnation] = self.store.now()

    def change_server(self, group: GroupName) -> None:
        state = self.store.members(group).state
        assert state is not None
        state.run_id = "another"

    def break_connections(self) -> None:
        self.store.restart()

    def blocked_reads(self) -> int:
        return self.store.blocked_reads

    def freeze(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        self.store.full = True
        yield
        self.store.full = False

    def flush(self) -> None:
        self.store.flush()

    def damage(self, group: GroupName, what: str, data: bytes) -> None:
        store = self.store
        state = store.members(group).state
        if what == "retry":
            store.shelf(group, 0).retry[b"7-1"] = (1, data)
        elif what == "delayed":
            store.delayed.setdefault((group.topic, 0), {})[b"m"] = (1, data)
        elif what == "dead":
            store.shelf(group, 0).dead.append([b"foreign", data], store.now() // 1000)
        elif state is not None:
            state.document, state.version = data, "damaged"

    def forget_group(self, group: GroupName) -> None:
        self.store.forget_group(group)

    def forget_topic(self, topic: str) -> None:
        self.store.forget_topic(topic)

    def set_format(self, topic: str, layout: int) -> None:
        self.store.topics[topic] = msgspec.structs.replace(self.store.topics[topic], format=layout)

    def forget_partition(self, topic: str, partition: int) -> None:
        self.store.forget_partition(topic, partition)

    def forget_stream(self, topic: str, partition: int) -> None:
        self.store.forget_stream(topic, partition)

    def forget_cursor(self, group: GroupName, partition: int) -> None:
        self.store.forget_cursor(group, partition)

    def trim(self, topic: str, partition: int, maxlen: int) -> None:
        self.store.trim(topic, partition, maxlen)

    def delete(self, topic: str, partition: int, entry_ids: Sequence[bytes]) -> None:
        self.store.delete(topic, partition, entry_ids)

    def length(self, topic: str, partition: int) -> int:
        return len(self.store.streams.get((topic, partition), ()))

    @property
    def store(self) -> MemoryStore:
        """The store itself."""
        return self.broker().store


class RedisWorld:
    """A namespace of a real server, or of a cluster."""

    def __init__(self, server: Server | Cluster, namespace: str) -> None:
        self._server = server
        self._namespace = namespace

    def broker(self, suffix: str = "") -> Broker:
        return self._open(self._server.url, suffix)

    def weak_broker(self) -> Broker:
        self._server.command("ACL", "SETUSER", "weak", "on", f">{PASSWORD}", "~*", "&*", "+@all", "-client|kill")
        return self._open(self._server.url_of(f"weak:{quote(PASSWORD)}@"))

    def _open(self, url: str, suffix: str = "") -> Broker:
        return open_broker(url, self._namespace + suffix)

    def expire(self, group: GroupName, incarnation: str) -> None:
        seconds, microseconds = (int(number) for number in self._server.command("TIME"))
        self._server.command("ZADD", self.group_key(group, "members"), "XX", seconds * 1000 + microseconds // 1000, incarnation)

    def change_server(self, group: GroupName) -> None:
        state = self.group_key(group, "state")
        assert self._server.command("EXISTS", state)
        self._server.command("HSET", state, "run_id", "another")

    def break_connections(self) -> None:
        self._server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self._server.command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")

    def blocked_reads(self) -> int:
        said = [server.command("INFO", "clients").decode() for server in self._server.each()]
        return sum(int(line.partition(":")[2]) for text in said for line in text.splitlines() if line.startswith("blocked_clients:"))

    @contextlib.contextmanager
    def freeze(self) -> Iterator[None]:
        self._server.pause()
        try:
            yield
        finally:
            self._server.resume()

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        self._server.command("CONFIG", "SET", "maxmemory", 1)
        try:
            yield
        finally:
            self._server.command("CONFIG", "SET", "maxmemory", 0)

    def flush(self) -> None:
        self._delete_keys("*")

    def damage(self, group: GroupName, what: str, data: bytes) -> None:
        share = f"g:{group.group}:retry" if what == "retry" else "delayed"
        if what == "dead":
            self._server.command("XADD", self.key(group.topic, 0, f"g:{group.group}:dead"), "*", "foreign", data)
        elif what == "document":
            self._server.command("HSET", self.group_key(group, "state"), "doc", data, "version", "damaged")
        else:
            name = "7-1" if what == "retry" else "m"
            self._server.command("ZADD", self.key(group.topic, 0, share), 1, name)
            self._server.command("HSET", self.key(group.topic, 0, f"{share}:body"), name, data)

    def forget_group(self, group: GroupName) -> None:
        self._server.command("DEL", self.group_key(group, "members"), self.group_key(group, "state"))

    def forget_topic(self, topic: str) -> None:
        self._server.command("DEL", self.topic_key(topic, "meta"))

    def set_format(self, topic: str, layout: int) -> None:
        self._server.command("HSET", self.topic_key(topic, "meta"), "format", layout)

    def forget_partition(self, topic: str, partition: int) -> None:
        self._delete_keys(f"{{{self._namespace}:{topic}:{partition}}}:*")

    def forget_stream(self, topic: str, partition: int) -> None:
        self._server.command("DEL", self._stream_key(topic, partition))

    def forget_cursor(self, group: GroupName, partition: int) -> None:
        stream = self._stream_key(group.topic, partition)
        if self._server.command("EXISTS", stream):
            self._server.command("XGROUP", "DESTROY", stream, group.group)

    def trim(self, topic: str, partition: int, maxlen: int) -> None:
        self._server.command("XTRIM", self._stream_key(topic, partition), "MAXLEN", "=", maxlen)

    def delete(self, topic: str, partition: int, entry_ids: Sequence[bytes]) -> None:
        if entry_ids:
            self._server.command("XDEL", self._stream_key(topic, partition), *entry_ids)

    def length(self, topic: str, partition: int) -> int:
        return int(self._server.command("XLEN", self._stream_key(topic, partition)))

    def command(self, *words: Any) -> Any:
        """Send the server a command."""
        return self._server.command(*words)

    def key(self, topic: str, partition: int, name: str) -> str:
        """Return the name of a partition's key."""
        return f"{{{self._namespace}:{topic}:{partition}}}:{name}"

    def topic_key(self, topic: str, name: str) -> str:
        """Return the name of a key of the whole topic."""
        return f"{{{self._namespace}:{topic}}}:{name}"

    def group_key(self, group: GroupName, name: str) -> str:
        """Return the name of a key of a group's coordination."""
        return self.topic_key(group.topic, f"g:{group.group}:{name}")

    def _delete_keys(self, pattern: str) -> None:
        """Delete the namespace's keys that match; its names hold no characters that a pattern knows, but for those of `pattern`."""
        keys = [key for key in self._server.command("KEYS", pattern) if self._namespace.encode() in key]
        if keys:
            self._server.command("DEL", *keys)

    def _stream_key(self, topic: str, partition: int) -> str:
        cuts = [int(name) for name in self._server.command("HKEYS", self.key(topic, partition, "cuts")) if name.isdigit()]
        return self.key(topic, partition, str(max(cuts, default=0)))


class SentinelWorld(RedisWorld):
    """A namespace of a real server that its brokers find by asking sentinels."""

    def __init__(self, guarded: Guarded, namespace: str) -> None:
        super().__init__(guarded.servers[0], namespace)
        self._guarded = guarded

    def broker(self, suffix: str = "") -> Broker:
        return self._open(self._guarded.url, suffix)

    def weak_broker(self) -> Broker:
        super().weak_broker()
        return self._open(self._guarded.url_of(self._guarded.sentinels, f"weak:{quote(PASSWORD)}@"))
