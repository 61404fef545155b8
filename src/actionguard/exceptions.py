"""What a guarded function raises when its call was not released."""

from __future__ import annotations

import copy
from typing import Any

from actionguard._render import show
from actionguard.core import Action, Decision


class ApprovalDenied(Exception):
    """A guarded call was not approved, and did not run."""

    #: The call that was asked for.
    action: Action
    #: The answer; None where the call was blocked without one.
    decision: Decision | None

    def __init__(self, message: str, *, action: Action, decision: Decision | None = None) -> None:
        super().__init__(message)
        self.action = action
        self.decision = decision

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would call __init__ without the keyword arguments.
        state = {**self.__dict__, "action": _portable(self.action)}
        return _restore, (type(self), self.args, state)

    def __copy__(self) -> ApprovalDenied:
        return _restore(type(self), self.args, self.__dict__)


def _restore(
    cls: type[ApprovalDenied], args: tuple[Any, ...], state: dict[str, Any]
) -> ApprovalDenied:
    denied = cls.__new__(cls, *args)
    denied.__dict__.update(state)
    return denied


def _portable(action: Action) -> Action:
    """The action with text in place of arguments that cannot leave this process (a connection)."""
    portable = copy.copy(action)
    portable.args = {n: v if _can_leave(v) else show(v) for n, v in action.args.items()}
    return portable


def _can_leave(value: object) -> bool:
    import pickle  # who gets here has it already

    try:
        pickle.dumps(value)
    except Exception:  # how it is pickled is anybody's code
        return False
    return True
