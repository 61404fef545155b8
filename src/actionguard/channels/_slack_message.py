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
_TOOL_LIMIT = 500
_ABOUT_LIMIT = 1_000
_LEAST = 100  # for each argument; those for which it is not left are only counted


def message(action: Action, until: str) -> dict[str, Any]:
    """The payload of a webhook: `blocks` are what people see, `text` is for everything else.

    Agent-made text is literal by the rules of
    https://docs.slack.dev/messaging/formatting-message-text: `&`, `<` and `>` as entities, so that
    there are no mentions and links by markup; blocks of plain_text, which parse nothing; and for
    `text` no `mrkdwn`, no `parse`, and no `link_names`.
    """
    title = "Approval required"
    room = _TEXT_LIMIT - len(title) - 1
    # Shown once: an object's own repr might say something else the second time.
    args = [
        f"  {label(name)} = {show(value)}"
        for name, value in islice(action.args.items(), room // _LEAST)
    ]
    sections = _sections(_lines(action, args, until, _BLOCKS_LIMIT, _SECTION_LIMIT, _entities))
    return {
        "text": "\n".join([title, *_lines(action, args, until, room, room, _inert)]),
        "mrkdwn": False,
        "parse": "none",
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "header", "text": _plain_text(title)},
            *({"type": "section", "text": _plain_text(text)} for text in sections),
        ],
    }


def _plain_text(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _sections(lines: list[str]) -> list[str]:
    sections = [lines[0]]
    for line in lines[1:]:
        if len(sections[-1]) + 1 + len(line) > _SECTION_LIMIT:
            sections.append(line)
        else:
            sections[-1] += f"\n{line}"
    return sections


def _lines(
    action: Action,
    args: list[str],
    until: str,
    room: int,
    longest: int,
    literal: Callable[[str], str],
) -> list[str]:
    """The request, `room` characters at most and `longest` a line, stating what was cut."""

    def fit(text: str, limit: int) -> str:
        keep = min(limit, len(text))
        while len(fitted := literal(cut(text, keep))) > limit:
            keep = keep * limit // len(fitted)
        return fitted

    head = [fit(f"Tool: {escape(action.tool_name)}", _TOOL_LIMIT)]
    if earlier := earlier_line(action):
        head.append(fit(earlier, _ABOUT_LIMIT))
    about = " ".join((action.tool_description or "").split())
    if about:
        head.append(fit(f"About: {escape(about)}", _ABOUT_LIMIT))
    head.append("Args:" if args else "Args: none")
    foot = [f"Id: {escape(action.id)}", until]
    room -= sum(len(line) + 1 for line in head + foot) + _LEAST

    args = args[: room // _LEAST]
    sizes = [min(len(literal(arg[:longest])), longest) + 1 for arg in args]
    lines = [fit(arg, share - 1) for arg, share in zip(args, shares(sizes, room), strict=True)]
    if more := len(action.args) - len(args):
        lines.append(f"... and {more:,} more arguments")
    return [*head, *lines, *foot]


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Emoji have no switch in `text`, and not every client knows the others: a zero-width space breaks
# URLs, :emoji:, @mentions and e-mail addresses, and names of hosts.
_LIVE = re.compile(
    r"(?<=:)(?=//)|(?<=:)(?=[^\s:]+:)|(?<=@)(?=\w)|(?<=\bwww)(?=\.)|(?<=\w\.)(?=[^\W\d_]{2})"
)


def _inert(text: str) -> str:
    return _entities(_LIVE.sub("\u200b", text))
