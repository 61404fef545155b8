"""Asking in Slack with buttons: post the request, and take the click that answers it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Protocol

from actionguard.channels.base import start_thread
from actionguard.channels.slack import NotDelivered, Secret, SlackChannel
from actionguard.core import Action, Decision

_MAX_AGE = 5 * 60  # seconds; an older request may be a replay
_WORDS = {"actionguard_approve": "Approved", "actionguard_deny": "Denied"}
_OVER = (
    "No longer waiting: the request was answered, timed out or was cancelled. (If you run several "
    "processes, another one may be waiting for it: use SlackChannel with a poll_fn.)"
)


class Headers(Protocol):
    """The headers of a request, as any web framework has them."""

    def items(self) -> Iterable[tuple[str, str]]: ...  # noqa: D102


# What waits, by the id of the action, for all channels: a Slack app has a single request URL, and
# whichever of them it leads to takes the clicks for those with the same signing secret.
_waiting: dict[str, tuple[SlackButtonsChannel, Future[Decision]]] = {}


class SlackButtonsChannel(SlackChannel):
    """Posts each request with an Approve and a Deny button, and waits for a click.

    Mount `handle` at the interactivity request URL of your Slack app, in any web framework, in the
    process that makes the guarded calls. With FastAPI, for example::

        @app.post("/slack")
        async def slack(request: Request) -> Response:
            status, text = channel.handle(request.headers, await request.body())
            return Response(text, status)

    One URL serves all channels with the same signing secret. With several processes, use
    `SlackChannel` with a `poll_fn` that reads storage that they share.

    The first click by an approver decides. The decision's metadata is `{"who": user_id}`, and the
    message loses its buttons and names the user.

    Args:
        webhook_url: A webhook of the same Slack app. It is a secret and never shown.
        signing_secret: The app's signing secret, which proves that a click comes from Slack.
        approvers: The ids of the Slack users who may answer, such as {"U0ADA"}.
        timeout: Seconds until `on_timeout` decides.

    The other arguments and the errors are the same as for `SlackChannel`.
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
        super().__init__(
            webhook_url,
            timeout=timeout,
            on_timeout=on_timeout,
            post_timeout=post_timeout,
            session=session,
        )
        if not isinstance(signing_secret, str) or not re.fullmatch("[!-~]+", signing_secret):
            raise ValueError("signing_secret must be a string without spaces (not shown)")
        users = frozenset() if isinstance(approvers, str) else frozenset(approvers or ())
        if not users or not all(isinstance(user, str) and user for user in users):
            raise ValueError(f"approvers must be one or more Slack user ids, not {approvers!r}")
        self.approvers = users
        self._signing_secret = Secret(signing_secret)

    def message(self, action: Action) -> dict[str, Any]:
        """The message for the action; override this to add to it."""
        message = super().message(action)
        buttons = []
        for word, style in (("approve", "primary"), ("deny", "danger")):
            text = {"type": "plain_text", "text": word.capitalize()}
            button = {"type": "button", "text": text, "style": style, "value": action.id}
            buttons.append({**button, "action_id": f"actionguard_{word}"})
        message["blocks"].append({"type": "actions", "elements": buttons})
        return message

    async def _ask(self, action: Action) -> Decision:
        _waiting[action.id] = self, Future()
        try:
            return await super()._ask(action)
        except NotDelivered:
            answer = _waiting[action.id][1]
            if answer.cancel():
                raise
            return answer.result()  # of a click, which proves that Slack took the request
        finally:
            _waiting.pop(action.id)[1].cancel()  # which does nothing to an answer that came

    async def _answer(self, action: Action, deadline: float) -> Decision:
        import asyncio

        answer = _waiting[action.id][1]
        await asyncio.wait({asyncio.wrap_future(answer)}, timeout=deadline - time.monotonic())
        # At one stroke, so that either this wait or a click decides.
        return self._unanswered() if answer.cancel() else answer.result()

    def handle(self, headers: Headers, body: bytes | str) -> tuple[int, str]:
        """Take a request that Slack sent to your app's interactivity request URL.

        It is quick, and you may call it from any thread or event loop. What people see in Slack is
        updated in the background.

        Args:
            headers: The headers of the request.
            body: The raw body of the request.

        Returns:
            The status and the text to respond with. 200: a click, whatever came of it; 401: not
            signed by Slack within the last five minutes; 400: not a click on one of the buttons.
        """
        from urllib.parse import parse_qs

        raw = body.encode() if isinstance(body, str) else bytes(body)
        if not self._is_from_slack(headers, raw):
            return 401, "Not signed by Slack within the last five minutes."
        try:
            payload = json.loads(parse_qs(raw.decode())["payload"][0])
            button, user = payload["actions"][0], payload["user"]["id"]
            word, waiting = _WORDS[button["action_id"]], _waiting.get(button["value"])
            name = payload["user"].get("username")
        except (ValueError, LookupError, TypeError):
            return 400, "Not a click on an actionguard button."
        text, update = _OVER, {"response_type": "ephemeral", "replace_original": False}
        if waiting and waiting[0]._signing_secret == self._signing_secret:
            channel, answer = waiting
            comment = f"{word.lower()} by {name} ({user})" if name else f"{word.lower()} by {user}"
            decision = Decision(word == "Approved", comment, channel.name, {"who": user})
            if user not in channel.approvers:
                text = f"You ({user}) are not an approver of this request."
            else:
                with suppress(InvalidStateError):  # there is an answer, or nobody waits any more
                    answer.set_result(decision)
                    text = f"{word} by <@{user}>."
                    update = _without_buttons(payload.get("message") or {}, text)
        if url := payload.get("response_url"):
            start_thread(partial(self._post, url, {**update, "text": text}))
        return 200, text

    def _is_from_slack(self, headers: Headers, body: bytes) -> bool:
        # https://docs.slack.dev/authentication/verifying-requests-from-slack
        import hashlib
        import hmac

        given = {str(name).lower(): str(value) for name, value in headers.items()}
        timestamp = given.get("x-slack-request-timestamp", "")
        signed = f"v0:{timestamp}:".encode(errors="replace") + body
        expected = hmac.new(self._signing_secret.encode(), signed, hashlib.sha256).hexdigest()
        signature = given.get("x-slack-signature", "").encode(errors="replace")
        is_signed = hmac.compare_digest(signature, f"v0={expected}".encode())
        return is_signed and abs(time.time() - int(timestamp)) <= _MAX_AGE


def _without_buttons(message: dict[str, Any], note: str) -> dict[str, Any]:
    """The message as it is when it was answered."""
    blocks = [block for block in message.get("blocks", []) if block.get("type") != "actions"]
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": note}]})
    return {"replace_original": True, "blocks": blocks}
