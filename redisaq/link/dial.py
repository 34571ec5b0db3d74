"""Make a connection that is ready for use: resolve, connect, agree on TLS, log in.

The input is an Address. The output is a Line and its Greeting, or a ConnectionFailed that names the URL without its password and says what
to try. If dialling fails or is cancelled, no socket is left behind.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import anyio

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, SettingsError
from redisaq.identity import connection_name
from redisaq.link.address import Address, TLSOptions
from redisaq.link.greeting import Greeting, greet
from redisaq.link.line import Line
from redisaq.link.resp import PARSE_ERRORS
from redisaq.link.wire import RECEIVE_SIZE, SecureWire, Wire, inherited

PLAIN_PORT = "does the server speak TLS on this port? Without TLS the URL begins with redis://"
CONNECT_WITHIN = 5.0
"""Seconds that connecting and logging in may take where the address does not say it."""

OUR_CERTIFICATE = "ssl_certfile=FILE and ssl_keyfile=FILE in the URL"
_OTHER_NAME = frozenset({62, 63, 64})  # X509_V_ERR_HOSTNAME_MISMATCH and those of an e-mail and an IP address
_OTHER_TIME = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED

_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY})
_RETRY_FULL_BACKLOG = 0.01
# The limits for a silent peer: seconds to the first probe, seconds between probes, probes, milliseconds for unacknowledged data.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES, _UNACKNOWLEDGED_MS = 10, 5, 3, 20_000


def make_context(options: TLSOptions) -> ssl.SSLContext:
    """Return a TLS context that verifies the server unless `options` say otherwise.

    It reads files, which takes some milliseconds.

    Raises:
        SettingsError: a file is missing, or does not hold what it should.
    """
    problem = f"the CA file {options.ca_file} cannot be used"
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.ca_file)
        if options.cert_file:
            problem = f"the client certificate {options.cert_file}" + (f" with the key {options.key_file}" if options.key_file else "")
            problem += " cannot be used"
            # Otherwise OpenSSL would ask for the key's password on the terminal, in the middle of an event loop.
            context.load_cert_chain(options.cert_file, options.key_file, password=_refuse_password)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{problem}: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # so that a write never has to wait for a read
    context.check_hostname = options.check_hostname
    if not options.verify:
        context.verify_mode = ssl.CERT_NONE
    return context


def _refuse_password() -> str:
    raise ValueError("its key is encrypted; give an unencrypted one")


Greeter: TypeAlias = Callable[[Line, Address, str], Awaitable[Greeting]]
"""Logs in on a new connection at an address under a name, as `greet` does."""


class _Dial:
    """One dial under way: how to end it, where it goes once that is known, and why it was ended."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.address: Address | None = None
        self.interrupted = ""


