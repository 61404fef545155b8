"""One call's arguments by name, and which of them the runtime fills in."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cached_property
from types import SimpleNamespace
from typing import Any

_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD

#: What frameworks inject, by the top-level module and the name of its class (or of a base).
_INJECTED = frozenset(
    {
        ("langchain_core", "RunnableConfig"),
        ("langchain_core", "BaseRunManager"),
        ("langchain_core", "BaseCallbackManager"),
        ("langchain_core", "InjectedToolArg"),
        ("langchain_core", "BaseRetriever"),  # a retriever tool of langchain-core 0.3 passes these
        ("langchain_core", "BasePromptTemplate"),
        ("langgraph", "Runtime"),
        ("langgraph", "ToolRuntime"),
        ("agents", "RunContextWrapper"),
        ("agents", "ToolContext"),
        ("pydantic_ai", "RunContext"),
        ("mcp", "Context"),
        ("fastmcp", "Context"),
        ("llama_index", "Context"),
        ("workflows", "Context"),  # where LlamaIndex's comes from
        ("google", "ToolContext"),
        ("strands", "ToolContext"),
    }
)

_WITH_PARTS = (typing.Union, type(int | str), typing.Annotated)


def is_async(function: Any) -> bool:
    """Whether a call of it has to be awaited."""
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


def takes_one_argument(function: Callable[..., Any]) -> bool:
    """Whether it can be called with one argument, or its signature cannot be read."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a callable; none if they cannot be read."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What each parameter is annotated with, resolved where that is possible."""
    hints = {p.name: p.annotation for p in parameters_of(function)}
    owner: Any = function
    while isinstance(owner, functools.partial):
        owner = owner.func
    owner = inspect.unwrap(owner)
    if not (inspect.isroutine(owner) or isinstance(owner, type)):
        owner = type(owner).__call__
    module = sys.modules.get(getattr(owner, "__module__", None) or "", typing)
    scope = getattr(owner, "__globals__", None) or vars(module)
    for name, hint in hints.items():
        if isinstance(hint, str):  # one by one, as one may name what exists for type checkers only
            alone: Any = SimpleNamespace(__annotations__={name: hint})
            with suppress(Exception):
                hints.update(typing.get_type_hints(alone, scope, include_extras=True))
    return hints


def injected_names(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters that a known framework fills in itself: they are not the agent's."""
    return frozenset(name for name, hint in hints_of(function).items() if is_injected(hint))


def is_injected(hint: Any) -> bool:
    """Whether what is annotated like this is filled in by a known framework."""
    with suppress(Exception):  # an annotation may be any object
        return any(
            (base.__module__.partition(".")[0], base.__name__) in _INJECTED
            for cls in _classes_in(hint)
            for base in cls.__mro__
        )
    return False


def _classes_in(hint: Any) -> Iterator[type]:
    """The classes that an annotation names or is marked with, also within unions."""
    origin = typing.get_origin(hint)
    for part in (hint, origin):
        yield part if isinstance(part, type) else type(part)
    if origin in _WITH_PARTS:
        for part in typing.get_args(hint):
            yield from _classes_in(part)


class Unnamed(dict[str, Any]):
    """A call's arguments where a rule cannot tell which of them it is about."""


