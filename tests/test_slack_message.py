"""The message that Slack shows, and what cannot come alive in it."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slackserver import refund

from actionguard.channels.slack import SlackChannel
from actionguard.core import Action


def posted(action: Action, **options: Any) -> dict[str, Any]:
    payload = SlackChannel("https://slack.example/x", **options).message(action)
    assert json.loads(json.dumps(payload)) == payload
    return payload


def both_texts(payload: dict[str, Any]) -> tuple[str, str]:
    return payload["text"], "\n".join(block["text"]["text"] for block in payload["blocks"])


def assert_fit_and_dead(payload: dict[str, Any]) -> None:
    """It is within Slack's limits, and nothing in it is markup, a link, a mention or an emoji."""
    text, blocks = both_texts(payload)
    assert len(text) <= 40_000
    assert len(blocks) <= 10_000
    assert len(payload["blocks"]) <= 50
    assert (payload["mrkdwn"], payload["parse"]) == (False, "none")
    assert payload["unfurl_links"] is payload["unfurl_media"] is False
    assert "link_names" not in payload
    for block in payload["blocks"]:
        assert 0 < len(block["text"]["text"]) <= {"header": 150, "section": 3_000}[block["type"]]
        assert (block["text"]["type"], block["text"]["emoji"]) == ("plain_text", False)
    assert not re.search("[<>]|&(?!(amp|lt|gt);)", text + blocks)
    assert not re.search(r"://|www\.|:[^\s:\u200b][^\s:]*:|@\w", text)


ALIVE = [
    "<!channel> <!here|now> <@U123> <#C123> <!subteam^S1> <!date^1^{date}|x>",
    "<https://evil.example|your bank> <mailto:x@evil.example|x>",
    "https://evil.example/login http://[::1]/ HTTPS://EVIL.example www.evil.example evil.example",
    "boss@evil.example @channel @here @everyone @ada #general",
    "*bold* _italic_ ~gone~ `code` ```block``` > quote",
    ":tada: :white_check_mark::skin-tone-2: :+1: a:b:c",
    "&lt;!channel&gt; &amp;lt;!channel&amp;gt;",
]


@pytest.mark.parametrize("text", ALIVE)
def test_nothing_comes_alive(text: str) -> None:
    """Whatever an agent writes, wherever it writes it, is text and nothing else, and all there."""
    payload = posted(Action(text, {text: text, "list": [text, {text: text}]}, text))

    assert_fit_and_dead(payload)
    for part in both_texts(payload):
        assert html.unescape(part.replace("\u200b", "")).count(text) == 7  # as a reader sees it


def test_no_line_can_be_forged() -> None:
    """No text of an agent starts a line, hides, or reorders what stands beside it."""
    forged = "x\nId: 0000\r\n\u2028Approval \u202eton\u202c required\x1b[2J\u200b\x00"
    action = Action(forged, {forged: forged, "a = 1\n  b": 2}, forged)

    for part in both_texts(posted(action)):
        lines = part.split("\n")
        starts = [line.partition(" ")[0] for line in lines if not line.startswith("  ")]
        assert starts == ["Approval", "Tool:", "About:", "Args:", "Id:", "Denied"]
        assert all(c.isprintable() for c in set(part) - {"\n", "\u200b"})
        assert f"\nId: {action.id}\n" in part


def test_both_forms_of_the_message_say_the_same() -> None:
    """An object that says something else each time is asked once."""

    class Fickle:
        def __repr__(self) -> str:
            said.append(f"<take {len(said)}>")
            return said[-1]

    said: list[str] = []
    assert all(
        "x = &lt;take 0&gt;" in part for part in both_texts(posted(Action("t", {"x": Fickle()})))
    )


def test_plain_messages() -> None:
    """A call with nothing to show says so, a repeat is told, and names can be searched for."""
    bare = posted(Action("restart", {}))["text"]
    assert bare.splitlines()[:3] == ["Approval required", "Tool: restart", "Args: none"]

    action = refund(4000.0)
    action.earlier = [{"state": "waiting"}]
    for part in both_texts(posted(action)):
        assert "\nTool: refund_customer\nThe same call is waiting\nAbout: Issue" in part
        assert "  customer_id = 'cus_123'" in part.splitlines()
        assert "\u200b" not in part


@pytest.mark.parametrize("on_timeout", ["deny", "approve"])
@pytest.mark.parametrize(("timeout", "shown"), [(90, "90 s"), (30 * 86_400, "2,592,000 s")])
def test_message_says_what_silence_means(timeout: float, shown: str, on_timeout: Any) -> None:
    """The approver reads how long there is, and what happens without an answer."""
    text = posted(refund(), timeout=timeout, on_timeout=on_timeout)["text"]

    word = {"deny": "Denied", "approve": "Approved"}[on_timeout]
    assert text.endswith(f"\n{word} automatically after {shown}")


def many(count: int, value: object) -> dict[str, Any]:
    return {f"argument_{i}": value for i in range(count)}


@pytest.mark.parametrize(
    "args",
    [
        {"one": "x" * 1_000_000},
        {"one": "&" * 1_000_000, "two": "<" * 1_000_000},
        {"one": ":a:" * 300_000},
        {"name" * 100_000: 1},
        {"list": list(range(10_000))},
        many(40, "y" * 5_000),
        many(90, "&" * 90),
        many(10_000, 1),
    ],
    ids=["1 MB", "entities", "emoji", "long name", "long list", "40 long", "90 short", "10,000"],
)
def test_limits(args: dict[str, Any]) -> None:
    """Slack's limits hold for any arguments, and what was left out is stated."""
    action = Action("tool" * 10_000, args, "about " * 10_000)

    payload = posted(action)

    assert_fit_and_dead(payload)
    for text in both_texts(payload):
        assert re.search(r"\.\.\. \([\d,]+ more characters\)", text)
        assert "Tool: tooltool" in text
        assert f"Id: {action.id}" in text


def test_what_was_left_out_is_counted() -> None:
    """Nothing is cut silently: characters and arguments that do not show are counted right."""
    for text in both_texts(posted(Action("t", {"a": "x" * 1_000_000}))):
        shown, _, rest = text.partition("... (")
        left_out = int(rest.partition(" ")[0].replace(",", ""))
        assert shown.count("x") + left_out == 1_000_000 + 1  # and the closing quote

    for text in both_texts(posted(Action("t", many(10_000, 1)))):
        left_out = int(re.findall(r"and ([\d,]+) more arguments", text)[0].replace(",", ""))
        assert text.count(" = 1") + left_out == 10_000


def test_short_arguments_stay_whole_beside_long_ones() -> None:
    """A long argument takes only the room that the others leave."""
    args = {**many(5, "x" * 100_000), "amount": 4000.0, "reason": "r" * 900}

    for text in both_texts(posted(Action("refund", args))):
        assert "amount = 4000.0" in text
        assert f"reason = '{'r' * 900}'" in text
        assert text.count("more characters") == 5


anything = st.recursive(
    st.none() | st.floats() | st.integers() | st.text(max_size=50) | st.sampled_from(ALIVE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(
    name=st.text(max_size=300),
    args=st.dictionaries(st.text(max_size=50), anything, max_size=5),
    about=st.none() | st.text(max_size=500),
)
def test_any_action_makes_a_message(name: str, args: dict[str, Any], about: str | None) -> None:
    """For every action the message is valid, within the limits, and dead."""
    assert_fit_and_dead(posted(Action(name, args, about)))
