"""For your own tests: channels that answer automatically, and one switch for all guards."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from actionguard._gate import Route, Settings
from actionguard.audit import AuditLog
from actionguard.audit import read_log as read_log  # noqa: PLC0414  for type checkers
from actionguard.channels.base import ApprovalChannel, async_form_of
from actionguard.core import Action, Decision

Answer = Decision | bool | BaseException


class ScriptExhausted(AssertionError):
    """A `ScriptedChannel` was asked more times than it has answers."""


#: One for all channels here, since a channel that had its own could not be pickled.
_asked = threading.Condition()


class _TestChannel(ApprovalChannel):
    """Answers each request in the same way."""

    _approves = False

    def __init__(self, comment: str | None = None) -> None:
        #: What the channel was asked so far, in order.
        self.requests: list[Action] = []
        self._comment = comment
        self._count = 0

    def request_approval(self, action: Action) -> Decision:
        """Record the request and answer at once."""
        return self._answer(action, self._record(action))

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same, without a thread: the answer is there already."""
        return self.request_approval(action)

    def wait_for_requests(self, count: int = 1, timeout: float = 10.0) -> list[Action]:
        """Block until the channel got this many requests, from calls in other threads.

        Args:
            count: How many requests to wait for, counted from the channel's first.
            timeout: Seconds to wait for them.

        Returns:
            All requests so far.

        Raises:
            TimeoutError: Too few requests came in time.
        """
        with _asked:
            if not _asked.wait_for(lambda: len(self.requests) >= count, timeout):
                asked = len(self.requests)
                raise TimeoutError(f"expected {count} requests in {timeout} s, got {asked}")
            return list(self.requests)

    def _record(self, action: Action) -> int:
        """Keep the request; returns how many there were before."""
        with _asked:
            self.requests.append(action)
            self._count += 1
            _asked.notify_all()
            return self._count - 1

    def _answer(self, action: Action, number: int) -> Decision:
        return Decision(self._approves, self._comment, self.name)


class AutoApproveChannel(_TestChannel):
    """Approves every request.

    Args:
        comment: The comment of each decision.
    """

    name = "auto-approve"
    _approves = True


class AutoDenyChannel(_TestChannel):
    """Denies every request. Arguments have the same meaning as for `AutoApproveChannel`."""

    name = "auto-deny"


class ScriptedChannel(_TestChannel):
    """Gives prepared answers.

        ScriptedChannel(True, False)  # one for each request, in order
        ScriptedChannel(refund=False, send_email=True)  # by the tool's name, each time
        ScriptedChannel(lambda action: action.args["amount"] < 100)  # from a function

    If calls run in parallel, as an agent's do, their order is unpredictable: then answer by name or
    from a function.

    Args:
        *answers: Each a `Decision`, True to approve, False to deny, or an exception to raise; or
            one function that returns such an answer for each Action.
        **by_tool: One answer for each tool, by its name.

    Raises:
        TypeError: An answer is none of these, or answers are given both in order and by name.
    """

    name = "scripted"

    def __init__(self, *answers: Answer | Callable[[Action], Answer], **by_tool: Answer) -> None:
        super().__init__()
        if answers and by_tool:
            raise TypeError("ScriptedChannel takes answers in order or by tool, not both")
        self._function = answers[0] if len(answers) == 1 and callable(answers[0]) else None
        given: dict[Any, Any] = {} if self._function else {**dict(enumerate(answers)), **by_tool}
        #: By the number of the request, or by the name of the tool.
        self._answers = {key: _checked(given[key]) for key in given}

    def _answer(self, action: Action, number: int) -> Decision:
        if self._function:
            answer = _checked(self._function(action))
        else:
            answer = self._answers.get(number, self._answers.get(action.tool_name))
        if answer is None:
            raise ScriptExhausted(f"ScriptedChannel has no answer left for {action.pretty()}")
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Decision) else Decision(answer, source=self.name)


def _checked(answer: Any) -> Any:
    if isinstance(answer, (Decision, bool, BaseException)):
        return answer
    raise TypeError(
        f"ScriptedChannel takes Decisions, bools and exceptions to raise, not {answer!r}"
    )


class SilentChannel(_TestChannel, AbstractContextManager["SilentChannel"]):
    """Never answers: to test code while an approval is pending, or when nobody answers.

    An async caller waits until its task is cancelled. A plain one waits until `hang_up` is called,
    as it is when a `with` block of the channel ends:

        with SilentChannel() as channel:
            threading.Thread(target=guard(refund, channel=channel), args=(4000,)).start()
            channel.wait_for_requests()
            ...
    """

    name = "silent"

    def __init__(self) -> None:
        super().__init__()
        self._end: Future[Decision] = Future()
        # As if it ran, so that a task that is cancelled does not cancel it for the others.
        self._end.set_running_or_notify_cancel()

    def request_approval(self, action: Action) -> Decision:
        """Record the request and wait for `hang_up`."""
        self._record(action)
        return self._end.result()

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same, without a thread."""
        self._record(action)
        return await asyncio.wrap_future(self._end)

    def hang_up(self) -> None:
        """End all waiting, now and later: requests are denied as unanswered."""
        why = "the silent channel hung up"
        with suppress(InvalidStateError):  # it was hung up before
            self._end.set_result(Decision(False, why, self.name, unanswered=True))

    def __exit__(self, *_: object) -> None:
        self.hang_up()


@contextmanager
def answering(channel: ApprovalChannel) -> Iterator[AuditLog]:
    """Make every guard in the process use this channel and a log of its own, whatever it names.

    That includes functions and tools that were guarded when their modules were imported:

        with answering(ScriptedChannel(refund=False)) as log:
            run_my_agent()
        assert [record["executed"] for record in log.records()] == [False]

    Yields:
        The log of the calls in the block, in a temporary folder.
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
