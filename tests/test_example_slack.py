"""examples/slack_end_to_end.py, run as a reader would run it, and its door tried from outside."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
import requests

from actionguard.core import Action

FILE = Path(__file__).parent.parent / "examples" / "slack_end_to_end.py"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("slack_end_to_end", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def answers(example: Any, tmp_path: Path) -> Any:
    return example.Answers(tmp_path / "answers.sqlite3")


@pytest.fixture
def endpoint(example: Any, answers: Any) -> Iterator[Any]:
    with example.Endpoint(0, answers, SECRET) as endpoint:
        yield endpoint


@pytest.fixture
def told(example: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the endpoint wrote back to Slack."""
    told: list[Any] = []
    post = requests.post

    def record(url: str, **options: Any) -> Any:
        if url != "response-url":
            return post(url, **options)
        told.append(options["json"])
        return mock.Mock()

    monkeypatch.setattr(example.requests, "post", record)
    return told


def wait_for(told: list[Any], count: int) -> None:
    end = time.monotonic() + 120
    while len(told) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def click(action: Action, button: str, user: str = "U0ADA") -> bytes:
    payload = {
        "type": "block_actions",
        "user": {"id": user},
        "actions": [{"action_id": button, "value": action.id}],
        "message": {"text": "", "blocks": [{"type": "section"}, {"type": "actions"}]},
        "response_url": "response-url",
    }
    return urlencode({"payload": json.dumps(payload)}).encode()


def send(example: Any, endpoint: Any, body: bytes, *, age: float = 0, secret: str = SECRET) -> int:
    then = str(int(time.time() - age))
    headers = {
        "X-Slack-Request-Timestamp": then,
        "X-Slack-Signature": example.sign(then, body, secret),
    }
    with requests.post(endpoint.url, data=body, headers=headers, timeout=20) as response:
        return response.status_code


def test_runs_as_it_stands(tmp_path: Path) -> None:
    """One refund is approved and made, the other denied; each answer went to its own request."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLACK_")}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FILE)],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        text=True,
        timeout=280,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # Several threads print, whichever comes first, and two of them may share a line.
    requests = re.findall(r"Slack shows: request \d, Tool: refund", done.stdout)
    assert requests == [f"Slack shows: request {number}, Tool: refund" for number in (1, 2)]
    assert sorted(re.findall(r"Slack shows: <@\w+> \w+ this", done.stdout)) == [
        "Slack shows: <@U0ADA> denied this",
        "Slack shows: <@U0GRACE> approved this",
    ]
    assert done.stdout.count("Slack shows:") == 4
    assert done.stdout.count("Agent gets:  ") == 2
    assert done.stdout.count("Agent gets:  refunded $50.00 to cus_123") == 1
    assert done.stdout.count("Agent gets:  DENIED: a person refused") == 1
    assert sorted(re.findall(r"Audit log:   executed=\w+ {.+?}", done.stdout)) == [
        "Audit log:   executed=False {'who': 'U0ADA'}",
        "Audit log:   executed=True {'who': 'U0GRACE'}",
    ]
    assert list(tmp_path.iterdir()) == []


def test_signature_of_slacks_documentation(example: Any) -> None:
    """The signature is the one that Slack's documentation works out step by step."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
        b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
        b"&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
        b"%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )

    signature = example.sign("1531420618", body, SECRET)

    assert signature == "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"


def test_click_is_kept(example: Any, endpoint: Any, answers: Any, told: list[Any]) -> None:
    """A click answers the request it stands under, and no equal one."""
    action, other = Action("refund", {"amount": 50}), Action("refund", {"amount": 50})

    assert send(example, endpoint, click(action, "approve")) == 200

    wait_for(told, 1)
    assert answers.find(action).approved is True
    assert answers.find(action).metadata == {"who": "U0ADA"}
    assert answers.find(other) is None
    assert told[0]["replace_original"] is True
    assert [block["type"] for block in told[0]["blocks"]] == ["section", "context"]


def test_first_click_stands(example: Any, endpoint: Any, answers: Any, told: list[Any]) -> None:
    """A later click, or the same one delivered again, changes nothing."""
    action = Action("refund", {})

    send(example, endpoint, click(action, "deny"))
    wait_for(told, 1)
    send(example, endpoint, click(action, "approve", "U0GRACE"))
    wait_for(told, 2)

    assert answers.find(action).approved is False
    assert answers.find(action).metadata == {"who": "U0ADA"}
    assert [note["text"] for note in told] == ["<@U0ADA> denied this."] * 2


def test_only_approvers_decide(example: Any, endpoint: Any, answers: Any, told: list[Any]) -> None:
    """A click of somebody who is not on the list is no answer, and the buttons stay."""
    action = Action("refund", {})

    send(example, endpoint, click(action, "approve", "U0NOBODY"))

    wait_for(told, 1)
    assert answers.find(action) is None
    assert told[0]["replace_original"] is False


@pytest.mark.parametrize(
    "forgery", [{"secret": "another"}, {"age": 310}, {"age": -400}], ids=["secret", "old", "ahead"]
)
def test_forged_click(
    example: Any, endpoint: Any, answers: Any, told: list[Any], forgery: dict[str, Any]
) -> None:
    """What Slack did not sign within five minutes is refused, and kept nowhere."""
    action = Action("refund", {})

    assert send(example, endpoint, click(action, "approve"), **forgery) == 401
    assert answers.find(action) is None
    assert told == []


def test_body_that_is_not_what_its_length_says(endpoint: Any, answers: Any) -> None:
    """A length that is no number reads nothing, and waits for nothing."""
    for length in ("-1", "many", "\u00b2"):
        with socket.create_connection(("127.0.0.1", endpoint.server_port), timeout=20) as raw:
            raw.sendall(f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
            assert b" 401 " in raw.recv(100)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Slack-Request-Timestamp": "now"},
        {"X-Slack-Request-Timestamp": "9" * 5000},
        {"X-Slack-Request-Timestamp": "\u0661"},
        {"X-Slack-Request-Timestamp": "NOW", "X-Slack-Signature": ""},
        {"X-Slack-Request-Timestamp": "NOW", "X-Slack-Signature": "v0=\u00e4"},
        {"X-Slack-Signature": "v0="},
    ],
)
def test_malformed_signatures(example: Any, headers: dict[str, str]) -> None:
    """Headers that are missing or nonsense are a refusal and no crash."""
    headers = {k: v.replace("NOW", str(int(time.time()))) for k, v in headers.items()}

    timestamp = headers.get("X-Slack-Request-Timestamp", "")
    signature = headers.get("X-Slack-Signature", "")

    assert example.is_from_slack(timestamp, signature, b"payload=", SECRET) is False
