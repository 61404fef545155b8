"""Any value as text: safe to show to a person, or as strict JSON to keep."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import PurePath
from typing import Any, ClassVar
from uuid import UUID

# How many containers may stand inside each other before a stand-in is written: far more than a
# person reads, and few enough for every JSON parser's own limit.
_MAX_DEPTH = 64

# How many items of containers that were met before are written out again. A few shared objects
# are repeated wherever they stand; a web of them, followed along all its paths, has no end.
_MAX_REPEATED = 100_000

#: What `items_of` reads.
SEQUENCES = (list, tuple, set, frozenset, deque)


# --- what a value is made of -----------------------------------------------------------------


def fields_of(value: object) -> dict[str, Any] | None:
    """The fields of a dataclass or attrs instance or a pydantic model (v1 or v2), else None.

    Read one by one, as a body reads them, so that a field that its class hides from its repr is
    seen all the same.
    """
    cls: Any = type(value)
    if hasattr(cls, "__dataclass_fields__"):
        names = [field.name for field in dataclasses.fields(cls)]
    elif hasattr(cls, "__attrs_attrs__"):
        names = [field.name for field in cls.__attrs_attrs__]
    elif hasattr(cls, "__pydantic_fields__") or hasattr(cls, "__fields_set__"):
        names = list(getattr(value, "__dict__", ()))
        names += [n for n in (getattr(value, "__pydantic_extra__", None) or ()) if n not in names]
    else:
        return None
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def items_of(value: object, base: Any) -> list[Any]:
    """The items of a sequence or set, read as its builtin base does, whatever its class says."""
    while True:
        try:
            return list(base.__iter__(value))
        except RuntimeError:  # another thread changed it between two steps
            pass


#: A class's name, whatever its metaclass says that it is.
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def _stand_in(value: object, why: str) -> str:
    """A short text in place of a value that has no text of its own."""
    return f"<{_name_of(type(value))}: {why}>"


def _own_repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # a repr is anybody's code
        return _stand_in(value, f"its repr raised {type(error).__name__}")
    # CPython lets __repr__ return a subclass of str, whose methods may be anybody's code too.
    return str.__str__(text)


# --- for people ------------------------------------------------------------------------------


def show(value: object) -> str:
    """The value as one line of Python-like text, complete, and safe on a terminal.

    Strings, numbers, enums, containers, arrays, dataclasses and pydantic models are read directly,
    so that a `__repr__` cannot show something else than what runs, or leave a part out. Never
    raises, whatever the value is.
    """
    return escape(_text(value))


def label(name: object) -> str:
    """An argument's name: quoted unless it is a plain one, as it must not read like `a=1, b`."""
    plain = type(name) is str and name.isascii() and name.isidentifier()
    return str(name) if plain else show(name)


def _text(value: object) -> str:
    return _Text().text(value, _MAX_DEPTH)