class Dialer:
    """Dials one address, repeatedly, and keeps what is slow to make. After a failure it reads the certificate files again.

    Args:
        address: the server.
        reach: called before each attempt, if given. It ensures that the server runs and returns its address. Its errors propagate.
        client: the user's label for the connections; None: the machine and the process.
        silence: seconds that an attempt may take, if the connect_timeout of the address, or else CONNECT_WITHIN, is not less.
        greet: logs in on a new connection; its errors propagate.
    """

    def __init__(
        self,
        address: Address,
        reach: Callable[[], Awaitable[Address]] | None = None,
        *,
        client: str | None = None,
        silence: float = math.inf,
        greet: Greeter = greet,
    ) -> None:
        self._address = address
        self._greet = greet
        self._client = client
        self._silence = silence
        self._reach = reach
        self._context: ssl.SSLContext | None = None
        self._outdated = False  # the files of the context may have been renewed since it was made
        self._buffer: bytearray | None = None  # one for all its connections: they are of one event loop, and may be many
        self._under_way: dict[_Dial, None] = {}

    @property
    def display(self) -> str:
        """The address for errors, without a password."""
        return self._address.display

    async def dial(
        self, environment: Environment, first: Callable[[Line, Greeting], Awaitable[None]] | None = None
    ) -> tuple[Line, Greeting]:
        """Return a new connection, logged in.

        Args:
            environment: runs slow work in a thread.
            first: called on the connection before it is used; its errors propagate.

        Raises:
            ConnectionFailed: it could not be made in time (connect_timeout, silence), the server refuses us, or `interrupt` was called.
            SettingsError: the certificate files cannot be used, or time is virtual.
        """
        if not environment.real:
            reason = "cannot answer in virtual time, which passes at once: use memory://name there"
            raise SettingsError(f"{self._address.display} {reason}")
        dial = _Dial()
        with dial.scope:
            self._under_way[dial] = None
            try:
                dial.address = address = self._address if self._reach is None else await self._reach()
                line, greeting = await self._dial(address, environment, first)
            finally:
                del self._under_way[dial]
            if not dial.interrupted:
                return line, greeting
            line.fail(dial.interrupted)  # after the last wait
        raise ConnectionFailed(self._address.display, dial.interrupted)

    def interrupt(self, reason: str = "the link was closed", *, besides: Address | None = None) -> None:
        """Make every dial under way fail, for this reason; `besides` those to this address, and those whose address is not known yet."""
        for dial in self._under_way:
            if besides is None or dial.address not in (None, besides):
                dial.interrupted = reason
                dial.scope.cancel()

    async def _dial(
        self, address: Address, environment: Environment, first: Callable[[Line, Greeting], Awaitable[None]] | None
    ) -> tuple[Line, Greeting]:
        if address.tls is not None and (self._context is None or self._outdated):
            await self._read_certificates(address.tls, environment)
        limit = min(address.connect_timeout or CONNECT_WITHIN, self._silence)
        wire: Wire | None = None
        with anyio.move_on_after(limit):
            wire = await self._connect(address)
            try:
                line = Line(wire, address.display)
                greeting = await self._begin(line, address, connection_name(self._client, environment))
                if first is not None:
                    await first(line, greeting)
            except BaseException:
                self._outdated = True
                wire.close()
                raise
            return line, greeting
        if isinstance(wire, SecureWire) and not wire.agreed:
            reason = f"connected, but TLS was not answered within {limit:g} s: {PLAIN_PORT}"
        else:
            reason = f"no answer within {limit:g} s: check host, port and firewall, and that the server runs" + _announced(address)
        raise ConnectionFailed(address.display, reason, silent=True)

    async def _read_certificates(self, options: TLSOptions, environment: Environment) -> None:
        """Make the TLS context. If there is one, the files may be about to be replaced: what cannot be read then changes nothing."""
        self._outdated = False
        try:
            self._context = await environment.run_plain(partial(make_context, options))
        except SettingsError:
            if self._context is None:
                raise

    async def _begin(self, line: Line, address: Address, name: str) -> Greeting:
        if isinstance(line.wire, SecureWire):
            try:
                await line.wire.handshake()
            except ssl.SSLError as error:
                raise _tls_failed(address, error) from error
            except OSError as error:
                reason = f"the connection broke before TLS was agreed on ({_words(error)}): {PLAIN_PORT}"
                raise ConnectionFailed(address.display, reason) from error
        try:
            return await self._greet(line, address, name)
        except ConnectionFailed as error:
            if not error.maybe_executed:
                raise  # a refusal
            raise _broke(address, error) from error.__cause__

    async def _connect(self, address: Address) -> Wire:
        if address.scheme == "unix":
            return self._wire(await _open_unix(address), address)
        try:
            found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = f"the host name cannot be resolved ({_words(error)}): check it, and the network"
            raise ConnectionFailed(address.display, reason) from error
        problems: list[str] = []
        deadline = anyio.current_effective_deadline()
        for index, (family, _, _, _, target) in enumerate(found):
            # Each address gets its share of the time, so that one that drops packets does not prevent the others from being tried.
            share = (deadline - anyio.current_time()) / (len(found) - index)
            with anyio.move_on_after(share):
                try:
                    sock = await _open(family, target)
                except OSError as error:
                    problems.append(f"{target[0]}: {_words(error)}")
                    continue
                return self._wire(sock, address)
            problems.append(f"{target[0]}: no answer")
        reason = f"cannot connect ({'; '.join(problems)}): check host and port, and that the server runs" + _announced(address)
        raise ConnectionFailed(address.display, reason)

    def _wire(self, sock: socket.socket, address: Address) -> Wire:
        buffer = self._buffer = self._buffer or bytearray(RECEIVE_SIZE)
        return Wire(sock, buffer) if self._context is None else SecureWire(sock, buffer, self._context, address.host)


