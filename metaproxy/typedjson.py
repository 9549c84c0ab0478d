"""Dataclasses as JSON and back: what is read has exactly the declared types, or is refused.

Knows: how the annotations of a dataclass become JSON, for a reader that trusts nothing.
Must not know: what any class means.

Foreign input never chooses a class: the reader says what it wants, and each value must fit that. A mapping is a list of
pairs, because its keys need not be texts; bytes are hexadecimal.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

_LARGEST = 1 << 63
"""What a whole number must be below: more is no version, index or count of anybody's."""

ThingT = TypeVar("ThingT")


class MisfitError(ValueError):
    """A document that is not what was asked for: says where, never what stands there."""


class Special(NamedTuple):
    """A class that is written as a text."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]


Specials = Mapping[type[Any], Special]


def dump(thing: Any, specials: Specials) -> bytes:
    """The document of a thing that is made of dataclasses, collections, texts, numbers and the special classes."""
    return json.dumps(_plain(thing, specials), separators=(",", ":")).encode()


def parse(kind: type[ThingT], document: bytes, specials: Specials) -> ThingT:
    """The thing of that class that a document describes.

    Raises:
        MisfitError: it is no JSON, or does not fit in some part. Total: whatever the document.
    """
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MisfitError(f"no JSON ({type(error).__name__})") from None
    made = _fitted(kind, value, specials, kind.__name__)
    assert isinstance(made, kind)  # noqa: S101  narrows for the type checker
    return made


def _plain(thing: Any, specials: Specials) -> Any:
    if (special := specials.get(type(thing))) is not None:
        return special.write(thing)
    if isinstance(thing, bytes):
        return thing.hex()
    if is_dataclass(thing) and not isinstance(thing, type):
        return {name: _plain(getattr(thing, name), specials) for name in _hints(type(thing))}
    if isinstance(thing, Mapping):
        return [[_plain(key, specials), _plain(value, specials)] for key, value in thing.items()]
    if isinstance(thing, tuple | list | set | frozenset):
        return [_plain(each, specials) for each in thing]
    return thing


def _fitted(kind: Any, value: Any, specials: Specials, where: str) -> Any:
    if (special := specials.get(kind)) is not None:
        return special.read(_text(value, where))
    if (read := _SIMPLE.get(kind)) is not None:
        return read(value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {UnionType, Union}:
        if value is None:
            return _none(value, where) if NoneType in inner else _misfit(where)
        (only,) = (each for each in inner if each is not NoneType)
        return _fitted(only, value, specials, where)
    if origin is not None:
        return _collected(origin, inner, value, specials, where)
    hints = _hints(kind)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        _misfit(where)
    return kind(**{name: _fitted(hint, value[name], specials, f"{where}.{name}") for name, hint in hints.items()})


def _collected(origin: Any, inner: tuple[Any, ...], value: Any, specials: Specials, where: str) -> Any:
    if not isinstance(value, list):
        _misfit(where)
    if origin is tuple and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            _misfit(where)
        return tuple(_fitted(each, part, specials, where) for each, part in zip(inner, value, strict=True))
    if origin is Mapping:
        pairs = [_collected(tuple, inner, pair, specials, where) for pair in value]
        found: Any = dict(pairs)
    else:
        found = origin(_fitted(inner[0], part, specials, where) for part in value)
    if len(found) != len(value):
        _misfit(where)  # something is there twice
    return found


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    """The fields that make one of the class, with their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _misfit(where: str) -> Any:
    raise MisfitError(f"{where} is not what it should be")


def _none(value: Any, where: str) -> Any:
    return None if value is None else _misfit(where)


def _text(value: Any, where: str) -> str:
    return value if isinstance(value, str) else str(_misfit(where))


def _whole(value: Any, where: str) -> int:
    return value if type(value) is int and -_LARGEST < value < _LARGEST else int(_misfit(where))


def _number(value: Any, where: str) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    return float(_whole(value, where))


def _truth(value: Any, where: str) -> bool:
    return value if isinstance(value, bool) else bool(_misfit(where))


def _bytes(value: Any, where: str) -> bytes:
    try:
        return bytes.fromhex(_text(value, where))
    except ValueError:
        raise MisfitError(f"{where} is not what it should be") from None


_SIMPLE: Mapping[Any, Callable[[Any, str], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _truth,
    bytes: _bytes,
    NoneType: _none,
}
