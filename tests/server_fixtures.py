"""Fixtures around tests/servers.py; tests/conftest.py makes them known everywhere.

One server of each kind is started when first asked for and serves the whole run; tests keep apart by `namespace`. A test that
breaks its server (kill, restart, flush, another configuration) takes `breakable_server`, which is its own.
"""

from __future__ import annotations

import fnmatch
import uuid
from collections.abc import Iterator

import pytest

from tests.clusters import Cluster
from tests.sentinels import Guarded
from tests.servers import PROGRAMS, Server, ServerMissing, Watchdog

KINDS = sorted(PROGRAMS, reverse=True)
SERVERS = ("server", "breakable_server", "valkey_server", "redis8_server", "redis7_server")


CLUSTERS = {"cluster": "valkey9", "cluster8": "redis8", "cluster7": "redis7"}
"""Kinds of clusters, and of which servers they are."""


class ServerPool:
    """The run's servers and clusters: one of each kind to share, and any number to break."""

    def __init__(self) -> None:
        self._watchdog: Watchdog | None = None
        self._shared: dict[str, Server] = {}
        self._guarded: Guarded | None = None
        self._clusters: dict[str, Cluster] = {}

    def shared(self, kind: str) -> Server:
        """Return the server of this kind that all tests share; skip the test if its program is not on this machine."""
        if kind not in self._shared:
            self._shared[kind] = self.new(kind)
        shared = self._shared[kind]
        assert shared.running, f"a test has broken the shared {kind}; such a test takes breakable_server"
        return shared

    def new(self, kind: str, *options: str) -> Server:
        """Return another server of this kind, started, with further options of its command line; the caller closes it."""
        try:
            program = PROGRAMS[kind]()
        except ServerMissing as missing:
            pytest.skip(str(missing))
        self._watchdog = self._watchdog or Watchdog()
        server = Server(kind, program, self._watchdog, options)
        server.start()
        return server

    def guarded(self) -> Guarded:
        """Return the Valkey 9 behind sentinels that all tests share which do not fail it over."""
        self._guarded = self._guarded or self.new_guarded("valkey9")
        return self._guarded

    def new_guarded(self, kind: str, *options: str, down_after: float = 1.0) -> Guarded:
        """Return another master of this kind with replicas and sentinels, started; the caller closes it."""
        try:
            program = PROGRAMS[kind]()
        except ServerMissing as missing:
            pytest.skip(str(missing))
        self._watchdog = self._watchdog or Watchdog()
        guarded = Guarded(kind, program, self._watchdog, options, down_after=down_after)
        guarded.start()
        return guarded

    def shared_cluster(self, kind: str) -> Cluster:
        """Return the cluster of this kind that all tests share: three masters without replicas."""
        if kind not in self._clusters:
            self._clusters[kind] = self.new_cluster(kind)
        return self._clusters[kind]

    def new_cluster(self, kind: str, *options: str, masters: int = 3, replicas: int = 0, tls: bool = False) -> Cluster:
        """Return another cluster of this kind, started, with further options of each node's command line; the caller closes it."""
        try:
            program = PROGRAMS[CLUSTERS[kind]]()
        except ServerMissing as missing:
            pytest.skip(str(missing))
        self._watchdog = self._watchdog or Watchdog()
        cluster = Cluster(CLUSTERS[kind], program, self._watchdog, masters, replicas, tls=tls, options=options)
        cluster.start()
        return cluster

    def close(self) -> None:
        """End every shared server; the watchdog ends what callers forgot."""
        if self._guarded is not None:
            self._guarded.close()
        for cluster in self._clusters.values():
            cluster.close()
        for server in self._shared.values():
            server.close()
        if self._watchdog is not None:
            self._watchdog.close()


@pytest.fixture(scope="session")
def server_pool() -> Iterator[ServerPool]:
    """Every server of this run."""
    pool = ServerPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def valkey_server(server_pool: ServerPool) -> Server:
    """The shared Valkey 9."""
    return server_pool.shared("valkey9")


@pytest.fixture(scope="session")
def guarded(server_pool: ServerPool) -> Guarded:
    """The shared Valkey 9 behind three sentinels, with two replicas."""
    return server_pool.guarded()


@pytest.fixture(scope="session")
def redis8_server(server_pool: ServerPool) -> Server:
    """The shared Redis 8."""
    return server_pool.shared("redis8")


@pytest.fixture(scope="session")
def redis7_server(server_pool: ServerPool) -> Server:
    """The shared Redis 7, the oldest server that is supported."""
    return server_pool.shared("redis7")


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Server:
    """Each kind of server in turn, shared with other tests."""
    return server_pool.shared(request.param)


@pytest.fixture(params=KINDS)
def breakable_server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Iterator[Server]:
    """Each kind of server in turn, for this test alone."""
    own = server_pool.new(request.param)
    yield own
    own.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each node of a cluster more than a second to answer, since a busy machine may stand still for so long."""
    monkeypatch.setattr("redisaq.link.cluster.ANSWER_WITHIN", 5.0)


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


class KeyLeaks:
    """Looks, when the test is over, for keys of the test's namespace that should be gone.

    Attributes:
        server: where to look; None: nowhere (a test with a broker of its own sets it).
    """

    def __init__(self, namespace: str, server: Server | None) -> None:
        self.server = server
        self._namespace = namespace
        self._allowed: list[str] = []

    def allow(self, *patterns: str) -> None:
        """Let keys stay whose name, without the namespace and braces (`orders:0:g:billing:lease`), matches one of these globs."""
        self._allowed.extend(patterns)

    def left(self) -> list[str]:
        """Return the names, without namespace and braces, of the keys that are there and not allowed; sorted."""
        if self.server is None:
            return []
        names: list[str] = []
        for raw in self.server.command("KEYS", f"*{self._namespace}:*"):
            name = raw.decode().replace("{", "").replace("}", "").removeprefix(f"{self._namespace}:")
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._allowed):
                names.append(name)
        return sorted(names)


@pytest.fixture
def key_leaks(request: pytest.FixtureRequest, namespace: str) -> Iterator[KeyLeaks]:
    """Fail the test if it leaves keys in its namespace that it did not allow."""
    names = [name for name in SERVERS if name in request.fixturenames]
    checker = KeyLeaks(namespace, request.getfixturevalue(names[0]) if names else None)
    yield checker
    assert checker.left() == [], "keys that should be gone"
