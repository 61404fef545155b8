"""Callables at the gate: each stays what it was, and asks before its body runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from actionguard._gate import AnyCallable, Refused
from actionguard._options import OnDenied, Options, what_was_meant
from actionguard._signature import Signature, Unnamed, is_async
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import rule_names

_CACHE = type(functools.lru_cache(len))
# Most calls start with one of these; no class of them holds a guarded method.
_NEVER_BOUND = frozenset({bool, int, float, str, bytes, list, dict, tuple, set, type(None)})


def guard_callable(target: Any, options: Options, on_denied: OnDenied) -> Any:
    """The target with a gate before its body, and of the same kind.

    Raises:
        TypeError: The target is nothing that can be guarded by decorating it.
    """
    if isinstance(target, staticmethod):
        return staticmethod(guard_callable(target.__func__, options, on_denied))
    if isinstance(target, classmethod):
        return classmethod(_Edge(target.__func__, options, on_denied, skip_first=True).guarded())
    # Not isinstance: a guarded tool's function that says it is a partial has a gate to be kept.
    if issubclass(type(target), functools.partial):
        # The arguments that are filled in already are shown with the others.
        # A function is not guarded as one, since it would be pickled as its bare self.
        is_plain = inspect.isfunction(target.func) or isinstance(target.func, type)
        called = (_object if is_plain else guard_callable)(target.func, options, on_denied)
        guarded = functools.partial(called, *target.args, **target.keywords)
        guarded.__dict__.update(target.__dict__)
        return guarded
    if inspect.isfunction(target):
        return _Edge(target, options, on_denied).guarded()
    if isinstance(target, type):
        raise TypeError(
            f"guard() takes a LangChain tool or a callable, not the class {target.__name__}: "
            "guard an instance, its methods, or a function that makes one"
        )
    if isinstance(target, (property, functools.cached_property)):
        kind = type(target).__name__
        raise TypeError(f"guard() goes below @{kind}, directly above the function")
    if not callable(target):
        hint = what_was_meant(target)
        raise TypeError(f"guard() takes a LangChain tool or a callable, not {target!r}{hint}")
    if hasattr(target.__class__, "acall"):  # a guarded one shows the class it stands for
        return _GuardedTool(target, options, on_denied)
    return _object(target, options, on_denied)


def _object(target: Any, options: Options, on_denied: OnDenied) -> _Guarded:
    cls = _GuardedAsync if is_async(target) else _Guarded
    return cls(target, options, on_denied)


def _name_of(target: Any) -> str:
    """What a callable is called in prompts and in the log."""
    return getattr(target, "__name__", None) or type(target).__name__


class _Edge:
    """Makes the guarded form of one function: named arguments going in, a refusal coming out."""

    def __init__(
        self,
        target: AnyCallable,
        options: Options,
        on_denied: OnDenied,
        *,
        skip_first: bool = False,
        told: tuple[str, str | None] | None = None,
    ) -> None:
        self.target = target
        self.on_denied = on_denied
        name, description = told or (_name_of(target), inspect.getdoc(target))
        signature = Signature(target, options.exclude, skip_first=skip_first)
        options.check_exclude(f"{name}()", signature.parameters)
        options.check_rules(f"{name}()", signature.parameters, signature.sees)
        if signature.flat in rule_names(options.policy):
            raise ValueError(
                f"the policy names {signature.flat!r}, which is no argument of {name}(): what "
                f"**{signature.flat} takes is named one by one"
            )
        self.gate = options.gate(name, description)
        self._signature = signature
        # What rules look at and no parameter is called: given by position it would be overlooked.
        self._nameless = rule_names(options.policy).difference(signature.parameters or ())
        # Only a function can become a method, and then its first argument is the instance.
        self._may_be_method = inspect.isfunction(target) and not skip_first
        self._bound_to: WeakKeyDictionary[type, bool] = WeakKeyDictionary()
        self._function: AnyCallable | None = None

    def __getstate__(self) -> dict[str, Any]:
        # cloudpickle sends functions by value, for joblib, Dask, Ray: all but the weak references.
        return {**self.__dict__, "_bound_to": {}}

    @functools.cached_property
    def _method(self) -> Signature:
        return Signature(self.target, self._signature.hidden, skip_first=True)

    def name_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        signature = self._signature
        if (
            self._may_be_method
            and args
            and type(args[0]) not in _NEVER_BOUND
            and self._is_bound_to(args[0])
        ):
            signature = self._method
        named = signature.bind(args, kwargs)
        if self._nameless and named.get(signature.rest) and not self._nameless <= named.keys():
            return Unnamed(named)
        return named

    def _is_bound_to(self, first: Any) -> bool:
        """Whether the first argument came in by binding: its class holds us as a method."""
        cls = type(first)  # isinstance would ask a lazy proxy what it stands for
        return self._is_method_of(cls) or (issubclass(cls, type) and self._is_method_of(first))

    def _is_method_of(self, owner: type) -> bool:
        known = self._bound_to.get(owner)
        if known is None:
            held = (value for cls in owner.__mro__ for value in tuple(vars(cls).values()))
            known = any(self._is_method(value, 4) for value in held)
            self._bound_to[owner] = known
        return known

    def _is_method(self, value: Any, layers: int) -> bool:
        """Whether a class attribute is us, perhaps below a few other decorators."""
        if value is self._function:
            return True
        if not layers:
            return False
        kind = type(value)  # not isinstance, as above
        parts: tuple[Any, ...] = ()
        if issubclass(kind, property):
            parts = (value.fget, value.fset, value.fdel)
        elif issubclass(kind, classmethod):
            parts = (value.__func__,)
        elif issubclass(kind, (functools.partialmethod, functools.cached_property)):
            parts = (value.func,)
        elif issubclass(kind, functools.singledispatchmethod):
            parts = (value.func, *value.dispatcher.registry.values())
        elif issubclass(kind, (FunctionType, _CACHE)):
            parts = (vars(value).get("__wrapped__"),)
        return any(self._is_method(part, layers - 1) for part in parts if part is not None)

    def refuse(self, refused: Refused) -> Any:
        """A refusal in the caller's language."""
        if self.on_denied == "return":
            return refused.message
        if callable(self.on_denied) and isinstance(refused.error, ApprovalDenied):
            return self.on_denied(refused.error)
        try:
            raise refused.error
        finally:
            del refused  # or its error, which holds this frame, would wait for the collector

    def guarded(self) -> AnyCallable:
        """A function of the target's kind."""
        target, gate = self.target, self.gate
        form: Callable[..., AnyCallable]
        if inspect.isasyncgenfunction(target):
            form = gate.async_generator
        elif inspect.isgeneratorfunction(target):
            form = gate.generator
        elif is_async(target):
            form = gate.coroutine
        else:
            form = gate.plain
        function = functools.wraps(target)(form(target, self.name_arguments, self.refuse))
        if inspect.isfunction(target) and inspect.isfunction(function):
            # For introspection only: what takes `*args, **kwargs` uses no defaults of its own.
            function.__defaults__ = target.__defaults__
            function.__kwdefaults__ = target.__kwdefaults__
        self._function = function
        return function


