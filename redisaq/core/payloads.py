"""A payload as JSON, and what JSON would lose of it without a word.

In: a payload. Out: its bytes, or a SerializationError that names the place. Two things would be lost: a number that is none (NaN and the
infinities become `null`), and one of two keys of a mapping that are written alike (1 and "1"). Looking through a payload costs some times
what encoding it does; so that is done only where the bytes hold `null`, or where keys may have been something else than text.

A pydantic model is written as pydantic writes it, by its aliases, such that the model reads it again. pydantic is not imported here:
whoever gives a model has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set as AbstractSet
from enum import Enum
from typing import Any, cast

import msgspec

from redisaq.describing import name_of, shown
from redisaq.errors import SerializationError

SERIALIZER = "__pydantic_serializer__"
"""What a class has that pydantic writes."""

_AS_READ = {"by_alias": True, "round_trip": True}
"""How a model is written so that it can be read again: without computed fields, under the names that it is read by."""

_LAST = bytes.maketrans(b"123456789Z=", b"00000000000")
"""Makes the last characters that numbers, dates and padded bytes have into one."""

_SAFE = frozenset((str, int, bool, type(None)))
"""What nothing can be lost of."""

_uuid_key = re.compile(rb'-[0-9a-f]{12}":').search
"""Finds a key that may have been a UUID."""

_not_finite = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""Finds what may be a float without a finite value in msgpack."""


def _encode_other(value: object) -> object:
    """Return what stands for something that msgspec does not know."""
    serializer = getattr(type(value), SERIALIZER, None)
    if serializer is None:
        raise TypeError(f"Encoding objects of type {name_of(type(value))} is unsupported")
    return msgspec.Raw(serializer.to_json(value, **_AS_READ))


def _plain_other(value: object) -> object:
    return getattr(type(value), SERIALIZER).to_python(value, **_AS_READ)


encode_json = msgspec.json.Encoder(enc_hook=_encode_other).encode
_encode_msgpack = msgspec.msgpack.Encoder(enc_hook=_plain_other).encode


def encode(payload: object) -> bytes:
    """Return the payload as JSON; see `check` for what may be lost of it."""
    kind = type(payload)
    if kind is not dict and hasattr(kind, SERIALIZER):  # a dataclass of pydantic's is one of Python's as well, to msgspec
        return cast("bytes", getattr(kind, SERIALIZER).to_json(payload, **_AS_READ))
    return encode_json(payload)


def check(payload: object, data: bytes, where: str = "payload") -> None:
    """Raise SerializationError if something of the payload is not in its bytes."""
    other_keys = False
    if type(payload) is dict:
        for key, value in payload.items():  # pyright: ignore[reportUnknownVariableType] -- a `cast` would cost more than the rest
            if type(key) is not str:  # pyright: ignore[reportUnknownArgumentType]
                other_keys = True
            elif type(value) in _SAFE:  # pyright: ignore[reportUnknownArgumentType]
                continue
            break
        else:
            return
    # `partition` takes half the time of `find`, and a fifth of that of `in`, which first tries whether what is looked for is a number.
    other_keys = other_keys or bool(data.translate(_LAST).partition(b'0":')[1]) or _uuid_key(data) is not None
    if other_keys or data.partition(b"null")[1]:
        _look(payload, where, other_keys=other_keys)  # pyright: ignore[reportUnknownArgumentType]


def check_all(payloads: Sequence[object], datas: Sequence[bytes]) -> None:
    """Do as `check` for some payloads, at a fraction of the cost of each.

    Members of an Enum, and bytes, as keys are looked for in the first payload alone: they are as rare as payloads of one batch are alike.
    """
    together = b"".join(datas)
    doubtful = together.translate(_LAST).find(b'0":') >= 0 or together.find(b"null") >= 0 or _uuid_key(together) is not None
    if doubtful or (
        payloads and type(payloads[0]) is dict and not all(type(key) is str for key in cast("dict[object, object]", payloads[0]))
    ):
        for payload, data in zip(payloads, datas, strict=True):
            check(payload, data)


def _look(payload: object, where: str, *, other_keys: bool) -> None:
    if not other_keys:  # there is a `null`, and nearly always it is a None
        try:
            if _not_finite(_encode_msgpack(payload)) is None:
                return
        except Exception:  # noqa: BLE001, S110 -- msgpack writes less than JSON does
            pass
    if lost := _lost(payload, where):
        raise SerializationError(lost)


def _lost(payload: object, where: str) -> str:
    """Return what of the payload is not in its JSON, in words; "" if all is."""
    waiting: list[tuple[object, str]] = [(payload, where)]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, str | bytes | bytearray | int) and not isinstance(value, Enum):
            continue
        if isinstance(value, float):
            if not math.isfinite(value):
                return f"{path} is {value!r}, which JSON cannot write"
        elif isinstance(value, Mapping):
            seen: dict[str, object] = {}
            for key, item in cast("Mapping[object, object]", value).items():
                text = key if type(key) is str else key_text(key)
                if text in seen:
                    return f"{path} has two keys that are written alike: {shown(seen[text], 80)} and {shown(key, 80)}"
                seen[text] = key
                waiting.append((item, f"{path}[{shown(key, 80)}]"))
        else:
            waiting += _parts(value, path)
    return ""


def _parts(value: Any, path: str) -> list[tuple[object, str]]:  # noqa: ANN401 -- whatever a payload holds
    """Return what a value is made of, as far as it is written, each with its path."""
    if isinstance(value, Enum):
        return [(value.value, path)]
    if isinstance(value, Sequence | AbstractSet):
        return [(item, f"{path}[{number}]") for number, item in enumerate(cast("Sequence[object]", value))]
    kind: Any = type(cast("object", value))
    if hasattr(kind, SERIALIZER):
        config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", {})
        if config.get("ser_json_inf_nan", "null") != "null":  # the model says how it is written
            return []
        return [(_plain_other(value), path)]
    names: list[str] = [*getattr(kind, "__struct_fields__", ()), *getattr(kind, "__dataclass_fields__", ())]
    names += [one.name for one in getattr(kind, "__attrs_attrs__", ())]
    return [(getattr(value, name, None), f"{path}.{name}") for name in names]


def key_text(key: object) -> str:
    """Return how a key of a mapping is written."""
    (text,) = msgspec.json.decode(encode_json({key: 0}), type=dict[str, int])
    return text


def text_of_value(value: object, where: str) -> str:
    """Return a value as text: what stands in its JSON, a text without its quotes.

    Raises:
        SerializationError: it cannot be written.
        TypeError, ValueError: as above.
    """
    data = encode(value)
    check(value, data, where)
    return cast("str", msgspec.json.decode(data)) if data[:1] == b'"' else data.decode()
