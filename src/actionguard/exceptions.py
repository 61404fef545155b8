"""What a guarded function raises when its call was not released."""

from __future__ import annotations

from typing import Any

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
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    cls: type[ApprovalDenied], args: tuple[Any, ...], state: dict[str, Any]
) -> ApprovalDenied:
    denied = cls.__new__(cls, *args)
    denied.__dict__.update(state)
    return denied
