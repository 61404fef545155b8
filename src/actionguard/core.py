"""What is asked and what is answered: Action, Decision, and the words that an agent reads."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from actionguard._render import cut, escape, label, show

#: How many characters of a call a model is shown again when it is refused.
_CALL_LIMIT = 500
_COMMENT_LIMIT = 2_000


@dataclass
class Action:
    """One call that may need a person.

    Attributes:
        tool_name: The name of the tool or function.
        args: The arguments by name, defaults filled in: a copy, safe to read and keep.
        tool_description: What the tool says of itself, if anything.
    """

    tool_name: str
    args: dict[str, Any]
    tool_description: str | None = None

    @property
    def id(self) -> str:
        """Unique for every call, also between equal ones; made when first asked for."""
        known: str | None = self.__dict__.get("_id")
        # setdefault: threads that ask at once get the same.
        return known or self.__dict__.setdefault("_id", os.urandom(8).hex())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_id": self.id}  # a copy, or another process, has the same id

    def pretty(self) -> str:
        """The call as one line, like `refund(amount=50, id='c1')`."""
        inside = ", ".join(f"{label(name)}={show(value)}" for name, value in self.args.items())
        return f"{escape(self.tool_name)}({inside})"


@dataclass
class Decision:
    """An answer to an Action.

    Attributes:
        approved: Only `True` itself releases the call.
        comment: What the approver added, or why nobody answered; shown to the agent and logged.
        source: Who or what decided; the channel's name if left out.
        metadata: Anything to keep with the decision in the log (who approved, a ticket).
        unanswered: True when no person decided: a timeout, or nobody to ask. Told apart from a
            person's denial wherever the decision is reported.
    """

    approved: bool
    comment: str | None = None
    source: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    unanswered: bool = field(default=False, kw_only=True)

    @classmethod
    def approve(cls, comment: str | None = None) -> Decision:
        """A person's yes."""
        return cls(True, comment)

    @classmethod
    def deny(cls, comment: str | None = None) -> Decision:
        """A person's no."""
        return cls(False, comment)


def denial_message(action: Action, decision: Decision) -> str:
    """What an agent is told when a call was not approved."""
    call = cut(action.pretty(), _CALL_LIMIT)
    comment = _comment(decision)
    if decision.unanswered:
        because = comment or "nobody answered"
        return (
            f"DENIED: {call} was not executed, because no person could decide on it: {because}. "
            "Do not repeat it unchanged; go on without it, or ask the user."
        )
    return (
        f"DENIED: a person refused {call}. It was not executed. Do not repeat it unchanged; find "
        f"another way, or ask the user.{comment and f' Their comment: {comment}'}"
    )


def _comment(decision: Decision) -> str:
    comment = decision.comment
    text = escape(comment) if type(comment) is str else show(comment) if comment else ""
    return cut(text, _COMMENT_LIMIT)


def blocked_message(action: Action, why: str, *, broken: bool = True) -> str:
    """What an agent is told when nobody's answer counts; `why` holds no exception's text.

    Args:
        action: The call that was stopped.
        why: A clause that says what stopped it.
        broken: Whether the guard itself failed.
    """
    call = cut(action.pretty(), _CALL_LIMIT)
    return (
        f"BLOCKED: {call} was not executed, because {why}. This is "
        f"{'a fault of the guard and ' if broken else ''}no person's denial: tell the operator "
        "about it, and do not retry."
    )
