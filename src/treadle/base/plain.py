"""Frozen dataclasses from and to JSON's plain values, without pydantic (the fast path has none)."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def to_plain(value: Any) -> Any:
    """A dataclass as nested dicts and lists; None, bool, int, float and str stay as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(cls: type[T], data: Any) -> T:
    """The inverse of `to_plain` for a dataclass type: nested dataclasses, tuples, dicts, unions.

    Fields unknown to `cls` raise TypeError: state is never guessed.
    """
    return typing.cast("T", _build(cls, data))


def _build(kind: Any, data: Any) -> Any:
    if data is None or kind is Any:
        return data
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{name: _build(hints.get(name, Any), item) for name, item in data.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _build_union([a for a in arguments if a is not type(None)], data)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in data)
        return tuple(_build(k, item) for k, item in zip(arguments, data, strict=True))
    if origin is list:
        return [_build(arguments[0], item) for item in data]
    if origin is dict:
        return {key: _build(arguments[1], item) for key, item in data.items()}
    return data


def _build_union(kinds: list[Any], data: Any) -> Any:
    """The dataclass of the union whose fields hold all keys, told apart by Literal fields."""
    if not isinstance(data, dict):
        return data if len(kinds) != 1 else _build(kinds[0], data)
    for kind in kinds:
        if not dataclasses.is_dataclass(kind):
            continue
        hints = _hints(typing.cast("type", kind))
        tags = {
            n: typing.get_args(h)
            for n, h in hints.items()
            if typing.get_origin(h) is typing.Literal and n in data
        }
        if set(data) <= set(hints) and all(data[n] in values for n, values in tags.items()):
            return _build(kind, data)
    if len(kinds) == 1:
        return _build(kinds[0], data)
    if any(dataclasses.is_dataclass(kind) for kind in kinds):
        names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise TypeError(f"{sorted(data)} are the fields of no {names}")
    return data
