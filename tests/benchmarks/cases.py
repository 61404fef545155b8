"""The cases, in terms of what both releases have; run by `run.py`, one per process.

Usage: python cases.py CASE FOLDER, with the release to be measured importable. Prints one JSON
object: microseconds for each call (or what the case's name says), and for audited cases nothing
that was not checked: the log must hold exactly one valid line for each call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ARGS = {"amount": 50.0, "customer_id": "cus_123"}
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


def refund(amount: float, customer_id: str) -> str:
    """Issue a refund."""
    return "refunded"


async def arefund(amount: float, customer_id: str) -> str:
    """Issue a refund."""
    return "refunded"


def each(function: Callable[[], Any], calls: int) -> float:
    """Microseconds for each of that many calls."""
    function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls * 1e6


async def aeach(function: Callable[[], Any], calls: int) -> float:
    await function()
    start = time.perf_counter()
    for _ in range(calls):
        await function()
    return (time.perf_counter() - start) / calls * 1e6


class Case:
    """What a case needs: options for guard, and a count of the lines that it must leave."""

    def __init__(self, folder: str) -> None:
        import actionguard

        self.guard = actionguard
        self.path = Path(folder) / "audit.jsonl"
        self.on = {"audit": str(self.path)}
        self.off = {"audit": actionguard.AuditLog(enabled=False)}
        self.released = {"policy": actionguard.ApprovalPolicy(require_always=False)}
        self.threshold = {
            "policy": actionguard.ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})
        }

    def channel(self, approved: bool, seconds: float | None = None) -> Any:
        guard = self.guard

        class Channel(guard.ApprovalChannel):  # type: ignore[name-defined,misc]
            name = "bench"

            def request_approval(self, action: Any) -> Any:
                if seconds:
                    time.sleep(seconds)
                return guard.Decision(approved=approved)

        return Channel()

    def async_channel(self, seconds: float = 0.0) -> Any:
        guard = self.guard

        class Channel(guard.ApprovalChannel):  # type: ignore[name-defined,misc]
            name = "bench"

            async def request_approval(self, action: Any) -> Any:
                if seconds:
                    await asyncio.sleep(seconds)
                return guard.Decision(approved=True)

        return Channel()

    def check(self, expected: int) -> None:
        lines = self.path.read_text().splitlines()
        for line in lines:
            json.loads(line)
        if len(lines) != expected:
            raise AssertionError(f"{len(lines)} lines in the log instead of {expected}")


def import_names(folder: str) -> float:
    start = time.perf_counter()
    from actionguard import ApprovalPolicy, AuditLog, CLIChannel, SlackChannel, guard  # noqa: F401

    return (time.perf_counter() - start) * 1e6


def bare_plain(folder: str) -> float:
    return each(lambda: refund(50.0, "cus_123"), 100_000)


def floor(folder: str) -> float:
    """The physical floor of a line: json.dumps of the record and one os.write."""
    fd = os.open(Path(folder) / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return each(lambda: os.write(fd, (json.dumps(RECORD) + "\n").encode()), 20_000)


def plain_off(folder: str) -> float:
    case = Case(folder)
    guarded = case.guard.guard(refund, **case.threshold, **case.off)
    return each(lambda: guarded(50.0, "cus_123"), 50_000)


def plain_audited(folder: str) -> float:
    case = Case(folder)
    guarded = case.guard.guard(refund, **case.threshold, **case.on)
    result = each(lambda: guarded(50.0, "cus_123"), 10_000)
    case.check(10_001)
    return result


def denied_audited(folder: str) -> float:
    case = Case(folder)
    guarded = case.guard.guard(refund, channel=case.channel(False), on_denied="return", **case.on)
    result = each(lambda: guarded(4000.0, "cus_123"), 5_000)
    case.check(5_001)
    return result


def async_audited(folder: str) -> float:
    case = Case(folder)
    guarded = case.guard.guard(arefund, **case.threshold, **case.on)
    result = asyncio.run(aeach(lambda: guarded(50.0, "cus_123"), 10_000))
    case.check(10_001)
    return result


def async_held_off(folder: str) -> float:
    """An async channel that answers at once; the published release has none."""
    case = Case(folder)
    guarded = case.guard.guard(arefund, channel=case.async_channel(), **case.off)
    return asyncio.run(aeach(lambda: guarded(50.0, "cus_123"), 10_000))


def async_not_held_off(folder: str) -> float:
    case = Case(folder)
    guarded = case.guard.guard(arefund, **case.released, **case.off)
    return asyncio.run(aeach(lambda: guarded(50.0, "cus_123"), 10_000))


def _tools(folder: str) -> tuple[Any, Case]:
    from langchain_core.tools import tool

    return tool(refund), Case(folder)


def tool_bare(folder: str) -> float:
    from langchain_core.tools import tool

    bare = tool(refund)
    return each(lambda: bare.invoke(ARGS), 1_000)


def tool_invoke(folder: str) -> float:
    bare, case = _tools(folder)
    guarded = case.guard.guard(bare, **case.threshold, **case.on)
    result = each(lambda: guarded.invoke(ARGS), 1_000)
    case.check(1_001)
    return result


def tool_call(folder: str) -> float:
    bare, case = _tools(folder)
    guarded = case.guard.guard(bare, **case.threshold, **case.on)
    call = {"type": "tool_call", "id": "1", "name": "refund", "args": ARGS}
    result = each(lambda: guarded.invoke(call), 1_000)
    case.check(1_001)
    return result


def tool_ainvoke_bare(folder: str) -> float:
    from langchain_core.tools import tool

    bare = tool(arefund)
    return asyncio.run(aeach(lambda: bare.ainvoke(ARGS), 1_000))


def tool_ainvoke(folder: str) -> float:
    from langchain_core.tools import tool

    case = Case(folder)
    guarded = case.guard.guard(tool(arefund), **case.threshold, **case.on)
    result = asyncio.run(aeach(lambda: guarded.ainvoke(ARGS), 1_000))
    case.check(1_001)
    return result


def _agent(tools: list[Any]) -> Any:
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    class Model(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    def replies() -> Any:
        while True:
            call = {"type": "tool_call", "id": "1", "name": "refund", "args": ARGS}
            yield AIMessage(content="", tool_calls=[call])
            yield AIMessage(content="done")

    return create_agent(Model(messages=replies()), tools)


def agent_bare(folder: str) -> float:
    from langchain_core.tools import tool

    agent = _agent([tool(refund)])
    return each(lambda: agent.invoke({"messages": [("user", "refund")]}), 100)


def agent_guarded(folder: str) -> float:
    bare, case = _tools(folder)
    agent = _agent([case.guard.guard(bare, **case.threshold, **case.on)])
    result = each(lambda: agent.invoke({"messages": [("user", "refund")]}), 100)
    case.check(101)
    return result


async def _many(guarded: Callable[[int], Any], count: int) -> tuple[float, float]:
    """Seconds for that many calls at once, and the worst wait of the program's own to_thread."""
    worst = 0.0
    done = asyncio.Event()

    async def program() -> None:
        nonlocal worst
        while not done.is_set():
            start = time.perf_counter()
            await asyncio.to_thread(lambda: None)
            worst = max(worst, time.perf_counter() - start)
            await asyncio.sleep(0.005)

    beside = asyncio.ensure_future(program())
    await asyncio.sleep(0.01)
    start = time.perf_counter()
    await asyncio.gather(*(guarded(n) for n in range(count)))
    seconds = time.perf_counter() - start
    done.set()
    await beside
    return seconds, worst


