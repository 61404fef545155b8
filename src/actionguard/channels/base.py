"""What a channel is, and what the channels of this library share."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

from actionguard.core import Action, Decision, may_have_run, seconds_since

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])


class ApprovalChannel(ABC):
    """Asks for approval, and returns the answer. Subclass it and implement `request_approval`.

    `request_approval` may be plain or `async def`, and guarded code of both kinds can use either.
    Guarded async code awaits an async one on its own event loop and runs a plain one in a daemon
    thread, with the caller's contextvars. Guarded sync code runs an async one on an event loop made
    for that wait, so your method must not await objects that belong to another loop.

    To extend one of this library's channels, override `request_approval` as a plain function that
    calls `super().request_approval(action)`. This does not block the event loop.
    """

    #: The channel's name, as the source of its decisions in messages and in the log.
    name: str = "channel"
    #: For channels that pause the program: tells whether a call that the policy no longer holds
    #: was held before the pause, and so needs this channel's answer. None for all others.
    held_before: Callable[[Action], bool] | None = None

    @abstractmethod
    def request_approval(self, action: Action) -> Decision | Awaitable[Decision]:
        """Ask, wait for the answer, and return it.

        Returns:
            The answer. Only a `Decision` whose `approved` is `True` releases the call.

        Raises:
            Exception: Whatever keeps the channel from asking; the call is then blocked.
        """

    def __deepcopy__(self, memo: object) -> ApprovalChannel:
        return self  # copies of a guarded tool ask the same people


#: The async form of a plain `request_approval`, where it has one. By function and not by class: a
#: subclass that replaces the plain form must not have its async callers pass it by.
async_forms: dict[object, Callable[..., Awaitable[Decision]]] = {}


def async_form_of(plain: Callable[..., Any]) -> Callable[[Method], Method]:
    """Decorates the async form of a plain `request_approval`."""

    def add(method: Method) -> Method:
        async_forms[plain] = method
        return method

    return add


# --- threads ---------------------------------------------------------------------------------


class _Waiter(threading.local):
    """The async code that the current thread works for, if any."""

    #: Whether it is gone: its task was cancelled, or its loop stopped.
    has_gone: Callable[[], bool] = staticmethod(lambda: False)
    #: Whether its loop runs in the main thread, where asyncio itself acts on Ctrl-C.
    in_main_thread = False


waiter = _Waiter()


def start_thread(work: Callable[[], T]) -> tuple[threading.Thread, Future[T]]:
    """Run work in a daemon thread, with the caller's contextvars; also returns its outcome."""
    outcome: Future[T] = Future()
    run = copy_context().run  # by which a notebook's kernel knows the cell
    thread = threading.Thread(target=run, args=(settle, outcome, work), daemon=True)
    thread.name = "actionguard-approval"
    thread.start()
    return thread, outcome


def settle(outcome: Future[T], work: Callable[[], T]) -> None:
    """Do the work now, and keep what it returns or raises."""
    try:
        outcome.set_result(work())
    except BaseException as error:  # belongs to the waiting caller
        outcome.set_exception(error)


# --- what the channels of this library share -------------------------------------------------


def seconds(name: str, value: Any) -> float:
    """The value of a setting that is a time, checked."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and 0 <= value <= threading.TIMEOUT_MAX:
        return float(value)
    raise ValueError(f"{name} must be a finite number of seconds, 0 or more, not {value!r}")


def earlier_line(action: Action) -> str | None:
    """What became of the last equal call, as one line for the approver; None if there was none.

    If that one did not run, the last one that may have is told as well.
    """
    if not action.earlier:
        return None
    last = action.earlier[0]
    ran = next((record for record in action.earlier if may_have_run(record)), last)
    also = "" if ran is last else f", and {_became(ran)}"
    return f"The same call {_became(last)}{also}"


def _became(record: dict[str, Any]) -> str:
    if "state" in record:
        return f"is {record['state']}"
    ago = _ago(record)
    if record.get("executed") is False:
        was = "denied" if record.get("approved") is False else "stopped before it ran,"
        return f"was {was} {ago}"
    if record.get("executed") is None or record.get("error"):
        return f"failed {ago} and may have gone through"
    return f"ran {ago}"


def _ago(record: dict[str, Any]) -> str:
    age = seconds_since(record)
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if age >= 2 * length:
            return f"{int(age // length)} {unit} ago"
    return f"{max(int(age), 1)} s ago"
