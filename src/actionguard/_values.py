"""What a value holds; and so any value as safe text, as strict JSON, and as a copy."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from json.encoder import encode_basestring_ascii as quoted
from pathlib import PurePath
from typing import Any
from uuid import UUID

#: How many containers may stand inside each other before a stand-in is written: far more than a
#: person reads, and few enough for every JSON parser.
_MAX_DEPTH = 64
#: How many containers are read in one value: a web of shared objects, followed along all its paths,
#: has no end, nor have getters that make new ones.
_MAX_CONTAINERS = 300_000
#: Longer integers are written as hex: the least limit for digits that CPython can be given.
_MAX_INT = 10**640

#: Why a value that contains itself is not read again.
CIRCULAR = "contains itself"

_PLAIN: frozenset[Any] = frozenset({type(None), bool, int, float, complex, str, bytes})
#: How the tables, columns and arrays of data libraries are read whole; their str() is an excerpt.
_WHOLE = {
    "numpy": ("tolist",),
    "pandas": ("to_dict", "tolist"),
    "polars": ("to_dicts", "to_list"),
    "pyarrow": ("column_names", "to_pylist"),
}
_ABSENT = object()
_cached = lru_cache(maxsize=2048)


# --- what a value holds ----------------------------------------------------------------------


def parts(value: object) -> dict[Any, Any] | list[Any] | None:
    """What a value holds: fields or items by name, a list of items, or None if it is one piece.

    Containers are read with the methods of the builtins: a subclass's own can say anything, and
    iterators must not be consumed. An Enum holds its value by its name.
    """
    cls: Any = type(value)
    read = None if cls in _PLAIN else _reader(cls)
    return None if read is None else read(value)


@_cached
def _reader(cls: Any) -> Any:
    """What reads the values of a class."""
    if _is_secret(cls):
        return None
    if issubclass(cls, Enum):  # even if it is also a str or a tuple
        return lambda value: {value._name_: value._value_}
    base = _base_in(_READERS, cls)
    if base is not None:
        return _READERS[base]
    if hasattr(cls, "__dataclass_fields__"):
        return lambda value: _fields(value, [f.name for f in fields(value)])
    if hasattr(cls, "__attrs_attrs__"):
        return lambda value: _fields(value, [f.name for f in cls.__attrs_attrs__])
    if hasattr(cls, "__fields_set__"):  # a pydantic model
        extra = "__pydantic_extra__" if hasattr(cls, "model_fields") else "__dict__"
        names = cls.model_fields if hasattr(cls, "model_fields") else cls.__fields__
        return lambda value: _fields(value, [*names, *(getattr(value, extra) or ())])
    library = _library_base(cls)
    ways = () if library is None else _WHOLE[_package(library)]
    way = next((way for way in ways if hasattr(library, way)), None)
    return way and (lambda value: _whole(value, library, way))


#: How containers are read, whatever a subclass makes of itself.
_READERS: dict[Any, Callable[[Any], dict[Any, Any] | list[Any]]] = {
    OrderedDict: lambda value: dict(OrderedDict.items(value)),  # in its own order
    dict: lambda value: dict(dict.items(value)),
    list: list.copy,
    tuple: lambda value: list(tuple.__iter__(value)),
    deque: lambda value: list(deque.__iter__(value)),
    # In one step, so that no other thread can change it meanwhile.
    set: lambda value: list(set().union(value)),
    frozenset: lambda value: list(frozenset().union(value)),
}


def _fields(value: object, names: Iterable[str]) -> dict[str, Any]:
    return {n: i for n in names if (i := getattr(value, n, _ABSENT)) is not _ABSENT}


def _package(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]


@_cached
def _library_base(cls: Any) -> Any:
    """The class of a data library that a class is or inherits from."""
    return next((base for base in cls.__mro__ if _package(base) in _WHOLE), None)


def _whole(value: Any, library: Any, name: str) -> Any:
    if name == "to_dict":
        table = value if hasattr(library, "columns") else value.to_frame()
        return table.to_dict("tight")
    if name == "column_names":  # rows would lose one of two columns of a name
        return list(zip(value.column_names, value.columns, strict=True))
    read = getattr(library, name)(value)
    return read if type(read) is list else None


def _base_in(table: dict[Any, Any], cls: Any) -> Any:
    """The nearest of a class and its bases that a table has; None if it has none of them."""
    return next((base for base in cls.__mro__ if base in table), None)


# --- secrets ---------------------------------------------------------------------------------


@_cached
def _is_secret(cls: Any) -> bool:
    """Whether it is one of pydantic's secret types, such as SecretStr."""
    bases = [base for base in cls.__mro__ if _package(base) == "pydantic"]
    return any(hasattr(base, "get_secret_value") for base in bases)