def _int_repr(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # more digits than sys.get_int_max_str_digits() allows
        return hex(int.__pos__(value))


_SCALAR_REPRS: dict[type, Callable[[Any], str]] = {
    type(None): repr,
    bool: repr,
    str: str.__repr__,
    int: _int_repr,
    float: float.__repr__,
    complex: complex.__repr__,
    Decimal: Decimal.__repr__,
    Fraction: Fraction.__repr__,
    bytes: bytes.__repr__,
    bytearray: lambda value: f"bytearray({bytes(value)!r})",
}


class _Text:
    """A value on its way to text for people, with what was met of it so far.

    Values are read by their types, and with the methods of the builtins: `isinstance` would ask a
    proxy what it claims to be, and a subclass may say anything.
    """

    __slots__ = ("_above", "_met", "_repeated")
    _scalars: ClassVar[dict[type, Callable[[Any], str]]] = _SCALAR_REPRS

    def __init__(self) -> None:
        self._above: set[int] = set()
        self._met: dict[int, object] = {}  # keeps them alive, so that no id comes twice
        self._repeated = 0

    def text(self, value: object, depth: int) -> str:
        """The value as text, with as many levels inside it."""
        try:
            scalar = self._scalars.get(type(value))
            return self._not_scalar(value, depth) if scalar is None else scalar(value)
        except Exception as error:  # its fields, its class and its text are anybody's code
            return self._quoted(_stand_in(value, f"unreadable, {type(error).__name__}"))

    def _not_scalar(self, value: Any, depth: int) -> str:
        cls = type(value)
        if issubclass(cls, Enum) and depth:
            return self._enum(value, depth - 1)
        if issubclass(cls, dict):
            return self._container(value, list(dict.items(value)), self._dict, depth)
        for base in SEQUENCES:
            if issubclass(cls, base):
                return self._container(value, items_of(value, base), self._sequence, depth)
        for kind, scalar in self._scalars.items():
            if issubclass(cls, kind):
                return self._named(cls, scalar(value))
        fields = fields_of(value)
        if fields is not None:
            return self._container(value, list(fields.items()), self._record, depth)
        return self._other(value, depth)

    def _container(
        self, value: object, items: list[Any], write: Callable[..., str], depth: int
    ) -> str:
        """What `write` makes of the items, one level further down, or why that was not done."""
        if id(value) in self._above:
            return self._quoted(_stand_in(value, "contains itself"))
        if not depth:
            return self._quoted(_stand_in(value, f"nested more than {_MAX_DEPTH} levels deep"))
        if id(value) in self._met:
            self._repeated += 1 + len(items)
            if self._repeated > _MAX_REPEATED:
                return self._quoted(_stand_in(value, "repeated too often"))
        self._met[id(value)] = value
        self._above.add(id(value))
        try:
            return write(type(value), items, depth - 1)
        finally:
            self._above.discard(id(value))

    # How each kind is written.

    def _enum(self, value: Any, depth: int) -> str:
        return f"<{_name_of(type(value))}.{value._name_}: {self.text(value._value_, depth)}>"

    def _dict(self, cls: type, items: list[tuple[Any, Any]], depth: int) -> str:
        pairs = [f"{self.text(key, depth)}: {self.text(item, depth)}" for key, item in items]
        return self._named(cls, "{" + ", ".join(pairs) + "}")

    def _sequence(self, cls: type, items: list[Any], depth: int) -> str:
        text = ", ".join([self.text(item, depth) for item in items])
        if issubclass(cls, tuple):
            return self._named(cls, f"({text},)" if len(items) == 1 else f"({text})")
        if issubclass(cls, (set, frozenset)):
            return self._named(cls, f"{{{text}}}" if items else "")
        return self._named(cls, f"[{text}]")

    def _record(self, cls: type, items: list[tuple[str, Any]], depth: int) -> str:
        fields = [f"{label(name)}={self.text(item, depth)}" for name, item in items]
        return f"{_name_of(cls)}({', '.join(fields)})"

    def _named(self, cls: type, text: str) -> str:
        return text if text and cls in (dict, list, tuple, set) else f"{_name_of(cls)}({text})"

    def _other(self, value: Any, depth: int) -> str:
        if type(value).__module__ == "numpy" and getattr(value, "ndim", False):
            array = self.text(value.tolist(), depth)
            return f"{_name_of(type(value))}({array}, dtype={value.dtype})"
        return _own_repr(value)

    def _quoted(self, text: str) -> str:
        return text


# Characters by which a text could move the cursor, hide or reorder what stands beside it, or
# start a line of its own: https://www.unicode.org/reports/tr36/ (2.10) and UAX 9.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]*")
# Drawn as nothing, or as a blank, though their categories (letters, marks) say otherwise.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U00016fe4\U0001d159") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), *range(0x180B, 0x1810))
}


#: How many marks (accents) may stand on one character: piled up, they cover the lines above.
_MOST_MARKS = 3


@lru_cache(maxsize=4096)
def _escaped(char: str) -> str:
    unsafe = unicodedata.category(char) in _UNSAFE_CATEGORIES or char in _INVISIBLE
    return ascii(char)[1:-1] if unsafe and char != " " else char


