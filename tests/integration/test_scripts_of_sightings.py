"""What the script answers that counts what trimming took before a group read it: to the entry, on servers that count in two ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from redisaq.brokers.redis.keys import PartitionKeys
from redisaq.brokers.steps.retention import Sight, Sighting
from redisaq.brokers.terms import GroupName
from redisaq.errors import LeaseLostError
from tests.server_fixtures import ServerPool
from tests.still_server import StillServer

GROUP = GroupName("orders", "billing")
TOKEN = 1_600_000_000_123_457
TEN = tuple(f"2-{number}" for number in range(1, 11))

Since = tuple[str, int] | None


@pytest.fixture(params=["valkey9", "redis7"])
def still(request: pytest.FixtureRequest, server_pool: ServerPool, namespace: str) -> Iterator[StillServer]:
    """A server that corrects its count when trimming has passed a group, and one that counts on (Redis 7.0)."""
    still = StillServer(server_pool.shared(request.param), namespace)
    yield still
    still.forget_everything()


@pytest.fixture
def counts_on(still: StillServer) -> bool:
    """Whether the server counts on."""
    return still.server.kind == "redis7"


@pytest.fixture
def share(still: StillServer) -> PartitionKeys:
    """The names of the partition's keys; its stream has ten entries, and another group at its end."""
    share = still.keys.of_partition(GROUP, 0)
    still.server.command("XGROUP", "CREATE", share.stream, "billing", "0", "MKSTREAM")
    still.append(share.stream, *TEN)
    still.server.command("XGROUP", "CREATE", share.stream, "zeal", "$")
    still.put(share.lease, {"token": f"{TOKEN}"})
    return share


def sight(still: StillServer, since: Since = None, read: int = 0, *, token: int = TOKEN) -> tuple[Any, ...]:
    """Return up to where all is counted, the position's ordinal, and how many were lost, after which id, before which."""
    before = None if since is None else Sighting(since[0].encode(), since[1])
    found = still.do(Sight(GROUP, 0, token, before, read))
    return found.position.decode(), found.ordinal, found.lost, found.after.decode(), found.before.decode()


def deliver(still: StillServer, share: PartitionKeys, count: int) -> None:
    still.server.command("XREADGROUP", "GROUP", "billing", "A", "COUNT", count, "STREAMS", share.stream, ">")


def trim(still: StillServer, share: PartitionKeys, left: int) -> None:
    still.command("XTRIM", share.stream, "MAXLEN", "=", left)


def lost(still: StillServer, share: PartitionKeys) -> str | None:
    """Return what the lease keeps of it."""
    found: str | None = still.kept(share.lease).get("lost")
    return found


def entries_read(still: StillServer, share: PartitionKeys) -> object:
    row = next(row for row in still.command("XINFO", "GROUPS", share.stream) if row[1] == "billing")
    return dict(zip(row[::2], row[1::2], strict=True))["entries-read"]


def test_where_nothing_is(still: StillServer, share: PartitionKeys) -> None:
    still.server.command("XGROUP", "DESTROY", share.stream, "billing")
    assert sight(still) == ("", None, 0, "", "")
    still.command("DEL", share.stream)
    assert sight(still) == ("", None, 0, "", "")
    with pytest.raises(LeaseLostError):
        sight(still, token=TOKEN + 1)
    assert still.kept(share.lease) == {"token": f"{TOKEN}"}


def test_one_lost_before_the_first_read(still: StillServer, share: PartitionKeys) -> None:
    assert sight(still) == ("0-0", 0, 0, "", "")
    assert lost(still, share) is None
    trim(still, share, 9)
    assert sight(still) == ("0-0", 1, 1, "0-0", "2-2")
    assert (lost(still, share), entries_read(still, share)) == ("1", 1)
    assert sight(still) == ("0-0", 1, 0, "", "")
    trim(still, share, 6)
    assert sight(still) == ("0-0", 4, 3, "0-0", "2-5")
    assert lost(still, share) == "4"
    assert sight(still, ("0-0", 4)) == ("0-0", 4, 0, "", "")


