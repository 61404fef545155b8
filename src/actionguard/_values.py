"""What a value holds; and so any value as safe text, as strict JSON, and as a copy."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii as quoted
from pathlib import PurePath
from types import MemberDescriptorType
from typing import Any
from uuid import UUID

#: How many containers may stand inside each other before a stand-in is written: far more than a
#: person reads, and few enough for every JSON parser.
_MAX_DEPTH = 64
#: How many parts a text may have of containers that were met before: a web of shared objects,
#: followed along all its paths, has no end.
_MAX_REPEATED = 100_000
#: Within the least limit that CPython can be given for digits, so that every parser reads it.
_MAX_DIGITS = 640
_MAX_INT = 10**_MAX_DIGITS

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
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

    Values are read by their types and with the methods of the builtins: a class's own methods can
    say anything, and iterators must not be consumed. An Enum holds its value by its name.
    """
    cls: Any = type(value)
    read = _reader(cls)
    return None if read is None else read(value)


@_cached
def _reader(cls: Any) -> Any:
    """What reads the values of a class."""
    if _secret_base(cls):
        return None
    if issubclass(cls, Enum):  # even if it is also a str or a tuple
        return lambda value: {value._name_: value._value_}
    read = _by_base(_READERS, cls)
    if read is not None:
        return read
    names, extra = _field_names(cls)
    if names is not None:
        return lambda value: _fields(value, (*names, *(getattr(value, extra, None) or ())))
    library = _library_base(cls)
    ways = () if library is None else _WHOLE[_package(library)]
    way = next((way for way in ways if hasattr(library, way)), None)
    return way and (lambda value: _whole(value, library, way))


def _listed(cls: Any, value: object) -> list[Any]:
    return list(cls.__iter__(value))


#: How containers are read, whatever a subclass makes of itself.
_READERS: dict[Any, Any] = {
    OrderedDict: lambda value: dict(OrderedDict.items(value)),  # whose order dict.copy ignores
    dict: lambda value: dict(dict.items(value)),
    list: list.copy,
    **{cls: partial(_listed, cls) for cls in (tuple, deque)},
    # In one step, so that no other thread can change it meanwhile.
    **dict.fromkeys((set, frozenset), lambda value: list(set().union(value))),
}


@_cached
def _field_names(cls: Any) -> tuple[tuple[str, ...] | None, str]:
    """The fields that a class names, and the attribute that holds an instance's further ones."""
    if hasattr(cls, "__dataclass_fields__"):
        return tuple(field.name for field in dataclasses.fields(cls)), ""
    if hasattr(cls, "__attrs_attrs__"):
        return tuple(field.name for field in cls.__attrs_attrs__), ""
    if not hasattr(cls, "__fields_set__"):
        return None, ""
    if hasattr(cls, "model_fields"):  # a pydantic model
        return tuple(cls.model_fields), "__pydantic_extra__"
    return tuple(cls.__fields__), "__dict__"  # of version 1


def _fields(value: object, names: tuple[str, ...]) -> dict[str, Any]:
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


def _by_base(table: dict[Any, Any], cls: Any) -> Any:
    """What a table has for a class: for the class itself, else for the next of its bases."""
    return next((table[base] for base in cls.__mro__ if base in table), None)


# --- secrets ---------------------------------------------------------------------------------


@_cached
def _secret_base(cls: Any) -> Any:
    """The class of pydantic that makes a class a secret one, such as SecretStr."""
    bases = (base for base in cls.__mro__ if _package(base) == "pydantic")
    return next((base for base in bases if hasattr(base, "get_secret_value")), None)


def secret_text(value: object) -> str | None:
    """What a value that is secret by its type hides; None for any other value."""
    cls: Any = type(value)
    base = _secret_base(cls)
    if base is None:
        return None
    secret = base.get_secret_value(value)
    return secret.decode("utf-8", "replace") if isinstance(secret, bytes) else str(secret)


def stand_in(value: object) -> str:
    """What is shown in place of a secret: `<secret: 32 characters>`."""
    try:
        hidden = secret_text(value)
        if hidden is None:
            hidden = str.__str__(value) if issubclass(type(value), str) else show(value)
        return f"<secret: {len(hidden)} characters>"
    except Exception:  # nothing of it may come out, not even why
        return "<secret: unreadable>"


# --- for people ------------------------------------------------------------------------------


def show(value: object) -> str:
    """The value as one line of Python-like text, complete, and safe on a terminal.

    Never raises, whatever the value is.
    """
    return escape(_Walk(_REPRS, _other_text, _group_text).of(value))


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