async def _open_unix(address: Address) -> socket.socket:
    try:
        while True:
            try:
                return await _open(socket.AF_UNIX, address.path)
            except BlockingIOError:  # the server's backlog is full
                await anyio.sleep(_RETRY_FULL_BACKLOG)
    except OSError as error:
        reason = f"cannot connect ({_words(error)}): check the path, and that the server runs with this unixsocket"
        raise ConnectionFailed(address.display, reason) from error


async def _open(family: int, target: str | tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    inherited.add(sock)
    try:
        sock.setblocking(False)  # noqa: FBT003 -- as the standard library has it
        if sock.family != getattr(socket, "AF_UNIX", None):
            _tune(sock)
        problem = sock.connect_ex(target)
        if problem in _UNDER_WAY and family != getattr(socket, "AF_UNIX", None):
            await anyio.wait_writable(sock)
            problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))  # noqa: TRY301 -- connect_ex answers with a number
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options: Sequence[tuple[str, int]] = (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
        ("TCP_KEEPALIVE", _KEEPALIVE_IDLE),  # its name on macOS
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
    )
    for name, value in options:
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _broke(address: Address, error: ConnectionFailed) -> ConnectionFailed:
    """Return the error for a connection that broke during log-in, when nothing that matters has been executed."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):  # under TLS 1.3 a server refuses our certificate only now
        return _tls_failed(address, cause)
    reason = error.reason
    if isinstance(cause, PARSE_ERRORS):
        reason = f"the answer is not a Redis server's ({cause}): check host and port, and whether it wants TLS (rediss://)"
    elif address.tls is not None:
        reason += f"; does the server ask for a client certificate ({OUR_CERTIFICATE})? Its alert may be lost when it closes"
    elif isinstance(cause, OSError):
        reason += " before it had answered; does it accept one more client (maxclients)? Its refusal may be lost when it closes"
    return ConnectionFailed(address.display, reason)


def _tls_failed(address: Address, error: ssl.SSLError) -> ConnectionFailed:
    what = getattr(error, "verify_message", "") or error.reason or _words(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"the server's certificate was not accepted ({what}): {_certificate_hint(address, error.verify_code)}"
        return ConnectionFailed(address.display, reason, permanent=True)
    if "CERTIFICATE" in what or "UNKNOWN_CA" in what:
        reason = f"the server did not accept our certificate, or asks for one ({what}): give one that it trusts ({OUR_CERTIFICATE})"
        return ConnectionFailed(address.display, reason, permanent=True)
    return ConnectionFailed(address.display, f"TLS failed ({what}): {PLAIN_PORT}")


def _announced(address: Address) -> str:
    if not address.announced:
        return ""
    return f"; clients may need another address than the announced {address.host}:{address.port} ({address.announced})"


def _certificate_hint(address: Address, code: int) -> str:
    if code in _OTHER_NAME:
        other = f"it is for a name other than {address.host}: "
        if address.announced:
            return f"{other}have the servers announce its names ({address.announced}), or use ssl_check_hostname=false in the URL"
        return f"{other}use the certificate's name in the URL, or ssl_check_hostname=false there"
    if code in _OTHER_TIME:
        return "renew it on the server, and check this machine's clock"
    return "name the file of the authority that signed it with ssl_ca_certs=FILE in the URL"


def _words(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
