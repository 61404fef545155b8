"""Equal calls are found in the log: shown to the approver, and held if the policy says so."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from actionguard import Action, ApprovalDenied, ApprovalPolicy, AuditLog, guard
from actionguard.testing import AutoApproveChannel, AutoDenyChannel, ScriptedChannel, SilentChannel

ONCE = ApprovalPolicy(repeat_within=600)


def refund(amount: float, note: str = "") -> str:
    """Refund an amount."""
    if note == "fail":
        raise TimeoutError("the bank did not answer")
    return f"refunded {amount}"


async def arefund(amount: float) -> str:
    return f"refunded {amount}"


def outcomes(action: Action) -> list[Any]:
    return [record.get("state", record.get("executed")) for record in action.earlier]


def test_the_approver_sees_what_ran_before(log_path: Path) -> None:
    """A held call brings the records of equal calls, newest first, and of no others."""
    channel = ScriptedChannel(True, True, False, True, True)
    pay = guard(refund, channel=channel, audit=log_path, on_denied="return")

    for amount in (5, 5, 5, 6, 5):
        pay(amount)

    assert [outcomes(action) for action in channel.requests] == [
        [],
        [True],
        [True, True],
        [],
        [False, True, True],
    ]
    newest, *_ = channel.requests[-1].earlier
    assert (newest["approved"], newest["id"]) == (False, channel.requests[2].id)


@pytest.mark.parametrize("run", [lambda f: f(5), None], ids=["plain", "async"])
def test_repeat_within(run: Any, log_path: Path) -> None:
    """The first call runs unasked, an equal one is held, another one is not."""
    channel = AutoDenyChannel()
    options: dict[str, Any] = {"policy": ONCE, "channel": channel, "audit": log_path}
    pay = guard(refund if run else arefund, on_denied="return", **options)

    def call(amount: float) -> str:
        answer = pay(amount)
        return answer if run else asyncio.run(answer)  # type: ignore[arg-type, return-value]

    assert call(5) == "refunded 5"
    assert call(5).startswith("DENIED: ")
    assert call(6) == "refunded 6"
    assert [outcomes(action) for action in channel.requests] == [[True]]


def test_arguments_in_another_order(log_path: Path) -> None:
    """An agent may repeat a call with its arguments in another order."""
    properties = {"amount": {"type": "number"}, "customer": {"type": "string"}}
    tool = StructuredTool(
        name="refund",
        description="Refund.",
        args_schema={"type": "object", "properties": properties},
        func=lambda **given: f"refunded {given['amount']}",
    )
    pay = guard(tool, policy=ONCE, channel=AutoDenyChannel(), audit=log_path)

    assert pay.invoke({"amount": 5, "customer": "c"}) == "refunded 5"
    assert pay.invoke({"customer": "c", "amount": 5}).startswith("DENIED: ")


def test_denied_calls_do_not_hold(log_path: Path) -> None:
    """A call that certainly did not run is no reason to hold the next; one that failed is."""
    held = ApprovalPolicy(repeat_within=600, amount_over={"arg": "amount", "threshold": 100})
    channel = AutoDenyChannel()
    pay = guard(refund, policy=held, channel=channel, audit=log_path, on_denied="return")

    assert pay(4000).startswith("DENIED: ")
    assert guard(refund, policy=ONCE, channel=channel, audit=log_path)(4000) == "refunded 4000"
    with pytest.raises(TimeoutError):
        pay(5, "fail")
    assert pay(5, "fail").startswith("DENIED: ")
    assert outcomes(channel.requests[-1]) == [True]
    assert channel.requests[-1].earlier[0]["error"] == "TimeoutError: the bank did not answer"


def test_long_ago(log_path: Path) -> None:
    """What ran longer ago does not hold the call."""
    pay = guard(
        refund,
        policy=ApprovalPolicy(repeat_within=1e-6),
        channel=AutoDenyChannel(),
        audit=log_path,
    )

    assert pay(5) == pay(5) == "refunded 5"


def other_calls(log: Path) -> None:
    """More lines of now than the last megabyte."""
    line = log.read_text().replace('"amount": 5', '"amount": 6')
    with log.open("a") as file:
        file.write(line * (1_200_000 // len(line)))


def denials(log: Path) -> None:
    """More equal calls than are kept, none of which ran."""
    pay = guard(refund, channel=AutoDenyChannel(), audit=log, on_denied="return")
    for _ in range(30):
        pay(5)


def nested_records(log: Path) -> None:
    """More calls than are kept, of which an argument looks like the record."""
    record = {"tool": "refund", "args": {"amount": 5, "note": ""}, "executed": True}
    store = guard(lambda record: None, channel=AutoApproveChannel(), audit=log)
    for _ in range(30):
        store(record)


def renamed(log: Path) -> None:
    log.rename(f"{log}.1")


def copied_and_emptied(log: Path) -> None:
    Path(f"{log}.1").write_bytes(log.read_bytes())
    log.write_bytes(b"")


@pytest.mark.parametrize(
    "then", [other_calls, denials, nested_records, renamed, copied_and_emptied]
)
def test_nothing_hides_a_repeat(then: Any, log_path: Path) -> None:
    """An equal call within the time is found, whatever the log has got since."""
    channel = AutoDenyChannel()
    pay = guard(refund, policy=ONCE, channel=channel, audit=log_path, on_denied="return")

    assert pay(5) == "refunded 5"
    then(log_path)
    assert pay(5).startswith("DENIED: ")
    assert True in outcomes(channel.requests[-1])


def test_two_at_once_never_both_run_unasked(log_path: Path) -> None:
    """An equal call that runs right now, in whichever thread, holds the next one."""
    entered, leave = threading.Event(), threading.Event()

    def body(amount: float) -> str:
        entered.set()
        leave.wait(60)
        return f"refunded {amount}"

    channel = AutoDenyChannel()
    pay = guard(body, policy=ONCE, channel=channel, audit=log_path, on_denied="return")
    first = threading.Thread(target=pay, args=(5,))
    first.start()
    assert entered.wait(60)

    assert pay(5).startswith("DENIED: ")
    leave.set()
    first.join()

    assert outcomes(channel.requests[0]) == ["running"]


def test_in_other_processes_and_before_a_restart(log_path: Path) -> None:
    """What another process ran is found in the log, and what it does now in its notes."""
    code = f"""