class Signature:
    """How a callable's arguments are named.

    Args:
        target: The callable. If its signature cannot be read, positional arguments are called
            `args`, and keyword arguments keep their names.
        hidden: Names that are passed to the body only.
        skip_first: Whether the first parameter is filled by binding (`self`, `cls`).
    """

    def __init__(
        self, target: Callable[..., Any], hidden: Collection[str] = (), *, skip_first: bool = False
    ) -> None:
        self.hidden = frozenset(hidden)
        self._skip_first = skip_first
        #: The names an argument can have, hidden or not; None if it can have any, or they cannot be
        #: read.
        self.names: frozenset[str] | None = None
        #: The parameters, whether or not they are hidden; None if they cannot be read.
        self.parameters: list[str] | None = None
        #: The name of `**kwargs`, which no argument has, as they are laid flat; "" without it.
        self.flat = ""
        self._called = getattr(target, "__qualname__", None) or type(target).__qualname__
        self._shown: list[inspect.Parameter] | None = None
        self._real: list[inspect.Parameter] | None = None
        try:
            self._shown = list(inspect.signature(target).parameters.values())
        except (ValueError, TypeError):
            return
        if hasattr(target, "__wrapped__"):
            with suppress(ValueError):  # functools.lru_cache takes what it wraps takes
                real = inspect.signature(target, follow_wrapped=False)
                self._real = list(real.parameters.values())
        # What is bound to a `*args` is only the first of them.
        bound = skip_first and self._shown and self._shown[0].kind is not _VAR_POSITIONAL
        shown = self._shown[1 if bound else 0 :]
        self.parameters = [p.name for p in shown]
        self.names = frozenset(self.parameters)
        if shown and shown[-1].kind is _VAR_KEYWORD and shown[-1].name not in self.hidden:
            self.flat, self.names = shown[-1].name, None

    def sees(self, name: str) -> bool:
        """Whether there may be an argument of that name that is not hidden."""
        return name not in self.hidden and (self.names is None or name in self.names)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name a call's arguments, defaults filled in.

        Returns:
            The arguments by name, in a dict of their own; `Unnamed` if they have no names.

        Raises:
            TypeError: The arguments do not fit, with the message of the callable itself.
        """
        try:
            return self._bind(*args, **kwargs)
        except TypeError:
            # A decorator may show the signature of what it wraps and take more than that: then a
            # rule cannot tell which defaults are filled in.
            if self._bind_real is None:
                raise
            self._bind_real(*args, **kwargs)
        return Unnamed(self._unnamed(*args, **kwargs))

    # Not before the first call, as compiling takes longer than all the rest of guarding.
    @cached_property
    def _bind(self) -> Callable[..., dict[str, Any]]:
        if self._shown is None:
            return self._unnamed
        return _compile(self._called, self._shown, self.hidden, skip_first=self._skip_first)

    @cached_property
    def _bind_real(self) -> Callable[..., object] | None:
        return None if self._real is None else _compile(self._called, self._real, ())

    def _unnamed(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        visible = {name: value for name, value in kwargs.items() if name not in self.hidden}
        args = args[1:] if self._skip_first else args
        if not args:
            return visible
        return Unnamed({"*args" if "args" in visible else "args": args, **visible})


def _compile(
    called: str,
    parameters: list[inspect.Parameter],
    hidden: Collection[str],
    *,
    skip_first: bool = False,
) -> Callable[..., dict[str, Any]]:
    """A function with these parameters that returns its visible arguments by name.

    Compiled, as dataclasses compile `__init__`: the interpreter itself then binds and complains,
    at a tenth of the cost of `Signature.bind` (0.4 instead of 4 microseconds).
    """
    # The source holds nothing but parameters' names, which `inspect` has checked; the defaults are
    # put in afterwards.
    header = inspect.Signature(
        [
            p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
            for p in parameters
        ]
    )
    shown = [p for p in parameters[1 if skip_first else 0 :] if p.name not in hidden]
    named = [f"{p.name!r}: {p.name}" for p in shown if p.kind is not _VAR_KEYWORD]
    first = parameters[0] if skip_first and parameters else None
    if first is not None and first.kind is _VAR_POSITIONAL and first.name not in hidden:
        named.insert(0, f"{first.name!r}: {first.name}[1:]")
    result = "{" + ", ".join(named) + "}"
    if shown and shown[-1].kind is _VAR_KEYWORD:
        result = f"_actionguard_lay_flat({result}, {shown[-1].name})"
    scope: dict[str, Any] = {"_actionguard_lay_flat": functools.partial(_lay_flat, hidden)}
    exec(f"def bind{header}: return {result}", scope)  # noqa: S102
    bind: Any = scope["bind"]
    optional = [p for p in parameters if p.default is not p.empty]
    bind.__defaults__ = tuple(p.default for p in optional if p.kind is not _KEYWORD_ONLY)
    bind.__kwdefaults__ = {p.name: p.default for p in optional if p.kind is _KEYWORD_ONLY}
    bind.__qualname__ = called
    return bind  # type: ignore[no-any-return]


def _lay_flat(
    hidden: Collection[str], named: dict[str, Any], rest: dict[str, Any]
) -> dict[str, Any]:
    """Add `**kwargs`; a keyword that collides with a positional-only name keeps both visible."""
    collided = False
    for name, value in rest.items():
        if name in hidden:
            continue
        free = name
        while free in named:
            collided, free = True, f"**{free}"
        named[free] = value
    return Unnamed(named) if collided else named
