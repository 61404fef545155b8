"""LangChain tools at the gate: a guarded tool is a face before a bare one."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import sys
from abc import ABCMeta
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig, config, run_in_executor
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.tools import BaseTool, StructuredTool, Tool
from langchain_core.tools.base import FILTERED_ARGS, get_all_basemodel_annotations
from langchain_core.utils.pydantic import get_fields
from pydantic_core import PydanticUndefined

from actionguard._gate import AnyCallable, Bind, Gate, Refused
from actionguard._options import Options
from actionguard._signature import Signature, Unnamed, hints_of, is_injected, parameters_of
from actionguard.policy import rule_names

if TYPE_CHECKING:
    _Base = BaseTool
else:
    # A model among the bases would bring its fields before those of the tool's own class.
    _Base = object

AnyTool = TypeVar("AnyTool", bound=BaseTool)

# The fields that hold the body of a tool made from functions, and the methods that run it. The
# methods take `config` and `run_manager` for themselves.
_BODIES = ("func", "coroutine")
_RUN_A_BODY = (StructuredTool._run, StructuredTool._arun, Tool._run, Tool._arun)
# How LangChain calls a tool. Of these only `_run` and `_arun` come after validation.
_ENTRIES = ("invoke", "ainvoke", "run", "arun")
_OPTIONS = frozenset({"input", *inspect.signature(BaseTool.run).parameters})
_ASYNC = frozenset({"_arun", "coroutine", "ainvoke", "arun"})
# Under this keyword a run hands its call's id to the gate. No parameter can have that name.
_CALL_ID = "actionguard:tool_call_id"
# A model's state besides its `__dict__`.
_STATE = ("__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")


class ApprovalWrappedTool(_Base):
    """What every guarded tool is besides an instance of its own class.

    It is a face: LangChain reads its fields, validates with it and reports its runs. The body
    belongs to a bare copy of the tool, and each way to it leads through the gate. What is
    done to a face (copying, assignment) is done to its bare tool.
    """

    _actionguard: _Behind

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse to make a tool of a guarded tool's class: it would have no guard."""
        raise TypeError(
            f"this is the class of a guarded {cls.__name__}: make the tool from {cls.__name__} "
            "itself, and guard it"
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Hide faces from a tool's class that registers or checks its subclasses."""

    def _to_args_and_kwargs(self, tool_input: Any, tool_call_id: Any) -> Any:
        # The last step that knows the call's id, between validation and the body.
        args, kwargs = super()._to_args_and_kwargs(tool_input, tool_call_id)
        return args, kwargs if tool_call_id is None else {**kwargs, _CALL_ID: tool_call_id}

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._actionguard.bare, name, value)
        self._actionguard.show(anew=True)

    def __delattr__(self, name: str) -> None:
        delattr(self._actionguard.bare, name)
        self._actionguard.show(anew=True)

    def __copy__(self) -> Any:
        return self._actionguard.guard(copy.copy(self._actionguard.bare))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        return self._actionguard.guard(copy.deepcopy(self._actionguard.bare, memo))

    def model_copy(self, **kwargs: Any) -> Any:
        """A guarded copy, under whatever name and with whatever body it is given."""
        return self._actionguard.guard(self._actionguard.bare.model_copy(**kwargs))

    def __reduce__(self) -> Any:
        return guarded_with, (self._actionguard.bare, *self._actionguard.guards)

    def configurable_fields(self, **fields: Any) -> Any:
        """The tool with these fields taken from each call's config, and as guarded as it is."""
        made: Any = super().configurable_fields(**fields)
        return _ConfigurableTool(default=self, fields=made.fields)


class _ConfigurableTool(RunnableConfigurableFields):  # type: ignore[type-arg]
    def _prepare(self, config: RunnableConfig | None = None) -> Any:
        # langchain-core makes the configured tool by calling its class: that of the bare one.
        behind = self.default._actionguard  # type: ignore[attr-defined]
        bare = RunnableConfigurableFields(default=behind.bare, fields=self.fields)
        tool, config = bare._prepare(config)
        return behind.guard(tool), config