@dataclasses.dataclass
class _Walk:
    """One way through a value: the pieces are written, and then each group of what was written.

    Args:
        writers: Writes a piece, by its class.
        other: Writes a piece of any other class.
        group: Writes a container or record, given its parts and how those were written.
    """

    writers: dict[Any, Callable[[Any], Any]]
    other: Callable[[Any], Any]
    group: Callable[[Any, Any, list[Any]], Any]
    _above: set[int] = dataclasses.field(default_factory=set)
    #: Keeps what was met alive, so that no id comes twice.
    _met: dict[int, object] = dataclasses.field(default_factory=dict)
    _repeated: int = 0

    def of(self, value: Any, depth: int = _MAX_DEPTH) -> Any:
        try:
            write = self.writers.get(type(value))
            if write is not None:
                return write(value)
            inside = parts(value)
            return self.other(value) if inside is None else self._inside(value, inside, depth)
        except Exception as error:  # its fields and its text can be any code
            return _named(value, f"unreadable, {_name_of(type(error))}")

    def _inside(self, value: Any, inside: dict[Any, Any] | list[Any], depth: int) -> Any:
        me = id(value)
        self._repeated += me in self._met and 1 + len(inside)
        if me in self._above:
            return _named(value, "contains itself")
        if not depth:
            return _named(value, f"nested more than {_MAX_DEPTH} levels deep")
        if self._repeated > _MAX_REPEATED:
            return _named(value, "repeated too often")
        self._met[me] = value
        self._above.add(me)
        try:
            items = inside.values() if type(inside) is dict else inside
            written = [self.of(item, depth - 1) for item in items]
        finally:
            self._above.discard(me)
        return self.group(value, inside, written)


def _named(value: object, why: str) -> str:
    """A short text in place of a value that has none of its own."""
    return f"<{_name_of(type(value))}: {why}>"


#: A class's name, whatever its metaclass says that it is.
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


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
    bytearray: lambda value: f"bytearray({memoryview(value).tobytes()!r})",
    memoryview: lambda value: f"memoryview({value.tobytes()!r})",
}


def _other_text(value: Any) -> str:
    cls: Any = type(value)
    if _secret_base(cls) is not None:
        return stand_in(value)
    write = _by_base(_REPRS, cls)
    if write is not None:
        return write(value) if cls in _REPRS else f"{_name_of(cls)}({write(value)})"
    try:
        return str.__str__(repr(value))
    except Exception as error:  # a repr can be any code
        return _named(value, f"its repr raised {_name_of(type(error))}")


def _group_text(value: Any, inside: dict[Any, Any] | list[Any], written: list[str]) -> str:
    cls = type(value)
    name = _name_of(cls)
    text = ", ".join(written)
    if issubclass(cls, Enum):
        return f"<{name}.{value._name_}: {text}>"
    if type(inside) is dict:
        if not issubclass(cls, dict):
            return f"{name}({', '.join(map('{}={}'.format, map(label, inside), written))})"
        keys = [repr(key) if type(key) is str else show(key) for key in inside]
        text = "{" + ", ".join(map("{}: {}".format, keys, written)) + "}"
    elif issubclass(cls, tuple):
        text = f"({text},)" if len(inside) == 1 else f"({text})"
    elif issubclass(cls, (set, frozenset)):
        text = f"{{{text}}}" if inside else ""
    else:
        text = f"[{text}]"
    return text if text and cls in (dict, list, tuple, set) else f"{name}({text})"


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
    except Exception:  # a name or a value of another class
        pass
    return _encode(_Walk(_JSON, _other_json, _group_json).of(value))


_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode
_PLAIN_JSON: dict[Any, Callable[[Any], str]] = {
    type(None): lambda _: "null",
    bool: lambda value: "true" if value else "false",
    str: quoted,
    int: lambda value: int.__repr__(value) if -_MAX_INT < value < _MAX_INT else quoted(hex(value)),
    float: lambda value: repr(value) if math.isfinite(value) else quoted(repr(value)),
}


def _int_json(value: int) -> int | str:
    plain = int.__pos__(value)
    return plain if -_MAX_INT < plain < _MAX_INT else hex(plain)


def _float_json(value: float) -> float | str:
    return float.__pos__(value) if math.isfinite(value) else float.__repr__(value)


def _no_surrogates(text: str) -> str:
    return str.encode(text, "utf-8", "backslashreplace").decode()


def _decoded(value: Any) -> str:
    return memoryview(value).tobytes().decode("utf-8", "backslashreplace")


_JSON: dict[Any, Callable[[Any], Any]] = {
    type(None): lambda _: None,
    bool: bool,
    str: _no_surrogates,
    int: _int_json,
    float: _float_json,
    **dict.fromkeys((bytes, bytearray, memoryview), _decoded),
    **dict.fromkeys((datetime, date, time), lambda value: escape(value.isoformat())),
    **{cls: cls.__str__ for cls in (timedelta, Decimal, Fraction, UUID, PurePath)},
}


