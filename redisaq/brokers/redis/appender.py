"""Appending: the producer's hot path.

Input: partitions and fields. Output: entry ids. Invariants: entries are sent in the order given, each to a stream that exists or not at all
(NOMKSTREAM, E5). Nothing is sent twice from here, because an append is the one operation that is not safe to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redisaq.brokers.redis.commands import PASSING, is_sealed, not_now, wrong_type
from redisaq.brokers.redis.keys import Keys
from redisaq.errors import ServerError
from redisaq.link import Caller, pack

USUAL_FIELDS = 4
"""The number of words in a message without extras: `i`, its id, `d`, its payload."""


class _Target:
    """One stream with one way of trimming. The words that all its commands share are packed once."""

    __slots__ = ("stream", "usual", "words")

    def __init__(self, stream: bytes, trimming: Sequence[bytes]) -> None:
        self.stream = stream
        self.words: tuple[bytes, ...] = (b"XADD", stream, b"NOMKSTREAM", *trimming, b"*")
        packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in self.words)
        # Filling a template takes half the time of packing all words again.
        self.usual = b"*%d\r\n" % (len(self.words) + USUAL_FIELDS) + packed.replace(b"%", b"%%") + b"$%d\r\n%b\r\n" * USUAL_FIELDS


class _Targets:
    """A topic's streams with one way of trimming."""

    def __init__(self, keys: Keys, topic: str, trimming: Sequence[bytes], cuts: int) -> None:
        self._keys = keys
        self._topic = topic
        self._trimming = trimming
        self._cuts = cuts
        self._targets: dict[int, _Target] = {}

    def pack(self, entries: Sequence[tuple[int, Sequence[bytes]]]) -> list[bytes]:
        """Return the commands that append the entries."""
        targets = self._targets
        packed: list[bytes] = []
        for partition, fields in entries:
            target = targets.get(partition)
            if target is None:
                target = targets[partition] = _Target(self._keys.stream(self._topic, partition, self._cuts), self._trimming)
            if len(fields) == USUAL_FIELDS:
                a, b, c, d = fields
                packed.append(target.usual % (len(a), a, len(b), b, len(c), c, len(d), d))
            else:
                packed.append(pack([(*target.words, *fields)]))
        return packed

    def key(self, entry: tuple[int, Sequence[bytes]]) -> bytes:
        """Return the key of an entry that was packed: its stream."""
        return self._targets[entry[0]].stream


class Appender:
    """The Broker's `append`."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._targets: dict[tuple[str, int | None, bool, int], _Targets] = {}

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool, cuts: int = 0
    ) -> list[bytes | None]:
        """Append in order; see Broker."""
        if not entries:
            return []
        targets = self._targets.get((topic, maxlen, approximate, cuts))
        if targets is None:
            trimming = () if maxlen is None else (b"MAXLEN", b"~" if approximate else b"=", b"%d" % maxlen)
            targets = self._targets[topic, maxlen, approximate, cuts] = _Targets(self._keys, topic, trimming, cuts)
        replies = cast("list[bytes | ServerError | None]", await self._link.call_keyed(targets.pack(entries), entries, targets.key))
        if any(isinstance(reply, ServerError) for reply in replies):
            return await self._refused(topic, entries, replies, cuts)
        return cast("list[bytes | None]", replies)

    async def _refused(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], replies: list[bytes | ServerError | None], cuts: int
    ) -> list[bytes | None]:
        """Return the answers if no append was refused but those to streams that were cut since (E6); raise the first other refusal."""
        of_wrong_type = sorted({entry[0] for entry, reply in zip(entries, replies, strict=True) if _is_of_wrong_type(reply)})
        sealed = {partition for partition in of_wrong_type if await is_sealed(self._link, self._keys.stream(topic, partition, cuts))}
        answers = [
            None if entry[0] in sealed and _is_of_wrong_type(reply) else reply for entry, reply in zip(entries, replies, strict=True)
        ]
        refusals = [answer for answer in answers if isinstance(answer, ServerError)]
        appended = [None if isinstance(answer, ServerError) else answer for answer in answers]
        if not refusals:
            return appended
        refusal = next((answer for answer in refusals if answer.code not in PASSING), None)
        if refusal is None:  # what was refused may be sent again, unless a later one of its stream was appended (C3)
            passing = not_now(refusals[0], self._link)
            if any(appended):
                passing.appended = appended
            raise passing
        if refusal.code == "WRONGTYPE":
            partition, _ = entries[answers.index(refusal)]
            raise wrong_type(self._keys.stream(topic, partition, cuts), refusal, appended=appended)
        raise type(refusal)(refusal.text, appended=appended)


def _is_of_wrong_type(reply: bytes | ServerError | None) -> bool:
    return isinstance(reply, ServerError) and reply.code == "WRONGTYPE"
