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
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import parse_qs

from actionguard.channels._slack_webhook import NotDelivered, Secret
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


class Headers(Protocol):
    """The headers of a request, as any web framework has them."""

    def items(self) -> Iterable[tuple[str, str]]: ...  # noqa: D102


class _Request(NamedTuple):
    """A request in Slack, and the answer that it got, with what Slack then shows.

    The answer is cancelled once nobody waits for it any more.
    """

    channel: SlackButtonsChannel
    answer: Future[tuple[Decision, str]]


# By the id of the action, for all channels, since a Slack app has a single request URL: whichever
# of them it leads to takes the clicks for those with the same signing secret.
_requests: dict[str, _Request] = {}
_over: deque[str] = deque()


class SlackButtonsChannel(SlackChannel):
    """Posts each request with an Approve and a Deny button, and waits for a click.

    Mount `handle` at the interactivity request URL of your Slack app, in any web framework, in the
    process that makes the guarded calls. With FastAPI, for example::

        @app.post("/slack")
        async def slack(request: Request) -> Response:
            status, text = channel.handle(request.headers, await request.body())
            return Response(text, status)

    One URL serves all channels with the same signing secret. With several processes, use
    `SlackChannel` with a `poll_fn` that reads what they share.

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
        users = frozenset() if isinstance(approvers, str) else frozenset(approvers or ())
        if not users or not all(isinstance(user, str) and user for user in users):
            raise ValueError(f"approvers must be one or more Slack user ids, not {approvers!r}")
        self.approvers = users
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
        except NotDelivered:
            if request.answer.cancel():
                raise
            return request.answer.result()[0]  # Slack had it all the same: somebody answered
        finally:
            request.answer.cancel()  # which does nothing to an answer that came
            _over.append(action.id)
            if len(_over) > _REMEMBERED:
                _requests.pop(_over.popleft(), None)

    async def _answer(self, action: Action, deadline: float) -> Decision:
        import asyncio

        answer = _requests[action.id].answer
        left = max(deadline - time.monotonic(), 0)
        await asyncio.wait({asyncio.wrap_future(answer)}, timeout=left)
        # At one stroke, so that either this wait or a click decides.
        return self._unanswered() if answer.cancel() else answer.result()[0]

    def handle(self, headers: Headers, body: bytes | str) -> tuple[int, str]:
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
            button, user = payload["actions"][0], payload["user"]["id"]
            request, word = _requests.get(button["value"]), _WORDS[button["action_id"]]
            name = payload["user"].get("username")
        except (ValueError, LookupError, TypeError):
            return 400, "Not a click on a button of actionguard."
        if request is None or request.channel._signing_secret != self._signing_secret:
            update = _private(_NOT_WAITING)
        elif user not in request.channel.approvers:
            update = _private(f"You ({user}) are not an approver of this request.")
        else:
            comment = f"{word} by {name} ({user})" if name else f"{word} by {user}"
            decision = Decision(word == "approved", comment, request.channel.name, {"who": user})
            note = _settled(request, decision, f"{word.capitalize()} by <@{user}>.")
            update = _without_buttons(payload.get("message") or {}, note)
        if url := payload.get("response_url"):
            threading.Thread(target=self._respond, args=(url, update), daemon=True).start()
        return 200, update["text"]

    def _is_from_slack(self, headers: Headers, body: bytes) -> bool:
        # https://docs.slack.dev/authentication/verifying-requests-from-slack
        given = {str(name).lower(): str(value) for name, value in headers.items()}
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


def _settled(request: _Request, decision: Decision, note: str) -> str:
    """Make it the answer if it is the first one; returns what Slack should show now."""
    try:
        request.answer.set_result((decision, note))
    except InvalidStateError:  # the first answer stands
        return _OVER if request.answer.cancelled() else request.answer.result()[1]
    return note


def _without_buttons(message: dict[str, Any], note: str) -> dict[str, Any]:
    """The message as it is when nobody need answer it any more."""
    blocks = [block for block in message.get("blocks", []) if block.get("type") != "actions"]
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": note}]})
    return {"replace_original": True, "text": note, "blocks": blocks}


def _private(note: str) -> dict[str, Any]:
    """A note that only the person who clicked can see."""
    return {"response_type": "ephemeral", "replace_original": False, "text": note}