def _other_json(value: Any) -> Any:
    cls = type(value)
    write = _JSON.get(cls) or _by_base(_JSON, cls)
    if write is not None:
        return write(value)
    if cls.__module__ == "numpy" and hasattr(cls, "item"):
        item = value.item() if value.dtype.kind in "biufc" else value
        write = _JSON.get(type(item))
        return escape(str(value)) if write is None else write(item)
    return escape(_other_text(value))


def _group_json(value: Any, inside: dict[Any, Any] | list[Any], written: list[Any]) -> Any:
    cls = type(value)
    if type(inside) is list:
        # Two processes could order a set differently, and a repeat would not be recognized.
        return sorted(written, key=_encode) if issubclass(cls, (set, frozenset)) else written
    if issubclass(cls, Enum):
        return written[0]
    named: dict[str, Any] = {}
    alike = 1
    for key, item in zip(inside, written, strict=True):
        name = unique = _no_surrogates(key if issubclass(type(key), str) else show(key))
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
    args = {**args}
    if cannot_change(args):
        return args
    copier = _Copier(secrets=secrets)
    return {name: copier.of(value) for name, value in args.items()}


def cannot_change(args: dict[str, Any]) -> bool:
    """Whether all arguments are numbers, text or the like, which nobody can change."""
    try:
        return _PLAIN.issuperset(map(type, args.values()))
    except TypeError:  # a class without a hash
        return False


class _Copier:
    def __init__(self, *, secrets: bool) -> None:
        self._secrets = secrets
        self._done: dict[int, tuple[object, Any]] = {}  # holds both, so that no id comes twice

    def of(self, value: Any) -> Any:
        me = id(value)
        try:
            cls = type(value)
            if cls in _PLAIN:
                return value
            if me not in self._done:
                self._done[me] = value, value  # until there is something else
                self._done[me] = value, self._new(cls, value)
        except Exception:  # one that cannot be copied is passed by reference, like a connection
            self._done[me] = value, value
        return self._done[me][1]

    def _new(self, cls: Any, value: Any) -> Any:
        if _secret_base(cls):
            return stand_in(value) if self._secrets else value
        base = _copy_base(cls)
        if base is None:
            return value
        if base not in _BASES:  # a library's own way
            return base(value)
        if base is bytearray:
            return bytearray(value) if cls is base else value
        inside: Any = None if base is object else parts(value)
        if base in (tuple, frozenset):
            items = list(map(self.of, inside))
            if all(new is old for new, old in zip(items, inside, strict=True)):
                return value
            shell = base.__new__(cls, items)
        else:
            shell = base.__new__(cls)
            self._done[id(value)] = value, shell
        # A key can be found by its identity: it stays itself, unless it may hold a secret.
        key = self.of if self._secrets else _itself
        if base in (dict, OrderedDict):
            for name, item in inside.items():
                base.__setitem__(shell, key(name), self.of(item))
        elif base is set:
            set.update(shell, map(key, inside))
        elif base is deque:
            deque.__init__(shell, map(self.of, inside), value.maxlen)
        elif base is list:
            list.extend(shell, map(self.of, inside))
        if cls is not base:
            self._copy_state(cls, shell, value)
        return shell

    def _copy_state(self, cls: Any, shell: Any, value: Any) -> None:
        """Copy what stands in `__dict__` and slots: a field may be a property over any of it."""
        with suppress(AttributeError):
            state = dict.copy(object.__getattribute__(value, "__dict__"))
            vars(shell).update({name: self.of(item) for name, item in state.items()})
        for slot in _slots(cls):
            with suppress(AttributeError):  # it is empty
                slot.__set__(shell, self.of(slot.__get__(value)))


def _itself(key: Any) -> Any:
    return key


_BASES: tuple[Any, ...]
_BASES = (tuple, frozenset, OrderedDict, dict, list, set, deque, bytearray, object)


@_cached
def _copy_base(cls: Any) -> Any:
    """What makes a copy of a class's values; None if they are passed by reference."""
    if hasattr(cls, "__del__") or issubclass(cls, Enum):
        return None  # its __del__ would close what the two share
    library = _library_base(cls)
    if library is not None:
        copy = getattr(cls, "copy", None) or getattr(cls, "__copy__", None)
        return copy if cls is library else None
    base = next(base for base in _BASES if issubclass(cls, base))
    return base if base is not object or _field_names(cls)[0] is not None else None


@_cached
def _slots(cls: Any) -> list[Any]:
    found = [slot for base in cls.__mro__ for slot in vars(base).values()]
    return [slot for slot in found if type(slot) is MemberDescriptorType]