def waiting_blocking_1000(folder: str) -> dict[str, float]:
    case = Case(folder)
    channel = case.channel(True, seconds=0.05)
    guarded = case.guard.guard(arefund, channel=channel, **case.off)
    seconds, worst = asyncio.run(_many(lambda n: guarded(float(n), "cus"), 1_000))
    return {"us": seconds * 1e6, "to_thread_us": worst * 1e6}


def waiting_async_10000(folder: str) -> dict[str, float]:
    case = Case(folder)
    guarded = case.guard.guard(arefund, channel=case.async_channel(0.05), **case.off)
    before = threading.active_count()
    peak_threads = 0

    async def main() -> float:
        nonlocal peak_threads
        start = time.perf_counter()
        tasks = [asyncio.ensure_future(guarded(float(n), "cus")) for n in range(10_000)]
        await asyncio.sleep(0)
        peak_threads = threading.active_count() - before
        await asyncio.gather(*tasks)
        return time.perf_counter() - start

    seconds = asyncio.run(main())
    tracemalloc.start()

    async def measure() -> float:
        bare = [asyncio.ensure_future(asyncio.sleep(0.05)) for _ in range(1_000)]
        await asyncio.sleep(0)
        at_rest = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.ensure_future(guarded(float(n), "cus")) for n in range(1_000)]
        await asyncio.sleep(0)
        each_one = (tracemalloc.get_traced_memory()[0] - at_rest) / 1_000
        await asyncio.gather(*tasks, *bare)
        return each_one

    return {"us": seconds * 1e6, "threads": peak_threads, "bytes_each": asyncio.run(measure())}


def _record(log: Any, guard: Any, payload: str, count: int) -> None:
    action = guard.Action("refund", {"amount": 50.0, "note": payload})
    for _ in range(count):
        log.record(action=action, needed_approval=False, decision=None, executed=True)


