"""What a guarded function raises when its call was not approved."""

from __future__ import annotations

import copy
from typing import Any

from actionguard._values import show
from actionguard.core import Action, Decision


class ApprovalDenied(RuntimeError):
    """A guarded call was not approved, and did not run.

    A RuntimeError, because LangGraph's default retry policy retries most other exceptions.
    """

    #: The call that was not approved. Always set when a guard raises the error; None only if it was
    #: made from a message alone, as the result backends of task queues do.
    action: Action
    #: The answer; None if the call was blocked without one.
    decision: Decision | None

    def __init__(
        self, message: str, *, action: Action | None = None, decision: Decision | None = None
    ) -> None:
        super().__init__(message)
        self.action = action  # type: ignore[assignment]
        self.decision = decision

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "action": _portable(self.action)}
        return type(self), self.args, state


def _portable(action: Action | None) -> Action | None:
    """The action with text in place of arguments that cannot be pickled (a connection)."""
    if action is None:
        return None
    portable = copy.copy(action)
    portable.args = {n: v if _can_be_pickled(v) else show(v) for n, v in action.args.items()}
    return portable


def _can_be_pickled(value: object) -> bool:
    import pickle  # whoever gets here has it already

    try:
        pickle.dumps(value)
    except Exception:  # an object's own pickling code can raise anything
        return False
    return True
