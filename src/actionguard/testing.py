"""For tests of what you guard: channels that need no person, and a way to read a log back."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from concurrent.futures import Future
from typing import Any

from actionguard.audit import read_log
from actionguard.channels.base import ApprovalChannel, async_form_of
from actionguard.core import Action, Decision

__all__ = [
    "AutoApproveChannel",
    "AutoDenyChannel",
    "ScriptExhausted",
    "ScriptedChannel",
    "SilentChannel",
    "read_log",
]


class ScriptExhausted(AssertionError):
    """A `ScriptedChannel` was asked more often than it has answers."""


class _RecordingChannel(ApprovalChannel):
    def __init__(self) -> None:
        #: What the channel was asked so far, in order.
        self.requests: list[Action] = []
        self._asked = threading.Condition()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_asked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _asked=threading.Condition())

    def wait_for_requests(self, count: int = 1, timeout: float = 10.0) -> list[Action]:
        """Block until the channel was asked that often, by calls in other threads.

        Args:
            count: How many requests to wait for, counted from the channel's first.
            timeout: Seconds to wait for them.

        Returns:
            All requests so far.

        Raises:
            TimeoutError: There were fewer when the time was up.
        """
        with self._asked:
            if not self._asked.wait_for(lambda: len(self.requests) >= count, timeout):
                asked = len(self.requests)
                raise TimeoutError(f"expected {count} requests in {timeout} s, got {asked}")
            return list(self.requests)

    def _record(self, action: Action) -> None:
        self.requests.append(action)
        self._asked.notify_all()


class _AnsweringChannel(_RecordingChannel):
    @abstractmethod
    def _answer(self, action: Action) -> Decision: ...

    def request_approval(self, action: Action) -> Decision:
        """Record the request and answer at once."""
        with self._asked:
            self._record(action)
            return self._answer(action)

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same, without a thread: the answer is there already."""
        return self.request_approval(action)


class _AutoChannel(_AnsweringChannel):
    _approved: bool

    def __init__(self, comment: str | None = None) -> None:
        super().__init__()
        self._comment = comment

    def _answer(self, action: Action) -> Decision:
        return Decision(self._approved, self._comment)


class AutoApproveChannel(_AutoChannel):
    """Approves every request.

    Args:
        comment: The comment of each decision.
    """

    name = "auto-approve"
    _approved = True


class AutoDenyChannel(_AutoChannel):
    """Denies every request. Arguments have the same meaning as for `AutoApproveChannel`."""

    name = "auto-deny"
    _approved = False


class ScriptedChannel(_AnsweringChannel):
    """Gives prepared answers, one a request, in the order in which the requests come.

    Args:
        *answers: Each a `Decision`, True to approve or False to deny, or an exception to raise.

    Raises:
        TypeError: An answer is none of these.
    """

    name = "scripted"

    def __init__(self, *answers: Decision | bool | BaseException) -> None:
        super().__init__()
        for answer in answers:
            if not isinstance(answer, (Decision, bool, BaseException)):
                raise TypeError(
                    "ScriptedChannel takes answers that are a Decision, True, False or an "
                    f"exception to raise, not {answer!r}"
                )
        self._answers = answers
        self._given = 0

    def _answer(self, action: Action) -> Decision:
        if self._given == len(self._answers):
            raise ScriptExhausted(f"ScriptedChannel has no answer left for {action.pretty()}")
        answer = self._answers[self._given]
        self._given += 1
        if isinstance(answer, BaseException):
            raise answer
        return Decision(answer) if isinstance(answer, bool) else answer


class SilentChannel(_RecordingChannel):
    """Never answers: for what your code does while a person thinks, or when nobody comes.

    An async caller waits until its task is cancelled. A plain one waits until `hang_up`, which
    leaving a `with` block of the channel does too:

        with SilentChannel() as channel:
            threading.Thread(target=guard(refund, channel=channel), args=(4000,)).start()
            channel.wait_for_requests()
            ...
    """

    name = "silent"

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Future[Decision]] = []
        self._hung_up = False

    def request_approval(self, action: Action) -> Decision:
        """Record the request and wait for `hang_up`."""
        return self._wait(action).result()

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same, without a thread."""
        return await asyncio.wrap_future(self._wait(action))

    def hang_up(self) -> None:
        """End all waiting, now and later: requests are denied as unanswered."""
        with self._asked:
            self._hung_up = True
            waiting, self._waiting = self._waiting, []
        why = "the silent channel was hung up"
        for future in waiting:
            if future.set_running_or_notify_cancel():  # a cancelled task waits for it no more
                future.set_result(Decision(False, why, unanswered=True))

    def __enter__(self) -> SilentChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def _wait(self, action: Action) -> Future[Decision]:
        future: Future[Decision] = Future()
        with self._asked:
            self._record(action)
            self._waiting.append(future)
        if self._hung_up:
            self.hang_up()
        return future
