"""Converts between messages and the fields of their stream entries.

Fields are few, short and always in the same order, so that the server stores their names once a node: `i` message id, `d` payload, then
only what is set: `k` key, `h` headers (JSON), `t` timeout in seconds, `c` time of creation in milliseconds. An entry with any other field
is foreign: it is reported, and redisaq does not guess its meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

import msgspec

from redisaq.callables import is_failure, unrun
from redisaq.core.in_flight import Flight
from redisaq.core.payloads import check, decoder_for, encode, encode_json, text_of_value
from redisaq.core.records import Entry, Unreadable
from redisaq.describing import name_of, shown, text_of
from redisaq.errors import PartitionKeyError, SerializationError
from redisaq.message import Message

T = TypeVar("T")

Serializer = Callable[[Any], str | bytes]
Deserializer = Callable[[bytes], Any]

NOT_SERIALIZED = (TypeError, ValueError, OverflowError, LookupError, AttributeError, RecursionError, msgspec.MsgspecError)
"""The exceptions that serializing a payload may raise."""

_headers_decoder = msgspec.json.Decoder(dict[str, str])
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_KNOWN = frozenset((b"i", b"d", b"k", b"h", b"t", b"c"))


def serialize(payload: object, serializer: Serializer | None) -> bytes:
    """Return the payload as bytes.

    Args:
        payload: the payload.
        serializer: the user's; None: JSON.

    Raises:
        SerializationError: the serializer refused the payload, or returned neither str nor bytes; or JSON has no form for something in it.
    """
    try:
        if serializer is None:
            kind = type(payload)
            encoded = encode_json(payload) if kind is dict else encode(payload)  # most payloads are dicts, which saves a call
            check(payload, encoded)
            data: str | bytes = encoded
        else:
            data = serializer(payload)
    except SerializationError:
        raise
    except NOT_SERIALIZED as error:
        reason = f"a payload of type {type(payload).__name__} cannot be serialized: {text_of(error)}"
        raise SerializationError(reason) from error
    if type(data) is bytes:  # nearly always; what follows would cost time for each message
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

    It is the field's JSON, a string without its quotes. So fields of different types with the same text are the same key.

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
        return str.__str__(value)  # of an enumeration's member, the text is the key
    if type(value) is int:
        return str(value)
    try:
        return text_of_value(value, f"the payload's field {shown(partition_key)}")
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        reason = f"the payload's field {shown(partition_key)} cannot be a key: {text_of(error)}"
        raise SerializationError(reason) from error


def extra_fields(*, key: str | None, headers: Mapping[str, str] | None, timeout: float | None, created_ms: int = 0) -> list[bytes]:
    """Return the fields after `i` and `d`.

    Raises:
        SerializationError: the headers do not map str to str.
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
    """Return headers as JSON; SerializationError unless they map str to str."""
    if not isinstance(headers, Mapping):
        raise SerializationError(f"headers must be a mapping of str to str, not {name_of(type(headers))}")
    pairs: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str):
            raise SerializationError(f"headers must map str to str, and a name is {name_of(type(name))}")
        if not isinstance(value, str):  # the value itself may be a secret
            raise SerializationError(f"headers must map str to str, and the value of {shown(name)} is {name_of(type(value))}")
        pairs[str.__str__(name)] = str.__str__(value)
    try:
        return encode_json(pairs)
    except UnicodeEncodeError as error:
        raise SerializationError(f"headers must be text that can be written as UTF-8: {error}") from error


class EntryDecoder(Generic[T]):
    """Decodes the entries of one topic as messages."""

    def __init__(self, topic: str, deserializer: Deserializer | None = None, payload_type: object = None) -> None:
        """Prepare the decoder of payloads.

        Args:
            topic: the topic's name, for the messages.
            deserializer: turns bytes into a payload; None: JSON.
            payload_type: the type that the payload must have; None: any.
        """
        self.topic = topic
        self._payload = decoder_for(payload_type, deserializer)

    def decode(self, entries: Iterable[Entry], partition: int, token: int) -> tuple[list[Flight], list[Unreadable]]:
        """Return the messages as records of what is in flight, with attempt 1, and the entries that are none, each with the reason."""
        topic, payload_of = self.topic, self._payload
        flights: list[Flight] = []
        unreadable: list[Unreadable] = []
        for entry_id, fields in entries:
            extra: dict[bytes, bytes] | None = None
            key: bytes | None = None
            match fields:
                case [b"i", msg_id, b"d", data]:  # nearly always …
                    pass
                case [b"i", msg_id, b"d", data, b"k", key]:  # … or this
                    pass
                case _:
                    extra = dict(zip(fields[::2], fields[1::2], strict=False))
                    if len(fields) % 2 or not extra.keys() <= _KNOWN or b"i" not in extra or b"d" not in extra:
                        unreadable.append(Unreadable(entry_id, "it has other fields than a message's", fields))
                        continue
                    msg_id, data, key = extra[b"i"], extra[b"d"], extra.get(b"k")
            try:
                text = None if key is None else key.decode()
                # Arguments by position take half the time of keywords, for each message.
                message = Flight(
                    topic, payload_of(data), None, None, text, _NO_HEADERS, msg_id.decode(), partition, 1, token, entry_id, 0, fields
                )
                if extra is not None:
                    _add_extra(message, extra)
            except BaseException as error:  # the user's deserializer may raise anything: that is an unreadable entry, reported
                if not is_failure(error):
                    raise
                unreadable.append(Unreadable(entry_id, f"{name_of(type(error))}: {text_of(error)}", fields))
            else:
                flights.append(message)
        return flights, unreadable


def _add_extra(message: Message[Any], extra: Mapping[bytes, bytes]) -> None:
    """Add the fields that are seldom set; ValueError (or msgspec's subclass) if one cannot be read."""
    if b"h" in extra:
        message.headers = _headers_decoder.decode(extra[b"h"])
    if b"t" in extra:
        message.timeout = float(extra[b"t"])
        if not math.isfinite(message.timeout) or message.timeout <= 0:
            reason = "its timeout is not a positive number"
            raise ValueError(reason)
    if b"c" in extra:
        message.created_ms = int(extra[b"c"])
