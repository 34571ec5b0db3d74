"""Between a message and the fields of its stream entry.

Fields are few, short and always in the same order, so that the server stores their names once a node: `i` message id, `d` payload, then
only what is set: `k` key, `h` headers (JSON), `t` timeout in seconds, `c` time of creation in milliseconds. Whatever else an entry holds
makes it foreign: it is reported, never guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

import msgspec

from redisaq.callables import unrun
from redisaq.core.in_flight import Flight
from redisaq.core.payloads import check, decoder_for, encode, encode_json, text_of_value
from redisaq.core.records import Unreadable
from redisaq.describing import name_of, shown, text_of
from redisaq.errors import PartitionKeyError, SerializationError
from redisaq.message import Message

T = TypeVar("T")

Serializer = Callable[[Any], str | bytes]
Deserializer = Callable[[bytes], Any]

NOT_SERIALIZED = (TypeError, ValueError, OverflowError, LookupError, AttributeError, RecursionError, msgspec.MsgspecError)
"""What is raised where a payload cannot be written."""

_headers_decoder = msgspec.json.Decoder(dict[str, str])
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_PLAIN = 4  # fields and values of a message with nothing but its id and its payload …
_KEYED = 6  # … and of one that has a key, too
_KNOWN = frozenset((b"i", b"d", b"k", b"h", b"t", b"c"))


def serialize(payload: object, serializer: Serializer | None) -> bytes:
    """Return the payload as bytes.

    Args:
        payload: it.
        serializer: of the user's; None: JSON.

    Raises:
        SerializationError: the serializer refused it, or returned neither str nor bytes; or JSON has no form for something in it.
    """
    try:
        if serializer is None:
            kind = type(payload)
            encoded = encode_json(payload) if kind is dict else encode(payload)  # most are, and save a call
            check(payload, encoded)
            data: str | bytes = encoded
        else:
            data = serializer(payload)
    except SerializationError:
        raise
    except NOT_SERIALIZED as error:
        reason = f"a payload of type {type(payload).__name__} cannot be serialized: {text_of(error)}"
        raise SerializationError(reason) from error
    if type(data) is bytes:  # nearly always, and each message pays for what follows
        return data
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise SerializationError(f"the serializer returned a text that cannot be written as UTF-8: {error}") from error
    if isinstance(data, bytes | bytearray | memoryview):  # pyright: ignore[reportUnnecessaryIsInstance] -- the serializer is the user's
        return bytes(data)
    reason = f"the serializer returned {unrun(data) or type(data).__name__}; it must return str or bytes"
    raise SerializationError(reason)


def key_of(payload: object, partition_key: str) -> str:
    """Return the text that decides the partition: the payload's field of that name.

    It is the text that stands in JSON for the field, without quotes: the same text is the same key, whatever the field's type.

    Raises:
        PartitionKeyError: there is no such field, or it is None.
    """
    if isinstance(payload, Mapping):
        fields = cast("Mapping[str, object]", payload)
        value, there = fields.get(partition_key), partition_key in fields
    else:
        value = getattr(payload, partition_key, None)
        there = hasattr(payload, partition_key)
    if value is None:
        reason = f"the payload's field {shown(partition_key)} is None" if there else f"the payload has no field {shown(partition_key)}"
        raise PartitionKeyError(partition_key, reason)
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration's member is no key, its text is
    if type(value) is int:
        return str(value)
    try:
        return text_of_value(value, f"the payload's field {shown(partition_key)}")
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        reason = f"the payload's field {shown(partition_key)} is no key: {text_of(error)}"
        raise SerializationError(reason) from error


def extra_fields(*, key: str | None, headers: Mapping[str, str] | None, timeout: float | None, created_ms: int = 0) -> list[bytes]:
    """Return the fields after `i` and `d`.

    Raises:
        SerializationError: headers that are not str to str.
    """
    fields: list[bytes] = []
    if key is not None:
        fields += (b"k", key.encode())
    if headers:
        fields += (b"h", _headers_as_json(headers))
    if timeout is not None:
        fields += (b"t", repr(float(timeout)).encode())
    if created_ms:
        fields += (b"c", str(created_ms).encode())
    return fields


def _headers_as_json(headers: object) -> bytes:
    """Return them as JSON; SerializationError unless they are text to text."""
    if not isinstance(headers, Mapping):
        raise SerializationError(f"headers must map str to str, not be a {type(headers).__name__}")
    pairs: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SerializationError("headers must map str to str")
        pairs[str.__str__(name)] = str.__str__(value)
    try:
        return encode_json(pairs)
    except UnicodeEncodeError as error:
        raise SerializationError(f"headers must be text that can be written as UTF-8: {error}") from error


class EntryDecoder(Generic[T]):
    """Turns the entries of one topic into messages."""

    def __init__(self, topic: str, deserializer: Deserializer | None = None, payload_type: object = None) -> None:
        """Take how payloads are read: `deserializer` gets bytes; `payload_type` is what the result must be."""
        self.topic = topic
        self._payload = decoder_for(payload_type, deserializer)

    def decode(self, entry_id: bytes, fields: Sequence[bytes], partition: int, token: int) -> Flight | Unreadable:
        """Return the message as the record of one in flight, with attempt 1, or why there is none."""
        extra: dict[bytes, bytes] | None = None
        key: bytes | None = None
        count = len(fields)
        if count == _PLAIN and fields[0] == b"i" and fields[2] == b"d":  # nearly always …
            msg_id, data = fields[1], fields[3]
        elif count == _KEYED and fields[0] == b"i" and fields[2] == b"d" and fields[4] == b"k":  # … or this
            msg_id, data, key = fields[1], fields[3], fields[5]
        else:
            extra = dict(zip(fields[::2], fields[1::2], strict=False))
            if count % 2 or not extra.keys() <= _KNOWN or b"i" not in extra or b"d" not in extra:
                return Unreadable(entry_id, "it has other fields than a message's", fields)
            msg_id, data, key = extra[b"i"], extra[b"d"], extra.get(b"k")
        try:
            payload = self._payload(data)
            text = None if key is None else key.decode()
            # By position: twice as fast as by name, for each message.
            message = Flight(self.topic, payload, None, None, text, _NO_HEADERS, msg_id.decode(), partition, 1, token, entry_id, 0, fields)
            if extra is not None:
                _add_extra(message, extra)
            return message  # noqa: TRY300 -- as above
        except Exception as error:  # noqa: BLE001 -- the user's deserializer may raise anything: that is an unreadable entry, reported
            return Unreadable(entry_id, f"{name_of(type(error))}: {text_of(error)}", fields)


def _add_extra(message: Message[Any], extra: Mapping[bytes, bytes]) -> None:
    """Add what is seldom set; ValueError (msgspec's, too) if it cannot be read."""
    if b"h" in extra:
        message.headers = _headers_decoder.decode(extra[b"h"])
    if b"t" in extra:
        message.timeout = float(extra[b"t"])
        if not math.isfinite(message.timeout) or message.timeout <= 0:
            reason = "its timeout is no positive number"
            raise ValueError(reason)
    if b"c" in extra:
        message.created_ms = int(extra[b"c"])
