"""Test your own guards without a person: do they ask, about what, and what if the answer is no?

Run:  pytest examples/testing_your_gate.py
The tests pass without asking you anything.
"""

import asyncio
import threading

import pytest

from actionguard import ApprovalDenied, ApprovalPolicy, Decision, guard
from actionguard.testing import (
    AutoApproveChannel,
    AutoDenyChannel,
    ScriptedChannel,
    SilentChannel,
    answering,
)

# --- your program, as it is in production ----------------------------------------------------

POLICY = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})
paid: list[float] = []


@guard(policy=POLICY)
def refund(amount: float) -> str:
    paid.append(amount)
    return f"refunded {amount}"


@guard(policy=POLICY)
async def arefund(amount: float) -> str:
    paid.append(amount)
    return f"refunded {amount}"


@guard
def send_email(to: str) -> str:
    return f"sent to {to}"


# --- its tests -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_paid() -> None:
    paid.clear()


def test_large_refunds_ask() -> None:
    channel = AutoApproveChannel()
    with answering(channel) as log:
        refund(50)
        refund(4000)

    assert [request.args for request in channel.requests] == [{"amount": 4000}]
    assert [record["needed_approval"] for record in log.records()] == [False, True]
    assert paid == [50, 4000]


def test_a_denied_refund_pays_nothing() -> None:
    channel = AutoDenyChannel("not this one")
    with answering(channel) as log, pytest.raises(ApprovalDenied, match="not this one"):
        refund(4000)

    (record,) = log.records()
    assert record["decision_comment"] == "not this one"
    assert record["executed"] is False
    assert paid == []


def test_answers_by_tool() -> None:
    with answering(ScriptedChannel(refund=False, send_email=True)):
        assert send_email("ann@example.com") == "sent to ann@example.com"
        with pytest.raises(ApprovalDenied):
            refund(4000)


def test_answers_in_order() -> None:
    with answering(ScriptedChannel(True, Decision.deny("a repeat"), TimeoutError())):
        refund(4000)
        with pytest.raises(ApprovalDenied, match="a repeat"):
            refund(4000)
        with pytest.raises(
            TimeoutError
        ):  # the channel failed, and a plain function raises its error
            refund(4000)

    assert paid == [4000]


def test_nobody_answers() -> None:
    def denied() -> None:
        with pytest.raises(ApprovalDenied, match="hung up"):
            refund(4000)

    with SilentChannel() as channel, answering(channel) as log:
        waiting = threading.Thread(target=denied)
        waiting.start()
        channel.wait_for_requests()
        assert [call["state"] for call in log.in_flight()] == ["waiting"]
        channel.hang_up()
        waiting.join()

    assert paid == []


def test_a_cancelled_task_pays_nothing() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(arefund(4000), timeout=0.1)

    with answering(SilentChannel()):
        asyncio.run(main())

    assert paid == []
