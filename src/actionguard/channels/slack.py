"""Asking in Slack: post the request to an incoming webhook, then poll for the answer."""

from __future__ import annotations

import inspect
import logging
import re
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from time import monotonic
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from actionguard._signature import takes_one_argument
from actionguard.channels._slack_message import message
from actionguard.channels.base import ApprovalChannel, async_form_of
from actionguard.core import Action, Decision

PollFn = Callable[[Action], "Decision | Awaitable[Decision | None] | None"]

# Seconds.
_SHORTEST_INTERVAL = 0.01  # an interval of 0 would keep a core busy
_LAST_LOOK = 1.0  # how long a poll may still take when the time is up
_BACKOFF = (0.5, 1.0, 2.0, 4.0)  # before each new attempt to post, if Slack names no wait


class NotDelivered(ConnectionError):
    """Slack did not take the request: nobody was asked, so the call must not run."""


class SlackChannel(ApprovalChannel):
    """Posts each request to an incoming webhook and polls until somebody has answered.

    Webhooks are one-way: something else (a Slack app's request URL, a slash command) takes the
    answer and stores it under `action.id`, which the message shows, and `poll_fn` looks there.
    `examples/slack_end_to_end.py` is a complete set-up.

    Args:
        webhook_url: The webhook. It is a secret, and shown nowhere.
        poll_fn: Called with the action until it returns a `Decision`; None means "not yet". An
            async one is awaited, for plain callers on a loop made for that wait. A plain one is
            called in a new thread each time, so it must not use a database connection that belongs
            to another. Without one nobody can answer.
        timeout: Seconds until a last poll, after which `on_timeout` decides. 0 polls once.
        poll_interval: Seconds between two polls; less than 0.01 means 0.01.
        on_timeout: "deny", or "approve" where silence is consent. A `poll_fn` that hangs is no
            silence: after one more second it denies the first way, and is an error the second way.
        post_timeout: Seconds that one attempt to post may take. One that Slack answers with 429 or
            5xx is repeated up to four times within `timeout`, after the wait that Slack names.
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
        is_web_url = _is_web_url(webhook_url)
        given = "None" if webhook_url is None else "this one (not shown)"
        self._webhook_url = _Secret(webhook_url)
        del webhook_url  # a traceback with locals would show it
        if not is_web_url:
            raise ValueError(f"webhook_url must be an http(s) URL without spaces, not {given}")
        if poll_fn is not None and not _takes_an_action(poll_fn):
            raise TypeError(f"poll_fn must be a function of the action or None, not {poll_fn!r}")
        if on_timeout not in ("deny", "approve"):
            raise ValueError(f'on_timeout must be "deny" or "approve", not {on_timeout!r}')
        if session is None:
            _requests()  # if it is missing, say so now and not at the first refund
        elif not _can_post(session):
            raise TypeError(f"session must have a post method, not be {session!r}")
        self._session = session
        self.poll_fn = poll_fn
        self.timeout = _seconds("timeout", timeout)
        self.poll_interval = _seconds("poll_interval", poll_interval)
        self.on_timeout = on_timeout
        self.post_timeout = _seconds("post_timeout", post_timeout)
        if not self.post_timeout:
            raise ValueError("post_timeout must be more than 0 seconds, not 0")

    def request_approval(self, action: Action) -> Decision:
        """Post, and wait for the answer.

        Raises:
            NotDelivered: Slack did not take the request. `poll_fn` was not asked.
            TypeError: `poll_fn` returned neither a `Decision` nor None.
            TimeoutError: `poll_fn` hangs, and `on_timeout` is "approve".
            RuntimeError: `poll_fn` was cancelled from within.
            Exception: What `poll_fn` raised.
        """
        from actionguard.channels._waiting import run_sync

        return run_sync(self._ask(action))

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same for async code; between two polls it holds no thread."""
        return await self._ask(action)

    def message(self, action: Action) -> dict[str, Any]:
        """What is posted for the action; override it to add to it (buttons of your Slack app)."""
        return message(action, f"after {_text(self.timeout)}: {self.on_timeout}")

    async def _ask(self, action: Action) -> Decision:
        import asyncio

        deadline = monotonic() + self.timeout
        await self._post(action, deadline)
        while True:
            left = deadline - monotonic()
            answer = await self._poll(action, max(left, 0) + _LAST_LOOK)
            if answer is not None:
                return answer
            if left <= 0:  # before this look: whoever answered in time was seen
                return self._unanswered()
            left = max(deadline - monotonic(), 0)
            await asyncio.sleep(min(max(self.poll_interval, _SHORTEST_INTERVAL), left))

    async def _poll(self, action: Action, limit: float) -> Decision | None:
        from actionguard.channels._waiting import call, within

        if self.poll_fn is None:
            return None
        poll = await within(limit, call(self.poll_fn, action))
        if poll is None:
            # Silence is consent only for those who have listened: there may be a no.
            if self.on_timeout == "approve":
                raise TimeoutError("poll_fn did not return, so nobody knows if there is an answer")
            return self._unanswered()
        if poll.cancelled():  # by poll_fn itself: nobody has cancelled the wait
            raise RuntimeError("poll_fn was cancelled, so nobody knows if there is an answer")
        answer = poll.result()
        if answer is None or isinstance(answer, Decision):
            return answer
        raise TypeError(f"poll_fn must return a Decision or None, not {type(answer).__name__}")

    def _unanswered(self) -> Decision:
        comment = f"no answer within {_text(self.timeout)}"
        if self.poll_fn is None:
            comment += ", as SlackChannel has no poll_fn to find one"
        return Decision(self.on_timeout == "approve", comment, unanswered=True)

    async def _post(self, action: Action, deadline: float) -> None:
        import asyncio

        from actionguard.channels._waiting import in_thread, within

        # urllib3's own retries would sleep in the thread, deaf to a cancelled wait, and post after
        # the caller has gone: here the waits between attempts are asyncio's.
        payload = self.message(action)
        limit = self.post_timeout
        for backoff in (*_BACKOFF, None):
            attempt = await within(limit, in_thread(self._attempt, payload))
            refusal = attempt.result() if attempt else _Refusal(f"no answer within {_text(limit)}")
            if refusal is None:
                return
            reason = refusal.reason
            if backoff is None or not refusal.temporary:
                break
            pause = backoff if refusal.retry_after is None else refusal.retry_after
            limit = min(self.post_timeout, deadline - monotonic() - pause)
            if limit <= 0:
                break
            await asyncio.sleep(pause)
        raise NotDelivered(f"Slack did not take the request, so nobody was asked: {reason}")

    def _attempt(self, payload: dict[str, Any]) -> _Refusal | None:
        """Post once, in a thread of its own. No exception leaves it: they hold the URL."""
        _keep_out_of_logs()
        try:
            post = (self._session or _requests()).post
            response = post(
                self._webhook_url,
                json=payload,
                # A redirect leads to a login page and not to Slack. Nothing waits for a body.
                **_accepted(post, timeout=self.post_timeout, allow_redirects=False, stream=True),
            )
            return _refusal(response)
        except Exception as error:  # of requests, urllib3, ssl, or a session's own
            return _Refusal(type(error).__name__)


