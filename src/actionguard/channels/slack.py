"""Asking in Slack: post the request to an incoming webhook, then poll for the answer."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Any, Literal, NamedTuple

from actionguard._signature import takes_one_argument
from actionguard.channels._slack_message import message
from actionguard.channels.base import ApprovalChannel, async_form_of, seconds
from actionguard.core import Action, Decision

PollFn = Callable[[Action], "Decision | Awaitable[Decision | None] | None"]

_URL = re.compile(r"https?://[\w.\[][!-~]*", re.IGNORECASE | re.ASCII)
_LAST_LOOK = 1.0  # seconds that a poll may still take when the time is up


class NotDelivered(ConnectionError):
    """Slack did not accept the request: nobody was asked, so the call must not run."""


class Secret(str):
    """A text that `repr` does not show, nor do tracebacks with locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


class Refusal(NamedTuple):
    """Why a post was not delivered."""

    reason: str
    #: Seconds until the next attempt: 0 if Slack did not say, None if there should be none.
    wait: float | None = None


class SlackChannel(ApprovalChannel):
    """Posts each request to an incoming webhook and polls until somebody has answered.

    Webhooks are one-way, so you need something that receives the answer (a Slack app, a slash
    command) and stores it under `action.id`, which the message shows; `poll_fn` looks there. If one
    process makes the calls and receives the answers, `SlackButtonsChannel` does all of it.

    A request that cannot be posted blocks the call. Posts that Slack answers with 429 or 5xx are
    retried until the timeout, after the wait that Slack asks for. To retry failed connections, too,
    pass a `requests.Session` whose adapter does that.

    Args:
        webhook_url: The webhook. It is a secret and never shown.
        poll_fn: Called with the action until it returns a `Decision`; None means "not yet". It may
            be async. A plain one is called in a new thread each time, so it must not use a database
            connection that belongs to another thread. Without one, nobody can answer.
        timeout: Seconds until the last poll; after that, `on_timeout` decides. 0 polls once.
        poll_interval: Seconds between two polls; less than 0.01 means 0.01.
        on_timeout: What happens if nobody answers: "deny" or "approve". A `poll_fn` that hangs
            never approves: one second after the timeout, the call is denied with "deny" and
            blocked with "approve".
        post_timeout: Seconds that one attempt to post may take.
        session: Used to post instead of `requests`: a `requests.Session`, or anything with the same
            `post` method.

    Raises:
        ImportError: `requests` is not installed.
        TypeError, ValueError: An argument is invalid.
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
        if not isinstance(webhook_url, str) or not _URL.fullmatch(webhook_url):
            given = "None" if webhook_url is None else "this one (not shown)"
            raise ValueError(f"webhook_url must be an http(s) URL without spaces, not {given}")
        if not callable(getattr(_requests() if session is None else session, "post", None)):
            raise TypeError(f"session must have a post method; {session!r} has none")
        if poll_fn is not None and not (callable(poll_fn) and takes_one_argument(poll_fn)):
            raise TypeError(
                f"poll_fn must be a function that takes the action, or None, not {poll_fn!r}"
            )
        if on_timeout not in ("deny", "approve"):
            raise ValueError(f'on_timeout must be "deny" or "approve", not {on_timeout!r}')
        self._url = Secret(webhook_url)
        self._session = session
        self._post_timeout = seconds("post_timeout", post_timeout)
        self.poll_fn = poll_fn
        self.timeout = seconds("timeout", timeout)
        self.poll_interval = seconds("poll_interval", poll_interval)
        self.on_timeout = on_timeout

    def request_approval(self, action: Action) -> Decision:
        """Post, and wait for the answer.

        Raises:
            NotDelivered: Slack did not accept the request. `poll_fn` was not called.
            TypeError: `poll_fn` returned neither a `Decision` nor None.
            TimeoutError: `poll_fn` hangs, and `on_timeout` is "approve".
            Exception: What `poll_fn` raised.
        """
        from actionguard.channels._waiting import run_sync

        return run_sync(self._ask(action))

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same for async code, which holds no thread between two polls."""
        return await self._ask(action)

    def message(self, action: Action) -> dict[str, Any]:
        """The message for the action; override this to add to it."""
        word = "Approved" if self.on_timeout == "approve" else "Denied"
        return message(action, f"{word} automatically after {_in_words(self.timeout)}")

    async def _ask(self, action: Action) -> Decision:
        deadline = monotonic() + self.timeout
        await self._deliver(self.message(action), deadline)
        answer = await self._answer(action, deadline)
        return replace(answer, source=self.name) if answer.source is None else answer

    async def _deliver(self, message: dict[str, Any], deadline: float) -> None:
        import asyncio
        from random import uniform

        from actionguard.channels._waiting import in_thread, within

        limit, backoff = self._post_timeout, 0.5
        while True:
            attempt = await within(limit, in_thread(self._post, self._url, message))
            refusal = attempt.result() if attempt else Refusal(f"no answer within {limit:.3g} s")
            if refusal is None:
                return
            # Requests that were refused together come back at different times.
            pause = (refusal.wait or backoff) + uniform(0, 1)  # noqa: S311
            limit = min(self._post_timeout, deadline - monotonic() - pause)
            if refusal.wait is None or limit <= 0:
                raise NotDelivered(f"Slack did not accept the request: {refusal.reason}")
            await asyncio.sleep(pause)
            backoff = min(2 * backoff, 30)

    def _post(self, url: str, message: dict[str, Any]) -> Refusal | None:
        """Post once, in a thread made for it. No exception leaves it, since they hold the URL."""
        _posting.now = True
        try:
            options: dict[str, Any] = {"json": message, "timeout": self._post_timeout}
            if self._session is None:  # a redirect leads to a login page and not to Slack
                return _refusal(_requests().post(url, **options, allow_redirects=False))
            return _refusal(self._session.post(url, **options))
        except Exception as error:  # of requests, urllib3, ssl, or a session's own
            return Refusal(type(error).__name__)

    async def _answer(self, action: Action, deadline: float) -> Decision:
        import asyncio

        from actionguard.channels._waiting import call, within

        while True:
            left = deadline - monotonic()
            if self.poll_fn is not None:
                poll = await within(max(left, 0) + _LAST_LOOK, call(self.poll_fn, action))
                if poll is None and self.on_timeout == "approve":
                    # Silence is consent only for those who have listened: there may be a no.
                    raise TimeoutError("poll_fn hangs, so nobody knows if there is an answer")
                answer = poll.result() if poll else None
                if not isinstance(answer, Decision | None):
                    kind = type(answer).__name__
                    raise TypeError(f"poll_fn must return a Decision or None, not {kind}")
                if answer is not None:
                    return answer
            if left <= 0:  # before this look: an answer in time was seen
                return self._unanswered("" if self.poll_fn else " (there is no poll_fn)")
            # An interval of 0 would keep a core busy.
            await asyncio.sleep(min(max(self.poll_interval, 0.01), deadline - monotonic()))

    def _unanswered(self, why: str = "") -> Decision:
        comment = f"no answer within {_in_words(self.timeout)}{why}"
        return Decision(self.on_timeout == "approve", comment, unanswered=True)


