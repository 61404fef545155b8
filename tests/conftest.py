"""What the tests share: a log of their own, and every kind of guarded call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool

from actionguard import AuditLog, guard

# Where the environment names a proxy, it is for others than the servers of the tests.
os.environ["no_proxy"] = "127.0.0.1"

# A shell that runs us in the background has Ctrl-C ignored, by us and by every child of ours.
signal.signal(signal.SIGINT, signal.default_int_handler)


class OddMeta(type):
    """Of classes that do not tell their names."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError("no name")


@contextlib.contextmanager
def kept_busy(change: Callable[[int], None]) -> Iterator[None]:
    """Let another thread call `change` with 1, 2, 3, ... meanwhile, and come between any steps."""
    stop = threading.Event()

    def run() -> None:
        for n in itertools.takewhile(lambda _: not stop.is_set(), itertools.count(1)):
            change(n)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def lines(log_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """The lines of the test's log, each of which must be strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no strict JSON")

    def read() -> list[dict[str, Any]]:
        if not log_path.exists():
            return []
        text = log_path.read_bytes().decode("ascii")
        assert not text or text.endswith("\n")
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]

    return read


KINDS = (
    "function",
    "method",
    "async function",
    "generator",
    "async generator",
    "sync tool",
    "async tool",
    "sync tool awaited",
)


class Kind:
    """One kind of guarded call, made to look alike: `call(amount)` returns the body's result."""

    def __init__(self, name: str, log_path: Path) -> None:
        self.name = name
        self.log = AuditLog(log_path)
        self.is_tool = "tool" in name
        self.is_async = name.startswith("async") or name.endswith("awaited")
        #: What the body did, in order.
        self.ran: list[float] = []
        self.body: Callable[[float], str] = lambda amount: f"refunded {amount}"

    def _run(self, amount: float) -> str:
        self.ran.append(amount)
        return self.body(amount)

    def guarded(self, **options: Any) -> Any:
        options.setdefault("audit", self.log)
        kind = self

        def refund(amount: float) -> str:
            """Refund an amount."""
            return kind._run(amount)

        async def arefund(amount: float) -> str:
            """Refund an amount."""
            await asyncio.sleep(0)
            return kind._run(amount)

        if self.name == "function":
            return guard(refund, **options)
        if self.name == "async function":
            return guard(arefund, **options)
        if self.name == "generator":

            def refund_steps(amount: float) -> Any:
                """Refund an amount."""
                yield kind._run(amount)

            return guard(refund_steps, **options)
        if self.name == "async generator":

            async def arefund_steps(amount: float) -> Any:
                """Refund an amount."""
                yield kind._run(amount)

            return guard(arefund_steps, **options)
        if self.name == "method":

            class Bank:
                @guard(**options)
                def refund(self, amount: float) -> str:
                    """Refund an amount."""
                    return kind._run(amount)

            return Bank().refund
        return guard(tool("refund")(arefund if self.name == "async tool" else refund), **options)

    def call(self, guarded: Any, amount: float = 4000.0) -> Any:
        if self.is_async:
            return asyncio.run(self.acall(guarded, amount))
        if self.is_tool:
            return guarded.invoke({"amount": amount})
        if self.name == "generator":
            return next(iter(list(guarded(amount))), None)
        return guarded(amount)

    async def acall(self, guarded: Any, amount: float = 4000.0) -> Any:
        if self.is_tool:
            return await guarded.ainvoke({"amount": amount})
        if self.name == "async generator":
            return next(iter([item async for item in guarded(amount)]), None)
        return await guarded(amount)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, log_path: Path) -> Kind:
    return Kind(request.param, log_path)
