"""For your own tests: channels that answer automatically, and one switch for all guards."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from actionguard._gate import Route, Settings
from actionguard.audit import AuditLog, read_log
from actionguard.channels.base import ApprovalChannel, async_form_of
from actionguard.core import Action, Decision

__all__ = [
    "AutoApproveChannel",
    "AutoDenyChannel",
    "ScriptExhausted",
    "ScriptedChannel",
    "SilentChannel",
    "answering",
    "read_log",
]

Answer = Decision | bool | BaseException


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
        return Decision(self._approved, self._comment, self.name)


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
    """Gives prepared answers.

        ScriptedChannel(True, False)  # one for each request, in order
        ScriptedChannel(refund=False, send_email=True)  # by the tool's name, as often as it asks
        ScriptedChannel(lambda action: action.args["amount"] < 100)  # from a function

    Where calls run in parallel, as an agent's do, their order is a matter of luck: answer by name
    or from a function there.

    Args:
        *answers: Each a `Decision`, True to approve, False to deny, or an exception to raise; or
            one function that returns such an answer for each Action.
        **by_tool: The same by the name of the tool.

    Raises:
        TypeError: An answer is none of these, or there are answers in order and by name.
    """

    name = "scripted"

    def __init__(self, *answers: Answer | Callable[[Action], Answer], **by_tool: Answer) -> None:
        super().__init__()
        if answers and by_tool:
            raise TypeError("ScriptedChannel takes answers in order or by tool, not both")
        self._function = answers[0] if len(answers) == 1 and callable(answers[0]) else None
        self._by_name = bool(by_tool)
        self._answers: dict[Any, Any] = {**dict(enumerate(answers)), **by_tool}
        self._given = 0
        for answer in () if self._function else self._answers.values():
            _check_answer(answer)

    def _answer(self, action: Action) -> Decision:
        key = action.tool_name if self._by_name else self._given
        if self._function:
            answer: Any = self._function(action)
            _check_answer(answer)
        elif key in self._answers:
            answer = self._answers[key]
        else:
            raise ScriptExhausted(f"ScriptedChannel has no answer left for {action.pretty()}")
        self._given += 1
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Decision) else Decision(answer, source=self.name)


def _check_answer(answer: object) -> None:
    if not isinstance(answer, (Decision, bool, BaseException)):
        raise TypeError(
            "ScriptedChannel takes answers that are a Decision, True, False or an exception to "
            f"raise, not {answer!r}"
        )


class SilentChannel(_RecordingChannel):
    """Never answers: to test code while an approval is pending, or when nobody answers.

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
                future.set_result(Decision(False, why, self.name, unanswered=True))

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


@contextmanager
def answering(channel: ApprovalChannel) -> Iterator[AuditLog]:
    """Send every guard in the process to this channel, whatever channel and log it names.

    That includes functions and tools that were guarded when their modules were imported:

        with answering(ScriptedChannel(refund=False)) as log:
            run_my_agent()
        assert [record["executed"] for record in log.records()] == [False]

    Yields:
        The log of the calls in the block: one of its own, in a temporary folder.
    """
    if not isinstance(channel, ApprovalChannel):
        raise TypeError(f"answering() takes an ApprovalChannel, not {channel!r}")
    folder = tempfile.mkdtemp(prefix="actionguard-")
    log = AuditLog(os.path.join(folder, "audit.jsonl"))
    weakref.finalize(log, shutil.rmtree, folder, ignore_errors=True)
    before, Settings.override = Settings.override, Route(channel, log)
    try:
        yield log
    finally:
        Settings.override = before
