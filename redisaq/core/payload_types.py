"""How bytes become payloads of a type.

In: the type that payloads have, and maybe a function of the user's that reads bytes. Out: a function of bytes. msgspec reads what it
knows: its structs, dataclasses, TypedDicts, unions. pydantic reads a type in which something of pydantic's stands (a model, one of its
dataclasses, a constrained field): else its checks would be passed over. What neither can read is refused before anything is read.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, cast

import msgspec

from redisaq.callables import unrun
from redisaq.describing import shown, text_of
from redisaq.errors import SettingsError

SCHEMAS = ("__pydantic_core_schema__", "__get_pydantic_core_schema__")
"""What a class has that pydantic reads."""


def decoder_for(payload_type: object, deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Return what makes a payload from bytes.

    Raises:
        SettingsError: no payload could ever be of that type.
    """
    read = None if deserializer is None else _checked(deserializer)
    if payload_type is None:
        return msgspec.json.Decoder(Any).decode if read is None else read
    if _mentions_pydantic(payload_type):
        from pydantic import TypeAdapter  # noqa: PLC0415 -- optional: whoever names such a type has it

        try:
            adapter: TypeAdapter[Any] = TypeAdapter(cast("type[Any]", payload_type))
        except Exception:  # noqa: BLE001 -- a struct of msgspec's stands in it, say
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
        reason = f"nothing is known of {shown(custom[0])}: give a struct, a dataclass, a TypedDict, a pydantic model, or a deserializer"
        raise SettingsError(f"payload_type {shown(payload_type)} cannot be decoded: {reason}")
    return decode


def _read_part(kind: type, value: object) -> object:
    """Return a part of a struct as what pydantic makes of it."""
    from pydantic import TypeAdapter  # noqa: PLC0415 -- as above

    return TypeAdapter(kind).validate_json(msgspec.json.encode(value))


def _checked(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return the deserializer, which may be async without saying so."""

    def read(data: bytes) -> object:
        payload = deserializer(data)
        if inspect.iscoroutine(payload) or inspect.isasyncgen(payload):
            raise TypeError(f"the deserializer returned {unrun(payload)}: it must be a plain function")
        return payload

    return read


def _is_pydantic(kind: object) -> bool:
    return isinstance(kind, type) and any(hasattr(kind, name) for name in SCHEMAS)


def _mentions_pydantic(payload_type: object) -> bool:
    """Return whether something of pydantic's stands in a type."""
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
            except Exception:  # noqa: BLE001, S112 -- its annotations cannot be read: whoever decodes it says so
                continue
    return False


def _is_constraint(metadata: object) -> bool:
    return type(metadata).__module__.partition(".")[0] in ("pydantic", "pydantic_core")


def _custom_types(info: object) -> Iterator[object]:
    """Yield the classes of which msgspec knows nothing."""
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
