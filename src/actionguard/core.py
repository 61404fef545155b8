"""What is asked and what is answered: Action, Decision, and the messages that agents read."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from actionguard._values import cut, escape, label, show

#: How many characters of the call a refusal repeats to the model.
_CALL_LIMIT = 500
_COMMENT_LIMIT = 2_000
_NO_WAY_ROUND = (
    "Do not retry it, split it up or reach the same result another way; tell the user instead."
)

_process = os.urandom(6).hex()
_count = itertools.count(1)


def new_id() -> str:
    """An id that no other call has, in this process or any other."""
    return f"{_process}-{next(_count)}"


def _renew() -> None:
    global _process
    _process = os.urandom(6).hex()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@dataclass
class Action:
    """One call that may need approval.

    Attributes:
        tool_name: The name of the tool or function.
        args: The arguments by name, with defaults filled in: a copy, safe to read and keep.
        tool_description: The tool's description, if any.
        id: Unique for every call, across processes; two equal calls have different ids.
        earlier: The audit records of equal calls that are waiting, running or over, newest first.
    """

    tool_name: str
    args: dict[str, Any]
    tool_description: str | None = None
    id: str = field(default_factory=new_id, kw_only=True, compare=False)
    earlier: list[dict[str, Any]] = field(
        default_factory=list, kw_only=True, compare=False, repr=False
    )

    def pretty(self) -> str:
        """The call as one line, like `refund(amount=50, id='c1')`."""
        inside = ", ".join(f"{label(name)}={show(value)}" for name, value in self.args.items())
        return f"{escape(self.tool_name)}({inside})"


def seconds_since(record: dict[str, Any]) -> float:
    """For how many seconds the call of an audit record has been over."""
    began = datetime.fromisoformat(record["timestamp"])
    took = (record.get("waited_s") or 0) + (record.get("ran_s") or 0)
    return (datetime.now(timezone.utc) - began).total_seconds() - took


def may_have_run(record: dict[str, Any]) -> bool:
    """Whether the call of an audit record may have taken effect: only "did not run" is sure."""
    return record.get("state") != "waiting" and record.get("executed") is not False


@dataclass
class Decision:
    """An answer to an Action.

    Attributes:
        approved: Only `True` itself lets the call run.
        comment: The approver's reason, or why nobody answered; shown to the agent and logged.
        source: Who or what decided; the channel's name if left out.
        metadata: Extra data stored with the decision in the log (who approved, a ticket).
        unanswered: True if no person decided: a timeout, or nobody to ask. Messages and the log
            tell this apart from a person's denial.
    """

    approved: bool
    comment: str | None = None
    source: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    unanswered: bool = field(default=False, kw_only=True)

    @classmethod
    def approve(cls, comment: str | None = None) -> Decision:
        """An approval."""
        return cls(True, comment)

    @classmethod
    def deny(cls, comment: str | None = None) -> Decision:
        """A denial."""
        return cls(False, comment)


def denial_message(action: Action, decision: Decision) -> str:
    """What an agent is told about a call that was not approved."""
    call = cut(action.pretty(), _CALL_LIMIT)
    comment = _comment(decision)
    if decision.unanswered:
        why = f"because no person could decide: {comment or 'nobody answered'}"
        return f"DENIED: {call} was not executed, {why}. {_NO_WAY_ROUND}"
    reason = f" Reason: {comment}." if comment else ""
    return f"DENIED: a person denied {call}. It was not executed.{reason} {_NO_WAY_ROUND}"


def _comment(decision: Decision) -> str:
    comment = decision.comment
    if comment is None:
        return ""
    text = escape(comment) if issubclass(type(comment), str) else show(comment)
    return cut(text, _COMMENT_LIMIT).rstrip(".")


def blocked_message(action: Action, why: str, *, broken: bool = True) -> str:
    """What an agent is told about a call that was stopped without a person's denial.

    Args:
        action: The call that was stopped.
        why: A clause that says what stopped it, without any exception's text.
        broken: Whether the approval system itself failed.
    """
    call = cut(action.pretty(), _CALL_LIMIT)
    kind = "an approval-system failure, not a denial" if broken else "not a person's denial"
    return (
        f"BLOCKED: {call} was not executed, because {why}. This is {kind}: "
        "report it to the operator and do not retry."
    )
