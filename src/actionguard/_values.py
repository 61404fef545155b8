"""What a value holds; and so any value as safe text, as strict JSON, and as a copy."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from array import array
from collections import ChainMap, UserDict, UserList, UserString, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import PurePath
from types import MappingProxyType, MemberDescriptorType
from typing import Any
from uuid import UUID

#: How many containers may stand inside each other before a stand-in is written: far more than a
#: person reads, and few enough for every JSON parser.
_MAX_DEPTH = 64
#: How many parts a text may have of containers that were met before: a web of shared objects,
#: followed along all its paths, has no end.
_MAX_REPEATED = 100_000
#: Within the least limit that CPython can be given for digits, so that every parser reads it.
_MAX_INT = 10**640

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_VIEWS = tuple(map(type, ({}.keys(), {}.values(), {}.items())))
_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset, deque, *_VIEWS)
#: How the tables, columns and arrays of data libraries are read whole; their str() is an excerpt.
_WHOLE = {
    "numpy": ("tolist",),
    "pandas": ("tolist", "to_dict"),
    "polars": ("to_dicts", "to_list"),
    "pyarrow": ("to_pylist",),
}


# --- what a value holds ----------------------------------------------------------------------


def parts(value: object) -> dict[Any, Any] | list[Any] | None:
    """What a value holds: fields or items by name, a list of items, or None if it is one piece.

    Values are read by their types and with the methods of the builtins: a class's own methods can
    say anything, and iterators must not be consumed.
    """
    read = _reader(type(value))
    return None if read is None else read(value)


@lru_cache(maxsize=2048)
def _reader(cls: Any) -> Callable[[Any], Any] | None:
    """What the values of a class are read as."""
    if issubclass(cls, Enum):
        return None
    if issubclass(cls, dict):
        return lambda value: dict(_steady(lambda: dict.items(value)))
    for base in _SEQUENCES:
        if issubclass(cls, base):
            return lambda value: list(_steady(lambda: base.__iter__(value)))
    if hasattr(cls, "__dataclass_fields__"):
        names = tuple(field.name for field in dataclasses.fields(cls))
        return lambda value: _fields(value, names)
    if hasattr(cls, "__attrs_attrs__"):
        attrs = tuple(field.name for field in cls.__attrs_attrs__)
        return lambda value: _fields(value, attrs)
    model = getattr(cls, "__pydantic_fields__", None) or getattr(cls, "__fields__", None)
    if model is not None and (hasattr(cls, "__pydantic_fields__") or hasattr(cls, "__fields_set__")):
        return lambda value: _fields(value, (*model, *_extra(value, model)))
    if issubclass(cls, (UserDict, UserList)):
        return lambda value: parts(vars(value)["data"])
    if cls in (MappingProxyType, ChainMap):
        return lambda value: dict(value.items())
    if issubclass(cls, array):
        return array.tolist
    for base in cls.__mro__:
        for name in _WHOLE.get(base.__module__.partition(".")[0], ()):
            if hasattr(cls, name):
                return lambda value: _whole(value, name)
    return None


def _steady(items: Callable[[], Any]) -> list[Any]:
    while True:
        try:
            return list(items())
        except RuntimeError:  # another thread changed it between two steps
            pass


def _fields(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _extra(value: Any, model: Any) -> list[str]:
    """What a pydantic model took beside its fields."""
    found = getattr(value, "__pydantic_extra__", None) or ()
    if not hasattr(type(value), "__pydantic_fields__"):  # version 1 keeps them with the fields
        found = [name for name in vars(value) if name not in model]
    return list(found)


def _whole(value: Any, name: str) -> Any:
    read = value.to_dict("split") if name == "to_dict" else getattr(value, name)()
    return read if isinstance(read, (list, dict)) else None


def is_one_piece(value: object) -> bool:
    """Whether the text of a value that holds nothing is all of it, and not an excerpt."""
    cls = type(value)
    is_whole = issubclass(cls, (str, bytes, bytearray, memoryview, UserString, range))
    return is_whole or not (hasattr(cls, "__len__") or getattr(value, "shape", ()) != ())


# --- secrets ---------------------------------------------------------------------------------


def secret_text(value: object) -> str | None:
    """What a value that is secret by its type hides (pydantic's SecretStr and the like)."""
    if not hasattr(type(value), "get_secret_value"):
        return None
    secret = value.get_secret_value()  # type: ignore[attr-defined]
    return secret.decode("utf-8", "replace") if isinstance(secret, bytes) else str(secret)


def stand_in(value: object) -> str:
    """What is shown in place of a secret: `<secret: 32 characters>`."""
    hidden = secret_text(value)
    if hidden is None:
        hidden = value if isinstance(value, str) else show(value)
    return f"<secret: {len(hidden)} characters>"


# --- for people ------------------------------------------------------------------------------


def show(value: object) -> str:
    """The value as one line of Python-like text, complete, and safe on a terminal.

    Never raises, whatever the value is.
    """
    return escape(_Walk(_text, _text_of_group).of(value))


def label(name: object) -> str:
    """An argument's name: quoted unless it is a plain one, as it must not read like `a=1, b`."""
    plain = type(name) is str and name.isascii() and name.isidentifier()
    return str(name) if plain else show(name)


def escape(text: str) -> str:
    """The text with each character that could forge, hide or reorder output as an escape."""
    text = str.__str__(text)  # a subclass may say anything
    if text.isascii() and text.isprintable():
        return text
    return "".join([c if c.isprintable() and c not in _INVISIBLE else ascii(c)[1:-1] for c in text])


# Printable by Unicode, but drawn as nothing or as a blank.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), *range(0x180B, 0x1810))
}


