"""Posting to Slack, with the patience of a person and without showing the URL to anybody."""

from __future__ import annotations

import inspect
import logging
import math
import re
import threading
from time import monotonic
from typing import Any, NamedTuple

from actionguard.channels.base import seconds

_URL = re.compile(
    r"https?://([^\s/@]+@)?(\[[\da-f:.]+\]|[\w.-]+)(:\d+)?([/?#][!-~]*)?", re.IGNORECASE
)
_LONGEST_BACKOFF = 30.0  # seconds


class NotDelivered(ConnectionError):
    """Slack did not take the request: nobody was asked, so the call must not run."""


class Secret(str):
    """A text that is not shown by tracebacks with locals and `vars`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


class Refusal(NamedTuple):
    """Why an attempt to post did not deliver."""

    reason: str
    patience: float = 0  # seconds to try again for, since Slack was last reached
    retry_after: float | None = None  # seconds, if Slack named them


class Webhook:
    """Where to post. `session` may be anything with the `post` of a `requests.Session`."""

    def __init__(self, url: str, session: Any, timeout: float) -> None:
        if not _URL.fullmatch(url):
            given = "None" if url == "None" else "this one (not shown)"
            raise ValueError(f"webhook_url must be an http(s) URL without spaces, not {given}")
        self._session = session
        post = getattr(self._poster(), "post", None)
        if not callable(post) or inspect.iscoroutinefunction(post):
            raise TypeError(
                f"session must have a post method that is not async, not be {session!r}"
            )
        self._url = url
        self._timeout = seconds("post_timeout", timeout)
        if not timeout:
            raise ValueError("post_timeout must be more than 0 seconds, not 0")

    def _poster(self) -> Any:
        if self._session is not None:
            return self._session
        try:
            import requests
        except ImportError as missing:
            advice = 'Slack channels need requests: pip install "actionguard[slack]"'
            raise ImportError(advice) from missing
        return requests

    async def deliver(self, message: dict[str, Any], deadline: float) -> None:
        """Post until it is delivered, or raise `NotDelivered`."""
        import asyncio
        from random import uniform

        from actionguard.channels._waiting import in_thread, within

        reached, limit, backoff = monotonic(), self._timeout, 0.5
        while True:
            attempt = await within(limit, in_thread(self.post, self._url, message))
            refusal = attempt.result() if attempt else Refusal(f"no answer within {limit:.3g} s")
            if refusal is None:
                return
            pause = backoff if refusal.retry_after is None else refusal.retry_after
            pause += uniform(0, 1)  # noqa: S311  # keeps those apart that were refused together
            if refusal.patience == math.inf:
                reached = monotonic() + pause  # the wait that Slack asked for does not count
            end = min(deadline, reached + refusal.patience)
            limit = min(self._timeout, end - monotonic() - pause)
            if limit <= 0:
                raise NotDelivered(
                    f"Slack did not take the request, so nobody was asked: {refusal.reason}"
                )
            await asyncio.sleep(pause)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    def post(self, url: str, message: dict[str, Any]) -> Refusal | None:
        """Post once, in a thread made for it. No exception leaves it, since they hold the URL."""
        _posting.now = True
        for name in _SHOW_URLS:
            logging.getLogger(name).addFilter(_is_not_posting)
        # A redirect leads to a login page and not to Slack. A stand-in may not know the word.
        options = {"allow_redirects": False} if self._session is None else {}
        try:
            post = self._poster().post
            return _refusal(post(url, json=message, timeout=self._timeout, **options))
        except Exception as error:  # of requests, urllib3, ssl, or a session's own
            reason = type(error).__name__
            # Neither `SSLError`, nor `ReadTimeout`: it may have been delivered.
            return Refusal(reason, self._timeout if reason.startswith("Connect") else 0)


def _refusal(response: Any) -> Refusal | None:
    """What the response says against the post; None if the request was taken."""
    hops = getattr(response, "history", None)
    if isinstance(hops, list) and hops:  # the user's session followed a redirect
        response = hops[0]
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):  # a stand-in that knows no more than this
        response.raise_for_status()
        return None
    if 200 <= status < 300:
        return None
    # Slack's errors are one word, like `no_service`. Anything longer might be the page of a proxy,
    # which repeats the URL.
    word = re.fullmatch("[a-z_]{1,64}", getattr(response, "text", ""))
    wait = re.fullmatch(r"\d{1,9}", getattr(response, "headers", {}).get("Retry-After", ""))
    return Refusal(
        f"HTTP {status} {word[0]}" if word else f"HTTP {status}",
        math.inf if status == 429 or status >= 500 else 0,
        float(wait[0]) if wait else None,
    )


# Of the libraries that may post, urllib3 logs the path at DEBUG, and at WARNING where an answer is
# odd; httpx and httpx2 log the URL at INFO. What a posting thread logs there is dropped.
_SHOW_URLS = (
    "urllib3.connectionpool",
    "urllib3.connection",
    "urllib3.util.retry",
    "httpx",
    "httpx2",
)
_posting = threading.local()


def _is_not_posting(record: logging.LogRecord) -> bool:
    return not getattr(_posting, "now", False)
