"""URLs become Addresses; what cannot work is refused in words, and a password is never shown."""

from __future__ import annotations

import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from redisaq.errors import SettingsError
from redisaq.link import Address, ClusterAddress, SentinelAddress, TLSOptions, parse_address, parse_url
from redisaq.link.dial import CONNECT_WITHIN

SECRET = "s3cr3t"  # noqa: S105 -- not one


def test_defaults() -> None:
    assert parse_address("redis://") == Address(scheme="redis", host="localhost", port=6379, database=0)
    assert parse_address("redis://example") == Address(host="example")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://host:7000/3", Address(host="host", port=7000, database=3)),
        ("redis://host?db=4", Address(host="host", database=4)),
        ("redis://:pw@host", Address(host="host", password="pw")),  # noqa: S106
        ("redis://me:p%40%2F%3A%23w@host/1", Address(host="host", username="me", password="p@/:#w", database=1)),  # noqa: S106
        ("redis://u%20v:a+b@host", Address(host="host", username="u v", password="a+b")),  # noqa: S106
        ("redis://[::1]:7000/2", Address(host="::1", port=7000, database=2)),
        ("redis://host:1", Address(host="host", port=1)),
        ("redis://host:65535", Address(host="host", port=65535)),
        ("redis://host?socket_connect_timeout=0.5", Address(host="host", connect_timeout=0.5)),
        ("unix:///tmp/a%20b.sock?db=2", Address(scheme="unix", host="", path="/tmp/a b.sock", database=2)),  # noqa: S108
        ("unix://me:pw@/run/s", Address(scheme="unix", host="", path="/run/s", username="me", password="pw")),  # noqa: S106
        ("rediss://host", Address(scheme="rediss", host="host", tls=TLSOptions())),
        (
            "rediss://host?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            Address(scheme="rediss", host="host", tls=TLSOptions(ca_file="/ca.pem", cert_file="/c.pem", key_file="/k.pem")),
        ),
        ("rediss://host?ssl_cert_reqs=none", Address(scheme="rediss", host="host", tls=TLSOptions(verify=False, check_hostname=False))),
        ("rediss://host?ssl_check_hostname=false", Address(scheme="rediss", host="host", tls=TLSOptions(check_hostname=False))),
    ],
)
def test_parts(url: str, wanted: Address) -> None:
    assert parse_address(url) == wanted


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://HOST.Example:7000", {"host": "host.example", "port": 7000}),
        ("redis://a%2Fb:7000", {"host": "a/b", "port": 7000}),
        ("redis://[FE80::1%25eth0]", {"host": "fe80::1%eth0"}),
        ("redis://me@host", {"host": "host", "username": "me"}),
        ("redis://me:@host", {"host": "host", "username": "me"}),
        ("redis://:@host", {"host": "host"}),
        ("redis://a:b:c@host", {"host": "host", "username": "a", "password": "b:c"}),
        ("redis://a@b:c@host", {"host": "host", "username": "a@b", "password": "c"}),
        ("redis://me:%70%77@host", {"host": "host", "username": "me", "password": "pw"}),
        ("redis://host?username=me&password=a%2Bb+c%2520", {"host": "host", "username": "me", "password": "a+b c%20"}),
        ("redis://me:pw@host?username=you&password=no", {"host": "host", "username": "me", "password": "pw"}),
        ("redis://host/3?db=4", {"host": "host", "db": 4}),
        ("redis://host?db=4&db=5", {"host": "host", "db": 4}),
        ("redis://host/", {"host": "host"}),
        ("redis://host/007", {"host": "host", "db": 7}),
        ("redis://host?socket_connect_timeout=1e1", {"host": "host", "socket_connect_timeout": 10.0}),
        ("unix:///run/r%C3%A9dis/s?username=me&password=pw", {"path": "/run/rédis/s", "username": "me", "password": "pw"}),
        ("unix:///run/3", {"path": "/run/3"}),
        ("unix:///run/s;x?db=1", {"path": "/run/s;x", "db": 1}),
    ],
)
def test_redis_py_reads_the_same(url: str, wanted: dict[str, Any]) -> None:
    """What `redis.connection.parse_url` of redis-py 8.1 returned, the class of the connection left out."""
    address = parse_address(url)
    said = {
        "host": address.host or None,
        "path": address.path or None,
        "username": address.username,
        "password": address.password,
        "port": address.port,
        "db": address.database,
        "socket_connect_timeout": address.connect_timeout or CONNECT_WITHIN,
    }
    defaults = {"port": 6379, "db": 0, "socket_connect_timeout": 5.0}
    assert {name: value for name, value in said.items() if value is not None} == defaults | wanted


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "begins with redis://"),
        ("localhost:6379", "begins with redis://"),
        ("http://host", "begins with redis://"),
        ("REDIS:/host", "begins with redis://"),
        ("redis+cluster://a:1,b:2", "names several servers"),
        ("redis+sentinel://a,b/service", "names several servers"),
        ("redis://host:port", "cannot be read"),
        ("redis://host:0", "port must be"),
        ("redis://host:65536", "cannot be read"),
        ("redis://host/nonsense", "database number"),
        ("redis://host/-1", "database number"),
        ("redis://host/1/2", "database number"),
        ("redis://host?db=-1", "from 0 on"),
        ("redis://host?db=x", r"\(db\) is a number"),
        ("redis://host?socket_connect_timeout=x", "socket_connect_timeout is a positive number of seconds"),
        (f"redis://host/{'9' * 5000}", "database"),  # more digits than Python reads
        ("redis://host?db=", "has no value"),
        ("redis://host?socket_connect_timeout=0", "positive"),
        ("redis://host?db=1&socket_connect_timeout=", "'socket_connect_timeout' has no value"),
        ("redis://host?socket_connect_timeout=nan", "positive"),
        ("redis://host?socket_connect_timeout=inf", "positive"),
        ("redis://host?max_connections=4", "does not know"),
        ("redis://host?max_connections=", "does not know"),
        ("redis://host?ssl_ca_certs=/x", "does not know"),
        ("rediss://host?ssl_cert_reqs=optional", "must be one of"),
        ("rediss://host?ssl_keyfile=/k", "without a certificate"),
        ("redis://:6379", "no host"),
        ("redis://[::1", "cannot be read"),
        ("redis://ho st", "space or a control"),
        ("redis://host/0\n", "space or a control"),
        ("unix://", "three slashes"),
        ("unix:///", "three slashes"),
        ("unix://tmp/socket", "three slashes"),
        ("redis://host#0", "%23"),
    ],
)
def test_nonsense(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@host",  # unescaped characters in the password shift the parts
        f"redis://:{SECRET}#x@host",
        f"redis://:{SECRET}?x@host",
        f"redis://:{SECRET} @host",
        f"redis://:{SECRET}[@host",
        f"redis://me:{SECRET}@host:port",
        f"redis://me:{SECRET}@host/x",
        f"redis://me:{SECRET}@host?db=x",
        f"http://me:{SECRET}@host",
        f"redis://host?password={SECRET}&db=x",
        f"redis+cluster://me:{SECRET}@a,b/1",
        f"redis+cluster://me:{SECRET}@a,,b",
        f"redis+cluster://me:{SECRET}/x@a,b",
        f"redis+cluster://a,b?sentinel_password={SECRET}",
        f"redis+sentinel://me:{SECRET}@a,b",
        f"redis+sentinel://me:{SECRET},x@a,b:port/main",
        f"redis+sentinel://a,b?sentinel_password={SECRET}",
        f"redis+sentinel://a,b/main?sentinel_password={SECRET}&db=x",
        f"redis+sentinel://a,b/main?sentinel_password={SECRET}&{SECRET}",
        f"redis+sentinel://a,b/main?sentinel_password={SECRET} x",
        f"redis+sentinel://me:123/{SECRET}@a",
    ],
)
def test_an_error_never_shows_the_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None or SECRET not in str(caught.value.__context__)


