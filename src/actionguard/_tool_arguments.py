"""The arguments of a LangChain tool's calls: which there are, and which of them its agent fills."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool
from langchain_core.tools.base import _is_injected_arg_type, get_all_basemodel_annotations
from langchain_core.utils.pydantic import get_fields

from actionguard._signature import Signature

#: These run the function in a field of the tool, and keep `config` and `run_manager` from it.
RUNS_A_FIELD = (StructuredTool._run, StructuredTool._arun, Tool._run, Tool._arun)
_MAYBE_CONFIG = RunnableConfig | None


class ToolArguments:
    """How the arguments of a call are named for policy, prompt and log.

    What the runtime fills in goes to the body only: managers, configs, injected values.

    Args:
        tool: The tool, guarded or not.
        field: The field that may hold the body: `func`, or `coroutine` for awaited calls.
        exclude: Names that go to the body only as well.
    """

    def __init__(self, tool: BaseTool, field: str, exclude: Collection[str]) -> None:
        method = "_run" if field == "func" else "_arun"
        other = "coroutine" if field == "func" else "func"
        body = _body_of(tool, field) or _body_of(tool, other) or tool._run
        self._in_field = getattr(bare_class(tool), method) in RUNS_A_FIELD
        hints = _annotations(body)
        configs = {n for n, hint in hints.items() if hint in (RunnableConfig, _MAYBE_CONFIG)}
        schema = _schema_fields(tool)
        hidden = {n for n, h in {**hints, **(schema or {})}.items() if _is_injected_arg_type(h)}
        hidden.update(
            configs, ("run_manager", "callbacks"), getattr(tool, "_injected_args_keys", ())
        )
        self._signature = Signature(body, hidden.union(exclude))
        own = self._signature.parameters
        # Filled in on the way from `_run` to the function, and so not there yet at the gate.
        self._filled_in = dict.fromkeys(configs.union(["callbacks"]).intersection(own or ()))
        # In no schema, and so the agent's only if a call brings them all the same.
        self._unlisted = frozenset(own or ()) - schema.keys() if schema is not None else frozenset()
        #: The names of all parameters; None if they cannot be known.
        self.parameters: list[str] | None = own
        #: The names that a policy may see; None if there may be any.
        self.names: frozenset[str] | None = self._signature.names
        if schema is not None:
            self.parameters = sorted({*schema, *(own or ())})
            self.names = None
            if not _is_open(tool.args_schema):
                self.names = frozenset(self.parameters) - self._signature.hidden

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call that goes through the tool's method.

        Raises:
            TypeError: They do not fit, as the body itself would say it.
        """
        if not self._in_field:
            return self.bind_direct(args, kwargs)
        given = {k: v for k, v in kwargs.items() if k not in ("config", "run_manager")}
        return self.bind_direct(args, {**given, **self._filled_in})

    def bind_direct(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call of the function itself."""
        bound = self._signature.bind(args, kwargs)
        for name, value in list(bound.items()):
            if _is_runtime(value) or (name in self._unlisted and not args and name not in kwargs):
                del bound[name]
        return bound


def bare_class(tool: BaseTool) -> Any:
    """The tool's class as it was before guarding."""
    return getattr(type(tool), "_bare_class", type(tool))


def _body_of(tool: BaseTool, field: str) -> Callable[..., Any] | None:
    """The code that a plain or an awaited call ends in, if there is any."""
    method = "_run" if field == "func" else "_arun"
    found = getattr(bare_class(tool), method)
    if found in RUNS_A_FIELD:
        return getattr(tool, field, None)
    return None if found is getattr(BaseTool, method) else getattr(tool, method)


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
    config: Any = getattr(schema, "model_config", None)
    return isinstance(config, dict) and config.get("extra") == "allow"


def _annotations(body: Callable[..., Any]) -> dict[str, Any]:
    """What the parameters are annotated with, resolved where that is possible."""
    hints: dict[str, Any] = {}
    try:
        parameters = inspect.signature(body).parameters
        hints.update((name, parameter.annotation) for name, parameter in parameters.items())
        owner = body.func if isinstance(body, functools.partial) else body
        hints.update(typing.get_type_hints(owner, include_extras=True))
    except Exception:  # unreadable, or annotated with what does not exist at run time
        pass
    return hints


def _is_runtime(value: object) -> bool:
    """Whether LangGraph put this value in: it does so by a parameter's name alone, too."""
    node = sys.modules.get("langgraph.prebuilt.tool_node")
    runtime = getattr(node, "ToolRuntime", None)
    return runtime is not None and isinstance(value, runtime)
