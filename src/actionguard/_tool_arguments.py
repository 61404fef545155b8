"""The arguments of a LangChain tool's calls: which there are, and which of them its agent fills."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from langchain_core.callbacks import BaseCallbackManager, BaseRunManager, Callbacks
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool
from langchain_core.tools.base import _is_injected_arg_type, get_all_basemodel_annotations
from langchain_core.utils.pydantic import get_fields
from pydantic import BaseModel

from actionguard._signature import Signature

#: The fields that hold the body of a tool made from functions.
BODIES = ("func", "coroutine")
#: These run the function in a field of the tool, and keep `config` and `run_manager` from it.
RUNS_A_FIELD = (StructuredTool._run, StructuredTool._arun, Tool._run, Tool._arun)
_MAYBE_CONFIG = RunnableConfig | None
# Annotations, also as they are written, of what no runtime fills in.
_PLAIN = frozenset({bool, int, float, str, "bool", "int", "float", "str"})


def injected_names(function: Any) -> frozenset[str]:
    """The parameters that LangChain fills in itself, once a tool is made of the function."""
    while isinstance(function, functools.partial):
        function = function.func
    hints = _annotations(function)
    return frozenset(name for name in _parameters(function) if _is_filled_in(hints[name]))


class ToolArguments:
    """How the arguments of a call are named for policy, prompt and log.

    What the runtime fills in goes to the body only: managers, configs, injected values.

    Args:
        tool: The guarded tool as its body gets it.
        entry: What is called of it: `_run`, `_arun`, or a field that holds a function.
        exclude: Names that go to the body only as well.
    """

    def __init__(self, tool: BaseTool, entry: str, exclude: Collection[str]) -> None:
        method = getattr(bare_class(tool), entry) if entry not in BODIES else None
        body = _body_of(tool, entry)
        hints = _annotations(body)
        configs = {n for n, hint in hints.items() if _is_config(hint)}
        schema = _schema_fields(tool)
        hidden = {n for n, hint in {**hints, **(schema or {})}.items() if _is_injected(hint)}
        hidden.update(configs, getattr(tool, "_injected_args_keys", ()))
        hidden.update({"run_manager", "callbacks"}.intersection(hints))
        if method not in RUNS_A_FIELD and "callbacks" in (schema or ()):
            hidden.discard("callbacks")  # nobody but the agent fills it in
        # What the method takes for itself, and what it fills in when it calls the function.
        self._taken: tuple[str, ...] = ()
        self._filled_in: dict[str, Any] = {}
        if method in RUNS_A_FIELD:
            if any(body is getattr(tool, field) for field in BODIES):
                self._taken = ("config", "run_manager")
            else:
                hidden.add("config")
        self._signature = Signature(body, hidden.union(exclude))
        own = self._signature.parameters
        if self._taken:
            filled_in = configs.union(["callbacks"]).intersection(own or ())
            self._filled_in = dict.fromkeys(filled_in)
        # In no schema, and so the agent's only if a call brings them all the same.
        self._unlisted = frozenset(own or ()) - schema.keys() if schema is not None else frozenset()
        #: The names of all parameters; None if they cannot be known.
        self.parameters: list[str] | None = own
        #: Whether a policy may see an argument of that name.
        self.sees = self._signature.sees
        if schema is not None:
            self.parameters = sorted({*schema, *(own or ())})
            more = {n for n, p in _parameters(body).items() if p.kind is p.VAR_KEYWORD}
            is_open = _is_open(tool.args_schema) and more.isdisjoint(self._signature.hidden)
            self._signature.names = None if is_open else frozenset(self.parameters)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call.

        Raises:
            TypeError: They do not fit, as the body itself would say it.
        """
        if self._taken:
            kwargs = {n: v for n, v in kwargs.items() if n not in self._taken} | self._filled_in
        bound = self._signature.bind(args, kwargs)
        if not args:
            for name in self._unlisted.difference(kwargs):
                bound.pop(name, None)
        # LangGraph puts it in by a parameter's name alone, too.
        runtime = _of_langgraph("ToolRuntime")
        if runtime is not None:
            for name in [name for name, value in bound.items() if isinstance(value, runtime)]:
                del bound[name]
        return bound


