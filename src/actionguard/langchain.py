"""The tools of a LangChain agent: guarded all at once, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as make_tool
from pydantic import BaseModel

from actionguard._guard import guard
from actionguard._options import checked_options
from actionguard._tool import ApprovalWrappedTool, guarded_with, signatures_of
from actionguard.audit import AuditLog
from actionguard.channels.base import ApprovalChannel
from actionguard.policy import Policy

__all__ = ["ApprovalWrappedTool", "guard", "guard_tools"]


def guard_tools(
    tools: Iterable[BaseTool | Callable[..., Any]],
    *,
    policy: Policy | Mapping[str, Policy] | None = None,
    channel: ApprovalChannel | None = None,
    audit: AuditLog | str | PathLike[str] | None = None,
    exclude: Collection[str] = (),
    secret: Collection[str] = (),
) -> list[BaseTool]:
    """Guard the tools of an agent. The originals are not modified.

    Args:
        tools: Tools, or plain functions, which langchain-core turns into tools.
        policy: One policy for all, or a mapping from a tool's name to its policy; a tool that the
            mapping does not list always needs approval. A single policy may name arguments that
            only some of the tools have.
        channel: Has the same meaning as for `guard`.
        audit: Has the same meaning as for `guard`.
        exclude: Has the same meaning as for `guard`; each name must be a parameter of some tool.
        secret: Has the same meaning as for `guard`; each name must be an argument of some tool.

    Returns:
        The guarded tools in the same order.

    Raises:
        TypeError: Something in the list is not a tool, or an option has an unsupported type.
        ValueError: The policy names a tool that is not in the list; or the policy, `exclude` or
            `secret` names an argument that none of the tools has.
        OSError: The audit log cannot be written at its path.
    """
    # A tool is iterable, and so is a toolkit: they are models.
    if isinstance(tools, (BaseModel, str, Mapping)) or not isinstance(tools, Iterable):
        raise TypeError(f"guard_tools() takes a list of tools, not {tools!r}")
    all_tools = [_as_tool(tool) for tool in tools]
    names = [tool.name for tool in all_tools]
    by_name, shared = (policy, None) if isinstance(policy, Mapping) else ({}, policy)
    options = checked_options(
        "guard_tools", policy=shared, channel=channel, audit=audit, exclude=exclude, secret=secret
    )
    own = {}
    for name, its_policy in by_name.items():
        if name not in names:
            raise ValueError(
                f"guard_tools(policy={{...}}) names {name!r}, which is not one of the tools; "
                f"they are: {', '.join(map(repr, names)) or 'none'}"
            )
        own[name] = options.with_policy(f"guard_tools(policy={{{name!r}: ...}})", its_policy)
    guarded = [guarded_with(tool, own.get(tool.name, options)) for tool in all_tools]
    if guarded:
        options.check_names("any of the tools", signatures_of(guarded))
    for tool in guarded:
        if tool.name in own:
            # Other names may be those of other tools' arguments.
            rules_only = replace(own[tool.name], exclude=frozenset(), secret=frozenset())
            rules_only.check_names(f"the tool {tool.name!r}", signatures_of([tool]))
    return guarded


def _as_tool(tool: Any) -> BaseTool:
    if isinstance(tool, BaseTool):
        return tool
    if isinstance(tool, type) or not callable(tool):
        is_dict = isinstance(tool, Mapping)
        hint = ": a tool that the model's provider runs cannot be guarded" if is_dict else ""
        raise TypeError(f"guard_tools() takes LangChain tools and functions, not {tool!r}{hint}")
    return make_tool(tool)  # type: ignore[no-any-return]
