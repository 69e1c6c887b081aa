"""`dataclass` as in the standard library, without its time at start-up.

The standard decorator writes and compiles up to six methods for each class while its module is
imported, 0.4 ms a class: with some seventy classes on the way of `treadle plan` that was a quarter
of the command. Here all classes share one implementation of each method. What the rest of the
standard module knows of a dataclass (fields, replace, asdict, is_dataclass) is there unchanged.

Left out, and refused where they are asked for: fields that are keyword-only, not in `__init__`, or
InitVar; ordering; slots. Use the standard decorator for those.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: Any = None, /, *, frozen: bool = False) -> Any:
        """See dataclasses.dataclass; `frozen` is the one setting."""
        return _make(cls, frozen) if cls is not None else lambda cls: _make(cls, frozen)


__all__ = ["dataclass"]

_LAYOUT = "__quick_layout__"


def _make(cls: Any, frozen: bool) -> Any:
    cls.__doc__ = cls.__doc__ or cls.__name__  # else the standard library writes a signature
    derived = frozen and any(dataclasses.is_dataclass(base) for base in cls.__mro__[1:])
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, frozen=derived)(cls)
    made.__dataclass_params__.frozen = frozen
    fields = dataclasses.fields(made)
    for field in made.__dataclass_fields__.values():
        if "InitVar" in str(field.type) or (field in fields and (not field.init or field.kw_only)):
            raise TypeError(f"{cls.__name__}.{field.name}: use the standard dataclass for this")
    names = tuple(field.name for field in fields)
    optional = {
        field.name: (field.default, field.default_factory)
        for field in fields
        if field.default is not dataclasses.MISSING
        or field.default_factory is not dataclasses.MISSING
    }
    required = [name not in optional for name in names]
    if sorted(required, reverse=True) != required:
        raise TypeError(f"{cls.__name__}: a field without a default follows one that has one")
    compared = tuple(field.name for field in fields if field.compare)
    setattr(made, _LAYOUT, (names, optional, hasattr(made, "__post_init__"), _getter(compared)))
    methods: dict[str, Any] = {"__repr__": _repr, "__eq__": _eq}
    if frozen:
        methods |= {"__setattr__": _setattr, "__delattr__": _delattr, "__hash__": _hash}
    for name, method in methods.items():
        if name not in cls.__dict__ or (name == "__hash__" and cls.__dict__[name] is None):
            setattr(made, name, method)
    if not frozen and "__hash__" not in cls.__dict__:
        made.__hash__ = None  # what can change has no hash, as in the standard library
    made.__init__ = _init
    return made


def _getter(names: tuple[str, ...]) -> Any:
    """All compared fields of an instance at once."""
    return operator.attrgetter(*names) if names else lambda _: ()


def _init(self: Any, /, *values: Any, **named: Any) -> None:
    names, optional, post, _ = getattr(type(self), _LAYOUT)
    if len(values) > len(names):
        raise TypeError(
            f"{type(self).__name__} takes {len(names)} values, and {len(values)} were given"
        )
    found = dict(zip(names, values, strict=False))
    if named:
        for name in named:
            if name in found:
                raise TypeError(f"{type(self).__name__} was given {name!r} twice")
            if name not in names:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
        found |= named
    if len(found) < len(names):
        for name in names:
            if name not in found:
                if name not in optional:
                    missing = [n for n in names if n not in found and n not in optional]
                    raise TypeError(f"{type(self).__name__} needs {', '.join(missing)}")
                default, factory = optional[name]
                found[name] = default if factory is dataclasses.MISSING else factory()
    self.__dict__.update(found)
    if post:
        self.__post_init__()


def _repr(self: Any) -> str:
    shown = ", ".join(
        f"{field.name}={getattr(self, field.name)!r}"
        for field in dataclasses.fields(self)
        if field.repr
    )
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = getattr(type(self), _LAYOUT)[3]
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(getattr(type(self), _LAYOUT)[3](self))


def _setattr(_self: Any, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(_self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
