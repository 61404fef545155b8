"""What is measured; `run.py` runs each case in a process of its own, with either release.

Usage: python cases.py CASE, in an empty folder. Prints numbers as JSON, named after their units:
`us` is microseconds for one guarded call, `beside_us` for what it is compared with, measured in
turn with it. QUICK=1 takes a twentieth of the samples.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial, wraps
from itertools import count, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from actionguard import Action, ApprovalChannel, ApprovalPolicy, AuditLog, Decision, guard

Numbers = dict[str, float]
QUICK = 20 if os.environ.get("QUICK") else 1
LOG = Path("audit.jsonl").absolute()
OFF = AuditLog(enabled=False)
THRESHOLD: Any = {"amount_over": {"arg": "amount", "threshold": 100}}
RELEASED, HELD = (50.0, "cus_123"), (4_000.0, "cus_123")
ARGS = {"amount": 50.0, "customer_id": "cus_123"}
CALL = {"type": "tool_call", "id": "1", "name": "refund", "args": ARGS}
RECORD = {"timestamp": "2026-06-01T12:00:00.000000+00:00", "tool": "refund", "args": ARGS}
RECORD |= {"needed_approval": False, "approved": None, "decision_source": None}
RECORD |= {"decision_comment": None, "executed": True, "result": "refunded", "error": None}


def refund(amount: float, customer_id: str) -> str:
    """Issue a refund."""
    return "refunded"


async def arefund(amount: float, customer_id: str) -> str:
    """Issue a refund."""
    return "refunded"


class Plain(ApprovalChannel):
    def __init__(self, *, approve: bool = True, seconds: float = 0) -> None:
        self.approve, self.seconds = approve, seconds

    def request_approval(self, action: Any) -> Any:
        time.sleep(self.seconds) if self.seconds else None
        return Decision(self.approve)


class Async(Plain):
    async def request_approval(self, action: Any) -> Any:
        await asyncio.sleep(self.seconds) if self.seconds else None
        return Decision(self.approve)


def guarded(target: Any, **options: Any) -> Any:
    return guard(target, **{"policy": ApprovalPolicy(**THRESHOLD), "audit": str(LOG), **options})


def in_turn(
    beside: Any, call: Any, *, rounds: int, batch: int = 1, pause: float = 0, lines: int = 1
) -> Numbers:
    """Median microseconds for one call of each, measured in the order A B B A.

    Args:
        beside: What the call is compared with.
        call: Plain or async, like `beside`.
        rounds: How often each is measured, after two rounds to warm up.
        batch: How many calls are one measurement.
        pause: Seconds between measurements.
        lines: How many each call must leave in the log: no figure counts without that.
    """
    loop = asyncio.new_event_loop()

    async def awaited(function: Any) -> float:
        start = time.perf_counter()
        for _ in range(batch):
            await function()
        return time.perf_counter() - start

    def timed(function: Any) -> float:
        if inspect.iscoroutinefunction(function):
            return loop.run_until_complete(awaited(function))
        start = time.perf_counter()
        for _ in range(batch):
            function()
        return time.perf_counter() - start

    samples: dict[Any, list[float]] = {beside: [], call: []}
    rounds = max(2, rounds // QUICK) + 2
    for number in range(rounds):
        for function in (beside, call) if number % 2 else (call, beside):
            time.sleep(pause)
            samples[function].append(timed(function) / batch * 1e6)
    if lines:
        check(rounds * batch * lines)
    us, beside_us = (statistics.median(samples[which][2:]) for which in (call, beside))
    return {"us": us, "beside_us": beside_us}


def check(expected: int) -> None:
    records = list(map(json.loads, LOG.read_text("ascii").splitlines()))
    if len(records) != expected:
        raise AssertionError(f"{len(records)} lines in the log instead of {expected}")


BURST: dict[str, Any] = {"rounds": 200, "batch": 20}
ALONE: dict[str, Any] = {"rounds": 100, "pause": 0.003}


def floor() -> Callable[[], Any]:
    """The least that a line can cost: `json.dumps` of the record and one `os.write`."""
    fd = os.open("floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda: os.write(fd, (json.dumps(RECORD) + "\n").encode())


def audited(how: dict[str, Any], amounts: Iterator[float], *, approve: bool = True) -> Numbers:
    call = guarded(refund, channel=Plain(approve=approve), on_denied="return")
    return in_turn(floor(), lambda: call(next(amounts), "cus_123"), **how)


def plain_off() -> Numbers:
    bare = wraps(refund)(lambda *args, **kwargs: refund(*args, **kwargs))
    call = guarded(refund, audit=OFF)
    calls = (lambda: bare(*RELEASED)), (lambda: call(*RELEASED))
    return in_turn(*calls, rounds=200, batch=200, lines=0)


def of(call: Any, args: Any, *, at_once: int = 1) -> Callable[[], Any]:
    async def awaited() -> Any:
        if at_once == 1:
            return await call(*args)
        return await asyncio.gather(*(call(*args) for _ in range(at_once)))

    return awaited


def async_audited(how: dict[str, Any], at_once: int = 1) -> Numbers:
    calls = [of(call, RELEASED, at_once=at_once) for call in (arefund, guarded(arefund))]
    return {n: us / at_once for n, us in in_turn(*calls, lines=at_once, **how).items()}


def async_held() -> Numbers:
    call = guarded(arefund, audit=OFF, channel=Async())
    numbers = in_turn(of(call, RELEASED), of(call, HELD), rounds=200, batch=50, lines=0)
    return {"adds_us": numbers["us"] - numbers["beside_us"]}


def tool(given: Any, function: Any = refund, method: str = "invoke") -> Numbers:
    from langchain_core.tools import tool as make_tool

    bare = make_tool("refund")(function)
    calls = [partial(getattr(t, method), given) for t in (bare, guarded(bare))]
    if method == "ainvoke":
        calls = [of(call, ()) for call in calls]
    return in_turn(*calls, rounds=100, batch=10)


def agent() -> Numbers:
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool as make_tool

    class Model(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    def replies() -> Any:
        while True:
            yield AIMessage(content="", tool_calls=[CALL])
            yield AIMessage(content="done")

    bare = make_tool(refund)
    agents = [create_agent(Model(messages=replies()), [t]) for t in (bare, guarded(bare))]
    asked = {"messages": [("user", "refund")]}
    return in_turn(*(partial(a.invoke, asked) for a in agents), rounds=100)


def waiting(channel: ApprovalChannel, number: int) -> Numbers:
    """So many calls wait at once; meanwhile the program uses its loop's executor."""
    call = guard(arefund, channel=channel, audit=OFF)
    threads: list[int] = []
    delays: list[float] = []

    async def program(calls: asyncio.Future[Any]) -> None:
        while not calls.done():
            start = time.perf_counter()
            await asyncio.to_thread(lambda: None)
            delays.append(time.perf_counter() - start)
            threads.append(threading.active_count() - before)
            await asyncio.sleep(0.005)

    async def main() -> float:
        nonlocal before
        await asyncio.to_thread(lambda: None)
        before = threading.active_count()
        start = time.perf_counter()
        calls = asyncio.gather(*(call(float(n), "cus") for n in range(number)))
        await asyncio.sleep(0)  # until all of them have begun
        await asyncio.gather(calls, program(calls))
        return time.perf_counter() - start

    async def memory() -> float:
        start = tracemalloc.get_traced_memory()[0]
        calls = [asyncio.ensure_future(call(float(n), "cus")) for n in range(1_000)]
        await asyncio.sleep(0)
        used = tracemalloc.get_traced_memory()[0] - start
        await asyncio.gather(*calls)
        return used / 1e6

    before = 0
    numbers = {"s": asyncio.run(main()), "delay_ms": max(delays) * 1e3, "threads": max(threads)}
    if isinstance(channel, Async):
        tracemalloc.start()
        numbers["KB"] = asyncio.run(memory())
    return numbers


