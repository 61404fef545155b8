"""Test your own gate, without a person: does it ask, about what, and what if the answer is no?

Run:  pytest examples/testing_your_gate.py
The tests pass without asking you anything.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from actionguard import ApprovalChannel, ApprovalDenied, ApprovalPolicy, AuditLog, Decision, guard
from actionguard.testing import (
    AutoApproveChannel,
    AutoDenyChannel,
    ScriptedChannel,
    SilentChannel,
)


class Bank:
    """What you would have in your program; it takes its channel and its log from outside."""

    def __init__(self, channel: ApprovalChannel, audit: AuditLog) -> None:
        self.paid: list[float] = []
        policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})
        options: Any = {"policy": policy, "channel": channel, "audit": audit}
        self.refund = guard(self._refund, **options)
        self.arefund = guard(self._arefund, **options)

    def _refund(self, amount: float) -> str:
        self.paid.append(amount)
        return f"refunded {amount}"

    async def _arefund(self, amount: float) -> str:
        return self._refund(amount)


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


def test_large_refunds_ask(audit: AuditLog) -> None:
    channel = AutoApproveChannel()
    bank = Bank(channel, audit)

    bank.refund(50)
    bank.refund(4000)

    assert [request.args for request in channel.requests] == [{"amount": 4000}]
    assert bank.paid == [50, 4000]
    assert [record["needed_approval"] for record in audit.records()] == [False, True]


def test_a_denied_refund_pays_nothing(audit: AuditLog) -> None:
    bank = Bank(AutoDenyChannel("not this one"), audit)

    with pytest.raises(ApprovalDenied, match="not this one"):
        bank.refund(4000)

    assert bank.paid == []
    (record,) = audit.records()
    assert record["decision_comment"] == "not this one"
    assert record["executed"] is False


def test_answers_in_order(audit: AuditLog) -> None:
    bank = Bank(ScriptedChannel(True, Decision.deny("that was the second"), TimeoutError()), audit)

    bank.refund(4000)
    with pytest.raises(ApprovalDenied, match="that was the second"):
        bank.refund(4000)
    with pytest.raises(TimeoutError):  # the channel broke, and a plain function says so
        bank.refund(4000)

    assert bank.paid == [4000]


def test_nobody_answers(audit: AuditLog) -> None:
    with SilentChannel() as channel:
        bank = Bank(channel, audit)

        def refund() -> None:
            with pytest.raises(ApprovalDenied, match="hung up"):
                bank.refund(4000)

        waiting = threading.Thread(target=refund)
        waiting.start()
        channel.wait_for_requests()

        assert [call["state"] for call in audit.in_flight()] == ["waiting"]
        assert bank.paid == []

    waiting.join()
    assert bank.paid == []


def test_a_cancelled_task_pays_nothing(audit: AuditLog) -> None:
    bank = Bank(SilentChannel(), audit)

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bank.arefund(4000), timeout=0.01)

    asyncio.run(main())

    assert bank.paid == []