def secret_text(value: Any) -> str | None:
    """What a value that is secret by its type hides; None for any other value."""
    cls: Any = type(value)
    if not _is_secret(cls):
        return None
    secret = value.get_secret_value()
    return secret.decode("utf-8", "replace") if isinstance(secret, bytes) else str(secret)


def stand_in(value: object) -> str:
    """What is shown in place of a secret: `<secret: 32 characters>`."""
    try:
        hidden: Any = secret_text(value)
        if hidden is None:
            hidden = value if issubclass(type(value), str) else show(value)
        return f"<secret: {len(hidden)} characters>"
    except Exception:  # nothing of it may come out, not even why
        return "<secret: unreadable>"


# --- for people ------------------------------------------------------------------------------


def show(value: object) -> str:
    """The value as one line of Python-like text, complete, and safe on a terminal.

    Never raises, whatever the value is.
    """
    return escape(Walk(_text, _group_text, _named).of(value))


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
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U00016fe4\U0001d159") | {
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


@dataclass(eq=False)
class Walk:
    """One way through a value: the pieces are read, and then each group of what was read."""

    #: Reads a value that is one piece.
    piece: Callable[[Any], Any]
    #: Reads any other value, given its parts and what was read of these.
    group: Callable[[Any, Any, Any], Any]
    #: What is said of a value that cannot be read, given the value and the reason.
    instead: Callable[[Any, str], Any]
    _above: set[int] = field(default_factory=set)
    _left: int = _MAX_CONTAINERS

    def of(self, value: Any, depth: int = _MAX_DEPTH) -> Any:
        try:
            inside = parts(value)
            if inside is None:
                return self.piece(value)
            me = id(value)
            self._left -= 1
            if me in self._above:
                return self.instead(value, CIRCULAR)
            if not depth:
                return self.instead(value, f"nested more than {_MAX_DEPTH} levels deep")
            if self._left < 0:
                return self.instead(value, "not shown, as there is too much")
            self._above.add(me)
            try:
                items = inside.values() if isinstance(inside, dict) else inside
                read = [self.of(item, depth - 1) for item in items]
            finally:
                self._above.discard(me)
            return self.group(value, inside, read)
        except Exception as error:  # its fields and its text can be any code
            return self.instead(value, f"unreadable, {_name_of(type(error))}")


def _named(value: object, why: str) -> str:
    """A short text in place of a value that has none of its own."""
    return f"<{_name_of(type(value))}: {why}>"


#: A class's name, whatever its metaclass says that it is.
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def _int_text(value: int) -> str:
    plain = int.__pos__(value)
    return int.__repr__(plain) if -_MAX_INT < plain < _MAX_INT else hex(plain)


_REPRS: dict[Any, Callable[[Any], str]] = {
    **{cls: cls.__repr__ for cls in [*_PLAIN, bytearray, Decimal]},
    int: _int_text,
}


def _text(value: Any) -> str:
    cls: Any = type(value)
    base = _base_in(_REPRS, cls)
    if base is not None:
        text = _REPRS[base](value)
        return text if cls is base else f"{_name_of(cls)}({text})"
    return stand_in(value) if _is_secret(cls) else str.__str__(repr(value))


def _group_text(value: Any, inside: Any, written: list[str]) -> str:
    cls = type(value)
    text = ", ".join(written)
    if issubclass(cls, Enum):
        return f"<{_name_of(cls)}.{value._name_}: {text}>"
    if isinstance(inside, dict) and not issubclass(cls, dict):
        return f"{_name_of(cls)}({', '.join(map('{}={}'.format, map(label, inside), written))})"
    if isinstance(inside, dict):
        text = "{" + ", ".join(map("{}: {}".format, map(show, inside), written)) + "}"
    elif issubclass(cls, tuple):
        text = f"({text},)" if len(inside) == 1 else f"({text})"
    elif issubclass(cls, (set, frozenset)):
        text = f"{{{text}}}" if inside else ""
    else:
        text = f"[{text}]"
    return text if text and cls in (dict, list, tuple, set) else f"{_name_of(cls)}({text})"


# --- for the log -----------------------------------------------------------------------------


def json_text(value: object) -> str:
    """The value as one line of strict JSON in ASCII: verbatim where JSON can say it.

    Models and dataclasses become objects; sets and tuples arrays; datetime, Decimal, UUID, Path
    and Enum their usual text or value. What JSON cannot say (bytes, NaN, lone surrogates, a cycle,
    an object) becomes a readable stand-in. Never raises, whatever the value is.
    """
    try:  # what most calls have: 1 us instead of 10
        if type(value) is dict:
            items = [f"{quoted(n)}: {_PLAIN_JSON[type(item)](item)}" for n, item in value.items()]
            text = f"{{{', '.join(items)}}}"
        else:
            text = _PLAIN_JSON[type(value)](value)
        if "\\ud" not in text:  # it may be a lone surrogate
            return text
    except Exception:  # a name or a value of another class, or a huge number
        pass
    return _encode(Walk(_json, _group_json, _named).of(value))