# Of the attributes that `inspect` and frameworks read, those that name the code that runs.
_CODE_ATTRIBUTES = frozenset(
    {"__code__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__", "__self__"}
)


class _Guarded:
    """A guarded callable that is no function: a bound method, a builtin, an object.

    Not a function, since a function would become a method where it stands in a class, and would
    be pickled as its name, under which the unguarded callable is found.
    """

    __wrapped__: Any

    def __init__(
        self,
        target: Any,
        options: Options,
        on_denied: OnDenied,
        told: tuple[str, str | None] | None = None,
    ) -> None:
        functools.update_wrapper(self, target, updated=())
        self._options = options
        self._on_denied = on_denied
        self._function = _Edge(target, options, on_denied, told=told).guarded()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        target = self.__wrapped__
        bind = getattr(type(target), "__get__", None)
        bound = target if bind is None else bind(target, instance, owner)
        return self if bound is target else type(self)(bound, self._options, self._on_denied)

    def __getattr__(self, name: str) -> Any:
        # Everything else is the target's, except the protocols by which it would be copied
        # or pickled instead of us.
        if name.startswith("__") and name not in _CODE_ATTRIBUTES:
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


class _GuardedTool(_Guarded):
    """A guarded tool of LlamaIndex's: its agents look for its class, and run its `acall`."""

    def __init__(self, target: Any, options: Options, on_denied: OnDenied) -> None:
        about = getattr(target, "metadata", None)  # where it keeps its name and description
        name = getattr(about, "name", None) or _name_of(target)
        told = name, getattr(about, "description", None) or inspect.getdoc(target)
        super().__init__(target, options, on_denied, told)
        for way in ("call", "acall"):
            if hasattr(target, way):
                edge = _Edge(getattr(target, way), options, on_denied, told=told)
                setattr(self, way, edge.guarded())

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.__wrapped__)
