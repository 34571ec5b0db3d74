"""Parse the URL of a server into an Address.

The input is an URL (`redis://`, `rediss://`, `unix://`) and the caller's TLS files. The output is a frozen Address, or a SettingsError that
says what is wrong. The error does not repeat the URL, because a mistyped URL may hold its password in an unexpected place. An Address never
shows its password.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from redisaq.errors import SettingsError

DEFAULT_PORT = 6379
DEFAULT_CONNECT_TIMEOUT = 5.0
_GREATEST_PORT = 65535
_LATER = {"redis+cluster": "Redis Cluster", "redis+sentinel": "Redis Sentinel"}
_COMMON_OPTIONS = frozenset({"db", "username", "password", "socket_connect_timeout"})
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})


@dataclass(frozen=True)
class TLSOptions:
    """How to authenticate the server and this client.

    Attributes:
        ca_file: PEM file of the authorities to trust; None: those of the system.
        cert_file: PEM file of our own certificate, for servers that ask for one.
        key_file: PEM file of its key, None if it is in cert_file.
        verify: True if the server's certificate must come from a trusted authority.
        check_hostname: True if the certificate must also be for the host of the URL.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    check_hostname: bool = True


@dataclass(frozen=True)
class Address:
    """One server, and the user and database to use there.

    Attributes:
        scheme: "redis", "rediss" or "unix".
        host: name or IP address, "" for unix.
        port: TCP port.
        path: of the socket, for unix.
        username: None for the server's default user.
        password: None to log in without one.
        database: its number.
        tls: None unless the scheme is "rediss".
        connect_timeout: seconds that connecting and logging in may take.
        shown: the text that errors show instead of the URL.
    """

    scheme: str = "redis"
    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: TLSOptions | None = None
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    shown: str = ""

    @property
    def display(self) -> str:
        """The URL without the password."""
        if self.shown:
            return self.shown
        user = f"{quote(self.username, safe='')}@" if self.username else ""
        if self.scheme == "unix":
            return f"unix://{user}{self.path}" + (f"?db={self.database}" if self.database else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{user}{host}:{self.port}/{self.database}"

    def __str__(self) -> str:
        """Return `display`."""
        return self.display


def parse_address(
    url: str,
    *,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
    connect_timeout: float | None = None,
) -> Address:
    """Parse `url` into an Address.

    Args:
        url: `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or
            `unix://[user:password@]/path[?db=database]`. User and password are percent-encoded. Options may follow a `?`: `db`, `username`,
            `password`, `socket_connect_timeout`, and with `rediss://` also `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`
            (`required` or `none`) and `ssl_check_hostname` (`true` or `false`).
        ca_file: PEM file of the authorities to trust, instead of the system's; overrides the URL.
        cert_file: PEM file of our own certificate; overrides the URL.
        key_file: PEM file of its key, if cert_file does not hold it; overrides the URL.
        connect_timeout: seconds that connecting and logging in may take; overrides the URL. The default is 5.

    Raises:
        SettingsError: the URL is not valid.
    """
    scheme = _check_scheme(url)
    parts, options = _split(url, scheme)
    timeout = _timeout(options) if connect_timeout is None else connect_timeout
    if not 0 < timeout < float("inf"):
        raise SettingsError("the connect timeout must be a positive number of seconds")
    files = (ca_file or options.get("ssl_ca_certs"), cert_file or options.get("ssl_certfile"), key_file or options.get("ssl_keyfile"))
    of_unix = scheme == "unix"
    return Address(
        scheme=scheme,
        host="" if of_unix else unquote(parts.hostname or "localhost"),
        port=DEFAULT_PORT if of_unix else parts.port or DEFAULT_PORT,
        path=unquote(parts.path) if of_unix else "",
        username=unquote(parts.username) if parts.username else options.get("username"),
        password=unquote(parts.password) if parts.password else options.get("password"),
        database=_database(options.get("db") or ("" if of_unix else parts.path.removeprefix("/")) or "0"),
        tls=_tls(scheme, options, *files),
        connect_timeout=timeout,
    )


def _check_scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if scheme in _LATER:
        raise SettingsError(f"{_LATER[scheme]} ({scheme}://) is not supported yet; use redis://, rediss:// or unix:// with a single server")
    if not separator or scheme not in {"redis", "rediss", "unix"}:
        raise SettingsError("a server's URL begins with redis://, rediss:// or unix://")
    return scheme


def _split(url: str, scheme: str) -> tuple[SplitResult, dict[str, str]]:
    """Return the parts, and the options after the question mark. If an option is given twice, the first one counts."""
    try:
        parts = urlsplit(url)
        options = dict(reversed(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))))
        port = parts.port
    except ValueError:
        problem = "the URL cannot be read: check host and port, and percent-encode special characters of user and password"
    else:
        found = _find_problem(url, parts, port) or _find_option_problem(scheme, options)
        if not found:
            return parts, options
        problem = found
    # Raised outside the except clause, so that the original error does not become the context: its text may quote a piece of the password.
    raise SettingsError(problem)