class _Refusal(NamedTuple):
    """Why an attempt to post did not deliver."""

    reason: str
    temporary: bool = False
    retry_after: float | None = None  # seconds, if Slack named them


def _refusal(response: Any) -> _Refusal | None:
    """What the response says against the post; None if the request was taken."""
    hops = getattr(response, "history", None)
    if isinstance(hops, list) and hops:  # a session of another library followed a redirect
        response = hops[0]
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):  # a stand-in that knows no more than this
        response.raise_for_status()
        return None
    delivered, reason, seconds = 200 <= status < 300, f"HTTP {status}", None
    with suppress(Exception), closing(response):  # the rest only explains a refusal
        if not delivered:
            from urllib3.util import Retry

            seconds = Retry().get_retry_after(response)
            # Slack's errors are one word, like `no_service`. Anything longer might be the page of
            # a proxy, which repeats the URL.
            word = next(response.iter_content(64), b"").decode("ascii")
            if re.fullmatch("[a-z_]+", word):
                reason += f" {word}"
    if delivered:
        return None
    retry_after = None if seconds is None else min(seconds, threading.TIMEOUT_MAX)
    return _Refusal(reason, status == 429 or status >= 500, retry_after)


class _Secret(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "<webhook>"


def _is_web_url(url: object) -> bool:
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text holds parts of the URL
        return False


def _takes_an_action(poll_fn: Any) -> bool:
    return callable(poll_fn) and not isinstance(poll_fn, type) and takes_one_argument(poll_fn)


def _can_post(session: Any) -> bool:
    post = getattr(session, "post", None)
    if isinstance(session, type) or not callable(post):
        return False
    return not inspect.iscoroutinefunction(post)


def _seconds(name: str, value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and 0 <= value <= threading.TIMEOUT_MAX:
        return float(value)
    raise ValueError(f"{name} must be a finite number of seconds from 0 up, not {value!r}")


def _text(seconds: float) -> str:
    return f"{seconds:,.10g} s"  # not 2.592e+06 for a month


def _requests() -> Any:
    try:
        import requests
    except ImportError as missing:
        advice = 'SlackChannel needs requests: pip install "actionguard[slack]"'
        raise ImportError(advice) from missing
    return requests


def _accepted(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """The options that the function takes: a stand-in's `post` may know fewer than requests'."""
    takes = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return options
    return {name: value for name, value in options.items() if name in takes}


_posting = threading.local()
_SHOW_URLS = (
    *(f"urllib3.{name}" for name in ("connection", "connectionpool", "poolmanager", "util.retry")),
    "httpx",
    "httpx2",
)


def _keep_out_of_logs() -> None:
    """Keep what this thread does out of logs that show the URL; it ends with the post.

    urllib3 writes the path at DEBUG for every request, and at WARNING where an answer is odd; httpx
    and httpx2 (their clients can be sessions) at INFO.
    """
    _posting.now = True
    for name in _SHOW_URLS:
        logging.getLogger(name).addFilter(_is_not_posting)


def _is_not_posting(record: logging.LogRecord) -> bool:
    return not getattr(_posting, "now", False)