_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode
_PLAIN_JSON: dict[Any, Callable[[Any], str]] = {
    type(None): lambda _: "null",
    bool: lambda value: "true" if value else "false",
    str: quoted,
    int: int.__repr__,
    float: lambda value: repr(value) if math.isfinite(value) else f'"{value}"',
}


def _no_surrogates(text: str) -> str:
    return str.encode(text, "utf-8", "backslashreplace").decode()


def _int_json(value: int) -> int | str:
    plain = int.__pos__(value)
    return plain if -_MAX_INT < plain < _MAX_INT else hex(plain)


def _float_json(value: float) -> float | str:
    return float.__pos__(value) if math.isfinite(value) else float.__repr__(value)


_JSON: dict[Any, Callable[[Any], Any]] = {
    type(None): lambda _: None,
    bool: bool,
    str: _no_surrogates,
    int: _int_json,
    float: _float_json,
    **dict.fromkeys((bytes, bytearray), lambda value: value.decode("utf-8", "backslashreplace")),
    **dict.fromkeys((date, time), lambda value: escape(value.isoformat())),
    datetime: lambda value: escape(value.isoformat()),
    **{cls: cls.__str__ for cls in (timedelta, Decimal, Fraction, UUID, PurePath)},
}


def _json(value: Any) -> Any:
    cls = type(value)
    if cls.__module__ == "numpy" and value.dtype.kind in "biuf" and value.shape == ():
        value = value.item()
        cls = type(value)
    base = _base_in(_JSON, cls)
    return escape(_text(value)) if base is None else _JSON[base](value)


def _group_json(value: Any, inside: Any, written: list[Any]) -> Any:
    if issubclass(type(value), (set, frozenset)):
        # Two processes could order a set differently, and a repeat would not be recognized.
        return sorted(written, key=_encode)
    if isinstance(inside, list):
        return written
    if issubclass(type(value), Enum):
        return written[0]
    named: dict[str, Any] = {}
    for key, item in zip(inside, written, strict=True):
        name = _no_surrogates(key if isinstance(key, str) else show(key))
        while name in named:  # 1 and "1" are two keys: neither may hide the other
            name += " (another)"
        named[name] = item
    return named


# --- copies ----------------------------------------------------------------------------------


def copied(args: dict[str, Any], *, secrets: bool = False) -> dict[str, Any]:
    """The arguments in containers, records and arrays of their own; anything else by reference.

    Args:
        args: The arguments by name.
        secrets: Whether what is secret by its type is replaced by its stand-in.
    """
    if cannot_change(args):
        return {**args}
    return {name: _copy(value, secrets) for name, value in args.items()}


def cannot_change(args: dict[Any, Any]) -> bool:
    """Whether all arguments are numbers, text or the like, which nobody can change."""
    try:
        return _PLAIN.issuperset(map(type, args.values()))
    except TypeError:  # a class without a hash
        return False


def _copy(value: Any, secrets: bool) -> Any:
    copier = _Copier(file := BytesIO(), secrets)
    try:
        copier.dump(value)
        file.seek(0)
        return _Maker(file, copier.shared).load()
    except Exception:  # its own copying can be any code; then it is passed by reference
        return value


class _Copier(pickle.Pickler):
    """Writes containers and records, and refers to what must not be copied: connections, locks.

    Unlike `copy.deepcopy`, pickle asks about each value whether to refer to it.
    """

    def __init__(self, file: BytesIO, secrets: bool) -> None:
        super().__init__(file, protocol=5)
        self._secrets = secrets
        #: What is referred to, by the number that stands for it.
        self.shared: list[Any] = []

    def persistent_id(self, value: Any) -> int | None:
        cls: Any = type(value)
        if cls in _PLAIN or _has_parts(cls):
            return None
        if _library_base(cls) is not None:
            value = copy.deepcopy(value)  # its inside is its own
        elif self._secrets and _is_secret(cls):
            value = stand_in(value)
        self.shared.append(value)
        return len(self.shared) - 1


class _Maker(pickle.Unpickler):
    """Makes the copy of what a `_Copier` wrote."""

    def __init__(self, file: BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, number: int) -> Any:
        return self._shared[number]


@_cached
def _has_parts(cls: Any) -> bool:
    """Whether values of this class are copied with what they hold."""
    if issubclass(cls, Enum) or hasattr(cls, "__del__") or _library_base(cls) is not None:
        return False
    return cls is bytearray or _reader(cls) is not None
