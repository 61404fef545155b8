"""What a type checker sees of the public names. Run by mypy, never imported."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from email.message import Message
from fractions import Fraction
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, tool
from typing_extensions import assert_type

from actionguard import (
    Action,
    ApprovalChannel,
    ApprovalDenied,
    ApprovalPolicy,
    ApprovalWrappedTool,
    AuditLog,
    CLIChannel,
    Decision,
    SlackChannel,
    __version__,
    configure,
    guard,
    guard_tools,
)
from actionguard.channels import SlackButtonsChannel
from actionguard.core import denial_message
from actionguard.policy import AmountOver, Policy
from actionguard.testing import (
    AutoApproveChannel,
    AutoDenyChannel,
    ScriptedChannel,
    SilentChannel,
    answering,
    read_log,
)

own_version: str = __version__

# --- Action, Decision, ApprovalDenied --------------------------------------------------------

action = Action("refund", {"amount": 5}, "Refund a customer.")
assert_type(action.args, dict[str, Any])
assert_type(action.id, str)
assert_type(action.pretty(), str)
Action("refund")  # type: ignore[call-arg]
assert_type(action.earlier, list[dict[str, Any]])
action.id = 5  # type: ignore[assignment]

decision = Decision(approved=True, comment="ok", source="cli", metadata={"by": "me"})
assert_type(Decision.approve(), Decision)
assert_type(Decision.deny("no"), Decision)
assert_type(decision.comment, str | None)
Decision(approved="yes")  # type: ignore[arg-type]
Decision()  # type: ignore[call-arg]

assert_type(denial_message(action, decision), str)
denial_message(action, None)  # type: ignore[arg-type]

denied = ApprovalDenied("no", action=action)
assert_type(denied.action, Action)
assert_type(denied.decision, Decision | None)
ApprovalDenied("no")
ApprovalDenied()  # type: ignore[call-arg]

# --- policies --------------------------------------------------------------------------------

policy = ApprovalPolicy(
    require_if=lambda args: args["amount"] > 100 and args["currency"] == "USD",
    require_always=False,
    amount_over={"arg": "amount", "threshold": 100},
    match_args={"customer_id": r"^prod-", "region": re.compile("eu", re.IGNORECASE)},
)
assert_type(policy.needs_approval({"amount": 5}), bool)
assert_type(policy.names, frozenset[str])
assert_type(policy.amount_over, AmountOver | None)
ApprovalPolicy(amount_over={"arg": "amount", "threshold": Decimal("99.95")})
ApprovalPolicy(amount_over={"arg": "amount", "threshold": Fraction(1, 3)})
ApprovalPolicy(amount_over={"arg": "amount", "treshold": 1})  # type: ignore[arg-type]
ApprovalPolicy(amount_over={"arg": "amount", "threshold": "1"})  # type: ignore[arg-type]
ApprovalPolicy(match_args={"customer_id": b"^prod-"})  # type: ignore[dict-item]
assert_type(ApprovalPolicy(repeat_within=600).repeat_within, float | None)
ApprovalPolicy(repeat_within="600")  # type: ignore[arg-type]
ApprovalPolicy(require_if=True)  # type: ignore[arg-type]


class Weekdays:
    def needs_approval(self, args: dict[str, Any]) -> bool:
        return bool(args)


class Sometime:
    async def needs_approval(self, args: dict[str, Any]) -> bool:
        return bool(args)


anything: Policy = Weekdays()
nothing: Policy = Sometime()  # type: ignore[assignment]

# --- channels --------------------------------------------------------------------------------


class Email(ApprovalChannel):
    name = "email"

    def request_approval(self, action: Action) -> Decision:
        return Decision(approved=True, source=self.name)


class Chat(ApprovalChannel):
    async def request_approval(self, action: Action) -> Decision:
        return Decision(approved=True, source=self.name)


class Wrong(ApprovalChannel):
    def request_approval(self, action: Action) -> bool:  # type: ignore[override]
        return True


assert_type(Email().request_approval(action), Decision)
ApprovalChannel()  # type: ignore[abstract]

CLIChannel(input_fn=lambda prompt: "y")
CLIChannel(input_fn=lambda prompt: None)  # type: ignore[arg-type, return-value]
CLIChannel(stream="stderr")  # type: ignore[arg-type]
CLIChannel(timeout=60)
CLIChannel(timeout="60")  # type: ignore[arg-type]


async def apoll(action: Action) -> Decision | None:
    return None


SlackChannel("https://example.com", poll_fn=lambda action: None, timeout=300, on_timeout="deny")
SlackChannel("https://example.com", poll_fn=apoll)
SlackChannel("https://example.com", on_timeout="maybe")  # type: ignore[arg-type]
SlackChannel()  # type: ignore[call-arg]

buttons = SlackButtonsChannel("https://example.com", signing_secret="x", approvers={"U0ADA"})
assert_type(buttons.handle({"X-Slack-Signature": "v0=..."}, b"payload=..."), tuple[int, str])
assert_type(buttons.handle(Message(), "payload=..."), tuple[int, str])
SlackButtonsChannel("https://example.com", approvers={"U0ADA"})  # type: ignore[call-arg]

# --- the log ---------------------------------------------------------------------------------

log = AuditLog(Path("audit.jsonl"))
AuditLog("audit.jsonl", enabled=False)
AuditLog(None)  # type: ignore[arg-type]
assert_type(log.enabled, bool)
assert_type(log.path, Path)
assert_type(
    log.record(action=action, needed_approval=True, decision=decision, executed=False),
    dict[str, Any],
)
log.record(action=action)  # type: ignore[call-arg]
assert_type(next(iter(read_log("audit.jsonl"))), dict[str, Any])

# --- configure -------------------------------------------------------------------------------

configure(channel=CLIChannel(), audit="audit.jsonl")
configure()
configure(channel="slack")  # type: ignore[arg-type]
configure(CLIChannel())  # type: ignore[call-arg]

# --- guard: a function keeps its signature ---------------------------------------------------


@guard
def bare(amount: float, customer: str = "c") -> int:
    return 1


@guard(
    policy=policy, channel=CLIChannel(), audit="audit.jsonl", exclude={"context"}, secret=["key"]
)
def configured(amount: float, *, context: object, key: str = "") -> int:
    return 1


@guard()
async def later(amount: float) -> int:
    return 1


@guard()
def steps(amount: float) -> Iterator[int]:
    yield 1


@guard()
async def asteps(amount: float) -> AsyncIterator[int]:
    yield 1


assert_type(bare(5.0, customer="x"), int)
assert_type(configured(5.0, context=None), int)
assert_type(steps(5.0), Iterator[int])
assert_type(asteps(5.0), AsyncIterator[int])
bare("5")  # type: ignore[arg-type]
bare(5.0, client="x")  # type: ignore[call-arg]
configured(5.0)  # type: ignore[call-arg]


async def main() -> None:
    assert_type(await later(5.0), int)
    await later("5")  # type: ignore[arg-type]


def plain(amount: float) -> int:
    return 1


async def aplain(amount: float) -> int:
    return 1


assert_type(guard(plain)(5.0), int)
assert_type(guard(plain, policy=Weekdays(), audit=log)(5.0), int)
assert_type(guard(plain, on_denied="raise")(5.0), int)
guard(plain)("5")  # type: ignore[arg-type]
guard(plain, policy="always")  # type: ignore[call-overload]
guard(plain, channel=input)  # type: ignore[call-overload]
guard(plain, on_denied="maybe")  # type: ignore[call-overload]
guard(plain, polcy=policy)  # type: ignore[call-overload]
guard(123)  # type: ignore[call-overload]
guard(policy)  # type: ignore[call-overload]
guard([plain])  # type: ignore[call-overload]
guard(plain, policy)  # type: ignore[call-overload]
guard(plain, exclude=["context"], audit=False)  # type: ignore[call-overload]
guard(plain, channel=CLIChannel)  # type: ignore[call-overload]
guard()(5)  # type: ignore[type-var]


class Bank:
    @guard
    def refund(self, amount: float) -> int:
        return 1

    @guard(policy=policy)
    async def arefund(self, amount: float) -> int:
        return 1

    @classmethod
    @guard
    def open(cls, name: str) -> Bank:
        return cls()

    @guard
    @staticmethod
    def rate(currency: str) -> float:
        return 1.0

    def __call__(self, amount: float) -> int:
        return 1


assert_type(Bank().refund(5.0), int)
assert_type(Bank.open("b"), Bank)
assert_type(Bank.rate("USD"), float)
assert_type(guard(Bank()), Bank)
Bank().refund("5")  # type: ignore[arg-type]
Bank.open(5)  # type: ignore[arg-type]


async def methods() -> None:
    assert_type(await Bank().arefund(5.0), int)


# --- guard: on_denied adds what it returns ---------------------------------------------------


@guard(on_denied="return")
def told(amount: float) -> int:
    return 1


@guard(on_denied="return")
async def atold(amount: float) -> int:
    return 1


@guard(on_denied="return")
def steps_told(amount: float) -> Iterator[int]:
    yield 1


def structured(denied: ApprovalDenied) -> dict[str, bool]:
    return {"ok": False}


assert_type(told(5.0), int | str)
assert_type(steps_told(5.0), Iterator[int | str])
assert_type(guard(plain, on_denied="return")(5.0), int | str)
assert_type(guard(plain, on_denied=structured)(5.0), int | dict[str, bool])
assert_type(guard(on_denied=structured)(plain)(5.0), int | dict[str, bool])
told("5")  # type: ignore[arg-type]
guard(plain, on_denied=plain)  # type: ignore[arg-type]


async def amain() -> None:
    assert_type(await atold(5.0), int | str)
    assert_type(await guard(aplain, on_denied="return")(5.0), int | str)
    assert_type(await guard(aplain, on_denied=structured)(5.0), int | dict[str, bool])


# --- guard: a tool stays a tool --------------------------------------------------------------

search = StructuredTool.from_function(plain)
assert_type(guard(search), StructuredTool)
assert_type(guard(search, policy=policy), StructuredTool)
assert_type(guard(search, on_denied="return"), StructuredTool)
assert_type(guard(policy=policy)(search), StructuredTool)


@guard(policy=policy)
@tool
def refund(amount: float) -> str:
    """Refund a customer."""
    return "ok"


assert_type(refund, BaseTool)

assert_type(guard_tools([search, plain, refund], policy=policy), list[BaseTool])
assert_type(guard_tools([search], policy={"search": policy, "other": Weekdays()}), list[BaseTool])
guard_tools(search)  # type: ignore[arg-type]
guard_tools([{"type": "web_search"}])  # type: ignore[list-item]
guard_tools([search], on_denied="return")  # type: ignore[call-arg]
if isinstance(search, ApprovalWrappedTool):
    assert_type(search.name, str)

# --- doubles ---------------------------------------------------------------------------------

scripted = ScriptedChannel(True, Decision.deny("no"), ConnectionError("down"))
assert_type(scripted.requests, list[Action])
assert_type(scripted.wait_for_requests(2, timeout=1), list[Action])
assert_type(AutoApproveChannel("fine").request_approval(action), Decision)
assert_type(AutoDenyChannel().request_approval(action), Decision)
ScriptedChannel("yes")  # type: ignore[arg-type]
ScriptedChannel(refund=False, send_email=Decision.approve())
ScriptedChannel(lambda action: action.args["amount"] < 100)
with answering(scripted) as answered:
    assert_type(answered, AuditLog)
with SilentChannel() as silent:
    assert_type(silent, SilentChannel)
