"""What is measured; `run.py` runs each case in processes of its own, with one release or the other.

Usage: python cases.py CASE FOLDER. Prints numbers as JSON, each named after its unit: `us` is
microseconds for one guarded call, and `beside_us` for what it is compared with, which is measured
in turn with it. QUICK=1 takes a twentieth of the samples.
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
from collections.abc import Callable
from functools import partial, wraps
from multiprocessing import get_context
from pathlib import Path
from typing import Any

QUICK = 20 if os.environ.get("QUICK") else 1
ARGS = {"amount": 50.0, "customer_id": "cus_123"}
CALL = {"type": "tool_call", "id": "1", "name": "refund", "args": ARGS}
RECORD = {
    "timestamp": "2026-06-01T12:00:00.000000+00:00",
    "tool": "refund",
    "args": ARGS,
    "needed_approval": False,
    "approved": None,
    "decision_source": None,
    "decision_comment": None,
    "executed": True,
    "result": "refunded",
    "error": None,
}
Numbers = dict[str, float]


def refund(amount: float, customer_id: str) -> str:
    """Issue a refund."""
    return "refunded"


async def arefund(amount: float, customer_id: str) -> str:
    """Issue a refund."""
    return "refunded"


class Measured:
    """The release that is measured, and what its guards are given."""

    def __init__(self, folder: str) -> None:
        import actionguard

        self.path = Path(folder) / "audit.jsonl"
        self.release: Any = actionguard
        self.off = actionguard.AuditLog(enabled=False)
        self.loop = asyncio.new_event_loop()
        self.calls = 0

    def policy(self) -> Any:
        return self.release.ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})

    def channel(self, approve: bool, seconds: float = 0, *, is_async: bool = False) -> Any:
        class Plain(self.release.ApprovalChannel):  # type: ignore[misc,name-defined]
            def request_approval(_, action: Any) -> Any:
                if seconds:
                    time.sleep(seconds)
                return self.release.Decision(approve)

        class Async(self.release.ApprovalChannel):  # type: ignore[misc,name-defined]
            async def request_approval(_, action: Any) -> Any:
                if seconds:
                    await asyncio.sleep(seconds)
                return self.release.Decision(approve)

        return Async() if is_async else Plain()

    def floor(self) -> Callable[[], Any]:
        """The least that a line can cost: `json.dumps` of the record and one `os.write`."""
        fd = os.open(self.path.with_name("floor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return lambda: os.write(fd, (json.dumps(RECORD) + "\n").encode())

    def in_turn(
        self, beside: Any, call: Any, *, rounds: int, batch: int = 1, pause: float = 0
    ) -> Numbers:
        """Median microseconds for one call of each, measured in the order A B B A.

        Args:
            beside: What the call is compared with.
            call: Plain or async, like `beside`; it leaves one line in the log, if that is on.
            rounds: How often each is measured, with two rounds before that to warm up.
            batch: How many calls are one measurement.
            pause: Seconds between measurements.
        """
        samples: dict[Any, list[float]] = {beside: [], call: []}
        rounds = max(2, rounds // QUICK)
        for number in range(rounds + 2):
            for function in (beside, call) if number % 2 else (call, beside):
                time.sleep(pause)
                seconds = self._time(function, batch)
                if number >= 2:
                    samples[function].append(seconds / batch * 1e6)
        self.calls += (rounds + 2) * batch
        us, beside_us = statistics.median(samples[call]), statistics.median(samples[beside])
        return {"us": us, "beside_us": beside_us}

    def _time(self, function: Any, count: int) -> float:
        async def all_of_it() -> float:
            start = time.perf_counter()
            for _ in range(count):
                await function()
            return time.perf_counter() - start

        if inspect.iscoroutinefunction(function):
            return self.loop.run_until_complete(all_of_it())
        start = time.perf_counter()
        for _ in range(count):
            function()
        return time.perf_counter() - start

    def check(self, calls: int | None = None) -> None:
        """Nothing counts that left more or less than a line for each call."""
        lines = [json.loads(line) for line in self.path.read_text("ascii").splitlines()]
        expected = self.calls if calls is None else calls
        if len(lines) != expected:
            raise AssertionError(f"{len(lines)} lines in the log instead of {expected}")


BURST: dict[str, Any] = {"rounds": 200, "batch": 20}
ALONE: dict[str, Any] = {"rounds": 100, "pause": 0.003}


def audited(folder: str, how: dict[str, Any], amount: float, *, approve: bool) -> Numbers:
    m = Measured(folder)
    options = {"policy": m.policy(), "channel": m.channel(approve), "audit": str(m.path)}
    guarded = m.release.guard(refund, on_denied="return", **options)
    numbers = m.in_turn(m.floor(), lambda: guarded(amount, "cus_123"), **how)
    m.check()
    return numbers


def plain_off(folder: str) -> Numbers:
    m = Measured(folder)

    @wraps(refund)
    def bare(*args: Any, **kwargs: Any) -> str:
        return refund(*args, **kwargs)

    guarded = m.release.guard(refund, policy=m.policy(), audit=m.off)
    calls = (lambda: bare(50.0, "cus_123")), (lambda: guarded(50.0, "cus_123"))
    return m.in_turn(*calls, rounds=200, batch=200)


def async_alone(folder: str) -> Numbers:
    m = Measured(folder)
    guarded = m.release.guard(arefund, policy=m.policy(), audit=str(m.path))
    write = m.floor()

    async def call() -> Any:
        return await guarded(50.0, "cus_123")

    async def floor() -> Any:
        return write()

    numbers = m.in_turn(floor, call, **ALONE)
    m.check()
    return numbers


def async_at_once(folder: str) -> Numbers:
    m = Measured(folder)
    guarded = m.release.guard(arefund, policy=m.policy(), audit=str(m.path))

    async def call() -> Any:
        await asyncio.gather(*(guarded(50.0, "cus_123") for _ in range(1_000)))

    async def bare() -> Any:
        await asyncio.gather(*(arefund(50.0, "cus_123") for _ in range(1_000)))

    numbers = m.in_turn(bare, call, rounds=20)
    m.check(1_000 * m.calls)
    return {name: us / 1_000 for name, us in numbers.items()}


def async_held(folder: str) -> Numbers:
    m = Measured(folder)
    options = {"policy": m.policy(), "audit": m.off, "channel": m.channel(True, is_async=True)}
    guarded = m.release.guard(arefund, **options)

    async def held() -> Any:
        return await guarded(4_000.0, "cus_123")

    async def released() -> Any:
        return await guarded(50.0, "cus_123")

    numbers = m.in_turn(released, held, rounds=200, batch=50)
    return {**numbers, "adds_us": numbers["us"] - numbers["beside_us"]}


def tool(folder: str, given: Any, function: Any, method: str) -> Numbers:
    from langchain_core.tools import tool as make_tool

    m = Measured(folder)
    bare = make_tool("refund")(function)
    guarded = m.release.guard(bare, policy=m.policy(), audit=str(m.path))
    calls = [partial(getattr(t, method), given) for t in (bare, guarded)]
    if function is arefund:
        calls = [asynchronous(call) for call in calls]
    numbers = m.in_turn(*calls, rounds=100, batch=10)
    m.check()
    return numbers


def asynchronous(call: Callable[[], Any]) -> Any:
    async def awaited() -> Any:
        return await call()

    return awaited


def agent(folder: str) -> Numbers:
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

    m = Measured(folder)
    bare = make_tool(refund)
    guarded = m.release.guard(bare, policy=m.policy(), audit=str(m.path))
    agents = [create_agent(Model(messages=replies()), [t]) for t in (bare, guarded)]
    asked = {"messages": [("user", "refund")]}
    numbers = m.in_turn(*(partial(a.invoke, asked) for a in agents), rounds=100)
    m.check()
    return numbers


def waiting_blocking(folder: str) -> Numbers:
    """A thousand calls wait on a channel that blocks; meanwhile the program uses its executor."""
    m = Measured(folder)
    guarded = m.release.guard(arefund, channel=m.channel(True, 0.05), audit=m.off)
    delays = []

    async def program(calls: asyncio.Future[Any]) -> None:
        while not calls.done():
            start = time.perf_counter()
            await asyncio.to_thread(lambda: None)
            delays.append(time.perf_counter() - start)
            await asyncio.sleep(0.005)

    async def main() -> float:
        await asyncio.to_thread(lambda: None)
        start = time.perf_counter()
        calls = asyncio.gather(*(guarded(float(n), "cus") for n in range(1_000)))
        await asyncio.gather(calls, program(calls))
        return time.perf_counter() - start

    return {"s": asyncio.run(main()), "to_thread_ms": max(delays) * 1e3}


def waiting_async(folder: str) -> Numbers:
    """Ten thousand calls wait on an async channel."""
    m = Measured(folder)
    channel = m.channel(True, 0.05, is_async=True)
    guarded = m.release.guard(arefund, channel=channel, audit=m.off)
    threads = threading.active_count()

    async def all_of(call: Callable[[float, str], Any], count: int) -> tuple[float, float, int]:
        start, before = time.perf_counter(), tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.ensure_future(call(float(n), "cus")) for n in range(count)]
        await asyncio.sleep(0)
        used = tracemalloc.get_traced_memory()[0] - before
        more = threading.active_count() - threads
        await asyncio.gather(*tasks)
        return time.perf_counter() - start, used / count / 1e3, more

    seconds, _, more = asyncio.run(all_of(guarded, 10_000))
    tracemalloc.start()
    return {"s": seconds, "KB": asyncio.run(all_of(guarded, 1_000))[1], "threads": more}


def record(log: Any, payload: str, count: int) -> None:
    from actionguard import Action

    action = Action("refund", {"amount": 50.0, "note": payload})
    for _ in range(count):
        log.record(action=action, needed_approval=False, decision=None, executed=True)


def record_at(path: Path, payload: str, count: int) -> None:
    from actionguard import AuditLog

    record(AuditLog(path), payload, count)


def lines(folder: str, how: str, workers: int, count: int, payload: str = "x") -> Numbers:
    m = Measured(folder)
    count = max(2, count // QUICK)
    log = m.release.AuditLog(m.path)
    make: Any = threading.Thread if how == "threads" else get_context("fork").Process
    work, args = (record, log) if how == "threads" else (record_at, m.path)
    running = [make(target=work, args=(args, payload, count)) for _ in range(workers)]
    start = time.perf_counter()
    for one in running:
        one.start()
    for one in running:
        one.join()
    seconds = time.perf_counter() - start
    m.check(workers * count)
    return {"us": seconds / (workers * count) * 1e6}


def large_log(folder: str) -> Numbers:
    """A line onto a million lines, beside one onto an empty log; and a call held there."""
    m = Measured(folder)
    empty, large = m.path.with_name("empty.jsonl"), m.path
    large.write_bytes((json.dumps(RECORD) + "\n").encode() * (1_000_000 // QUICK))
    calls = [partial(record, m.release.AuditLog(path), "x", 1) for path in (empty, large)]
    numbers = m.in_turn(*calls, rounds=200, batch=20)
    options = {"policy": m.policy(), "channel": m.channel(True), "audit": str(large)}
    guarded = m.release.guard(refund, **options)
    held = m.in_turn(*[lambda: guarded(50.0, "cus"), lambda: guarded(4_000.0, "cus")], rounds=200)
    return {**numbers, "held_ms": held["us"] / 1e3}


def guard_tools(folder: str, *, by_name: bool) -> Numbers:
    from langchain_core.tools import StructuredTool

    m = Measured(folder)
    count = 1_000 // QUICK
    tools = [StructuredTool.from_function(refund, name=f"refund_{n}") for n in range(count)]
    policy: Any = {t.name: m.policy() for t in tools} if by_name else m.policy()
    made = partial(m.release.guard_tools, tools, policy=policy, audit=m.off)
    made()
    start = time.perf_counter()
    made()
    us = (time.perf_counter() - start) / count * 1e6
    tracemalloc.start()
    kept = made()
    return {"us": us, "KB": tracemalloc.get_traced_memory()[0] / len(kept) / 1e3}


def imports(folder: str) -> Numbers:
    code = (
        "import sys, time; start = time.perf_counter();"
        "from actionguard import ApprovalPolicy, AuditLog, CLIChannel, SlackChannel, guard;"
        "print(time.perf_counter() - start, len({'asyncio', 'langchain_core'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, slow = done.stdout.split()
    return {"ms": float(seconds) * 1e3, "modules": float(slow)}


def policy(folder: str, **rules: Any) -> Numbers:
    m = Measured(folder)
    needs_approval = m.release.ApprovalPolicy(**rules).needs_approval
    calls = (lambda: None), (lambda: needs_approval(ARGS))
    return {"us": m.in_turn(*calls, rounds=200, batch=500)["us"]}


CASES: dict[str, Callable[[str], Numbers]] = {
    "plain_alone": partial(audited, how=ALONE, amount=50.0, approve=True),
    "plain_burst": partial(audited, how=BURST, amount=50.0, approve=True),
    "held_alone": partial(audited, how=ALONE, amount=4_000.0, approve=True),
    "held_burst": partial(audited, how=BURST, amount=4_000.0, approve=True),
    "denied_burst": partial(audited, how=BURST, amount=4_000.0, approve=False),
    "plain_off": plain_off,
    "async_alone": async_alone,
    "async_at_once": async_at_once,
    "async_held": async_held,
    "tool_invoke": partial(tool, given=ARGS, function=refund, method="invoke"),
    "tool_call": partial(tool, given=CALL, function=refund, method="invoke"),
    "tool_ainvoke": partial(tool, given=ARGS, function=arefund, method="ainvoke"),
    "agent": agent,
    "waiting_blocking": waiting_blocking,
    "waiting_async": waiting_async,
    "lines_thread": partial(lines, how="threads", workers=1, count=8_000),
    "lines_threads": partial(lines, how="threads", workers=8, count=1_000),
    "lines_processes": partial(lines, how="processes", workers=4, count=2_000),
    "lines_large": partial(lines, how="threads", workers=1, count=20, payload="x" * 1_000_000),
    "large_log": large_log,
    "guard_tools": partial(guard_tools, by_name=False),
    "guard_tools_by_name": partial(guard_tools, by_name=True),
    "imports": imports,
    "policy_threshold": partial(policy, amount_over={"arg": "amount", "threshold": 100}),
    "policy_regex": partial(policy, match_args={"customer_id": "^prod-"}),
    "policy_predicate": partial(policy, require_if=lambda args: args["amount"] > 100),
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](sys.argv[2])))
