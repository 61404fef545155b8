"""What a channel is, and how it is asked."""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from actionguard.core import Action, Decision

T = TypeVar("T")


class ApprovalChannel(ABC):
    """Where a yes or no comes from. Subclass it and implement `request_approval`.

    `request_approval` may be plain or `async def`. Guarded async code awaits an async one on its
    own loop; a plain one runs in a thread of its own. Guarded sync code can use either: an async
    one runs on a loop made for that wait, so it must not wait there for another loop's objects, and
    least of all for the loop that the sync caller keeps from running. asyncio only, not trio.
    """

    #: Names the channel as the source of its decisions in messages and in the log.
    name: str = "channel"

    @abstractmethod
    def request_approval(self, action: Action) -> Decision | Awaitable[Decision]:
        """Ask, wait for the answer, and return it.

        Returns:
            The answer. Only a `Decision` whose `approved` is `True` releases the call.

        Raises:
            Exception: Whatever keeps the channel from asking; the call is then blocked.
        """

    async def arequest_approval(self, action: Action) -> Decision:
        """The same for guarded async code; override it where the wait has an async form."""
        from actionguard.channels._waiting import call

        return await call(self.request_approval, action)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A subclass that replaces one form of a channel with two would be passed by in the other:
        # a second look added to SlackChannel.request_approval has to hold for async code too.
        super().__init_subclass__(**kwargs)
        plain, asynchronous = _depth(cls, "request_approval"), _depth(cls, "arequest_approval")
        if plain < asynchronous:
            cls.arequest_approval = _async_form(cls)  # type: ignore[method-assign]
        elif asynchronous < plain:
            cls.request_approval = _plain_form(cls)  # type: ignore[method-assign]

    def __deepcopy__(self, memo: object) -> ApprovalChannel:
        return self  # copies of a guarded tool ask the same people


def _depth(cls: type, name: str) -> int:
    return next(depth for depth, base in enumerate(cls.__mro__) if name in vars(base))


def _async_form(cls: type[ApprovalChannel]) -> Any:
    """What a class with another plain form has for its async one."""

    async def arequest_approval(self: ApprovalChannel, action: Action) -> Decision:
        from actionguard.channels._waiting import call

        form: Any = self.request_approval
        if type(self).arequest_approval is not arequest_approval:
            # A subclass's own calls what it inherits: its `self` would lead back to it, for ever.
            form = partial(cls.request_approval, self)
        return await call(form, action)

    return arequest_approval


def _plain_form(cls: type[ApprovalChannel]) -> Any:
    """What a class with another async form has for its plain one."""

    def request_approval(self: ApprovalChannel, action: Action) -> Decision:
        form = self.arequest_approval
        if type(self).request_approval is not request_approval:  # as above
            form = partial(cls.arequest_approval, self)
        return _waited_for(form(action))

    return request_approval


def ask(channel: ApprovalChannel, action: Action) -> Decision:
    """Ask from sync code."""
    answer = channel.request_approval(action)
    return _waited_for(answer) if inspect.isawaitable(answer) else answer


def _waited_for(answer: Awaitable[Decision]) -> Decision:
    # asyncio is slow to import: it is left to those who use it.
    from actionguard.channels._waiting import run_sync

    return run_sync(answer)


def start_thread(
    work: Callable[[], T], done: Callable[[Callable[[], T]], object]
) -> threading.Thread:
    """Run work in a daemon thread; `done` gets a function that returns or raises its outcome."""

    def run() -> None:
        try:
            value = work()
        except BaseException as raised:  # belongs to the waiting caller
            error = raised

            def outcome() -> T:
                raise error

        else:

            def outcome() -> T:
                return value

        done(outcome)

    thread = threading.Thread(target=run, name="actionguard-approval", daemon=True)
    thread.start()
    return thread