def guard_tool(tool: AnyTool, options: Options) -> AnyTool:
    """A copy of the tool with the gate between validation and body."""
    guarded: AnyTool = guarded_with(tool, options)
    check_names(options, [guarded], f"the tool {tool.name!r}")
    return guarded


def guarded_with(tool: Any, *guards: Options) -> Any:
    """A copy of the tool with further guards, the last of which asks first."""
    earlier: tuple[Options, ...] = ()
    if isinstance(tool, ApprovalWrappedTool):
        tool, earlier = tool._actionguard.bare, tool._actionguard.guards
    return _Behind(copy.copy(tool), (*earlier, *guards)).face


def check_names(
    options: Options, tools: list[Any], owner: str, *, rules_only: bool = False
) -> None:
    """Check that each name in the options is that of an argument of one of the tools.

    Args:
        options: What the tools are guarded with.
        tools: Guarded tools.
        owner: What is guarded, for messages.
        rules_only: Whether the other names may be those of other tools' arguments.

    Raises:
        ValueError: A name is not there, or nobody would be shown the argument.
    """
    shown = set(rule_names(options.policy))
    unclear = shown.copy()
    if not rules_only:
        shown |= options.secret
        unclear = shown | options.exclude
    known: list[_Arguments] = []
    for tool in tools:
        if not unclear:  # as soon as possible: there may be a thousand tools
            break
        arguments = _Arguments(tool._actionguard.bare, "_run", options.exclude)
        known.append(arguments)
        its_own = arguments.parameters if arguments.parameters is not None else unclear
        unclear -= {n for n in unclear if (arguments.sees(n) if n in shown else n in its_own)}
    if not known or not unclear:
        return
    parameters: list[str] | None = None
    if all(arguments.parameters is not None for arguments in known):
        parameters = sorted({name for arguments in known for name in arguments.parameters or ()})
    if rules_only:
        excluded = options.exclude.intersection(parameters or ())
        options = replace(options, exclude=excluded, secret=frozenset())
    options.check_names(owner, parameters, lambda name: any(a.sees(name) for a in known))