def record(path: Path, payload: str, times: int) -> None:
    log, action = AuditLog(path), Action("refund", {"amount": 50.0, "note": payload})
    for _ in range(times):
        log.record(action=action, needed_approval=False, decision=None, executed=True)


def lines(worker: Any, workers: int, each: int, payload: str = "x") -> Numbers:
    each = max(2, each // QUICK)
    running = [worker(target=record, args=(LOG, payload, each)) for _ in range(workers)]
    start = time.perf_counter()
    for one in running:
        one.start()
    for one in running:
        one.join()
    seconds = time.perf_counter() - start
    check(workers * each)
    return {"us": seconds / (workers * each) * 1e6}


def large_log() -> Numbers:
    """A line onto a million, beside one onto an empty log; and an approved call there."""
    LOG.write_bytes((json.dumps(RECORD) + "\n").encode() * (1_000_000 // QUICK))
    logs = [AuditLog("empty.jsonl"), AuditLog(LOG)]
    done: dict[str, Any] = {"needed_approval": False, "decision": None, "executed": True}
    calls = [partial(log.record, action=Action("refund", ARGS), **done) for log in logs]
    numbers = in_turn(*calls, rounds=200, batch=20, lines=0)
    call = guarded(refund, channel=Plain())
    calls = [partial(call, *RELEASED), partial(call, *HELD)]
    return {**numbers, "held_ms": in_turn(*calls, rounds=200, lines=0)["us"] / 1e3}


def guarding(*, by_name: bool) -> Numbers:
    from langchain_core.tools import StructuredTool

    from actionguard import guard_tools

    names = [f"refund_{n}" for n in range(1_000 // QUICK)]
    tools = [StructuredTool.from_function(refund, name=name) for name in names]
    policy: Any = ApprovalPolicy(**THRESHOLD)
    if by_name:
        policy = dict.fromkeys(names, policy)
    made = partial(guard_tools, tools, policy=policy, audit=OFF)
    us = in_turn(lambda: None, made, rounds=5, lines=0)["us"] / len(names)
    tracemalloc.start()
    kept = made()
    return {"us": us, "KB": tracemalloc.get_traced_memory()[0] / len(kept) / 1e3}


def imports() -> Numbers:
    code = (
        "import sys, time; start = time.perf_counter();"
        "from actionguard import ApprovalPolicy, AuditLog, CLIChannel, SlackChannel, guard;"
        "print(time.perf_counter() - start, len({'asyncio', 'langchain_core'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, slow = done.stdout.split()
    return {"ms": float(seconds) * 1e3, "modules": float(slow)}


def policy(**rules: Any) -> Numbers:
    needs_approval = ApprovalPolicy(**rules).needs_approval
    calls = (lambda: None), (lambda: needs_approval(ARGS))
    return {"us": in_turn(*calls, rounds=200, batch=500, lines=0)["us"]}


CASES: dict[str, Callable[[], Numbers]] = {
    "plain_alone": partial(audited, ALONE, repeat(50.0)),
    "plain_burst": partial(audited, BURST, repeat(50.0)),
    "held_alone": partial(audited, ALONE, count(4_000.0)),
    "denied_burst": partial(audited, BURST, count(4_000.0), approve=False),
    "plain_off": plain_off,
    "async_alone": partial(async_audited, ALONE),
    "async_burst": partial(async_audited, BURST),
    "async_at_once": partial(async_audited, {"rounds": 20}, 1_000),
    "async_held": async_held,
    "tool_invoke": partial(tool, ARGS),
    "tool_call": partial(tool, CALL),
    "tool_ainvoke": partial(tool, ARGS, arefund, "ainvoke"),
    "agent": agent,
    "waiting_blocking": partial(waiting, Plain(seconds=0.05), 1_000),
    "waiting_async": partial(waiting, Async(seconds=0.05), 10_000),
    "lines_thread": partial(lines, threading.Thread, 1, 8_000),
    "lines_threads": partial(lines, threading.Thread, 8, 1_000),
    "lines_processes": partial(lines, get_context("fork").Process, 4, 2_000),
    "lines_large": partial(lines, threading.Thread, 1, 20, "x" * 1_000_000),
    "large_log": large_log,
    "guarding": partial(guarding, by_name=False),
    "guarding_by_name": partial(guarding, by_name=True),
    "imports": imports,
    "policy_threshold": partial(policy, **THRESHOLD),
    "policy_regex": partial(policy, match_args={"customer_id": "^prod-"}),
    "policy_predicate": partial(policy, require_if=lambda args: args["amount"] > 100),
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]]()))
