"""What is secret reaches the policy and the body, and is shown nowhere else."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from pydantic import SecretStr

from actionguard import (
    Action,
    ApprovalChannel,
    ApprovalDenied,
    ApprovalPolicy,
    AuditLog,
    CLIChannel,
    Decision,
    SlackChannel,
    guard,
    guard_tools,
)

CANARY = "sk-canary-0123456789"
STAND_IN = "<secret: 20 characters>"


class Session:
    """Slack, which keeps what it was sent."""

    def __init__(self) -> None:
        self.sent = ""

    def post(self, url: str, json: Any, **options: Any) -> Any:
        self.sent += str(json)
        return self

    status_code = 200


class Keeps(ApprovalChannel):
    """Denies, and keeps what it was asked and what is noted meanwhile."""

    name = "keeps"

    def __init__(self, log: AuditLog) -> None:
        self.asked: list[Action] = []
        self.log = log
        self.noted = ""

    def request_approval(self, action: Action) -> Decision:
        self.asked.append(action)
        for path in self.log.path.parent.iterdir():
            self.noted += path.read_text("utf-8", "replace")
        self.noted += str(self.log.in_flight()) + repr(action) + action.pretty()
        return Decision.deny()


@dataclass
class Account:
    name: str
    key: SecretStr


def charge(api_key: Any, account: Any = None) -> str:
    """Charge a card."""
    raise AssertionError("it must not run")


KINDS: dict[str, Any] = {
    "by name": {"api_key": CANARY},
    "by name, deep inside": {"api_key": {"keys": [CANARY]}},
    "by type": {"api_key": SecretStr(CANARY)},
    "by type, deep inside": {"api_key": "", "account": [Account("ann", SecretStr(CANARY))]},
}


@pytest.mark.parametrize("args", KINDS.values(), ids=KINDS)
def test_canary(args: dict[str, Any], log_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The secret is in no prompt, message, line, note, log record or error."""
    caplog.set_level(logging.DEBUG)
    log = AuditLog(log_path)
    screen, session, keeps = io.StringIO(), Session(), Keeps(log)
    channels: list[ApprovalChannel] = [
        keeps,
        CLIChannel(stream=screen, input_fn=lambda question: "n"),
        SlackChannel("https://slack.example/x", session=session, timeout=0),
    ]
    seen: list[Any] = []
    policy = ApprovalPolicy(require_if=lambda args: seen.append(str(args)) or True)
    told = ""
    for channel in channels:
        options: dict[str, Any] = {"channel": channel, "audit": log, "policy": policy}
        with pytest.raises(ApprovalDenied) as caught:
            guard(charge, secret=["api_key"], **options)(**args)
        told += f"{caught.value!r} {caught.value.action} {caught.value.action.pretty()}"
    broken = guard(
        charge,
        secret=["api_key"],
        audit=log,
        policy=ApprovalPolicy(require_if=lambda args: args["nothing"]),
        on_denied="return",
    )
    told += broken(**args)

    sinks = [told, screen.getvalue(), session.sent, keeps.noted, log_path.read_text(), caplog.text]
    for sink in sinks:
        assert sink and CANARY not in sink
    assert all("secret: " in sink for sink in sinks[:-1])
    if "type" not in next(name for name, kind in KINDS.items() if kind is args):
        assert CANARY in seen[0]


def test_the_body_and_the_policy_get_it(log_path: Path, lines: Any) -> None:
    """Rules judge the real value, the body gets it, and the channel gets exactly the stand-in."""
    keeps = Keeps(AuditLog(log_path))
    keeps.request_approval = lambda action: keeps.asked.append(action) or Decision(True)  # type: ignore[method-assign, func-returns-value]
    policy = ApprovalPolicy(match_args={"api_key": "^sk-canary"})
    options: dict[str, Any] = {"channel": keeps, "audit": keeps.log, "policy": policy}

    def plain(api_key: str) -> int:
        """Use a key."""
        return len(api_key)

    async def later(api_key: str) -> int:
        return len(api_key)

    assert guard(plain, secret=["api_key"], **options)(CANARY) == 20
    assert asyncio.run(guard(later, secret=["api_key"], **options)(CANARY)) == 20
    (guarded,) = guard_tools([tool(plain)], secret=["api_key"], **options)
    assert guarded.invoke({"api_key": CANARY}) == 20
    assert guard(plain, secret=["api_key"], **options)("other") == 5

    assert [action.args for action in keeps.asked] == [{"api_key": STAND_IN}] * 3
    assert [line["args"]["api_key"] for line in lines()] == [STAND_IN] * 3 + [
        "<secret: 5 characters>"
    ]
    assert json.dumps(STAND_IN) in log_path.read_text()


def test_unknown_name() -> None:
    """A name that no parameter has would leave the real one visible."""
    with pytest.raises(ValueError, match="secret names 'apikey', which is not an argument of"):
        guard(charge, secret=["apikey"])
    with pytest.raises(TypeError, match=r"secret=\.\.\.\) takes a collection of names"):
        guard(charge, secret="api_key")
    with pytest.raises(ValueError, match="secret names 'apikey'"):
        guard_tools([charge], secret=["apikey"])
