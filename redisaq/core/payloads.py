"""Converts payloads to bytes, and bytes to payloads of a type.

**To bytes**: JSON, or a SerializationError that names the part that JSON would silently lose. Two things would be lost: a number that is
not finite (NaN and the infinities become `null`), and one of two keys of a mapping that have the same JSON (1 and "1"). Searching a payload
costs several times what encoding it does. So it is searched only if the bytes contain `null`, or if its keys may have been something other
than text. A pydantic model is written as pydantic writes it, by its aliases, so that the model can read it again.

**From bytes** (`decoder_for`): msgspec reads the types it knows: its structs, dataclasses, TypedDicts, unions. pydantic reads a type that
contains something of pydantic (a model, one of its dataclasses, a constrained field), because otherwise its checks would be skipped. A type
that neither can read is refused before anything is read.

pydantic is not imported here: a caller that passes a model has imported it.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence, Set as AbstractSet
from enum import Enum
from typing import Annotated, Any, cast

import msgspec

from redisaq.callables import unrun
from redisaq.describing import name_of, shown, text_of
from redisaq.errors import SerializationError, SettingsError

SERIALIZER = "__pydantic_serializer__"
"""The attribute of a class whose objects pydantic writes."""

_AS_READ = {"by_alias": True, "round_trip": True}
"""Options that write a model so that it can be read again: without computed fields, under the names that it reads."""

_LAST = bytes.maketrans(b"123456789Z=", b"00000000000")
"""Maps the last characters that numbers, dates and padded bytes can have to one character."""

_SAFE = frozenset((str, int, bool, type(None)))
"""Types that lose nothing in JSON."""

_uuid_key = re.compile(rb'-[0-9a-f]{12}":').search
"""Finds a key that may have been a UUID."""

_not_finite = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""Finds what may be a float that is not finite, in msgpack."""


def _encode_other(value: object) -> object:
    """Return a replacement for an object that msgspec does not know."""
    serializer = getattr(type(value), SERIALIZER, None)
    if serializer is None:
        raise TypeError(f"Encoding objects of type {name_of(type(value))} is unsupported")
    return msgspec.Raw(serializer.to_json(value, **_AS_READ))


def _plain_other(value: object) -> object:
    return getattr(type(value), SERIALIZER).to_python(value, **_AS_READ)


encode_json = msgspec.json.Encoder(enc_hook=_encode_other).encode
_encode_msgpack = msgspec.msgpack.Encoder(enc_hook=_plain_other).encode


def encode(payload: object) -> bytes:
    """Return the payload as JSON; see `check` for what JSON may lose."""
    kind = type(payload)
    if kind is not dict and hasattr(kind, SERIALIZER):  # to msgspec, a dataclass of pydantic is one of Python
        return cast("bytes", getattr(kind, SERIALIZER).to_json(payload, **_AS_READ))
    return encode_json(payload)


def check(payload: object, data: bytes, where: str = "payload") -> None:
    """Raise SerializationError if the bytes lack a part of the payload."""
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
    # `partition` takes half the time of `find`, and a fifth of that of `in`, which first checks whether its operand is a number.
    other_keys = other_keys or bool(data.translate(_LAST).partition(b'0":')[1]) or _uuid_key(data) is not None
    if other_keys or data.partition(b"null")[1]:
        _look(payload, where, other_keys=other_keys)  # pyright: ignore[reportUnknownArgumentType]


def check_all(payloads: Sequence[object], datas: Sequence[bytes]) -> None:
    """Check several payloads as `check` does, at a fraction of the cost for each.

    Only the first payload is searched for keys that are members of an Enum, or bytes: such keys are rare, and the payloads of one batch
    alike.
    """
    together = b"".join(datas)
    doubtful = together.translate(_LAST).find(b'0":') >= 0 or together.find(b"null") >= 0 or _uuid_key(together) is not None
    if doubtful or (
        payloads and type(payloads[0]) is dict and not all(type(key) is str for key in cast("dict[object, object]", payloads[0]))
    ):
        for payload, data in zip(payloads, datas, strict=True):
            check(payload, data)


def _look(payload: object, where: str, *, other_keys: bool) -> None:
    if not other_keys:  # there is a `null`, nearly always from a None
        try:
            if _not_finite(_encode_msgpack(payload)) is None:
                return
        except Exception:  # noqa: BLE001, S110 -- msgpack writes less than JSON does
            pass
    if lost := _lost(payload, where):
        raise SerializationError(lost)


def _lost(payload: object, where: str) -> str:
    """Return, in words, what the payload's JSON lacks; "" if it lacks nothing."""
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
    """Return the parts of a value that are written, each with its path."""
    if isinstance(value, Enum):
        return [(value.value, path)]
    if isinstance(value, Sequence | AbstractSet):
        return [(item, f"{path}[{number}]") for number, item in enumerate(cast("Sequence[object]", value))]
    kind: Any = type(cast("object", value))
    if hasattr(kind, SERIALIZER):
        config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", {})
        if config.get("ser_json_inf_nan", "null") != "null":  # the model decides how they are written
            return []
        return [(_plain_other(value), path)]
    names: list[str] = [*getattr(kind, "__struct_fields__", ()), *getattr(kind, "__dataclass_fields__", ())]
    names += [one.name for one in getattr(kind, "__attrs_attrs__", ())]
    return [(getattr(value, name, None), f"{path}.{name}") for name in names]