def _log(folder: str, payload: str, writers: int, count: int) -> float:
    case = Case(folder)
    log = case.guard.AuditLog(case.path)
    threads = [
        threading.Thread(target=_record, args=(log, case.guard, payload, count))
        for _ in range(writers)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    case.check(writers * count)
    return seconds / (writers * count) * 1e6


def log_small_1_thread(folder: str) -> float:
    return _log(folder, "x", 1, 8_000)


def log_small_8_threads(folder: str) -> float:
    return _log(folder, "x", 8, 1_000)


def log_1mb(folder: str) -> float:
    return _log(folder, "x" * 1_000_000, 1, 20)


def _process(folder: str, count: int) -> None:
    case = Case(folder)
    _record(case.guard.AuditLog(case.path), case.guard, "x", count)


def log_small_4_processes(folder: str) -> float:
    processes = [
        get_context("fork").Process(target=_process, args=(folder, 2_000)) for _ in range(4)
    ]
    Case(folder)
    start = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - start
    Case(folder).check(8_000)
    return seconds / 8_000 * 1e6


def log_onto_a_million(folder: str) -> float:
    case = Case(folder)
    with open(case.path, "wb") as file:
        file.write((json.dumps(RECORD) + "\n").encode() * 1_000_000)
    log = case.guard.AuditLog(case.path)
    action = case.guard.Action("refund", ARGS)

    def record() -> None:
        log.record(action=action, needed_approval=False, decision=None, executed=True)

    return each(record, 2_000)


def _guarded_1000(folder: str, guarded: Callable[..., list[Any]]) -> dict[str, float]:
    """Microseconds and bytes for each of a thousand tools whose policy names an argument."""
    from langchain_core.tools import StructuredTool

    case = Case(folder)
    tools = [
        StructuredTool.from_function(refund, name=f"refund_{n}", description="Refund.")
        for n in range(1_000)
    ]
    options: dict[str, Any] = {**case.threshold, **case.off}
    guarded(case.guard, tools[:1], options)
    start = time.perf_counter()
    kept = guarded(case.guard, tools, options)
    us = (time.perf_counter() - start) * 1e3
    del kept
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = guarded(case.guard, tools, options)
    used = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    return {"us": us, "bytes_each": used}


def guard_1000_tools(folder: str) -> dict[str, float]:
    return _guarded_1000(folder, lambda guard, tools, options: guard.guard_tools(tools, **options))


def guard_tools_singly(folder: str) -> dict[str, float]:
    def singly(guard: Any, tools: list[Any], options: Any) -> list[Any]:
        return [guard.guard(tool, **options) for tool in tools]

    return _guarded_1000(folder, singly)


# Does the cost of one more grow with how many there are? Microseconds for each, at each of these.
SCALE = (10, 100, 1_000, 10_000)


def _scaled(cost: Callable[[int], float]) -> dict[str, float]:
    costs = {f"at_{count}": cost(count) for count in SCALE}
    return {"us": costs[f"at_{SCALE[-1]}"], **costs}


def scale_waiting(folder: str) -> dict[str, float]:
    """Calls that wait at once until the last of them is asked: their own work, not the wait."""
    case = Case(folder)
    guard = case.guard

    class Channel(guard.ApprovalChannel):  # type: ignore[name-defined,misc]
        name = "bench"

        def __init__(self, count: int) -> None:
            self.left = count
            self.all_asked = asyncio.Event()

        async def request_approval(self, action: Any) -> Any:
            self.left -= 1
            if not self.left:
                self.all_asked.set()
            await self.all_asked.wait()
            return guard.Decision(approved=True)

    async def wait(count: int) -> float:
        guarded = guard.guard(arefund, channel=Channel(count), **case.off)
        start = time.perf_counter()
        await asyncio.gather(*(guarded(float(n), "cus") for n in range(count)))
        return (time.perf_counter() - start) / count * 1e6

    asyncio.run(wait(1_000))
    return _scaled(lambda count: min(asyncio.run(wait(count)) for _ in range(10_000 // count)))


def scale_tools(folder: str) -> dict[str, float]:
    """A call of one tool among so many guarded ones."""
    bare, case = _tools(folder)

    def cost(count: int) -> float:
        tools = [bare.model_copy(update={"name": f"refund_{n}"}) for n in range(count)]
        guarded = case.guard.guard_tools(tools, **case.threshold, **case.off)
        return min(each(lambda: guarded[-1].invoke(ARGS), 200) for _ in range(5))

    return _scaled(cost)


def scale_log(folder: str) -> dict[str, float]:
    """A line onto a log of so many."""

    def cost(count: int) -> float:
        case = Case(f"{folder}/{count}")
        log = case.guard.AuditLog(case.path)
        _record(log, case.guard, "x", count)
        costs = [each(lambda: _record(log, case.guard, "x", 1), 200) for _ in range(5)]
        case.check(count + 5 * 201)
        return min(costs)

    return _scaled(cost)


def _policy(folder: str, args: dict[str, Any], **rules: Any) -> float:
    policy = Case(folder).guard.ApprovalPolicy(**rules)
    return each(lambda: policy.needs_approval(args), 100_000)


def policy_threshold(folder: str) -> float:
    return _policy(folder, ARGS, amount_over={"arg": "amount", "threshold": 100})


def policy_regex(folder: str) -> float:
    return _policy(folder, ARGS, match_args={"customer_id": "^prod-"})


def policy_predicate(folder: str) -> float:
    return _policy(folder, ARGS, require_if=lambda args: args["amount"] > 100)


if __name__ == "__main__":
    measured = globals()[sys.argv[1]](sys.argv[2])
    print(json.dumps(measured if isinstance(measured, dict) else {"us": measured}))