def is_seen_at_a_glance(tool: Any, name: str) -> bool:
    """Whether this is a number or text that the agent fills in, of a tool made of functions.

    True is sure. Where it is False, `ToolArguments` knows, which takes ten times as long.
    """
    if bare_class(tool) is not StructuredTool or name in ("config", "run_manager", "callbacks"):
        return False
    schema: Any = tool.args_schema
    hints: list[Any] = []
    if not isinstance(schema, dict):
        field = getattr(schema, "model_fields", {}).get(name)
        if field is None or field.metadata:
            return False
        if schema.__init__ is not BaseModel.__init__:  # it annotates them, too
            return False
        hints.append(field.annotation)
    elif name not in schema.get("properties", ()):
        return False
    for body in filter(None, (tool.func, tool.coroutine)):
        if not inspect.isfunction(body) or vars(body):  # it may have another one's signature
            return False
        hints.append(body.__annotations__.get(name, str))
    return all(type(hint) in (str, type) and hint in _PLAIN for hint in hints)


def bare_class(tool: BaseTool) -> Any:
    """The tool's class as it was before guarding."""
    return vars(type(tool)).get("_actionguard_bare", type(tool))


def _body_of(tool: Any, entry: str) -> Any:
    """The code that a call ends in."""
    if entry in BODIES:
        return getattr(tool, entry)
    method = getattr(bare_class(tool), entry)
    if entry == "_arun":
        if method in RUNS_A_FIELD and tool.coroutine:
            return tool.coroutine
        if method in RUNS_A_FIELD or method is BaseTool._arun:
            return _body_of(tool, "_run")
    elif method in RUNS_A_FIELD and (tool.func or tool.coroutine):
        return tool.func or tool.coroutine
    return getattr(super(type(tool).__base__, tool), entry)  # past the gate


def _schema_fields(tool: BaseTool) -> Mapping[str, Any] | None:
    """The fields of the tool's schema with their annotations; None if it has no schema."""
    schema = tool.args_schema
    if schema is None:
        return None
    if isinstance(schema, dict):
        return dict.fromkeys(schema.get("properties", ()))
    if not getattr(schema, "__pydantic_complete__", True):
        raise TypeError(f"{schema.__name__} names types that are not defined yet")
    return {**dict.fromkeys(get_fields(schema)), **get_all_basemodel_annotations(schema)}


def _is_open(schema: Any) -> bool:
    """Whether calls may bring what the schema does not list."""
    if isinstance(schema, dict):
        return schema.get("additionalProperties", False) is not False
    config: Any = getattr(schema, "model_config", None)
    return isinstance(config, dict) and config.get("extra") == "allow"


def _annotations(body: Callable[..., Any]) -> dict[str, Any]:
    """What the parameters are annotated with, resolved where that is possible."""
    hints = {name: parameter.annotation for name, parameter in _parameters(body).items()}
    owner: Any = body
    while isinstance(owner, functools.partial):
        owner = owner.func
    if not inspect.isroutine(owner) and not hasattr(owner, "__wrapped__"):
        owner = type(owner).__call__
    with suppress(Exception):  # they may name what does not exist at run time
        hints.update(typing.get_type_hints(owner, include_extras=True))
    return hints


def _parameters(body: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(body).parameters
    except (TypeError, ValueError):
        return {}


def _is_filled_in(hint: Any) -> bool:
    with suppress(Exception):  # an annotation may be any object
        return _is_config(hint) or _is_injected(hint) or _is_of_callbacks(hint)
    return False


def _is_config(hint: Any) -> bool:
    return hint in (RunnableConfig, _MAYBE_CONFIG)


def _is_of_callbacks(hint: Any) -> bool:
    parts = typing.get_args(hint) or (hint,)
    return hint == Callbacks or any(
        isinstance(part, type) and issubclass(part, (BaseRunManager, BaseCallbackManager))
        for part in parts
    )


def _is_injected(hint: Any) -> bool:
    """Whether the runtime fills in what is annotated like this."""
    if typing.get_origin(hint) is not typing.Union:
        return _is_injected_arg_type(hint)
    # LangGraph looks into unions, too; and Python 3.10 makes one where the default is None.
    markers = filter(None, [_of_langgraph("InjectedState"), _of_langgraph("InjectedStore")])
    return _is_injected_arg_type(hint) or any(
        _is_injected_arg_type(part, marker) for marker in markers for part in typing.get_args(hint)
    )


def _of_langgraph(name: str) -> Any:
    """A class of LangGraph's tool node; None as long as nobody imported that."""
    return getattr(sys.modules.get("langgraph.prebuilt.tool_node"), name, None)