@pytest.mark.parametrize(
    ("url", "display"),
    [
        (f"redis://:{SECRET}@host", "redis://host:6379/0"),
        (f"redis://me:{SECRET}@host:7000/2", "redis://me@host:7000/2"),
        (f"rediss://me:{SECRET}@[::1]:7000/2", "rediss://me@[::1]:7000/2"),
        (f"redis://host?password={SECRET}", "redis://host:6379/0"),
        (f"unix://me:{SECRET}@/run/s?db=3", "unix://me@/run/s?db=3"),
        ("unix:///run/s", "unix:///run/s"),
    ],
)
def test_display_and_repr_hide_the_password(url: str, display: str) -> None:
    address = parse_address(url)
    assert address.display == str(address) == display
    assert SECRET not in repr(address)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(username=texts, password=texts, port=st.integers(1, 65535), database=st.integers(0, 10**6))
def test_what_is_percent_encoded_arrives(username: str, password: str, port: int, database: int) -> None:
    url = f"redis://{quote(username, safe='')}:{quote(password, safe='')}@host:{port}/{database}"
    address = parse_address(url)
    assert (address.username, address.password, address.port, address.database) == (username, password, port, database)
    assert parse_address(address.display).username == username


@given(st.text(max_size=40), st.sampled_from(["redis://", "rediss://", "unix://", ""]))
def test_any_text_is_an_address_or_a_settings_error(text: str, scheme: str) -> None:
    try:
        address = parse_address(scheme + text)
    except SettingsError:
        return
    assert address.scheme == scheme.removesuffix("://")


