"""`guard`: which edge a target goes to."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
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
Y = TypeVar("Y")
Tool = TypeVar("Tool", bound="BaseTool")
# What is returned as the type it came in: a tool, any callable, or a classmethod (not callable).
Target = TypeVar("Target", bound="BaseTool | Callable[..., Any] | classmethod[Any, Any, Any]")


class _Guard(Protocol):
    """`guard(...)` whose denials raise: the target keeps its type."""

    def __call__(self, target: Target, /) -> Target: ...


if TYPE_CHECKING:
    #: What a refused call returns; a `str` where it is "return" that was asked for.
    D = TypeVarWithDefault("D", covariant=True, default=str)
    _Returning = Literal["return"] | Callable[[ApprovalDenied], D]
    _Async = Callable[P, Coroutine[Any, Any, R]]
    _Steps = Callable[P, Iterator[Y]]
    _AsyncSteps = Callable[P, AsyncIterator[Y]]

    class _GuardOr(Protocol[D]):
        """`guard(...)` whose denials return: what a callable returns may be a `D` as well."""

        @overload
        def __call__(self, target: Tool, /) -> Tool: ...
        @overload
        def __call__(self, target: _AsyncSteps[P, Y], /) -> _AsyncSteps[P, Y | D]: ...
        @overload
        def __call__(self, target: _Steps[P, Y], /) -> _Steps[P, Y | D]: ...
        @overload
        def __call__(self, target: _Async[P, R], /) -> _Async[P, R | D]: ...
        @overload
        def __call__(self, target: Callable[P, R], /) -> Callable[P, R | D]: ...


class _Given(TypedDict, total=False):
    policy: Policy | None
    channel: ApprovalChannel | None
    audit: AuditLog | str | PathLike[str] | None
    exclude: Collection[str]
    secret: Collection[str]


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
    target: _AsyncSteps[P, Y], *, on_denied: _Returning[D], **options: Unpack[_Given]
) -> _AsyncSteps[P, Y | D]: ...
@overload
def guard(
    target: _Steps[P, Y], *, on_denied: _Returning[D], **options: Unpack[_Given]
) -> _Steps[P, Y | D]: ...
@overload
def guard(
    target: _Async[P, R], *, on_denied: _Returning[D], **options: Unpack[_Given]
) -> _Async[P, R | D]: ...
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
    secret: Collection[str] = (),
) -> Any:
    """Require approval before a callable or a LangChain tool runs.

    Used as `@guard`, `@guard(...)` or `guard(target, ...)`. Options are checked at once.

    Args:
        target: A LangChain tool, or any callable: plain or async function, method, generator
            function, partial, class, callable object, builtin.
        policy: Which calls need approval; by default every call.
        channel: Who is asked, and how; by default the channel set with `configure`, or else the
            terminal.
        audit: The audit log or its path; by default the one set with `configure`, or else
            `actionguard_audit.jsonl` in the working directory.
        on_denied: What happens when a call of a plain callable is not approved: `"raise"` raises
            `ApprovalDenied`, `"return"` returns the message for the agent, and a callable is called
            with the `ApprovalDenied`, and what it returns is returned. A tool always returns the
            message to its agent.
        exclude: Parameters that belong to the runtime and not to the agent (a context, a client).
            They are passed to the body but kept out of the policy, the prompt and the log.
        secret: Arguments whose values only the policy and the body get. The approver, the log and
            the agent see `<secret: 32 characters>`.

    Returns:
        The guarded target: a tool of the same class, or a callable of the same kind.

    Raises:
        TypeError: The target or an option has an unsupported type.
        ValueError: An option has an unsupported value, or names an argument that the target does
            not have.
        OSError: The audit log cannot be written at its path.
    """
    check_on_denied(on_denied)
    options = checked_options(
        "guard", policy=policy, channel=channel, audit=audit, exclude=exclude, secret=secret
    )

    def decorate(target: Any) -> Any:
        tools = sys.modules.get("langchain_core.tools.base")
        if tools is None or not isinstance(target, tools.BaseTool):
            return guard_callable(target, options, on_denied)
        if callable(on_denied):
            raise TypeError(
                "guard(on_denied=...) is for plain callables: a tool answers its agent, "
                f"and {type(target).__name__} {target.name!r} is a tool"
            )
        from actionguard._tool import guarded_with, signatures_of

        guarded = guarded_with(target, options)
        options.check_names(f"the tool {target.name!r}", signatures_of([guarded]))
        return guarded

    decorate.__qualname__ = "guard(...)"  # for Python's own error if it is called wrongly
    return decorate if target is None else decorate(target)
