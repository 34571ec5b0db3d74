"""Parse the URL of a server, of a cluster or of sentinels into addresses.

The input is an URL (`redis://`, `rediss://`, `unix://`, or those of several servers: `redis+cluster://`, `redis+sentinel://` and both with
`rediss+`) and the caller's TLS files. The output is frozen, or a SettingsError that says what is wrong. The error does not repeat the URL,
because a mistyped URL may hold its password in an unexpected place. An address never shows its passwords.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from redisaq.errors import SettingsError

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
SEVERAL = ("redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
"""Schemes of URLs that name several servers."""

_COMMON_OPTIONS = frozenset({"db", "username", "password", "socket_connect_timeout"})
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
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
        connect_timeout: seconds that connecting and logging in may take; None if the URL does not say it.
        shown: the text that errors show instead of the URL.
        announced: if another server announced host and port: the settings that make it announce others; "" otherwise.
    """

    scheme: str = "redis"
    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: TLSOptions | None = None
    connect_timeout: float | None = None
    shown: str = ""
    announced: str = ""

    @property
    def display(self) -> str:
        """The URL without the password."""
        if self.shown:
            return self.shown
        user = f"{quote(self.username, safe='')}@" if self.username else ""
        if self.scheme == "unix":
            return f"unix://{user}{self.path}" + (f"?db={self.database}" if self.database else "")
        return f"{self.scheme}://{user}{_host_and_port(self)}/{self.database}"

    def __str__(self) -> str:
        """Return `display`."""
        return self.display


@dataclass(frozen=True)
class ClusterAddress:
    """A cluster.

    Attributes:
        seeds: nodes that know the others; user, password and TLS files are the same for every node.
        display: the URL without the password.
    """

    seeds: tuple[Address, ...]
    display: str


@dataclass(frozen=True)
class SentinelAddress:
    """A server with replicas, and the sentinels that know which of them is the master.

    Attributes:
        sentinels: where to ask, with the credentials for sentinels.
        service: the name under which the sentinels know the server.
        master: user, password, database and TLS files for the master; the sentinels know host and port.
        display: the URL without passwords.
    """

    sentinels: tuple[Address, ...]
    service: str
    master: Address
    display: str


