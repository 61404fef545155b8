"""The mistakes that people make first, and what they are told: the thing, the wish, the value."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import pytest
from langchain_core.tools import tool

from actionguard import (
    ApprovalChannel,
    ApprovalPolicy,
    AuditLog,
    CLIChannel,
    Decision,
    SlackChannel,
    guard,
    guard_tools,
)
from actionguard.testing import AutoApproveChannel, AutoDenyChannel

AT_HAND = {"audit": AuditLog(enabled=False), "channel": AutoApproveChannel()}


def refund(amount: float, customer_id: str = "cus_1") -> str:
    """Refund an amount."""
    return f"refunded {amount}"


async def arefund(amount: float) -> str:
    """Refund an amount."""
    return f"refunded {amount}"


class Refunds:
    """Something with methods."""


WEB_SEARCH: Any = {"type": "web_search"}
OVER_100: Any = {"amount_over": {"arg": "amount", "threshold": 100}}
TARGET = "guard() takes a LangChain tool or a callable, not "
POLICY = "guard(policy=...) takes an ApprovalPolicy or an object with needs_approval(args), not "
CHANNEL = "guard(channel=...) takes an ApprovalChannel"
LOG = "guard(audit=...) takes an AuditLog or a path, not "

# What somebody wrote, and what they are told.
MISTAKES: dict[str, tuple[Any, str]] = {
    "a class": (
        lambda: guard(Refunds),
        TARGET + "the class Refunds: guard its methods, or a function that makes one",
    ),
    "above a property": (
        lambda: guard(property(refund)),
        "guard() goes below @property, directly above the function",
    ),
    "a tool that its provider runs": (
        lambda: guard(WEB_SEARCH),
        TARGET + "{'type': 'web_search'}: a tool that its provider runs never passes here",
    ),
    "a tool that its provider runs, in a list": (
        lambda: guard_tools([refund, WEB_SEARCH]),
        "guard_tools() cannot guard a provider-side tool (a dict), since it runs at the provider",
    ),
    "a list of tools": (
        lambda: guard([refund]),
        "]: use guard_tools for a list of tools",
    ),
    "one tool instead of a list": (
        lambda: guard_tools(tool(refund)),
        "guard_tools() takes a list of tools, not ",
    ),
    "a result instead of the function": (
        lambda: guard(refund(50)),
        TARGET + "'refunded 50'",
    ),
    "a coroutine instead of its function": (
        lambda: guard(arefund(50)),
        ": guard the async function, and call it afterwards",
    ),
    "the policy by position": (
        lambda: guard(ApprovalPolicy()),
        TARGET + "ApprovalPolicy(): write guard(policy=...)",
    ),
    "the policy by position, after the function": (
        lambda: guard(refund, ApprovalPolicy()),  # type: ignore[call-overload]
        "guard() takes from 0 to 1 positional arguments but 2 were given",
    ),
    "the channel by position": (
        lambda: guard(CLIChannel()),
        ": write guard(channel=...)",
    ),
    "the log by position": (
        lambda: guard("audit.jsonl"),
        TARGET + "'audit.jsonl': write guard(audit=...) if this is the log",
    ),
    "a policy as a dict": (
        lambda: guard(refund, policy=OVER_100),
        POLICY + f"{OVER_100}: write ApprovalPolicy(**rules)",
    ),
    "a policy as a function": (
        lambda: guard(refund, policy=lambda args: True),
        ": write ApprovalPolicy(require_if=...)",
    ),
    "a policy class": (
        lambda: guard(refund, policy=ApprovalPolicy),
        POLICY + "the class ApprovalPolicy: make an instance of it",
    ),
    "a typo in an argument's name": (
        lambda: guard(
            refund, policy=ApprovalPolicy(amount_over={"arg": "amonut", "threshold": 100})
        ),
        "the policy names the argument 'amonut', which refund() does not have",
    ),
    "a typo in a tool's argument": (
        lambda: guard(tool(refund), policy=ApprovalPolicy(match_args={"customer": "^prod-"})),
        "the policy names the argument 'customer', which the tool 'refund' does not have",
    ),
    "a typo in a tool's name": (
        lambda: guard_tools([refund], policy={"refnud": ApprovalPolicy()}),
        "guard_tools(policy=...) has a policy for 'refnud', which is none of the tools: 'refund'",
    ),
    "a typo in exclude": (
        lambda: guard(refund, exclude=["context"]),
        "exclude names 'context', which is no parameter of refund(): it has amount, customer_id",
    ),
    "exclude as a string": (
        lambda: guard(refund, exclude="customer_id"),
        "guard(exclude=...) takes a collection of names, not 'customer_id': write ['customer_id']",
    ),
    "a threshold as text": (
        lambda: ApprovalPolicy(amount_over={"arg": "amount", "threshold": "100"}),
        "amount_over's threshold must be a finite number, not '100'",
    ),
    "amount_over in short": (
        lambda: ApprovalPolicy(amount_over={"amount": 100}),
        "amount_over must have exactly the keys 'arg' and 'threshold', not {'amount': 100}",
    ),
    "a pattern that is none": (
        lambda: ApprovalPolicy(match_args={"customer_id": "prod-("}),
        "match_args['customer_id'] must be a regular expression, not 'prod-('",
    ),
    "a rule by position": (
        lambda: ApprovalPolicy("amount > 100"),
        "require_if must be a callable that takes the arguments, not 'amount > 100'",
    ),
    "an async rule": (
        lambda: ApprovalPolicy(require_if=arefund),
        "require_if must be a plain function, neither async nor a generator",
    ),
    "a channel by name": (
        lambda: guard(refund, channel="slack"),
        CHANNEL + " (subclass it and implement request_approval), not 'slack'",
    ),
    "a channel class": (
        lambda: guard(refund, channel=CLIChannel),
        CHANNEL + ", not the class CLIChannel: make an instance of it",
    ),
    "the log switched off": (
        lambda: guard(refund, audit=False),
        LOG + "False; AuditLog(enabled=False) writes nothing",
    ),
    "what a denial does": (
        lambda: guard(refund, on_denied="ignore"),
        "guard(on_denied=...) takes 'raise', 'return' or a callable, not 'ignore'",
    ),
    "what a tool's denial does": (
        lambda: guard(tool(refund), on_denied=str),
        "guard(on_denied=...) is for plain callables: a tool answers its agent",
    ),
    "Slack by name": (
        lambda: SlackChannel("#approvals"),
        "webhook_url must be an http(s) URL without spaces (not shown here)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_told_at_once(mistake: tuple[Any, str]) -> None:
    """The mistake is told where it is made, before anything is called."""
    make, told = mistake

    with pytest.raises((TypeError, ValueError), match=re.escape(told)):
        make()


def test_missing_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without requests, SlackChannel says which extra brings it."""
    monkeypatch.setitem(sys.modules, "requests", None)

    with pytest.raises(ImportError, match=re.escape('pip install "actionguard[slack]"')):
        SlackChannel("https://hooks.slack.example/services/x")