def _in_words(seconds: float) -> str:
    return f"{seconds:,.10g} s"  # not 2.592e+06 for a month


def _requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise ImportError('Slack needs requests: pip install "actionguard[slack]"') from error
    return requests


def _refusal(response: Any) -> Refusal | None:
    """What the response says against the post; None if the request was taken."""
    history = getattr(response, "history", None)
    if isinstance(history, list) and history:  # the user's session followed a redirect
        response = history[0]
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):  # a stand-in that knows no more than this
        response.raise_for_status()
        return None
    if 200 <= status < 300:
        return None
    # Slack's errors are one word, like `no_service`. Anything longer might be the page of a proxy,
    # which repeats the URL.
    word = re.fullmatch("[a-z_]{1,64}", getattr(response, "text", ""))
    reason = f"HTTP {status} {word[0]}" if word else f"HTTP {status}"
    if status != 429 and status < 500:
        return Refusal(reason)
    wait = getattr(response, "headers", {}).get("Retry-After", "")
    return Refusal(reason, float(wait) if re.fullmatch("[0-9]{1,9}", wait) else 0)


# urllib3 logs the path at DEBUG, and at WARNING where an answer is odd; httpx logs the URL at INFO.
# What a posting thread logs there is dropped.
_posting = threading.local()
for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry", "httpx"):
    logging.getLogger(_name).addFilter(lambda record: not hasattr(_posting, "now"))