def test_a_cluster_has_seeds_with_the_same_credentials() -> None:
    cluster = parse_url(f"rediss+cluster://me:{SECRET}@a:7000,b,[::1]:7001/0?ssl_ca_certs=/ca.pem&socket_connect_timeout=2")
    assert isinstance(cluster, ClusterAddress)
    assert [(seed.host, seed.port) for seed in cluster.seeds] == [("a", 7000), ("b", 6379), ("::1", 7001)]
    assert {(seed.scheme, seed.username, seed.password, seed.tls, seed.connect_timeout) for seed in cluster.seeds} == {
        ("rediss", "me", SECRET, TLSOptions(ca_file="/ca.pem"), 2.0)
    }
    assert cluster.display == "rediss+cluster://me@a:7000,b:6379,[::1]:7001"
    assert SECRET not in repr(cluster)
    single = parse_url("redis+cluster://me@a")
    assert isinstance(single, ClusterAddress)
    assert [seed.display for seed in single.seeds] == ["redis://me@a:6379/0"]


def test_sentinels_have_credentials_of_their_own() -> None:
    url = f"redis+sentinel://me:{SECRET}@a,b:7000/my%20main/3?sentinel_username=guard&sentinel_password=0{SECRET}&socket_connect_timeout=2"
    address = parse_url(url)
    assert isinstance(address, SentinelAddress)
    assert address.service == "my main"
    assert [(one.host, one.port, one.username, one.password, one.database) for one in address.sentinels] == [
        ("a", 26379, "guard", f"0{SECRET}", 0),
        ("b", 7000, "guard", f"0{SECRET}", 0),
    ]
    master = address.master
    assert (master.username, master.password, master.database, master.connect_timeout) == ("me", SECRET, 3, 2.0)
    assert (master.host, master.port) == ("", 0), "the sentinels know"
    assert address.display == master.display == "redis+sentinel://me@a:26379,b:7000/my%20main/3"
    assert str(address.sentinels[0]) == "redis+sentinel://a:26379/my%20main"
    assert SECRET not in repr(address)
    without = parse_url(f"redis+sentinel://:{SECRET}@a/main")
    assert isinstance(without, SentinelAddress)
    assert without.sentinels[0].password is None


def test_a_single_server_is_an_address() -> None:
    assert parse_url("redis://host:7000/3") == parse_address("redis://host:7000/3")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+cluster://a,b/1", "one database, 0"),
        ("redis+cluster://a,b?db=1", "one database, 0"),
        ("redis+cluster://a,b/x", "database number"),
        ("redis+cluster://", "names no host"),
        ("redis+cluster://a,,b", "comma too many"),
        ("redis+cluster://a:x,b", "cannot be read"),
        ("redis+cluster://a,b?sentinel_password=x", r"redis\+cluster:// does not know: 'sentinel_password'"),
        ("redis+cluster://a,b?ssl_ca_certs=/x", "does not know"),
        ("redis+cluster://a,b#x", "%23"),
        ("redis+sentinel://a,b", "names a service"),
        ("redis+sentinel://a,b/", "names a service"),
        ("redis+sentinel://a,b/main/0/1", "names a service"),
        ("redis+sentinel://a,b/main/x", "database number"),
        ("redis+sentinel://a:0,b/main", "port must be"),
        ("redis+sentinel://a,b/main?sentinel_password=", "has no value"),
        ("redis+sentinel://a,b/main?sentinel_password", "cannot be read"),
        ("unix+sentinel://a/main", "begins with redis://"),
    ],
)
def test_nonsense_about_several_servers(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_url(url)