def cut(text: str, limit: int) -> str:
    """At most about `limit` characters of the text, saying how many were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text) - limit:,} more characters)"


def shares(needs: list[int], room: int) -> list[int]:
    """Room for each: the short ones get all they need, the long ones equal parts of the rest."""
    granted = [0] * len(needs)
    for done, index in enumerate(sorted(range(len(needs)), key=needs.__getitem__)):
        granted[index] = min(needs[index], room // (len(needs) - done))
        room -= granted[index]
    return granted


class _Walk:
    """One way through a value: each piece is written, then each group of what was written.

    Args:
        piece: Writes a value that holds nothing.
        group: Writes a container or record of a class, given what it holds as it was written.
    """

    def __init__(
        self, piece: Callable[[Any], Any], group: Callable[[Any, dict[Any, Any] | list[Any]], Any]
    ) -> None:
        self._piece = piece
        self._group = group
        self._above: set[int] = set()
        self._met: dict[int, object] = {}  # keeps them alive, so that no id comes twice
        self._repeated = 0

    def of(self, value: Any, depth: int = _MAX_DEPTH) -> Any:
        if type(value) in _PLAIN:
            return self._piece(value)
        try:
            inside = parts(value)
            return self._piece(value) if inside is None else self._inside(value, inside, depth)
        except Exception as error:  # its fields and its text can be any code
            return self._piece(Unreadable(_named(value, f"unreadable, {type(error).__name__}")))

    def _inside(self, value: Any, inside: dict[Any, Any] | list[Any], depth: int) -> Any:
        why = ""
        if id(value) in self._met:
            self._repeated += 1 + len(inside)
        if id(value) in self._above:
            why = "contains itself"
        elif not depth:
            why = f"nested more than {_MAX_DEPTH} levels deep"
        elif self._repeated > _MAX_REPEATED:
            why = "repeated too often"
        if why:
            return self._piece(Unreadable(_named(value, why)))
        self._met[id(value)] = value
        self._above.add(id(value))
        try:
            if isinstance(inside, dict):
                written: Any = {key: self.of(item, depth - 1) for key, item in inside.items()}
            else:
                written = [self.of(item, depth - 1) for item in inside]
        finally:
            self._above.discard(id(value))
        return self._group(type(value), written)


class Unreadable(str):
    """A short text in place of a value that has none of its own."""

    __slots__ = ()


def _named(value: object, why: str) -> str:
    return f"<{_name_of(type(value))}: {why}>"


#: A class's name, whatever its metaclass says that it is.
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def _text(value: Any) -> str:
    cls = type(value)
    if cls is Unreadable:
        return str.__str__(value)
    if secret_text(value) is not None:
        return stand_in(value)
    if issubclass(cls, Enum):
        return f"<{_name_of(cls)}.{value._name_}: {show(value._value_)}>"
    for base, write in _REPRS.items():
        if issubclass(cls, base):
            text = write(value)
            return text if cls is base else f"{_name_of(cls)}({text})"
    try:
        return str.__str__(repr(value))
    except Exception as error:  # a repr can be any code
        return _named(value, f"its repr raised {type(error).__name__}")


def _int_text(value: int) -> str:
    plain = int.__pos__(value)
    return int.__repr__(plain) if -_MAX_INT < plain < _MAX_INT else hex(plain)


_REPRS: dict[Any, Callable[[Any], str]] = {
    type(None): repr,
    bool: repr,
    str: str.__repr__,
    int: _int_text,
    float: float.__repr__,
    complex: complex.__repr__,
    Decimal: Decimal.__repr__,
    bytes: bytes.__repr__,
    bytearray: bytearray.__repr__,
}


def _text_of_group(cls: Any, inside: dict[Any, str] | list[str]) -> str:
    name = _name_of(cls)
    if isinstance(inside, list):
        text = ", ".join(inside)
        if issubclass(cls, tuple):
            text = f"({text},)" if len(inside) == 1 else f"({text})"
        elif issubclass(cls, (set, frozenset)):
            text = f"{{{text}}}" if inside else ""
        else:
            text = f"[{text}]"
    elif issubclass(cls, (dict, UserDict)) or cls in (MappingProxyType, ChainMap):
        text = "{" + ", ".join([f"{show(key)}: {item}" for key, item in inside.items()]) + "}"
    else:
        return f"{name}({', '.join([f'{label(key)}={item}' for key, item in inside.items()])})"
    return text if text and cls in (dict, list, tuple, set) else f"{name}({text})"


# --- for the log -----------------------------------------------------------------------------


def json_text(value: object) -> str:
    """The value as one line of strict JSON in ASCII: verbatim where JSON can say it.

    Models and dataclasses become objects; sets and tuples arrays; datetime, Decimal, UUID, Path
    and Enum their usual text or value. What JSON cannot say (bytes, NaN, lone surrogates, a cycle,
    an object) becomes a readable stand-in. Never raises, whatever the value is.
    """
    if type(value) is dict and all(type(item) in _SURE for item in value.values()):
        with suppress(TypeError, ValueError):  # an odd key, a NaN
            return _encode(value) if all(map(str.isascii, value)) else _encode(_plain(value))
    return _encode(_plain(value))


_SURE = frozenset({type(None), bool, float})
_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def _plain(value: object) -> Any:
    return _Walk(_json_of_piece, _json_of_group).of(value)


def _json_of_piece(value: Any) -> Any:
    cls = type(value)
    if cls is Unreadable:
        return str.__str__(value)
    if value is None or cls is bool:
        return value
    if issubclass(cls, Enum):
        return _plain(value._value_)
    if issubclass(cls, str):
        return str.encode(value, "utf-8", "backslashreplace").decode()  # no lone surrogates
    if issubclass(cls, int):
        plain = int.__pos__(value)
        return plain if -_MAX_INT < plain < _MAX_INT else hex(plain)
    if issubclass(cls, float):
        return float(value) if math.isfinite(value) else float.__repr__(value)
    if issubclass(cls, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if issubclass(cls, (datetime, date, time)):
        return value.isoformat()
    if issubclass(cls, (timedelta, Decimal, Fraction, UUID, PurePath)):
        return str(value)
    if cls.__module__ == "numpy" and hasattr(cls, "item"):
        return _plain(value.item()) if type(value.item()) is not cls else str(value)
    return escape(_text(value))


def _json_of_group(cls: Any, inside: dict[Any, Any] | list[Any]) -> Any:
    if isinstance(inside, list):
        return inside
    named: dict[str, Any] = {}
    alike = 1
    for key, item in inside.items():
        name = unique = _json_of_piece(key) if issubclass(type(key), str) else show(key)
        while unique in named:  # 1 and "1" are two keys: neither may hide the other
            alike += 1
            unique = f"{name} ({alike})"
        named[unique] = item
    return named


# --- copies ----------------------------------------------------------------------------------


def copied(args: dict[str, Any], *, secrets: bool = False) -> dict[str, Any]:
    """The arguments in containers and records of their own; anything else by reference.

    No class's own code copies, fills or closes anything.

    Args:
        args: The arguments by name.
        secrets: Whether what is secret by its type is replaced by its stand-in.
    """
    if all(type(value) in _PLAIN for value in args.values()):
        return {**args}
    copier = _Copier(secrets=secrets)
    return {name: copier.of(value) for name, value in args.items()}


class _Copier:
    def __init__(self, *, secrets: bool) -> None:
        self._secrets = secrets
        self._done: dict[int, Any] = {}
        self._met: list[object] = []  # keeps them alive, so that no id comes twice

    def of(self, value: Any) -> Any:
        cls = type(value)
        if cls in _PLAIN:
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if self._secrets and secret_text(value) is not None:
            return stand_in(value)
        self._met.append(value)
        try:
            self._done[id(value)] = value  # until there is something else
            return self._new(cls, value)
        except Exception:  # one that cannot be copied is passed by reference, like a connection
            self._done[id(value)] = value
            return value

    def _new(self, cls: Any, value: Any) -> Any:
        if hasattr(cls, "__del__"):  # it would close what it shares with the original
            return value
        if issubclass(cls, bytearray):
            return bytearray(value)
        if cls.__module__.partition(".")[0] in _WHOLE or issubclass(cls, array):
            copy = getattr(value, "copy", None) or getattr(value, "__copy__", None)
            return value if copy is None else copy()
        inside = parts(value)
        if inside is None:
            return value
        if issubclass(cls, tuple):
            items = [self.of(item) for item in inside]
            same = all(new is old for new, old in zip(items, inside, strict=True))
            return value if same else tuple.__new__(cls, items)
        base: Any = next((b for b in (dict, list, set, deque) if issubclass(cls, b)), object)
        if issubclass(cls, frozenset):
            return value
        shell = self._done[id(value)] = base.__new__(cls)
        if base is dict:
            dict.update(shell, {key: self.of(item) for key, item in inside.items()})
        elif base is list:
            list.extend(shell, map(self.of, inside))
        elif base is set:
            set.update(shell, inside)
        elif base is deque:
            deque.__init__(shell, map(self.of, inside), value.maxlen)
        self._copy_state(shell, value, inside if base is object else {})
        return shell

    def _copy_state(self, shell: Any, value: Any, fields: Any) -> None:
        """Copy the `__dict__` and the slots: the fields as copies, all else by reference."""

        def new(name: str, item: Any) -> Any:
            is_part = name in fields or name in ("data", "__pydantic_extra__")
            return self.of(item) if is_part else item

        with suppress(AttributeError):
            state = object.__getattribute__(value, "__dict__")
            vars(shell).update({name: new(name, item) for name, item in tuple(state.items())})
        for cls in type(value).__mro__:
            for slot in tuple(vars(cls).values()):
                if type(slot) is MemberDescriptorType:
                    with suppress(AttributeError):  # it is empty
                        slot.__set__(shell, new(slot.__name__, slot.__get__(value)))
