"""`guard`: which edge a target goes to."""

from __future__ import annotations

import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterator,
)
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, overload

from actionguard._function import guard_callable
from actionguard._options import OnDenied, check_on_denied, checked_options
from actionguard.audit import AuditLog
from actionguard.channels.base import ApprovalChannel
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import Policy

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool
    from typing_extensions import TypeVar as TypeVarWithDefault  # Python's own has none before 3.13
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Y = TypeVar("Y")
Tool = TypeVar("Tool", bound="BaseTool")
# What is handed on as it came: a tool, any callable, or a classmethod (which is no callable).
Target = TypeVar("Target", bound="BaseTool | Callable[..., Any] | classmethod[Any, Any, Any]")


class _Guard(Protocol):
    """`guard(...)` whose denials raise: the target keeps its type."""

    def __call__(self, target: Target, /) -> Target: ...


if TYPE_CHECKING:
    #: What a refused call returns; a `str` where it is "return" that was asked for.
    D = TypeVarWithDefault("D", covariant=True, default=str)
    _Returning = Literal["return"] | Callable[[ApprovalDenied], D]

    class _GuardOr(Protocol[D]):
        """`guard(...)` whose denials return: what a callable returns may be a `D` as well."""

        @overload
        def __call__(self, target: Tool, /) -> Tool: ...
        @overload
        def __call__(
            self, target: Callable[P, AsyncGenerator[Y, S]], /
        ) -> Callable[P, AsyncGenerator[Y | D, S]]: ...
        @overload
        def __call__(
            self, target: Callable[P, AsyncIterator[Y]], /
        ) -> Callable[P, AsyncIterator[Y | D]]: ...
        @overload
        def __call__(
            self, target: Callable[P, Generator[Y, S, R]], /
        ) -> Callable[P, Generator[Y | D, S, R]]: ...
        @overload
        def __call__(self, target: Callable[P, Iterator[Y]], /) -> Callable[P, Iterator[Y | D]]: ...
        @overload
        def __call__(
            self, target: Callable[P, Coroutine[Any, Any, R]], /
        ) -> Callable[P, Coroutine[Any, Any, R | D]]: ...
        @overload
        def __call__(self, target: Callable[P, R], /) -> Callable[P, R | D]: ...


class _Given(TypedDict, total=False):
    policy: Policy | None
    channel: ApprovalChannel | None
    audit: AuditLog | str | PathLike[str] | None
    exclude: Collection[str]


@overload
def guard(
    target: Target, *, on_denied: Literal["raise"] = ..., **options: Unpack[_Given]
) -> Target: ...
@overload
def guard(*, on_denied: Literal["raise"] = ..., **options: Unpack[_Given]) -> _Guard: ...
@overload
def guard(*, on_denied: _Returning[D], **options: Unpack[_Given]) -> _GuardOr[D]: ...
@overload
def guard(target: Tool, *, on_denied: Literal["return"], **options: Unpack[_Given]) -> Tool: ...
@overload
def guard(
    target: Callable[P, AsyncGenerator[Y, S]],
    *,
    on_denied: _Returning[D],
    **options: Unpack[_Given],
) -> Callable[P, AsyncGenerator[Y | D, S]]: ...
@overload
def guard(
    target: Callable[P, AsyncIterator[Y]], *, on_denied: _Returning[D], **options: Unpack[_Given]
) -> Callable[P, AsyncIterator[Y | D]]: ...
@overload
def guard(
    target: Callable[P, Generator[Y, S, R]], *, on_denied: _Returning[D], **options: Unpack[_Given]
) -> Callable[P, Generator[Y | D, S, R]]: ...
@overload
def guard(
    target: Callable[P, Iterator[Y]], *, on_denied: _Returning[D], **options: Unpack[_Given]
) -> Callable[P, Iterator[Y | D]]: ...
@overload
def guard(
    target: Callable[P, Coroutine[Any, Any, R]],
    *,
    on_denied: _Returning[D],
    **options: Unpack[_Given],
) -> Callable[P, Coroutine[Any, Any, R | D]]: ...
@overload
def guard(
    target: Callable[P, R], *, on_denied: _Returning[D], **options: Unpack[_Given]
) -> Callable[P, R | D]: ...
def guard(
    target: Any = None,
    *,
    policy: Policy | None = None,
    channel: ApprovalChannel | None = None,
    audit: AuditLog | str | PathLike[str] | None = None,
    on_denied: OnDenied = "raise",
    exclude: Collection[str] = (),
) -> Any:
    """Put a person in front of a callable or a LangChain tool.

    Used as `@guard`, `@guard(...)` or `guard(target, ...)`. Options are checked at once.

    Args:
        target: A LangChain tool, or any callable: plain or async function, method, generator
            function, partial, callable object, builtin.
        policy: Which calls need a person; by default every call.
        channel: Who is asked, and how; by default the terminal.
        audit: The audit log or its path; by default `actionguard_audit.jsonl` in the working
            directory.
        on_denied: What a refused call of a plain callable does: `"raise"` an `ApprovalDenied`,
            `"return"` the message for the agent, or a callable that gets the `ApprovalDenied`
            and whose answer is returned. A tool always answers its agent.
        exclude: Parameters that belong to the runtime and not to the agent (a context, a client):
            they reach the body and nobody else.

    Returns:
        The guarded target: a tool of the same class, or a callable of the same kind.

    Raises:
        TypeError: The target or an option is not of a kind that can be used.
        ValueError: An option's value is not one of those possible, or the policy or `exclude`
            names an argument that the target does not have.
        OSError: The audit log cannot be written at its path.
    """
    check_on_denied(on_denied)
    options = checked_options("guard", policy=policy, channel=channel, audit=audit, exclude=exclude)

    def decorate(target: Any) -> Any:
        tools = sys.modules.get("langchain_core.tools.base")
        if tools is None:  # nobody imported it yet, so nothing here is of its kind
            return guard_callable(target, options, on_denied)
        if isinstance(target, tools.BaseTool):
            from actionguard._guarded_tool import guard_tool

            if callable(on_denied):
                raise TypeError(
                    "guard(on_denied=...) is for plain callables: a tool answers its agent, "
                    f"and {type(target).__name__} {target.name!r} is a tool"
                )
            return guard_tool(target, options)
        # LangChain may make a tool of it, and fill in what its agent does not see.
        from actionguard._tool_arguments import injected_names

        exclude = options.exclude | injected_names(getattr(target, "__func__", target))
        return guard_callable(target, replace(options, exclude=exclude), on_denied)

    decorate.__qualname__ = "guard(...)"  # for Python's own complaint about what it is called with
    return decorate if target is None else decorate(target)
