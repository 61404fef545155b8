"""The arguments of a call as they were when it was bound: to copy, and to compare with."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from typing import Any

from actionguard._render import fields_of

# Immutable and equal by value: nothing to copy, and two of them are the same if they are equal.
_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes})


class Snapshot:
    """What a call's arguments were, down through containers, dataclasses and pydantic models.

    Every container met is kept with its contents, so that `changed` can tell whether any of them
    was altered since, and `copy` can hand out the arguments as they were. Anything else (a
    connection, a lock, a generator) is passed by reference, and never copied, compared by value
    or consumed. Walks without recursion: nesting may be as deep as memory allows.
    """

    __slots__ = ("_args", "_containers")

    def __init__(self, args: dict[str, Any]) -> None:
        self._args = args
        self._containers: list[tuple[Any, tuple[Any, ...]]] = []
        for value in args.values():
            if type(value) not in _SCALARS:
                self._containers = _containers(args.values())
                break

    def copy(self) -> dict[str, Any]:
        """The arguments as they were, in containers of their own."""
        if not self._containers:
            return dict(self._args)
        copies: dict[int, Any] = {}
        mutable = [pair for pair in self._containers if not isinstance(pair[0], tuple)]
        for value, _ in mutable:
            copies[id(value)] = _shell(value)
        for value, contents in self._containers:  # inner tuples come before outer ones
            if isinstance(value, tuple):
                items = [copies.get(id(item), item) for item in contents]
                copies[id(value)] = tuple.__new__(type(value), items)
        for value, contents in mutable:
            if copies[id(value)] is not value:
                _fill(copies[id(value)], contents, copies)
        return {name: copies.get(id(value), value) for name, value in self._args.items()}

    def changed(self) -> bool:
        """Whether any container holds something else than it did."""
        return bool(self._containers) and any(
            not _same(_contents(value), then) for value, then in self._containers
        )


def _containers(values: Iterable[Any]) -> list[tuple[Any, tuple[Any, ...]]]:
    """All containers within the values, each with its contents, inner ones first."""
    found: list[tuple[Any, tuple[Any, ...]]] = []
    seen: set[int] = set()
    stack: list[tuple[Any, tuple[Any, ...] | None]] = [(value, None) for value in values]
    while stack:
        value, contents = stack.pop()
        if contents is not None:  # second visit: everything inside has been found
            found.append((value, contents))
        elif type(value) not in _SCALARS and id(value) not in seen:
            contents = _contents(value)
            if contents is not None:
                seen.add(id(value))
                stack.append((value, contents))
                stack.extend((item, None) for item in _inside(value, contents))
    return found


def _contents(value: Any) -> tuple[Any, ...] | None:
    """What a container holds, flat (keys and values in turn); None for what is no container.

    Asks the base class, since a subclass may run anybody's code when it is iterated.
    """
    cls = type(value)
    if issubclass(cls, dict):
        return tuple(part for pair in tuple(dict.items(value)) for part in pair)
    for base in (list, tuple, set, frozenset, deque):
        if issubclass(cls, base):
            return tuple(base.__iter__(value))
    if issubclass(cls, bytearray):
        return (bytes(value),)
    fields = fields_of(value)
    if fields is None:
        return None
    return tuple(part for pair in fields.items() for part in pair)


def _inside(value: Any, contents: tuple[Any, ...]) -> tuple[Any, ...]:
    """The parts that may be containers themselves: keys and members of sets are hashable."""
    if isinstance(value, (set, frozenset, bytearray)):
        return ()
    if isinstance(value, (list, tuple, deque)):
        return contents
    return contents[1::2]


def _same(now: tuple[Any, ...] | None, then: tuple[Any, ...]) -> bool:
    return (
        now is not None
        and len(now) == len(then)
        and all(
            a is b or (type(a) is type(b) and type(a) in _SCALARS and a == b)
            for a, b in zip(now, then, strict=True)
        )
    )


def _shell(value: Any) -> Any:
    """A container of the same kind to fill; itself where it cannot be copied."""
    if type(value) in (list, dict, set, bytearray):
        return type(value)()
    try:
        shell = copy.copy(value)
    except Exception:  # its __copy__ or __reduce__ is anybody's code
        return value
    if type(shell) is not type(value):
        return value
    attributes = getattr(value, "__dict__", None)
    if attributes is not None and shell.__dict__ is attributes:  # pydantic v1's state is shared
        object.__setattr__(shell, "__dict__", dict(attributes))
    return shell


def _fill(shell: Any, contents: tuple[Any, ...], copies: dict[int, Any]) -> None:
    def new(item: Any) -> Any:
        return copies.get(id(item), item)

    if isinstance(shell, dict):
        for key, item in zip(contents[::2], contents[1::2], strict=True):
            dict.__setitem__(shell, key, new(item))
    elif isinstance(shell, list):
        list.__setitem__(shell, slice(None), [new(item) for item in contents])
    elif isinstance(shell, deque):
        deque.clear(shell)
        deque.extend(shell, [new(item) for item in contents])
    elif isinstance(shell, bytearray):
        bytearray.__setitem__(shell, slice(None), contents[0])
    elif isinstance(shell, set):
        set.update(shell, contents)
    elif not isinstance(shell, frozenset):
        for name, item in zip(contents[::2], contents[1::2], strict=True):
            if new(item) is not item:
                _set_field(shell, name, new(item))


def _set_field(record: Any, name: str, value: Any) -> None:
    extra = getattr(record, "__pydantic_extra__", None)
    if extra and name in extra:
        extra[name] = value
    else:
        object.__setattr__(record, name, value)  # past frozen=True and validate_assignment
