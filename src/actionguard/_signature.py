"""One call's arguments by name, and which of them the runtime fills in."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

#: What frameworks inject: the names of its classes (or of their bases) by top-level module.
_INJECTED: dict[str, set[str]] = {
    "langchain_core": {
        "RunnableConfig",
        "BaseRunManager",
        "BaseCallbackManager",
        "InjectedToolArg",
        "BaseRetriever",  # a retriever tool of langchain-core 0.3 passes these
        "BasePromptTemplate",
    },
    "langgraph": {"Runtime", "ToolRuntime", "BaseStore"},
    "agents": {"RunContextWrapper", "ToolContext"},
    "pydantic_ai": {"RunContext"},
    "mcp": {"Context"},
    "fastmcp": {"Context"},
    "llama_index": {"Context"},
    "workflows": {"Context"},  # where LlamaIndex's comes from
    "google": {"ToolContext"},
    "strands": {"ToolContext"},
}

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


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters of a callable; None if they cannot be read."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What each parameter is annotated with, resolved where that is possible."""
    hints = {p.name: p.annotation for p in parameters_of(function) or ()}
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
            with suppress(Exception):
                hints[name] = eval(hint, scope)  # noqa: S307 - Python itself would, to resolve it
    return hints


def is_injected(hint: Any) -> bool:
    """Whether what is annotated like this is filled in by a known framework."""
    with suppress(Exception):  # an annotation may be any object
        return any(
            base.__name__ in _INJECTED.get(base.__module__.partition(".")[0], ())
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


def _is_made(default: object) -> bool:
    """Whether a signature shows this in place of what a default factory will make."""
    return type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS"  # of dataclasses, and pydantic's


class Unnamed(dict[str, Any]):
    """A call's arguments where a rule cannot tell which of them it is about."""


class Signature:
    """How a callable's arguments are named.

    Args:
        target: The callable. If its signature cannot be read, positional arguments are called
            `args`, and keyword arguments keep their names.
        hidden: Names that are passed to the body only.
        rules: Names that a policy's rules look at.
    """

    def __init__(
        self, target: Callable[..., Any], hidden: Collection[str], rules: frozenset[str]
    ) -> None:
        self.hidden = frozenset(hidden)
        self._rules = rules
        self._target = target
        self._parameters = parameters_of(target)
        parameters = self._parameters or []
        flat = [p.name for p in parameters if p.kind is p.VAR_KEYWORD and p.name not in self.hidden]
        # The name of `**kwargs`, which no argument has, as they are laid flat.
        self._flat = flat[0] if flat else ""
        #: The names that arguments have, hidden or not.
        self.names = [p.name for p in parameters if p.name != self._flat]
        # What rules look at, but a dataclass or a model makes by itself if a call leaves it out.
        self._made = [p for p in parameters if p.name in rules and _is_made(p.default)]
        #: Whether an argument can have any other name, too.
        self.is_open = bool(self._flat) or self._parameters is None

    def takes(self, name: str) -> bool:
        """Whether there may be a parameter of that name."""
        return self._parameters is None or name in (*self.names, self._flat)

    def sees(self, name: str) -> bool:
        """Whether there may be an argument of that name that is not hidden."""
        is_there = name in self.names or (self.is_open and name != self._flat)
        return is_there and name not in self.hidden

    def bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_bound: bool = False
    ) -> dict[str, Any]:
        """Name a call's arguments, defaults filled in.

        Args:
            args: The positional arguments.
            kwargs: The keyword arguments.
            is_bound: Whether the first argument is what a method is bound to, and not shown.

        Returns:
            The arguments by name, in a dict of their own; `Unnamed` if they have no names.

        Raises:
            TypeError: The arguments do not fit, with the message of the callable itself.
        """
        shown = args[1:] if is_bound else args
        if self._parameters is None:
            named = self._unnamed(shown, kwargs)
        else:
            try:
                named = self._bind(*args, **kwargs)
            except TypeError:
                if not self._fits_unshown(args, kwargs):
                    raise
                return Unnamed(self._unnamed(shown, kwargs))
            if is_bound:
                first = self._parameters[0]
                if first.kind is not first.VAR_POSITIONAL:
                    named.pop(first.name, None)
                elif first.name in named:
                    named[first.name] = shown
            if self._flat:
                named = self._laid_flat(named, named.pop(self._flat))
        is_named = not self._nameless or self._nameless <= named.keys()
        if self._made and any(named.get(p.name) is p.default for p in self._made):
            is_named = False
        return named if is_named else Unnamed(named)

    def _fits_unshown(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        # A decorator may show the signature of what it wraps and take other arguments: then a rule
        # cannot tell which defaults are filled in.
        with suppress(TypeError, ValueError):
            inspect.signature(self._target, follow_wrapped=False).bind(*args, **kwargs)
            return True
        return False

    @cached_property
    def _nameless(self) -> frozenset[str]:
        # What rules look at and no parameter is called: if it is not there, it may have been given
        # by position, or the rule has a typo.
        return self._rules.difference(self.names) if self.is_open else frozenset()

    # Not before the first call, as compiling takes longer than all the rest of guarding.
    @cached_property
    def _bind(self) -> Callable[..., dict[str, Any]]:
        """A function with the same parameters that returns its visible arguments by name.

        Compiled, as dataclasses compile `__init__`: the interpreter itself binds and complains, at
        a tenth of the cost of `Signature.bind` (0.4 instead of 4 microseconds).
        """
        parameters = self._parameters or []
        # The source holds nothing but parameters' names, which `inspect` has checked; the defaults
        # are put in afterwards.
        header = inspect.Signature(
            [
                p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
                for p in parameters
            ]
        )
        named = [f"{p.name!r}: {p.name}" for p in parameters if p.name not in self.hidden]
        scope: dict[str, Any] = {}
        exec(f"def bind{header}: return {{{', '.join(named)}}}", scope)  # noqa: S102
        bind: Any = scope["bind"]
        optional = [p for p in parameters if p.default is not p.empty]
        bind.__defaults__ = tuple(p.default for p in optional if p.kind is not p.KEYWORD_ONLY)
        bind.__kwdefaults__ = {p.name: p.default for p in optional if p.kind is p.KEYWORD_ONLY}
        bind.__qualname__ = getattr(self._target, "__qualname__", type(self._target).__qualname__)
        return bind  # type: ignore[no-any-return]

    def _laid_flat(self, named: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
        """Add `**kwargs`; a keyword that collides with a positional-only name is shown as well."""
        collided = False
        for name, value in rest.items():
            if name not in self.hidden:
                free = name
                while free in named:
                    collided, free = True, f"**{free}"
                named[free] = value
        return Unnamed(named) if collided else named

    def _unnamed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        visible = {name: value for name, value in kwargs.items() if name not in self.hidden}
        if not args:
            return visible
        return Unnamed({"*args" if "args" in visible else "args": args, **visible})
