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


class ByTool:
    """A policy that wants to know the tool as well."""

    def needs_approval(self, tool: str, args: dict[str, Any]) -> bool:
        return bool(args)


class AsyncPolicy:
    async def needs_approval(self, args: dict[str, Any]) -> bool:
        return bool(args)


WEB_SEARCH: Any = {"type": "web_search"}
OVER_100: Any = {"amount_over": {"arg": "amount", "threshold": 100}}
TARGET = "guard() takes a LangChain tool or a callable, not "
TOOLS = "guard_tools() takes LangChain tools and functions, not "
POLICY = "takes an ApprovalPolicy or an object with a plain method needs_approval(args), not "
CHANNEL = (
    "guard(channel=...) takes an ApprovalChannel (subclass it and implement request_approval), not "
)
LOG = "AuditLog() takes a path, not "
ON_DENIED = "guard(on_denied=...) takes 'raise', 'return' or a plain function of one argument, not "

# What somebody wrote, and what they are told.
MISTAKES: dict[str, tuple[Any, str]] = {
    "nothing": (
        lambda: guard()(None),  # type: ignore[type-var]
        TARGET + "None",
    ),
    "a call instead of the function": (
        lambda: guard()(amount=50),  # type: ignore[call-arg]
        "guard(...)() got an unexpected keyword argument 'amount'",
    ),
    "above a property": (
        lambda: guard(property(refund)),
        TARGET + "<property object",
    ),
    "a tool that something was bound to": (
        lambda: guard(tool(refund).bind(customer_id="cus_2")),
        TARGET + "RunnableBinding(",
    ),
    "a tool that its provider runs": (
        lambda: guard(WEB_SEARCH),
        TARGET + "{'type': 'web_search'}",
    ),
    "a tool that its provider runs, in a list": (
        lambda: guard_tools([refund, WEB_SEARCH]),
        TOOLS + "{'type': 'web_search'}: a tool that the model's provider runs cannot be guarded",
    ),
    "a list of tools": (
        lambda: guard([refund]),
        TARGET + f"[{refund!r}]",
    ),
    "one tool instead of a list": (
        lambda: guard_tools(tool(refund)),
        "guard_tools() takes a list of tools, not ",
    ),
    "one function instead of a list": (
        lambda: guard_tools(refund),
        "guard_tools() takes a list of tools, not ",
    ),
    "a class in the list": (
        lambda: guard_tools([Refunds]),
        TOOLS + f"{Refunds}",
    ),
    "a result instead of the function": (
        lambda: guard(refund(50)),
        TARGET + "'refunded 50'",
    ),
    "the policy by position": (
        lambda: guard(ApprovalPolicy()),
        TARGET + "ApprovalPolicy(",
    ),
    "the policy by position, after the function": (
        lambda: guard(refund, ApprovalPolicy()),  # type: ignore[call-overload]
        "guard() takes from 0 to 1 positional arguments but 2 were given",
    ),
    "the log by position": (
        lambda: guard("audit.jsonl"),
        TARGET + "'audit.jsonl'",
    ),
    "a policy as a dict": (
        lambda: guard(refund, policy=OVER_100),
        POLICY + f"{OVER_100}",
    ),
    "a policy class": (
        lambda: guard(refund, policy=ApprovalPolicy),
        POLICY + f"{ApprovalPolicy}",
    ),
    "a policy as a bool": (
        lambda: guard(refund, policy=False),
        POLICY + "False",
    ),
    "a policy that takes something else": (
        lambda: guard(refund, policy=ByTool()),
        POLICY + "<",
    ),
    "an async policy": (
        lambda: guard(refund, policy=AsyncPolicy()),
        POLICY + "<",
    ),
    "a tool's policy as a dict": (
        lambda: guard_tools([refund], policy={"refund": OVER_100}),
        "guard_tools(policy={'refund': ...}) takes an ApprovalPolicy",
    ),
    "rules in place of policies by tool": (
        lambda: guard_tools([refund], policy=OVER_100),
        "guard_tools(policy={...}) names 'amount_over', which is not one of the tools; they are: ",
    ),
    "a typo in an option": (
        lambda: guard(refund, polcy=ApprovalPolicy()),  # type: ignore[call-overload]
        "guard() got an unexpected keyword argument 'polcy'",
    ),
    "a rule on what is excluded": (
        lambda: guard(
            refund,
            policy=ApprovalPolicy(match_args={"customer_id": "^prod-"}),
            exclude=["customer_id"],
        ),
        "the policy names 'customer_id', which no policy or approver gets: it is excluded",
    ),
    "a rule on what is excluded, beside **kwargs": (
        lambda: guard(
            lambda path, **kwargs: path,
            policy=ApprovalPolicy(match_args={"path": "^/etc"}),
            exclude=["path"],
        ),
        "the policy names 'path', which no policy or approver gets: it is excluded",
    ),
    "a rule on what an excluded **kwargs takes": (
        lambda: guard(
            lambda path, **kwargs: path,
            policy=ApprovalPolicy(match_args={"env": "prod"}),
            exclude=["kwargs"],
        ),
        "the policy names 'env', which is not an argument of <lambda>(); its arguments are: ",
    ),
    "a typo in an argument's name": (
        lambda: guard(
            refund, policy=ApprovalPolicy(amount_over={"arg": "amonut", "threshold": 100})
        ),
        "the policy names 'amonut', which is not an argument of refund(); its arguments ",
    ),
    "a rule on all keywords at once": (
        lambda: guard(
            lambda path, **kwargs: path, policy=ApprovalPolicy(match_args={"kwargs": "^prod-"})
        ),
        "the policy names 'kwargs', which is not an argument of <lambda>(); its ",
    ),
    "a typo in a tool's argument": (
        lambda: guard(tool(refund), policy=ApprovalPolicy(match_args={"customer": "^prod-"})),
        "the policy names 'customer', which is not an argument of the tool 'refund'; its ",
    ),
    "a typo in a shared policy": (
        lambda: guard_tools([refund], policy=ApprovalPolicy(match_args={"customer": "^prod-"})),
        "the policy names 'customer', which is not an argument of any of the tools; its ",
    ),
    "a typo in a tool's name": (
        lambda: guard_tools([refund], policy={"refnud": ApprovalPolicy()}),
        "guard_tools(policy={...}) names 'refnud', which is not one of the tools; they are",
    ),
    "a typo in exclude": (
        lambda: guard(refund, exclude=["context"]),
        "exclude names 'context', which is not an argument of refund(); its arguments",
    ),
    "exclude as a string": (
        lambda: guard(refund, exclude="customer_id"),
        "guard(exclude=...) takes a collection of names, not 'customer_id'",
    ),
    "a threshold as text": (
        lambda: ApprovalPolicy(amount_over={"arg": "amount", "threshold": "100"}),
        "amount_over's threshold must be a finite number, not '100'",
    ),
    "amount_over in short": (
        lambda: ApprovalPolicy(amount_over={"amount": 100}),
        "amount_over must be a dict like {'arg': 'amount', 'threshold': 100}, not {'amount': 100}",
    ),
    "a pattern that is none": (
        lambda: ApprovalPolicy(match_args={"customer_id": "prod-("}),
        "match_args['customer_id'] must be a regular expression, not 'prod-('",
    ),
    "a pattern without its argument": (
        lambda: ApprovalPolicy(match_args="^prod-"),
        "match_args must be a dict from argument names to regular expressions, not '^prod-'",
    ),
    "a rule that takes the arguments one by one": (
        lambda: ApprovalPolicy(require_if=lambda amount, customer_id: amount > 100),
        "require_if must be a plain function (not async) that takes one argument",
    ),
    "a rule by position": (
        lambda: ApprovalPolicy("amount > 100"),
        "require_if must be a plain function",
    ),
    "an async rule": (
        lambda: ApprovalPolicy(require_if=arefund),
        "require_if must be a plain function (not async)",
    ),
    "a channel by name": (
        lambda: guard(refund, channel="slack"),
        CHANNEL + "'slack'",
    ),
    "a channel class": (
        lambda: guard(refund, channel=CLIChannel),
        CHANNEL + f"{CLIChannel}",
    ),
    "a channel as a function": (
        lambda: guard(refund, channel=lambda action: Decision.approve()),
        CHANNEL + "<function <lambda>",
    ),
    "a log class": (
        lambda: guard(refund, audit=AuditLog),
        LOG + f"{AuditLog}",
    ),
    "the log switched off": (
        lambda: guard(refund, audit=False),
        LOG + "False",
    ),
    "what a denial does": (
        lambda: guard(refund, on_denied="ignore"),
        ON_DENIED + "'ignore'",
    ),
    "an exception as what a denial does": (
        lambda: guard(refund, on_denied=PermissionError),
        ON_DENIED + "<class 'PermissionError'>",
    ),
    "an async function as what a denial does": (
        lambda: guard(refund, on_denied=arefund),
        ON_DENIED + f"{arefund!r}",
    ),
    "a function of nothing as what a denial does": (
        lambda: guard(refund, on_denied=lambda: "denied"),
        ON_DENIED + "<function",
    ),
    "what a tool's denial does": (
        lambda: guard(tool(refund), on_denied=str),
        "guard(on_denied=...) is for plain callables: a tool answers its agent",
    ),
    "Slack by name": (
        lambda: SlackChannel("#approvals"),
        "webhook_url must be an http(s) URL without spaces, not this one (not shown)",
    ),
    "Slack by an environment variable that is not set": (
        lambda: SlackChannel(None),  # type: ignore[arg-type]
        "webhook_url must be an http(s) URL without spaces, not None",
    ),
    "a log of nothing": (
        lambda: AuditLog(None),  # type: ignore[arg-type]
        "AuditLog() takes a path, not None",
    ),
    "a log of one's own": (
        lambda: type("Redacted", (AuditLog,), {}),
        "AuditLog cannot be subclassed, as Redacted does: guarded calls would never use its",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_told_at_once(mistake: tuple[Any, str]) -> None:
    """The mistake is told where it is made, before anything is called."""
    make, told = mistake

    with pytest.raises((TypeError, ValueError, re.error), match=re.escape(told)):
        make()


def test_missing_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without requests, SlackChannel says which extra brings it."""
    monkeypatch.setitem(sys.modules, "requests", None)

    with pytest.raises(ImportError, match=re.escape('pip install "actionguard[slack]"')):
        SlackChannel("https://hooks.slack.example/services/x")


def test_log_where_none_can_be(tmp_path: Any) -> None:
    """A log that is a folder is told at once, by its path; a missing folder is made later."""
    with pytest.raises(OSError, match=r"an audit log must be a file, but this is a folder: '.+'"):
        guard(refund, audit=tmp_path)

    guarded = guard(refund, audit=tmp_path / "new" / "log.jsonl", channel=AutoApproveChannel())
    assert not (tmp_path / "new").exists()
    guarded(50)
    assert (tmp_path / "new" / "log.jsonl").is_file()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "(Decision.approve() or .deny()), not NoneType"),
        (
            True,
            "Mine.request_approval() must return a Decision (Decision.approve() or .deny()), not",
        ),
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


def test_a_policy_that_does_not_answer() -> None:
    """A policy that returns nothing releases nothing, and is named."""

    class Forgetful:
        def needs_approval(self, args: dict[str, Any]) -> Any:
            """Ends without an answer."""

    with pytest.raises(TypeError, match=r"Forgetful.needs_approval\(\) must return True or False"):
        guard(refund, policy=Forgetful(), **AT_HAND)(4000)


def test_tool_above_guard() -> None:
    """With @tool above @guard a denial is an error, unless on_denied says that it is an answer."""
    options: Any = {"channel": AutoDenyChannel(), "audit": AT_HAND["audit"]}
    answers = tool(guard(on_denied="return", **options)(refund))
    raises = tool(guard(**options)(refund))

    assert answers.invoke({"amount": 4000}).startswith("DENIED: a person denied refund(")
    with pytest.raises(Exception, match="DENIED: a person denied refund"):
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
