"""Callables at the gate: each stays what it was, and asks before its body runs."""

from __future__ import annotations

import copy
import functools
import inspect
from contextlib import suppress
from types import MethodType
from typing import Any

from actionguard._gate import AnyCallable, Refused
from actionguard._options import OnDenied, Options
from actionguard._signature import Signature, hints_of, is_async, is_injected
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import rule_names

# Most calls start with one of these; no class of them holds a guarded method.
_NEVER_BOUND = frozenset({bool, int, float, str, bytes, list, dict, tuple, set, type(None)})


def guard_callable(target: Any, options: Options, on_denied: OnDenied) -> Any:
    """The target with a gate before its body, and of the same kind.

    Raises:
        TypeError: The target cannot be guarded by decorating it.
    """
    if isinstance(target, (staticmethod, classmethod)):
        return type(target)(guard_callable(target.__func__, options, on_denied))
    if isinstance(target, functools.partial):
        # Shown with the arguments that are filled in already. The function is guarded as an object,
        # since a guarded function would be pickled as its bare self.
        inner = guard_callable if isinstance(target.func, functools.partial) else _object
        called = inner(target.func, options, on_denied)
        guarded = functools.partial(called, *target.args, **target.keywords)
        guarded.__dict__.update(target.__dict__)
        return guarded
    if inspect.isfunction(target):
        return _guarded(target, options, on_denied)
    if not callable(target):
        raise TypeError(f"guard() takes a LangChain tool or a callable, not {target!r}")
    if hasattr(type(target), "acall"):
        return _tool_of_llama_index(target, options, on_denied)
    return _object(target, options, on_denied)


def _object(target: Any, options: Options, on_denied: OnDenied) -> _Guarded:
    cls = _GuardedAsync if is_async(target) else _Guarded
    return cls(target, options, on_denied)


def _guarded(
    target: AnyCallable,
    options: Options,
    on_denied: OnDenied,
    shown_as: tuple[str, str | None] | None = None,
) -> Any:
    """A function of the target's kind: named arguments going in, a refusal coming out."""
    name = getattr(target, "__name__", None) or type(target).__name__
    name, description = shown_as or (name, inspect.getdoc(target))
    # The parameters that a known framework fills in itself are not the agent's.
    injected = {parameter for parameter, hint in hints_of(target).items() if is_injected(hint)}
    signature = Signature(target, options.exclude | injected, rule_names(options.policy))
    options.check_names(f"{name}()", [signature])
    gate = options.gate(name, description)
    is_function = inspect.isfunction(target)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        # Only a function can become a method, and then its first argument is the instance.
        may_be = is_function and bool(args) and type(args[0]) not in _NEVER_BOUND
        is_bound = may_be and _is_bound(target, args[0])
        return signature.bind(args, kwargs, is_bound=is_bound)

    if inspect.isasyncgenfunction(target):
        form = gate.async_generator
    elif inspect.isgeneratorfunction(target):
        form = gate.generator
    elif is_async(target):
        form = gate.coroutine
    else:
        form = gate.plain
    refuse = functools.partial(_refuse, on_denied)
    function: Any = functools.wraps(target)(form(target, bind, refuse))
    if is_function:
        # For introspection only: what takes `*args, **kwargs` uses no defaults of its own.
        function.__defaults__ = target.__defaults__
        function.__kwdefaults__ = target.__kwdefaults__
    return function


def _refuse(on_denied: OnDenied, refused: Refused) -> Any:
    """Say a refusal in the caller's language."""
    if on_denied == "return":
        return refused.message
    if callable(on_denied) and isinstance(refused.error, ApprovalDenied):
        return on_denied(refused.error)
    try:
        raise refused.error
    finally:
        del refused  # or its error, which holds this frame, would wait for the collector


# What a method's instance holds (an API key) must not be shown. It is known by being bound, not by
# its name: the function is what its class, or the instance itself, has as a method.


def _is_bound(target: Any, first: Any) -> bool:
    """Whether the first argument of a call is the instance or class that a method is bound to."""
    cls: Any = type(first)  # isinstance would ask a lazy proxy what it stands for
    if _is_method(target, cls) or (issubclass(cls, type) and _is_method(target, first)):
        return True
    own = object.__getattribute__(first, "__dict__") if cls.__dictoffset__ else None
    return type(own) is dict and any(
        type(value) is MethodType and _leads_to(target, value.__func__) for value in own.values()
    )


@functools.lru_cache(maxsize=1000)
def _is_method(target: Any, owner: Any) -> bool:
    place, _, name = target.__qualname__.rpartition(".")
    for cls in owner.__mro__:
        in_its_body = (cls.__module__, cls.__qualname__) == (target.__module__, place)
        if in_its_body and not isinstance(vars(cls).get(name), staticmethod):
            return True
        if any(_leads_to(target, value) for value in [*vars(cls).values()]):
            return True
    return False


def _leads_to(target: Any, method: Any) -> bool:
    """Whether a method is this function, perhaps below other decorators."""
    with suppress(Exception):  # attributes of a stranger's object can be any code
        if hasattr(type(method), "__get__") and not isinstance(method, staticmethod):
            held = {} if inspect.isfunction(method) else getattr(method, "__dict__", {})
            parts = [method, getattr(method, "fget", None), *held.values()]
            return any(inspect.unwrap(p, stop=lambda p: p is target) is target for p in parts)
    return False


class _Guarded:
    """A guarded callable that is not a function: a bound method, a builtin, a class, an object.

    Not a function, since a function would become a method where it stands in a class, and would
    be pickled as its name, under which the unguarded callable is found.
    """

    __wrapped__: Any

    def __init__(self, target: Any, options: Options, on_denied: OnDenied) -> None:
        functools.update_wrapper(self, target, updated=())
        self._options = options
        self._on_denied = on_denied
        self._function = _guarded(target, options, on_denied)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        target = self.__wrapped__
        bind = getattr(type(target), "__get__", None)
        bound = target if bind is None else bind(target, instance, owner)
        return self if bound is target else type(self)(bound, self._options, self._on_denied)

    def __getattr__(self, name: str) -> Any:
        # Everything else is the target's, except the protocols by which it would be copied or
        # pickled instead of us. `inspect.iscoroutinefunction` reads the three of a bound method.
        if name.startswith("__") and name not in ("__code__", "__defaults__", "__kwdefaults__"):
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.__wrapped__)})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.__wrapped__, self._options, self._on_denied)

    def __repr__(self) -> str:
        return f"<guarded {self.__wrapped__!r}>"


class _GuardedAsync(_Guarded):
    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return await self._function(*args, **kwargs)


def _tool_of_llama_index(target: Any, options: Options, on_denied: OnDenied) -> Any:
    """A copy of the tool, of a class of its own, whose ways to call it lead to the bare tool.

    Its agents look for its class, and run its `acall`.
    """
    about = getattr(target, "metadata", None)  # where it keeps its name and description
    name = getattr(about, "name", None) or type(target).__name__
    shown_as = name, getattr(about, "description", None) or inspect.getdoc(target)
    ways = {
        way: staticmethod(_guarded(getattr(target, way), options, on_denied, shown_as))
        for way in ("__call__", "call", "acall")
        if hasattr(target, way)
    }
    guarded = copy.copy(target)
    guarded.__class__ = type(type(target).__name__, (type(target),), ways)
    return guarded