def _find_problem(url: str, parts: SplitResult, port: int | None) -> str | None:
    if any(character <= " " or character == "\x7f" for character in url):
        return "the URL holds a space or a control character: percent-encode it"
    if parts.fragment:
        return "the URL holds a #: in user or password it is written %23"
    path = parts.path.removeprefix("/")
    if parts.scheme == "unix":
        return "the URL names no absolute path: unix:///path/to/socket has three slashes" if parts.hostname or not path else None
    return _find_server_problem(parts, path, port)


def _find_server_problem(parts: SplitResult, path: str, port: int | None) -> str | None:
    if parts.netloc and not parts.hostname:
        return "the URL names no host"
    if port is not None and not 0 < port <= _GREATEST_PORT:
        return "the URL's port must be from 1 to 65535"
    if path and not path.isdecimal():
        return "the URL's path must be a database number, as in redis://localhost:6379/0"
    return None


def _find_option_problem(scheme: str, options: Mapping[str, str]) -> str | None:
    allowed = _COMMON_OPTIONS | _TLS_OPTIONS if scheme == "rediss" else _COMMON_OPTIONS
    if unknown := sorted(set(options) - allowed):
        return f"the URL has an option that {scheme}:// does not know: {unknown[0]!r}; known are {', '.join(sorted(allowed))}"
    if empty := sorted(name for name, value in options.items() if not value):
        return f"the URL's option {empty[0]!r} has no value"
    return None


def _database(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 0:
            return number
    raise SettingsError("the URL's database (db) is a number from 0 on, as in redis://localhost:6379/0 or unix:///path/to/socket?db=0")


def _timeout(options: Mapping[str, str]) -> float:
    with contextlib.suppress(ValueError):
        return float(options.get("socket_connect_timeout", DEFAULT_CONNECT_TIMEOUT))
    raise SettingsError("the URL's option socket_connect_timeout is a number of seconds")


def _tls(scheme: str, options: Mapping[str, str], ca_file: str | None, cert_file: str | None, key_file: str | None) -> TLSOptions | None:
    if scheme != "rediss":
        if ca_file or cert_file or key_file:
            raise SettingsError(f"certificates are of no use with {scheme}://: use rediss://")
        return None
    if key_file and not cert_file:
        raise SettingsError("a key file without a certificate file: give both, or a certificate file that holds the key too")
    verify = _choice(options, "ssl_cert_reqs", {"required": True, "none": False})
    check_hostname = verify and _choice(options, "ssl_check_hostname", {"true": True, "false": False})
    return TLSOptions(ca_file=ca_file, cert_file=cert_file, key_file=key_file, verify=verify, check_hostname=check_hostname)


def _choice(options: Mapping[str, str], name: str, values: Mapping[str, bool]) -> bool:
    value = options.get(name, next(iter(values))).lower()
    if value not in values:
        raise SettingsError(f"the URL's option {name} must be one of {', '.join(values)}")
    return values[value]
