"""Asking in Slack: post the request to an incoming webhook, then poll for the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Any, Literal

from actionguard._signature import takes_one_argument
from actionguard.channels._slack_message import message
from actionguard.channels._slack_webhook import NotDelivered, Secret, Webhook
from actionguard.channels.base import ApprovalChannel, async_form_of, seconds
from actionguard.core import Action, Decision

__all__ = ["NotDelivered", "SlackChannel"]

PollFn = Callable[[Action], "Decision | Awaitable[Decision | None] | None"]

# Seconds.
_SHORTEST_INTERVAL = 0.01  # an interval of 0 would keep a core busy
_LAST_LOOK = 1.0  # how long a poll may still take when the time is up


class SlackChannel(ApprovalChannel):
    """Posts each request to an incoming webhook and polls until somebody has answered.

    Webhooks are one-way, so you need something that receives the answer (a Slack app, a slash
    command) and stores it under `action.id`, which the message shows; `poll_fn` looks there. If one
    process makes the calls and receives the answers, `SlackButtonsChannel` does all of it.

    A request that cannot be posted blocks the call. Posts that Slack answers with 429 or 5xx are
    repeated until the timeout, after the wait that Slack asks for; while Slack cannot be reached at
    all, they are repeated for `post_timeout`.

    Args:
        webhook_url: The webhook. It is a secret and never shown.
        poll_fn: Called with the action until it returns a `Decision`; None means "not yet". It may
            be async. A plain one is called in a new thread each time, so it must not use a database
            connection that belongs to another thread. Without one, nobody can answer.
        timeout: Seconds until a last poll, after which `on_timeout` decides. 0 polls once.
        poll_interval: Seconds between two polls; less than 0.01 means 0.01.
        on_timeout: "deny", or "approve" if silence is consent. A `poll_fn` that hangs is not
            silence: one second after the timeout it denies with "deny" and blocks with "approve".
        post_timeout: Seconds that one attempt to post may take.
        session: Posts instead of `requests`: a `requests.Session`, or anything with its `post`.

    Raises:
        ImportError: `requests` is not installed.
        TypeError, ValueError: An argument cannot work.
    """

    name = "slack"

    def __init__(
        self,
        webhook_url: str,
        *,
        poll_fn: PollFn | None = None,
        timeout: float = 300.0,
        poll_interval: float = 5.0,
        on_timeout: Literal["deny", "approve"] = "deny",
        post_timeout: float = 10.0,
        session: Any = None,
    ) -> None:
        webhook_url = Secret(webhook_url)  # also for tracebacks that show locals
        self._webhook = Webhook(webhook_url, session, post_timeout)
        if poll_fn is not None and not (callable(poll_fn) and takes_one_argument(poll_fn)):
            raise TypeError(f"poll_fn must be a function of the action or None, not {poll_fn!r}")
        if on_timeout not in ("deny", "approve"):
            raise ValueError(f'on_timeout must be "deny" or "approve", not {on_timeout!r}')
        self.poll_fn = poll_fn
        self.timeout = seconds("timeout", timeout)
        self.poll_interval = seconds("poll_interval", poll_interval)
        self.on_timeout = on_timeout

    def request_approval(self, action: Action) -> Decision:
        """Post, and wait for the answer.

        Raises:
            NotDelivered: Slack did not take the request. `poll_fn` was not called.
            TypeError: `poll_fn` returned neither a `Decision` nor None.
            TimeoutError: `poll_fn` hangs, and `on_timeout` is "approve".
            RuntimeError: `poll_fn` was cancelled from within.
            Exception: What `poll_fn` raised.
        """
        from actionguard.channels._waiting import run_sync

        return run_sync(self._ask(action))

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same for async code, which holds no thread between two polls."""
        return await self._ask(action)

    def message(self, action: Action) -> dict[str, Any]:
        """What is posted for the action; override it to add to it."""
        word = "Approved" if self.on_timeout == "approve" else "Denied"
        return message(action, f"{word} automatically after {self._timeout_text}")

    async def _ask(self, action: Action) -> Decision:
        deadline = monotonic() + self.timeout
        await self._webhook.deliver(self.message(action), deadline)
        answer = await self._answer(action, deadline)
        return replace(answer, source=self.name) if answer.source is None else answer

    async def _answer(self, action: Action, deadline: float) -> Decision:
        import asyncio

        interval = max(self.poll_interval, _SHORTEST_INTERVAL)
        while True:
            left = deadline - monotonic()
            answer = await self._poll(action, max(left, 0) + _LAST_LOOK)
            if answer is not None:
                return answer
            if left <= 0:  # before this look: an answer in time was seen
                return self._unanswered("" if self.poll_fn else " (there is no poll_fn)")
            await asyncio.sleep(min(interval, max(deadline - monotonic(), 0)))

    def _unanswered(self, why: str = "") -> Decision:
        comment = f"no answer within {self._timeout_text}{why}"
        return Decision(self.on_timeout == "approve", comment, unanswered=True)

    @property
    def _timeout_text(self) -> str:
        return f"{self.timeout:,.10g} s"  # not 2.592e+06 for a month

    async def _poll(self, action: Action, limit: float) -> Decision | None:
        from actionguard.channels._waiting import call, within

        if self.poll_fn is None:
            return None
        poll = await within(limit, call(self.poll_fn, action))
        if poll is None:
            # Silence is consent only for those who have listened: there may be a no.
            if self.on_timeout == "approve":
                raise TimeoutError("poll_fn did not return, so nobody knows if there is an answer")
            return None
        if poll.cancelled():  # by poll_fn itself: nobody has cancelled the wait
            raise RuntimeError("poll_fn was cancelled, so nobody knows if there is an answer")
        answer = poll.result()
        if answer is None or isinstance(answer, Decision):
            return answer
        raise TypeError(f"poll_fn must return a Decision or None, not {type(answer).__name__}")