def escape(text: str) -> str:
    """The text with each character that could forge, hide or reorder output as an escape."""
    text = str.__str__(text)  # a subclass may say anything
    if _PRINTABLE_ASCII.fullmatch(text):
        return text
    safe = "".join([_escaped(char) for char in text])
    return _thinned(safe) if any(map(_is_mark, safe)) else safe


def _thinned(text: str) -> str:
    chars, marks = [], 0
    for char in text:
        marks = marks + 1 if _is_mark(char) else 0
        chars.append(char if marks <= _MOST_MARKS else ascii(char)[1:-1])
    return "".join(chars)


@lru_cache(maxsize=4096)
def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Me")


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


# --- for the log -----------------------------------------------------------------------------

#: Within the least limit that CPython can be given for digits, so that every parser reads it.
_MAX_INT = 10**640


def json_text(value: object) -> str:
    """The value as one line of strict JSON in ASCII: verbatim where JSON can say it.

    Models and dataclasses become objects; sets and tuples arrays; datetime, Decimal, UUID, Path
    and Enum their usual text or value. What JSON cannot say (bytes, NaN, lone surrogates, a cycle,
    an object) becomes a readable stand-in. Never raises, whatever the value is.
    """
    try:
        if type(value) is dict and value:  # named plain values, as of most calls: half the time
            parts = ["{"]
            for name, item in value.items():
                parts += _NAMES[type(name)](name), ": ", _SCALARS[type(item)](item), ", "
            parts[-1] = "}"
            return "".join(parts)
        return _SCALARS[type(value)](value)
    except Exception:  # there is more to it, or another thread changed it
        pass
    try:
        return _JSON().text(value, _MAX_DEPTH)
    except Exception as error:  # where even a stand-in failed: a class is anybody's code too
        return f'"<unreadable: {type(error).__name__}>"'


def _string(text: str) -> str:
    if not str.isascii(text):
        text = str.encode(text, "utf-8", "backslashreplace").decode()  # no lone surrogates
    return encode_basestring_ascii(text)


def _integer(value: int) -> str:
    plain = int.__pos__(value)
    return int.__repr__(plain) if -_MAX_INT < plain < _MAX_INT else _string(hex(plain))


def _float(value: float) -> str:
    return float.__repr__(value) if math.isfinite(value) else _string(float.__repr__(value))


_NAMES: dict[type, Callable[[Any], str]] = {str: _string}
_SCALARS: dict[type, Callable[[Any], str]] = {
    **_NAMES,
    int: _integer,
    float: _float,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
    **dict.fromkeys((datetime, date, time), lambda v: _string(v.isoformat())),
    **dict.fromkeys((timedelta, Decimal, Fraction, UUID, PurePath), lambda v: _string(str(v))),
    **dict.fromkeys((bytes, bytearray), lambda v: _string(str(v, "utf-8", "backslashreplace"))),
}


class _JSON(_Text):
    """A value on its way to JSON."""

    __slots__ = ()
    _scalars = _SCALARS

    def _enum(self, value: Any, depth: int) -> str:
        return self.text(value._value_, depth)

    def _dict(self, cls: type, items: list[tuple[Any, Any]], depth: int) -> str:
        texts: dict[str, str] = {}
        alike = 1
        for key, item in items:
            name = unique = str.__str__(key) if issubclass(type(key), str) else _text(key)
            while unique in texts:  # 1 and "1" are two keys: neither may hide the other
                alike += 1
                unique = f"{name} ({alike})"
            texts[unique] = self.text(item, depth)
        return "{" + ", ".join([f"{_string(k)}: {v}" for k, v in texts.items()]) + "}"

    _record = _dict

    def _sequence(self, cls: type, items: list[Any], depth: int) -> str:
        return "[" + ", ".join([self.text(item, depth) for item in items]) + "]"

    def _named(self, cls: type, text: str) -> str:
        return text

    def _other(self, value: Any, depth: int) -> str:
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            plain = value.tolist()
            if type(plain) is not type(value):
                return self.text(plain, depth)
        return _string(_own_repr(value))

    def _quoted(self, text: str) -> str:
        return _string(text)
