"""Deltas of the group's document (M10): the earlier document and the delta make the later one, whatever changed."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from redisaq.core import deltas
from redisaq.core.deltas import Delta, apply_delta, delta_of, encode_delta, read_delta
from redisaq.core.membership import EMPTY, Document, advance, encode_document, enter_unable, join, leave, raise_token, release


def changed(document: Document, random: Random, now: int) -> Document:
    """Return the document after something has happened to it."""
    incarnations = [entry.incarnation for entry in document.members.values()]
    if not incarnations or random.random() < 0.3:
        return join(document, name=None, incarnation=f"i{now}", partitions=max(document.partitions, random.randrange(1, 90)))
    who = random.choice(incarnations)
    some = random.sample(range(document.partitions), k=min(3, document.partitions))
    match random.randrange(6):
        case 0:
            return leave(document, incarnation=who)
        case 1:
            return release(document, incarnation=who, partitions=some)
        case 2:
            return enter_unable(document, incarnation=who, partitions=some, now=now)
        case 3:
            return raise_token(document, incarnation=who, partition=some[0], above=now, now=now) or document
        case 4:
            expired = [one for one in incarnations if one != who][:2]
            step = advance(document, incarnation=who, now=now, expired=expired, partitions=document.partitions, frozen=False)
        case _:
            step = advance(document, incarnation=who, now=now, expired=(), partitions=document.partitions + 1, frozen=False)
    return step.document or document


def test_a_document_and_a_delta_make_the_next_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "SMALL", 0)
    for seed in range(30):
        random, document = Random(seed), EMPTY
        for now in range(1, 30):
            after = changed(document, random, now)
            delta = delta_of(document, after)
            assert delta is not None
            assert apply_delta(document, delta) == after
            assert read_delta(encode_delta(delta, bytes(1 << 20))) == delta
            assert after is document or apply_delta(after, delta) is None, "it is not a delta of that document"
            document = after


def test_a_small_document_has_none() -> None:
    document = join(EMPTY, name=None, incarnation="a", partitions=deltas.SMALL - 1)
    assert delta_of(EMPTY, document) is None
    assert delta_of(document, join(document, name=None, incarnation="b", partitions=deltas.SMALL - 1)) is not None


def test_a_delta_that_is_no_shorter_is_not_sent() -> None:
    document = join(EMPTY, name=None, incarnation="a", partitions=100)
    delta = delta_of(EMPTY, document)
    assert delta is not None
    assert encode_delta(delta, encode_document(document)) == b""
    assert encode_delta(None, encode_document(document)) == b""


DAMAGED = {
    "no msgpack": b"\xc1",
    "partitions": msgspec.msgpack.encode(Delta(1, 2, -1)),
    "epoch": msgspec.msgpack.encode(Delta(1, 1 << 60, 9)),
    "number": msgspec.msgpack.encode(Delta(1, 2, 9, lease={-1: "a"})),
    "token": msgspec.msgpack.encode(Delta(1, 2, 9, token={0: 1 << 60})),
    "no token": msgspec.msgpack.encode(Delta(1, 2, 9, token={0: None})),
    "time": msgspec.msgpack.encode(Delta(1, 2, 9, unable={0: {"a": -1}})),
    "target": msgspec.msgpack.encode(Delta(1, 2, 9, target={9: "a"})),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_delta(data: bytes) -> None:
    """What counts as damage in a document counts as damage in a delta."""
    assert read_delta(data) is None


def test_a_delta_that_fits_no_such_document() -> None:
    document = join(EMPTY, name=None, incarnation="a", partitions=9)
    assert apply_delta(document, Delta(document.epoch, 2, 9, lease={0: "a"})) is None, "without a token"
    assert apply_delta(document, Delta(document.epoch, 2, 8)) is None, "partitions do not go"
    both = apply_delta(document, Delta(document.epoch, 2, 9, lease={0: "a", 1: None}, token={0: 7}))
    assert both is not None
    assert (both.lease, both.token) == ({0: "a"}, {0: 7})


def test_a_delta_is_sent_if_it_is_less_than_half_as_long() -> None:
    """M10: a document of 64 members and partitions is read whole; 16 deltas are kept."""
    delta = Delta(1, 2, 99, lease={5: "a"}, token={5: 7})
    encoded = msgspec.msgpack.encode(delta)
    assert encode_delta(delta, bytes(2 * len(encoded))) == b""
    assert encode_delta(delta, bytes(2 * len(encoded) + 1)) == encoded
    assert (deltas.SMALL, deltas.KEPT) == (64, 16)


def test_a_delta_of_what_is_forgotten_is_read() -> None:
    delta = Delta(1, 2, 9, target={8: "a"}, lease={0: None, 8: None}, token={0: 0, 8: 1}, unable={0: None, 8: {"a": 0}})
    assert read_delta(msgspec.msgpack.encode(delta)) == delta
    assert read_delta(msgspec.msgpack.encode(Delta(1, 2, 9, token={0: 1, 1: None}))) is None, "M6: a token stays"
