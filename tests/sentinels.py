"""A master, its replicas and the sentinels that watch them, as real processes on loopback.

Input: which server program. Output: `Guarded`, with plain, blocking methods, which tests may call from any backend. No process outlives
this one (tests/servers.py). The sentinels know each other from the start, since finding each other takes them seconds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import hiredis

from tests.servers import Server, Watchdog, free_port, wait_for

SERVICE = "main"

PATIENCE = 20.0
"""Seconds that a sentinel, or a master, gets to answer where the second that the product gives it is not what a test is about."""


@dataclass
class Sentinel(Server):
    """One sentinel; its options are lines of its configuration file."""

    def _words(self) -> list[str]:
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"unixsocket {self.socket_path}",
            f"dir {self.directory}",
            "logfile log",
            *self.options,
        ]
        file = self.directory / "sentinel.conf"
        if not file.exists():  # it keeps there what it learned
            file.write_text("\n".join(lines) + "\n")
        return [str(self.program), str(file), "--sentinel"]


@dataclass
class Front(Server):
    """The first master, for tests that know a server by its URL and find it by its sentinels there."""

    front_url: str = ""

    @property
    def url(self) -> str:
        return self.front_url


@dataclass
class Guarded:
    """One master with its replicas and its sentinels, from their start to their end.

    Attributes:
        servers: the first one is the master at first.
        sentinels: those that watch it.
    """

    kind: str
    program: Any
    watchdog: Watchdog
    options: tuple[str, ...] = ()
    sentinel_options: tuple[str, ...] = ()
    down_after: float = 1.0
    servers: list[Server] = field(default_factory=list)
    sentinels: list[Sentinel] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address of all sentinels and the service."""
        return self.url_of(self.sentinels)

    @staticmethod
    def url_of(sentinels: Sequence[Server], user: str = "", service: str = SERVICE) -> str:
        """Return the address of these sentinels and the service."""
        return f"redis+sentinel://{user}{','.join(f'127.0.0.1:{one.port}' for one in sentinels)}/{service}/0"

    @property
    def front(self) -> Server:
        """The first master, whose URL is that of the sentinels."""
        master = self.servers[0]
        return Front(**{one.name: getattr(master, one.name) for one in fields(master)}, front_url=self.url)

    def start(self) -> None:
        """Start everything; return when replicas follow the master and sentinels know each other."""
        for number in range(3):
            follow = ("--replicaof", f"127.0.0.1 {self.servers[0].port}") if number else ()
            own = ("--repl-diskless-sync-delay", "0", *follow, *self.options)
            self.servers.append(Server(self.kind, self.program, self.watchdog, own))
            self.servers[-1].start()
        ports = [free_port() for _ in range(3)]
        for port in ports:
            lines = [f"sentinel myid {_id(port)}", f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2"]
            lines += [f"sentinel down-after-milliseconds {SERVICE} {round(self.down_after * 1000)}"]
            lines += [f"sentinel failover-timeout {SERVICE} 6000"]
            lines += [f"sentinel known-replica {SERVICE} 127.0.0.1 {server.port}" for server in self.servers[1:]]
            lines += [f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other} {_id(other)}" for other in ports if other != port]
            self.sentinels.append(Sentinel(self.kind, self.program, self.watchdog, (*lines, *self.sentinel_options), port=port))
            self.sentinels[-1].start()
        wait_for(self._whole, "a master with two replicas, watched by three sentinels")

    def _whole(self) -> bool:
        following = [b"master_link_status:up" in replica.command("INFO", "replication") for replica in self.servers[1:]]
        return all(following) and all(self.healthy(sentinel) for sentinel in self.sentinels)

    def healthy(self, sentinel: Server) -> bool:
        """Return whether this sentinel sees a master, and a majority that would agree on another."""
        try:
            checked = sentinel.command("SENTINEL", "CKQUORUM", SERVICE)
        except hiredis.HiredisError:
            return False
        replicas = [dict(zip(one[::2], one[1::2], strict=True)) for one in sentinel.command("SENTINEL", "REPLICAS", SERVICE)]
        up = [one for one in replicas if one[b"flags"] == b"slave" and one[b"master-link-status"] == b"ok"]
        return checked.startswith(b"OK 3") and len(up) == len(self.servers) - 1

    def master_port(self, sentinel: Server | None = None) -> int:
        """Return the port of the server that a sentinel calls the master."""
        return int((sentinel or self.sentinels[-1]).command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    @property
    def master(self) -> Server:
        """The server that the last sentinel calls the master."""
        port = self.master_port()
        return next(server for server in self.servers if server.port == port)

    def wait_for_another(self, than: Server) -> None:
        """Return when every sentinel that runs names another master than this, and that takes writes."""
        wait_for(lambda: all(self.master_port(one) != than.port for one in self.sentinels if one.running), "another master")
        wait_for(lambda: self._writes(self.master), "a master that takes writes")

    def _writes(self, server: Server) -> bool:
        try:
            return bool(server.command("SET", "probe", "x", "PX", 1))
        except hiredis.HiredisError:
            return False

    def cut_replicas(self) -> None:
        """Freeze the replicas, and break their connections to the master."""
        for replica in self.servers[1:]:
            replica.pause()
        self.servers[0].command("CLIENT", "KILL", "TYPE", "replica")

    def close(self) -> None:
        """End every process."""
        for server in (*self.sentinels, *self.servers):
            server.close()


def _id(port: int) -> str:
    return f"{zlib.crc32(str(port).encode()):08x}" * 5
