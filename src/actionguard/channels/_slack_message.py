"""An action as a message that Slack takes, in which nothing that an agent wrote comes alive."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from actionguard._values import cut, escape, label, shares, show
from actionguard.channels.base import earlier_line
from actionguard.core import Action

# Characters. The first two are documented: https://docs.slack.dev/reference/methods/chat.postMessage
# and https://docs.slack.dev/reference/block-kit/blocks/section-block. All blocks together have a
# limit too, without a documented number; messages were refused from about 11,000 on:
# https://github.com/slackapi/bolt-js/issues/2867
_TEXT_LIMIT = 40_000
_SECTION_LIMIT = 3_000
_BLOCKS_LIMIT = 9_000
_MOST_ARGS = 80  # so that 100 characters are left for each; further ones are only counted
_TITLE = "Approval required"


def message(action: Action, until: str) -> dict[str, Any]:
    """The payload of a webhook: `blocks` are what people see, `text` is for everything else.

    Agent-made text is literal by the rules of
    https://docs.slack.dev/messaging/formatting-message-text: `&`, `<` and `>` as entities, so that
    there are no mentions and links by markup; blocks of plain_text, which parse nothing; and for
    `text` no `mrkdwn`, no `parse`, and no `link_names`.
    """
    # Shown once: an object's own repr might say something else the second time.
    args = [f"  {label(n)} = {show(v)}" for n, v in islice(action.args.items(), _MOST_ARGS)]
    more = len(action.args) - len(args)
    about = " ".join((action.tool_description or "").split())
    request = [
        f"Tool: {escape(action.tool_name)}",
        earlier_line(action),
        about and f"About: {escape(about)}",
        "Args:" if args else "Args: none",
        *args,
        more and f"... and {more:,} more arguments",
        f"Id: {escape(action.id)}",
        until,
    ]
    shown = [str(line) for line in request if line]

    def lines(literal: Callable[[str], str], room: int, longest: int) -> list[str]:
        """The request, `room` characters at most and `longest` a line, stating what was cut."""
        sizes = [min(len(literal(line[:longest])) + 1, longest) for line in shown]
        fair = shares(sizes, room)
        return [_fit(line, literal, n - 1) for line, n in zip(shown, fair, strict=True)]

    room = _TEXT_LIMIT - len(_TITLE) - 1
    sections = [""]
    for line in lines(_entities, _BLOCKS_LIMIT, _SECTION_LIMIT):
        if len(sections[-1]) + len(line) >= _SECTION_LIMIT:
            sections.append("")
        sections[-1] += f"{line}\n"
    return {
        "text": "\n".join([_TITLE, *lines(_inert, room, room)]),
        "mrkdwn": False,
        "parse": "none",
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [_block("header", _TITLE), *(_block("section", text) for text in sections)],
    }


def _block(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": {"type": "plain_text", "text": text.strip("\n"), "emoji": False}}


def _fit(text: str, literal: Callable[[str], str], limit: int) -> str:
    keep = min(limit, len(text))
    while len(fitted := literal(cut(text, keep))) > limit:
        keep = keep * limit // len(fitted)
    return fitted


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Emoji have no switch in `text`, and not every client knows the others: a zero-width space breaks
# URLs, :emoji:, @mentions and e-mail addresses, and names of hosts.
_LIVE = re.compile(
    r"(?<=:)(?=//)|(?<=:)(?=[^\s:]+:)|(?<=@)(?=\w)|(?<=\bwww)(?=\.)|(?<=\w\.)(?=[^\W\d_]{2})"
)


def _inert(text: str) -> str:
    return _entities(_LIVE.sub("\u200b", text))