def key_text(key: object) -> str:
    """Return the text of a mapping's key in JSON."""
    (text,) = msgspec.json.decode(encode_json({key: 0}), type=dict[str, int])
    return text


def text_of_value(value: object, where: str) -> str:
    """Return a value's JSON as text; a string without its quotes.

    Raises:
        SerializationError: it cannot be written. TypeError, ValueError: it cannot be written, either.
    """
    data = encode(value)
    check(value, data, where)
    return cast("str", msgspec.json.decode(data)) if data[:1] == b'"' else data.decode()


SCHEMAS = ("__pydantic_core_schema__", "__get_pydantic_core_schema__")
"""The attributes of a class that pydantic reads."""


def decoder_for(payload_type: object, deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Return a function that turns bytes into a payload.

    Raises:
        SettingsError: no payload can have that type.
    """
    read = None if deserializer is None else _checked(deserializer)
    if payload_type is None:
        return msgspec.json.Decoder(Any).decode if read is None else read
    if _mentions_pydantic(payload_type):
        from pydantic import TypeAdapter  # noqa: PLC0415 -- optional: a program that names such a type has it

        try:
            adapter: TypeAdapter[Any] = TypeAdapter(cast("type[Any]", payload_type))
        except Exception:  # noqa: BLE001 -- for example, the type contains a struct of msgspec
            return _by_msgspec(payload_type, read, _read_part)
        if read is None:
            return adapter.validate_json
        return lambda data: adapter.validate_python(read(data))
    return _by_msgspec(payload_type, read, None)


def _by_msgspec(
    payload_type: Any,  # noqa: ANN401 -- any form of type
    read: Callable[[bytes], Any] | None,
    hook: Callable[[type, Any], Any] | None,
) -> Callable[[bytes], Any]:
    try:
        decode = msgspec.json.Decoder(payload_type, dec_hook=hook).decode
        custom = [kind for kind in _custom_types(msgspec.inspect.type_info(payload_type)) if hook is None or not _is_pydantic(kind)]
    except Exception as error:
        raise SettingsError(f"payload_type {shown(payload_type)} cannot be decoded: {text_of(error)}") from error
    if read is not None:
        return lambda data: msgspec.convert(read(data), payload_type, dec_hook=hook)
    if custom:
        reason = f"msgspec does not know {shown(custom[0])}: use a struct, a dataclass, a TypedDict, a pydantic model, or a deserializer"
        raise SettingsError(f"payload_type {shown(payload_type)} cannot be decoded: {reason}")
    return decode


def _read_part(kind: type, value: object) -> object:
    """Return a part of a struct as pydantic reads it."""
    from pydantic import TypeAdapter  # noqa: PLC0415 -- as above

    return TypeAdapter(kind).validate_json(msgspec.json.encode(value))


def _checked(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return the deserializer with a check that it is a plain function, since it may return a coroutine unexpectedly."""

    def read(data: bytes) -> object:
        payload = deserializer(data)
        if inspect.iscoroutine(payload) or inspect.isasyncgen(payload):
            raise TypeError(f"the deserializer returned {unrun(payload)}: it must be a plain function")
        return payload

    return read


def _is_pydantic(kind: object) -> bool:
    return isinstance(kind, type) and any(hasattr(kind, name) for name in SCHEMAS)


def _mentions_pydantic(payload_type: object) -> bool:
    """Return whether a type contains something of pydantic."""
    seen: set[int] = set()
    waiting = [payload_type]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if _is_pydantic(one) or (typing.get_origin(one) is Annotated and any(map(_is_constraint, getattr(one, "__metadata__", ())))):
            return True
        waiting += typing.get_args(one)
        waiting += [part for name in ("__value__", "__supertype__") if (part := getattr(one, name, None)) is not None]
        if isinstance(one, type) and one.__module__ not in ("builtins", "typing"):
            try:
                waiting += typing.get_type_hints(one, include_extras=True).values()
            except Exception:  # noqa: BLE001, S112 -- its annotations cannot be read, which decoding it reports
                continue
    return False


def _is_constraint(metadata: object) -> bool:
    return type(metadata).__module__.partition(".")[0] in ("pydantic", "pydantic_core")


def _custom_types(info: object) -> Iterator[object]:
    """Yield the classes that msgspec does not know."""
    seen: dict[int, object] = {}
    waiting: list[object] = [info]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one  # kept, so that no other object gets its id
        if isinstance(one, msgspec.inspect.CustomType):
            yield one.cls
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, msgspec.inspect.Type | msgspec.inspect.Field):
            waiting += [getattr(one, name) for name in one.__struct_fields__ if name not in ("default", "default_factory", "cls")]