@pytest.mark.parametrize(("before", "after"), [("8", "9"), ("x", "1")])
def test_a_loss_is_added_to_those_before(still: StillServer, share: PartitionKeys, before: str, after: str) -> None:
    still.command("HSET", share.lease, "lost", before)
    assert sight(still)[1:3] == (0, 0)
    trim(still, share, 9)
    assert sight(still)[2] == 1
    assert lost(still, share) == after


def test_one_lost_between_two_reads(still: StillServer, share: PartitionKeys, counts_on: bool) -> None:
    """A server that counts on shows it at the end of the stream."""
    deliver(still, share, 2)
    assert sight(still, ("0-0", 0), 2) == ("2-2", 2, 0, "", "")
    trim(still, share, 7)
    deliver(still, share, 3)
    assert sight(still, ("2-2", 2), 3) == (("2-2", 5, 0, "", "") if counts_on else ("2-2", 6, 1, "2-2", "2-4"))
    deliver(still, share, 4)
    standing = 5 if counts_on else 6
    assert sight(still, ("2-2", standing), 4) == ("2-10", 10, *((1, "2-2", "2-4") if counts_on else (0, "", "")))
    assert (lost(still, share), entries_read(still, share)) == ("1", 10)
    assert sight(still, ("2-10", 10)) == ("2-10", 10, 0, "", "")


def test_the_last_ones_lost(still: StillServer, share: PartitionKeys) -> None:
    """All of the stream is gone: there is no id below which they were."""
    deliver(still, share, 9)
    assert sight(still, ("0-0", 0), 9) == ("2-9", 9, 0, "", "")
    trim(still, share, 0)
    assert sight(still, ("2-9", 9)) == ("2-9", 10, 1, "2-9", "")
    assert sight(still, ("2-9", 10)) == ("2-9", 10, 0, "", "")
    assert lost(still, share) == "1"


def test_those_lost_beyond_what_was_read_since(still: StillServer, share: PartitionKeys) -> None:
    """They come after the position, and not after the sighting before."""
    deliver(still, share, 2)
    assert sight(still, ("0-0", 0), 2) == ("2-2", 2, 0, "", "")
    deliver(still, share, 3)
    trim(still, share, 3)
    assert sight(still, ("2-2", 2), 3) == ("2-5", 7, 2, "2-5", "2-8")


def test_a_deletion_makes_what_was_read_since_doubtful(still: StillServer, share: PartitionKeys, counts_on: bool) -> None:
    """On a server that counts on: until the end of the stream, only what was counted before is sure."""
    deliver(still, share, 2)
    assert sight(still, ("0-0", 0), 2) == ("2-2", 2, 0, "", "")
    still.command("XDEL", share.stream, "2-5")
    deliver(still, share, 2)
    assert sight(still, ("2-2", 2), 2)[::2] == ("2-2" if counts_on else "2-4", 0, "")
    assert sight(still)[::2] == ("0-0" if counts_on else "2-4", 0, "")
    deliver(still, share, 9)
    assert sight(still, ("2-2", 2), 7)[::2] == ("2-10", 0, "")


@pytest.mark.parametrize(("version", "counts_on"), [(0x00070300, True), (0x000703FF, True), (0x00070400, False), (0x00080000, False)])
def test_redis_counts_on_before_7_4(server_pool: ServerPool, namespace: str, version: int, counts_on: bool) -> None:
    still = StillServer(server_pool.shared("redis8"), namespace, version=version)
    share = still.keys.of_partition(GROUP, 0)
    still.append(share.stream, *TEN)
    still.server.command("XGROUP", "CREATE", share.stream, "billing", "2-10", "ENTRIESREAD", 8)
    still.put(share.lease, {"token": f"{TOKEN}"})
    assert sight(still) == (("2-10", 10, 2, "0-0", "2-1") if counts_on else ("2-10", 8, 0, "", ""))
    still.forget_everything()
