"""TLS for tests: an authority of one's own, and a server in front of another that speaks TLS.

Input: a plain server's port. Output: certificate files, and a port that takes TLS and passes the plain bytes on. It runs in threads with
plain sockets, so the tests of every event loop use it alike.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme


class Authority:
    """A certificate authority that nobody but a test trusts.

    Attributes:
        ca_file: its own certificate.
    """

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._directory = directory
        self.ca_file = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def issue(self, name: str) -> tuple[str, str]:
        """Return the files of a certificate for this host or address, and of its key."""
        certificate = self._ca.issue_cert(name)
        cert_file, key_file = str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key")
        Path(cert_file).write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(key_file)
        return cert_file, key_file

    def server_context(self, name: str = "127.0.0.1", *, ask: bool = False) -> ssl.SSLContext:
        """Return a server's settings; `ask`: clients must show a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name))
        if ask:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Terminator:
    """Takes TLS connections, and passes what they send on to a plain server.

    Attributes:
        port: where it listens on 127.0.0.1.
    """

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self._target_port = target_port
        self._context = context
        self._ending = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._threads = [threading.Thread(target=self._accept, name="TLS terminator")]
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ending:
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), name="TLS terminator")
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(5)
        with contextlib.suppress(OSError), self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False) as secure:
            try:
                secure.do_handshake()
            except ssl.SSLError:
                socket.socket.shutdown(secure, socket.SHUT_WR)
                self._wait_for_end(secure)
                return
            with socket.create_connection(("127.0.0.1", self._target_port)) as plain:
                secure.setblocking(False)
                plain.setblocking(False)
                self._pump(secure, plain)

    def _say_goodbye(self, secure: ssl.SSLSocket) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            secure.unwrap()  # in TLS only: the socket stays open until the client closes it
        self._wait_for_end(secure)

    def _wait_for_end(self, secure: ssl.SSLSocket) -> None:
        # Closed with bytes unread, the connection would be reset, and what was sent last might be lost with it.
        with socket.socket(fileno=secure.detach()) as sock:
            sock.settimeout(0.05)
            while not self._ending:
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(65536):
                        return

    def _pump(self, secure: ssl.SSLSocket, plain: socket.socket) -> None:
        # Whatever cannot be sent yet is kept, so that neither direction waits for the other.
        up, down = b"", b""
        while not self._ending:
            writers = [sock for sock, data in ((plain, up), (secure, down)) if data]
            select.select([] if secure.pending() else [secure, plain], writers, [], 0 if secure.pending() else 0.05)
            for source, limit in ((secure, 65536), (plain, 65536)):
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                    data = source.recv(limit)
                    if not data:
                        if source is plain:
                            self._say_goodbye(secure)
                        return
                    if source is secure:
                        up += data
                    else:
                        down += data
            with contextlib.suppress(BlockingIOError):
                up = up[plain.send(up) :] if up else up
            with contextlib.suppress(ssl.SSLWantWriteError):
                down = down[secure.send(down) :] if down else down