def parse_url(url: str) -> Address | ClusterAddress | SentinelAddress:
    """Parse any URL of real servers.

    Args:
        url: as for `parse_address`; or `redis+cluster://[user:password@]host[:port],host[:port]...`; or
            `redis+sentinel://[user:password@]sentinel[:port],sentinel[:port].../service[/database]`, where user and password are for the
            master, and the options `sentinel_username` and `sentinel_password` for the sentinels. With `rediss+` every server speaks TLS.

    Raises:
        SettingsError: the URL is not valid.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SEVERAL:
        return parse_address(url)
    base, _, kind = scheme.partition("+")
    user, hosts, path, options = _take_apart(scheme, rest)
    words = [part for part in path.strip("/").split("/") if part]
    service = unquote(words.pop(0)) if kind == "sentinel" and words else ""
    if kind == "sentinel" and (not service or len(words) > 1):
        raise SettingsError("the URL names a service and perhaps a database after its sentinels: redis+sentinel://host1,host2/service/0")
    query = "&".join(option for option in options if option.partition("=")[0] not in _SENTINEL_OPTIONS)

    def parse(host: str) -> Address:
        return parse_address(f"{base}://{user}{host}/{'/'.join(words)}" + (f"?{query}" if query else ""))

    if kind == "cluster":
        seeds = tuple(parse(host) for host in hosts)
        if seeds[0].database:
            raise SettingsError("a cluster has one database, 0: leave the number out of the URL")
        return ClusterAddress(seeds, _display(scheme, seeds, user_of=seeds[0]))
    given = dict(reversed(parse_qsl("&".join(options))))
    name, password = given.get("sentinel_username"), given.get("sentinel_password")
    found = [parse(host if _has_port(host) else f"{host}:{SENTINEL_PORT}") for host in hosts]
    display = _display(scheme, found, user_of=found[0]) + f"/{quote(service, safe='')}/{found[0].database}"
    sentinels = tuple(
        replace(one, username=name, password=password, database=0, shown=f"{scheme}://{_host_and_port(one)}/{quote(service, safe='')}")
        for one in found
    )
    return SentinelAddress(sentinels, service, replace(found[0], host="", port=0, shown=display), display)


def parse_address(url: str) -> Address:
    """Parse the URL of one server into an Address.

    Args:
        url: `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or
            `unix://[user:password@]/path[?db=database]`. User and password are percent-encoded. Options may follow a `?`: `db`, `username`,
            `password`, `socket_connect_timeout`, and with `rediss://` also `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`
            (`required` or `none`) and `ssl_check_hostname` (`true` or `false`).

    Raises:
        SettingsError: the URL is not valid.
    """
    scheme = _check_scheme(url)
    parts, options = _split(url, scheme)
    of_unix = scheme == "unix"
    return Address(
        scheme=scheme,
        host="" if of_unix else unquote(parts.hostname or "localhost"),
        port=DEFAULT_PORT if of_unix else parts.port or DEFAULT_PORT,
        path=unquote(parts.path) if of_unix else "",
        username=unquote(parts.username) if parts.username else options.get("username"),
        password=unquote(parts.password) if parts.password else options.get("password"),
        database=_database(options.get("db") or ("" if of_unix else parts.path.removeprefix("/")) or "0"),
        tls=_tls(options) if scheme == "rediss" else None,
        connect_timeout=_timeout(options["socket_connect_timeout"]) if "socket_connect_timeout" in options else None,
    )


def _check_scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if scheme in SEVERAL:
        raise SettingsError(f"{scheme}:// names several servers, and one is needed here: use redis://, rediss:// or unix://")
    if not separator or scheme not in {"redis", "rediss", "unix"}:
        raise SettingsError("a server's URL begins with redis://, rediss:// or unix://")
    return scheme


def _take_apart(scheme: str, rest: str) -> tuple[str, list[str], str, list[str]]:
    """Return user and password with their @, the hosts, the path, and the options of an URL of several servers."""
    problem = _find_unencoded(rest, rest.partition("#")[2])
    rest, _, query = rest.partition("?")
    options = query.split("&") if query else []
    authority, slash, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    try:
        parsed = dict(reversed(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))))
        problem = problem or _find_option_problem(scheme, parsed)
    except ValueError:
        problem = "the URL's options cannot be read: after the ? they are written name=value&name=value"
    if not problem and "@" in path:
        problem = "the URL holds an @ after its first /: in user or password, / is written %2F and @ is written %40"
    if not problem and not all(host.strip() for host in hosts.split(",")):
        problem = f"the URL names no host, or a comma too many: {scheme}://host1:port1,host2:port2"
    if problem:
        raise SettingsError(problem)  # outside of the except clause; see `_split`
    return user + at, hosts.split(","), slash + path, options


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _host_and_port(address: Address) -> str:
    return f"{f'[{address.host}]' if ':' in address.host else address.host}:{address.port}"


def _display(scheme: str, servers: Sequence[Address], *, user_of: Address) -> str:
    user = f"{quote(user_of.username, safe='')}@" if user_of.username else ""
    return f"{scheme}://{user}{','.join(map(_host_and_port, servers))}"


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
    if problem := _find_unencoded(url, parts.fragment):
        return problem
    path = parts.path.removeprefix("/")
    if parts.scheme == "unix":
        return "the URL names no absolute path: unix:///path/to/socket has three slashes" if parts.hostname or not path else None
    return _find_server_problem(parts, path, port)


def _find_unencoded(url: str, fragment: str) -> str | None:
    if any(character <= " " or character == "\x7f" for character in url):
        return "the URL holds a space or a control character: percent-encode it"
    return "the URL holds a #: in user or password it is written %23" if fragment else None


def _find_server_problem(parts: SplitResult, path: str, port: int | None) -> str | None:
    if parts.netloc and not parts.hostname:
        return "the URL names no host"
    if port == 0:  # a greater one than there is cannot be read
        return "the URL's port must be from 1 to 65535"
    if path and not path.isdecimal():
        return "the URL's path must be a database number, as in redis://localhost:6379/0"
    return None


def _find_option_problem(scheme: str, options: Mapping[str, str]) -> str | None:
    allowed = _COMMON_OPTIONS
    if scheme.startswith("rediss"):
        allowed |= _TLS_OPTIONS
    if scheme.endswith("+sentinel"):
        allowed |= _SENTINEL_OPTIONS
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


def _timeout(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise SettingsError("the URL's option socket_connect_timeout is a positive number of seconds, such as 2.5")


def _tls(options: Mapping[str, str]) -> TLSOptions:
    ca_file, cert_file, key_file = (options.get(name) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
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
