"""Asking in Slack with buttons: post the request, and take the click that answers it."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs

from actionguard.channels._slack_webhook import Secret
from actionguard.channels.slack import SlackChannel
from actionguard.core import Action, Decision

_logger = logging.getLogger("actionguard")

_MAX_AGE = 5 * 60  # seconds; an older request may be a replay
_REMEMBERED = 1_000  # requests that are over, so that a late click is told what came of them
_WORDS = {"actionguard_approve": "approved", "actionguard_deny": "denied"}
_NOT_WAITING = (
    "This answer changes nothing: the request is over, or another process is waiting for it (if "
    "you have several processes, use SlackChannel with a poll_fn)."
)
_OVER = "No longer waiting: nobody answered in time, or the call was cancelled."


class _Click(NamedTuple):
    word: str
    user: str
    name: str

    @property
    def note(self) -> str:
        return f"{self.word.capitalize()} by <@{self.user}>."


class _Request(NamedTuple):
    """A request in Slack, and its first click. Cancelled: it is over without one."""

    channel: SlackButtonsChannel
    click: Future[_Click]


# By the id of the action, for all channels, since a Slack app has a single request URL: whichever
# of them it leads to takes the clicks for those with the same signing secret.
_requests: dict[str, _Request] = {}
_over: deque[str] = deque()


class SlackButtonsChannel(SlackChannel):
    """Posts each request with an Approve and a Deny button, and waits for a click.

    Mount `handle` at the interactivity request URL of your Slack app, in any web framework, in the
    process that makes the guarded calls. One URL serves all channels with the same signing secret.
    With several processes, use `SlackChannel` with a `poll_fn` that reads what they share.

    The first click of an approver is the decision. Its metadata is `{"who": the id}`, and the
    message loses its buttons and names the user.

    Args:
        webhook_url: A webhook of the same Slack app. It is a secret and never shown.
        signing_secret: The app's signing secret, which proves that a click comes from Slack.
        approvers: The ids of the Slack users who may answer, such as {"U0ADA"}.
        timeout: Seconds until `on_timeout` decides.

    The other arguments have the same meaning as for `SlackChannel`, and so have the errors.
    """

    def __init__(
        self,
        webhook_url: str,
        *,
        signing_secret: str,
        approvers: Iterable[str],
        timeout: float = 300.0,
        on_timeout: Literal["deny", "approve"] = "deny",
        post_timeout: float = 10.0,
        session: Any = None,
    ) -> None:
        is_secret = isinstance(signing_secret, str) and re.fullmatch("[!-~]+", signing_secret)
        webhook_url, signing_secret = Secret(webhook_url), Secret(signing_secret)
        super().__init__(
            webhook_url,
            timeout=timeout,
            on_timeout=on_timeout,
            post_timeout=post_timeout,
            session=session,
        )
        if not is_secret:
            raise ValueError("signing_secret must be a text without spaces; it is not shown here")
        if isinstance(approvers, str) or not isinstance(approvers, Iterable):
            raise TypeError(f"approvers must be a set of Slack user ids, not {approvers!r}")
        self.approvers = frozenset(approvers)
        if not self.approvers or not all(isinstance(user, str) and user for user in self.approvers):
            raise ValueError(f"approvers must be one or more Slack user ids, not {approvers!r}")
        self._signing_secret = signing_secret

    def message(self, action: Action) -> dict[str, Any]:
        """What is posted for the action; override it to add to it."""
        message = super().message(action)
        buttons = [
            {
                "type": "button",
                "action_id": f"actionguard_{word}",
                "text": {"type": "plain_text", "text": word.capitalize()},
                "style": style,
                "value": action.id,
            }
            for word, style in (("approve", "primary"), ("deny", "danger"))
        ]
        message["blocks"].append({"type": "actions", "elements": buttons})
        return message

    async def _ask(self, action: Action) -> Decision:
        request = _requests[action.id] = _Request(self, Future())
        try:
            return await super()._ask(action)
        finally:
            request.click.cancel()  # does nothing if there was one
            _over.append(action.id)
            if len(_over) > _REMEMBERED:
                _requests.pop(_over.popleft(), None)

    async def _answer(self, action: Action, deadline: float) -> Decision:
        import asyncio

        click = _requests[action.id].click
        left = max(deadline - time.monotonic(), 0)
        await asyncio.wait({asyncio.wrap_future(click)}, timeout=left)
        if click.cancel():  # at one stroke: a later click finds that the request is over
            return self._unanswered()
        word, user, name = click.result()
        comment = f"{word} by {name} ({user})" if name else f"{word} by {user}"
        return Decision(word == "approved", comment, metadata={"who": user})

    def handle(self, headers: Mapping[str, str], body: bytes | str) -> tuple[int, str]:
        """Take a request that Slack sent to your app's interactivity request URL.

        It is quick, and you may call it from any thread or event loop. What people see in Slack is
        updated in the background.

        Args:
            headers: The headers of the request.
            body: The raw body of the request.

        Returns:
            The status and the text to answer with. 200: a click, whatever came of it; 401: not
            signed by Slack within the last five minutes; 400: not a click on one of the buttons.
        """
        raw = body.encode() if isinstance(body, str) else bytes(body)
        if not self._is_from_slack(headers, raw):
            return 401, "Not signed by Slack within the last five minutes."
        try:
            payload = json.loads(parse_qs(raw.decode())["payload"][0])
            button, user = payload["actions"][0], payload["user"]
            click = _Click(_WORDS[button["action_id"]], user["id"], str(user.get("username") or ""))
            request = _requests.get(button["value"])
        except (ValueError, LookupError, TypeError):
            return 400, "Not a click on a button of actionguard."
        if request is None or request.channel._signing_secret != self._signing_secret:
            update = _private(_NOT_WAITING)
        elif click.user not in request.channel.approvers:
            update = _private(f"You ({click.user}) are not an approver of this request.")
        else:
            update = _without_buttons(payload.get("message") or {}, _settled(request, click))
        if url := payload.get("response_url"):
            threading.Thread(target=self._respond, args=(url, update), daemon=True).start()
        return 200, update["text"]

    def _is_from_slack(self, headers: Mapping[str, str], body: bytes) -> bool:
        # https://docs.slack.dev/authentication/verifying-requests-from-slack
        given = {str(name).lower(): str(value) for name, value in dict(headers).items()}
        timestamp = given.get("x-slack-request-timestamp", "")
        if not re.fullmatch("[0-9]{1,12}", timestamp):
            return False
        if abs(time.time() - int(timestamp)) > _MAX_AGE:
            return False
        signed = b"v0:" + timestamp.encode() + b":" + body
        expected = hmac.new(self._signing_secret.encode(), signed, hashlib.sha256).hexdigest()
        signature = given.get("x-slack-signature", "").encode(errors="replace")
        return hmac.compare_digest(signature, f"v0={expected}".encode())

    def _respond(self, url: str, update: dict[str, Any]) -> None:
        if refusal := self._webhook.post(url, update):
            _logger.warning("Slack did not take the update of a message: %s", refusal.reason)


def _settled(request: _Request, click: _Click) -> str:
    """Give the click as the answer if it is the first; what to say about the request now."""
    try:
        request.click.set_result(click)
    except InvalidStateError:  # the first answer stands
        return _OVER if request.click.cancelled() else request.click.result().note
    return click.note


def _without_buttons(message: dict[str, Any], note: str) -> dict[str, Any]:
    """The message as it is when nobody need answer it any more."""
    blocks = [block for block in message.get("blocks", []) if block.get("type") != "actions"]
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": note}]})
    return {"replace_original": True, "text": note, "blocks": blocks}


def _private(note: str) -> dict[str, Any]:
    """A note that only the person who clicked can see."""
    return {"response_type": "ephemeral", "replace_original": False, "text": note}