def test_log_where_none_can_be(tmp_path: Any) -> None:
    """A log that is a folder is told at once, by its path; a missing folder is made later."""
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        guard(refund, audit=tmp_path)

    guarded = guard(refund, audit=tmp_path / "new" / "log.jsonl", channel=AutoApproveChannel())
    assert not (tmp_path / "new").exists()
    guarded(50)
    assert (tmp_path / "new" / "log.jsonl").is_file()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "Mine.request_approval() must return a Decision, not NoneType"),
        (True, "Mine.request_approval() must return a Decision, not bool"),
        (Decision("yes"), "Decision.approved must be True or False, not 'yes'"),  # type: ignore[arg-type]
    ],
    ids=["nothing", "True", "an approval that is no bool"],
)
def test_a_channel_that_answers_wrong(answer: Any, told: str) -> None:
    """What is no Decision releases nothing, and names the channel."""

    class Mine(ApprovalChannel):
        def request_approval(self, action: Any) -> Any:
            return answer

    with pytest.raises(TypeError, match=re.escape(told)):
        guard(refund, channel=Mine(), audit=AT_HAND["audit"])(4000)


def test_a_channel_without_its_method() -> None:
    """A channel that cannot be asked cannot be made."""

    class Mine(ApprovalChannel):
        def ask(self, action: Any) -> Decision:
            return Decision(approved=True)

    with pytest.raises(TypeError, match="request_approval"):
        Mine()  # type: ignore[abstract]


def test_a_rule_that_raises() -> None:
    """A plain function raises the rule's own error; an agent reads that it is the guard's fault."""
    policy = ApprovalPolicy(require_if=lambda args: args["currency"] == "USD")

    with pytest.raises(KeyError, match="currency"):
        guard(refund, policy=policy, **AT_HAND)(4000)

    said = guard(tool(refund), policy=policy, **AT_HAND).invoke({"amount": 4000})
    assert said.startswith("BLOCKED: refund(amount=4000.0, customer_id='cus_1') was not executed")
    assert "the guard's policy failed (KeyError)" in said


def test_tool_above_guard() -> None:
    """With @tool above @guard a denial is an error, unless on_denied says that it is an answer."""
    options: Any = {"channel": AutoDenyChannel(), "audit": AT_HAND["audit"]}
    answers = tool(guard(on_denied="return", **options)(refund))
    raises = tool(guard(**options)(refund))

    assert answers.invoke({"amount": 4000}).startswith("DENIED: a person refused refund(")
    with pytest.raises(Exception, match="DENIED: a person refused refund"):
        raises.invoke({"amount": 4000})


def test_async_function_without_await() -> None:
    """A guarded async function that nobody awaits asks nobody and runs nothing, as a bare one."""
    channel = AutoApproveChannel()
    guarded = guard(arefund, channel=channel, audit=AT_HAND["audit"])

    forgotten = guarded(4000)

    assert asyncio.iscoroutine(forgotten)
    forgotten.close()
    assert channel.requests == []


def test_arguments_that_do_not_fit() -> None:
    """A call that the bare function would refuse is refused in the same words, asking nobody."""
    channel = AutoApproveChannel()
    guarded = guard(refund, channel=channel, audit=AT_HAND["audit"])

    with pytest.raises(TypeError, match=re.escape("refund() missing 1 required positional")):
        guarded()  # type: ignore[call-arg]

    assert channel.requests == []