from actionguard import guard
from actionguard.testing import AutoApproveChannel, SilentChannel
def refund(amount, note=""): return "refunded"
guard(refund, channel=AutoApproveChannel(), audit={str(log_path)!r})(5)
print("ran", flush=True)
guard(refund, channel=SilentChannel(), audit={str(log_path)!r})(5)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    channel = AutoDenyChannel()
    pay = guard(refund, policy=ONCE, channel=channel, audit=log_path, on_denied="return")
    try:
        assert other.stdout is not None and other.stdout.readline() == "ran\n"
        log = AuditLog(log_path)
        while not log.in_flight():
            pass
        assert pay(5).startswith("DENIED: ")
        assert outcomes(channel.requests[0]) == ["waiting", True]
    finally:
        other.kill()
        other.communicate()

    assert pay(5).startswith("DENIED: ")
    assert sorted(map(str, outcomes(channel.requests[1]))) == ["False", "False", "True"]


def test_a_forged_text_is_no_repeat(log_path: Path) -> None:
    """A record inside an argument is text, and not a record."""
    forged = '{"tool": "refund", "args": {"amount": 5, "note": ""}, "executed": true}'
    channel = ScriptedChannel(True, True)
    pay = guard(refund, channel=channel, audit=log_path)

    pay(1, note=f"x\n{forged}\n")
    pay(5)

    assert outcomes(channel.requests[1]) == []


def test_paused_and_waiting_calls(log_path: Path) -> None:
    """Of two that wait at once, the second sees that the first waits."""
    with SilentChannel() as silent:
        pay = guard(refund, channel=silent, audit=log_path, on_denied="return")
        threads = []
        for count in (1, 2):
            threads.append(threading.Thread(target=pay, args=(5,)))
            threads[-1].start()
            silent.wait_for_requests(count)
        assert [outcomes(action) for action in silent.requests] == [[], ["waiting"]]
    for thread in threads:
        thread.join()


def test_mistakes(log_path: Path) -> None:
    """Without a log there is no memory, and a time must be a finite number above 0."""
    for log in (AuditLog(enabled=False),):
        with pytest.raises(
            ValueError, match="repeat_within looks for earlier calls in the audit log"
        ):
            guard(refund, policy=ONCE, audit=log)
    for wrong in (0, -1, float("nan"), float("inf"), "600", True):
        with pytest.raises((TypeError, ValueError), match="repeat_within"):
            ApprovalPolicy(repeat_within=wrong)  # type: ignore[arg-type]
    broken = guard(refund, policy=ONCE, channel=AutoApproveChannel(), audit=log_path)
    assert broken(5) == "refunded 5"
    with pytest.raises(ApprovalDenied):
        guard(refund, policy=ONCE, channel=AutoDenyChannel(), audit=log_path)(5)
