"""Deltas: a member that knows the document before a change hears the change alone (M10)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Heartbeat
from redisaq.brokers.terms import GroupName
from redisaq.core.deltas import KEPT, SMALL, apply_delta, delta_of
from redisaq.core.membership import EMPTY, Document, join
from tests.conformance.steps import commit_document
from tests.conformance.worlds import RedisWorld, World

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

TTL = 1000.0


def crowded(*incarnations: str) -> Document:
    """Return a document that is long enough for deltas."""
    document = EMPTY
    for incarnation in incarnations:
        document = join(document, name=None, incarnation=incarnation, partitions=2 * SMALL)
    return document


async def test_a_member_that_knows_the_document_before_hears_what_changed(a: Broker, b: Broker, group: GroupName) -> None:
    """Also over several changes; a member that is not sure to know one of the latest versions gets the whole document."""
    documents = [crowded(*"ABCDEFGH"[: count + 1]) for count in range(8)]
    first = await commit_document(a, group, "A", TTL, known_version="", document=documents[0], joins=True)
    assert first is not None
    versions = [first]
    for before, after in pairwise(documents):
        done = await commit_document(a, group, "A", TTL, known_version=versions[-1], document=after, delta=delta_of(before, after))
        assert done is not None
        versions.append(done)
    for known in (2, 5, 7):
        beat = await b.do(Heartbeat(group, "A", TTL, versions[known]))
        assert (beat.version, beat.document, beat.damaged, len(beat.deltas)) == (versions[-1], None, False, 7 - known)
        document: Document | None = documents[known]
        for delta in beat.deltas:
            assert document is not None
            document = apply_delta(document, delta)
        assert document == documents[-1]
    for unknown in ("", "another"):
        beat = await b.do(Heartbeat(group, "A", TTL, unknown))
        assert (beat.document, beat.deltas) == (documents[-1], ())


async def test_a_change_without_a_delta_is_answered_by_the_document(a: Broker, group: GroupName) -> None:
    """Members of older versions write none; what is there then leads to no document that is."""
    one, two, three = crowded("A"), crowded("A", "B"), crowded("A", "B", "C")
    first = await commit_document(a, group, "A", TTL, known_version="", document=one, joins=True)
    assert first is not None
    second = await commit_document(a, group, "A", TTL, known_version=first, document=two, delta=delta_of(one, two))
    assert second is not None
    third = await commit_document(a, group, "A", TTL, known_version=second, document=three)
    assert third is not None
    for known in (first, second):
        beat = await a.do(Heartbeat(group, "A", TTL, known))
        assert (beat.version, beat.document, beat.deltas) == (third, three, ())


async def test_only_the_latest_deltas_are_kept(world: World, a: Broker, group: GroupName) -> None:
    """And nobody gets more of them, even if it is lost which ones are kept. Where nothing changes any more, they go."""
    one = replace(crowded("A"), token={0: 6})
    documents = [one, replace(one, epoch=one.epoch + 1, token={0: 7})]
    known = await commit_document(a, group, "A", TTL, known_version="", document=documents[0], joins=True)
    versions: list[str] = []
    for number in range(KEPT + 2):
        before, after = documents[number % 2], documents[(number + 1) % 2]
        assert known is not None
        versions.append(known)
        known = await commit_document(a, group, "A", TTL, known_version=known, document=after, delta=delta_of(before, after))
    assert len((await a.do(Heartbeat(group, "A", TTL, versions[2]))).deltas) == KEPT
    for forgotten in versions[:2]:
        assert (await a.do(Heartbeat(group, "A", TTL, forgotten))).document == documents[0]
    if isinstance(world, RedisWorld):
        key = world.group_key(group, "deltas")
        assert world.command("HLEN", key) == KEPT + 1
        assert 0 < world.command("PTTL", key) <= 60_000
        world.command("HDEL", key, "")
        assert known is not None
        more = delta_of(documents[0], documents[1])
        assert await commit_document(a, group, "A", TTL, known_version=known, document=documents[1], delta=more) is not None
        assert (await a.do(Heartbeat(group, "A", TTL, versions[2]))).document == documents[1]