class _Behind:
    """What stands behind a face: the bare tool, its guards, and the guarded ways to its body."""

    __slots__ = ("_gates", "_ways", "bare", "face", "guards")

    def __init__(self, bare: BaseTool, guards: tuple[Options, ...]) -> None:
        self.bare = bare
        #: The last one asks first.
        self.guards = guards
        self._ways: dict[str, AnyCallable] = {}
        self._gates: dict[str, list[tuple[Gate, Bind]]] = {}
        own = _own_entries(type(bare)).union(vars(bare).keys() & _ENTRIES)
        self.face: Any = object.__new__(_face_class(type(bare), own))
        object.__setattr__(self.face, "_actionguard", self)
        self.show(anew=True)

    def guard(self, tool: BaseTool) -> Any:
        """Guard another tool as this one is guarded."""
        return _Behind(tool, self.guards).face

    def show(self, *, anew: bool = False) -> None:
        """Show the bare tool's state, but functions in its fields behind their gates.

        Args:
            anew: Whether a name, a schema or a body may be another one now.
        """
        if anew:
            self._ways, self._gates = {}, {}
        state = vars(self.bare)
        functions = {name: self.way(name) for name in _BODIES if callable(state.get(name))}
        if functions and not anew:
            vars(self.face).update({**state, **functions})
        else:
            shown = {**state, **functions} if functions else state
            object.__setattr__(self.face, "__dict__", shown)
        for part in _STATE:
            object.__setattr__(self.face, part, getattr(self.bare, part))

    def way(self, name: str) -> AnyCallable:
        """The guarded form of the bare tool's method or function of this name."""
        way = self._ways.get(name)
        if way is None:
            way = self._ways[name] = self._new_way(name)
        return way

    def _new_way(self, name: str) -> AnyCallable:
        bare: Any = self.bare
        run = looks = getattr(bare, name)
        if name == "_run" and _runs_a_body(bare, name) and bare.func is None:
            return run  # type: ignore[no-any-return] # it only says that there is no function
        context: Any = nullcontext
        if name == "_arun" and _is_plain(bare):
            run, looks = functools.partial(_in_executor, bare), bare._run
            if sys.version_info < (3, 11) and isinstance(bare, (StructuredTool, Tool)):
                context = _config_set
        guarded: Any
        if name in _ASYNC:

            async def guarded(*args: Any, **kwargs: Any) -> Any:
                try:
                    with context(kwargs):
                        return await self._call(name, run, args, kwargs)
                finally:
                    self.show()

        else:

            def guarded(*args: Any, **kwargs: Any) -> Any:
                try:
                    return self._call(name, run, args, kwargs)
                finally:
                    self.show()

        functools.update_wrapper(guarded, looks, updated=())
        if name in ("_run", "_arun"):
            # langchain-core reads these at every call: it reads them faster if they are resolved.
            hints, signature = hints_of(looks), inspect.signature(looks)
            resolved = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
            guarded.__signature__ = signature.replace(parameters=resolved)
            guarded.__annotations__ = {n: h for n, h in hints.items() if h is not inspect._empty}
            guarded.__doc__ = inspect.getdoc(looks)
        return guarded  # type: ignore[no-any-return]

    def _call(
        self, name: str, run: AnyCallable, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make one call, through all gates, with its answer to a refusal."""
        is_entry = name in _ENTRIES
        if is_entry:
            args = tuple(map(_detached, args))
        call_id = _input_of(args, kwargs)[1] if is_entry else kwargs.pop(_CALL_ID, None)

        def refuse(refused: Refused) -> Any:
            if isinstance(refused.error, asyncio.CancelledError):
                raise refused.error
            name, answer = self.bare.name, refused.message
            message = (
                ToolMessage(answer, name=name, tool_call_id=call_id, status="error")
                if call_id is not None
                else answer
            )
            with_artifact = self.bare.response_format == "content_and_artifact" and not is_entry
            return (message, None) if with_artifact else message

        gates = self._gates.get(name) or self._new_gates(name)
        for gate, bind in gates:
            answers = refuse if gate is gates[-1][0] else _reraise
            run = (gate.coroutine if name in _ASYNC else gate.plain)(run, bind, answers)
        return run(*args, **kwargs)

    def _new_gates(self, name: str) -> list[tuple[Gate, Bind]]:
        gates: list[tuple[Gate, Bind]] = []
        for options in self.guards:
            arguments = _Arguments(self.bare, name, options.exclude)
            bind = arguments.bind
            if name in _ENTRIES:
                bind = functools.partial(_bind_input, self.bare, arguments)
            gates.append((options.gate(self.bare.name, self.bare.description), bind))
        self._gates[name] = gates
        return gates


def _reraise(refused: Refused) -> Any:
    # By an inner gate: the outer one ends with it, too.
    raise Refused(refused.message, refused.error, refused.logged or "refused by a second gate")


@functools.lru_cache(maxsize=1000)
def _face_class(cls: Any, own_entries: frozenset[str]) -> Any:
    """The class of the faces of this class's tools."""
    names: dict[str, Any] = {n: getattr(cls, n) for n in ("__module__", "__qualname__", "__doc__")}
    names["__slots__"] = ("_actionguard",)
    # That of StructuredTool and Tool runs all of `invoke` in the executor if there is no coroutine,
    # and so would wait there for a person.
    names["ainvoke"] = BaseTool.ainvoke
    names.update({way: _way_of(way) for way in ("_run", "_arun", *own_entries)})
    # Past pydantic, which would build for the face (in 2 ms) what it has built for the class.
    return ABCMeta.__new__(type(cls), cls.__name__, (ApprovalWrappedTool, cls), names)


def _way_of(name: str) -> property:
    return property(lambda face: face._actionguard.way(name))


@functools.lru_cache(maxsize=1000)
def _own_entries(cls: type) -> frozenset[str]:
    """Which of `invoke` and the like a class has replaced, so that it may do the work there.

    Nobody can tell whether such a method leads to `_run`. So it has a gate of its own, and runs on
    the bare tool: nothing asks twice.
    """
    known = (BaseTool, StructuredTool, Tool)
    look_up = functools.partial(inspect.getattr_static, cls)
    own = {
        name
        for name in (*_ENTRIES, "__call__")
        if look_up(name, None) not in [inspect.getattr_static(k, name, None) for k in known]
    }
    # A plain StructuredTool or Tool leads to these two, awaited.
    return frozenset(own if own.isdisjoint(("invoke", "run")) else {*own, "ainvoke"})


def _detached(given: Any) -> Any:
    """The input of a call, in a dict that its caller cannot change while an approval is pending."""
    if type(given) is dict and isinstance(given.get("args"), dict):
        return {**given, "args": {**given["args"]}}
    return {**given} if type(given) is dict else given


def _input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """What `invoke`, `run` and the like were given, and the id of the call."""
    given = args[0] if args else kwargs.get("input", kwargs.get("tool_input"))
    if isinstance(given, dict) and given.get("type") == "tool_call":
        return given.get("args"), given.get("id")
    return given, kwargs.get("tool_call_id")


def _bind_input(
    bare: Any, arguments: _Arguments, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Name the arguments as validation will name them, and whatever else was given."""
    given, call_id = _input_of(args, kwargs)
    extra = {name: value for name, value in kwargs.items() if name not in _OPTIONS}
    if isinstance(given, dict):
        given = extra = {**given, **extra}
    try:
        named = arguments.bind(*bare._to_args_and_kwargs(given, call_id))
    except Exception:  # the method may take what does not fit the schema
        named = {} if given is extra else Unnamed(input=given)
    for name, value in extra.items():
        named.setdefault(name, value)
    return arguments.completed(arguments.visible(named))


# --- plain tools, awaited --------------------------------------------------------------------


def _runs_a_body(tool: Any, method: str) -> bool:
    """Whether this method of the tool is langchain-core's, and runs the function in a field."""
    return getattr(type(tool), method, None) in _RUN_A_BODY and method not in vars(tool)


def _is_plain(tool: Any) -> bool:
    """Whether an awaited call leads to `_run`, which langchain-core runs in the executor."""
    if _runs_a_body(tool, "_arun"):
        return not tool.coroutine
    return type(tool)._arun is BaseTool._arun and "_arun" not in vars(tool)


@contextmanager
def _config_set(kwargs: dict[str, Any]) -> Iterator[None]:
    """Let channel and body of an awaited plain tool know its config.

    With Python 3.10, `arun` does not do that, since tasks there have no context of their own. The
    bare tool knows it all the same: langchain-core runs all of its `invoke` in the executor.
    """
    manager = kwargs.get("run_manager")
    callbacks = manager.get_child() if manager else None
    child_config = config.patch_config(kwargs.get("config"), callbacks=callbacks)
    token = config.var_child_runnable_config.set(child_config)
    try:
        yield
    finally:
        config.var_child_runnable_config.reset(token)


async def _in_executor(bare: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a plain body as langchain-core's own `_arun` does, unless its caller has left by then."""
    manager = kwargs.get("run_manager")
    if isinstance(manager, AsyncCallbackManagerForToolRun):
        kwargs["run_manager"] = manager.get_sync()
    start: Future[None] = Future()

    def run() -> Any:
        return bare._run(*args, **kwargs) if start.set_running_or_notify_cancel() else None

    try:
        return await run_in_executor(None, run)
    except asyncio.CancelledError as cancelled:
        if start.cancel():
            why = "CancelledError before the body began"
            raise Refused("", cancelled, why) from None  # type: ignore[arg-type]
        raise


# --- arguments -------------------------------------------------------------------------------


class _Arguments(Signature):
    """How a tool's arguments are named: as its schema and its body do.

    What the runtime fills in (injected values, configs, managers) is passed to the body only.

    Args:
        tool: The bare tool.
        way: The method or field that is called.
        exclude: Further names that are passed to the body only.
    """

    def __init__(self, tool: Any, way: str, exclude: Collection[str]) -> None:
        body = _body_of(tool, way)
        schema = None if way == "__call__" else tool.args_schema
        fields = {} if schema is None else _fields_of(schema)
        hints = hints_of(body)
        annotations = [*hints.items(), *((name, hint) for name, (hint, _) in fields.items())]
        hidden = {name for name, hint in annotations if is_injected(hint)}
        hidden.update(hints.keys() & set(FILTERED_ARGS) - fields.keys())
        if _runs_a_body(tool, way):
            hidden.update(("config", "run_manager"))
        super().__init__(body, hidden.union(exclude))
        # The runtime fills these in on the way to the body: a call at the gate may lack them.
        self._later = [
            p.name if p.name in self.hidden and p.default is p.empty else ""
            for p in parameters_of(body)
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        self._defaults = {
            name: default
            for name, (_, default) in fields.items()
            if default is not PydanticUndefined and name not in self.hidden
        }
        if schema is not None and self.parameters is not None:
            self.parameters = sorted({*fields, *self.parameters})
            if not (self.flat and _is_open(schema)):
                self.names = frozenset(self.parameters)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call, as `Signature` does."""
        given = {name: value for name, value in kwargs.items() if name not in self.hidden}
        given.update((name, None) for name in self._later[len(args) :] if name)
        named = self.visible(super().bind(args, given))
        return named if args else self.completed(named)

    def visible(self, named: dict[str, Any]) -> dict[str, Any]:
        """These arguments without what the runtime fills in."""
        for name, value in tuple(named.items()):
            cls: Any = type(value)
            if name in self.hidden or _is_runtime(cls):
                del named[name]
        return named

    def completed(self, named: dict[str, Any]) -> dict[str, Any]:
        """These arguments, given by name, with the schema's defaults."""
        for name, default in self._defaults.items():
            named.setdefault(name, default)
        return named


def _body_of(tool: Any, way: str) -> Any:
    """The code that a call ends in."""
    if way in (*_BODIES, "__call__"):
        return getattr(tool, way)
    functions = tuple(getattr(tool, name, None) for name in _BODIES)
    if way not in _ASYNC:
        body = functions[0] or functions[1] if _runs_a_body(tool, "_run") else None
        return body or tool._run
    if _runs_a_body(tool, "_arun") and functions[1]:
        return functions[1]
    return _body_of(tool, "_run") if _is_plain(tool) else tool._arun


def _fields_of(schema: Any) -> dict[str, tuple[Any, Any]]:
    """The fields of a tool's schema, each with its annotation and its default."""
    if isinstance(schema, dict):
        properties = schema.get("properties") or {}
        stated = {n: p for n, p in properties.items() if isinstance(p, dict)}  # it may be a bool
        none = PydanticUndefined
        return {n: (None, stated.get(n, {}).get("default", none)) for n in properties}
    hints = get_all_basemodel_annotations(schema)
    fields: dict[str, Any] = get_fields(schema)
    # What pydantic 1 requires has None for its default.
    return {
        name: (
            hints.get(name),
            PydanticUndefined if getattr(field, "required", False) else field.default,
        )
        for name, field in fields.items()
    }


def _is_open(schema: Any) -> bool:
    """Whether calls may bring what the schema does not list."""
    if isinstance(schema, dict):
        return schema.get("additionalProperties", False) is not False
    return getattr(schema, "model_config", {}).get("extra") == "allow"


@functools.lru_cache(maxsize=1000)
def _is_runtime(cls: Any) -> bool:
    return is_injected(cls)
