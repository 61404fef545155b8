"""Measures this checkout beside the published actionguard 0.2.1, and prints one table.

Run:  python tests/benchmarks/run.py [--quick] [CASE ...]

The first run makes an environment with the published release in the temporary folder, and keeps
it. Each case runs in processes of its own in the order A B B A (A: published, B: this checkout), as
often as ROUNDS says (3), and both use the same LangChain. This is not part of the test suite: it
takes about ten minutes, and figures depend on the machine and on what else it does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src"
PUBLISHED = "actionguard==0.2.1"
#: The columns of a case's numbers: each is what A or B measured, one for each process.
Measured = dict[str, list[float]]


class Row(NamedTuple):
    """A line of the table, with its aims; without them, it is there to be looked at."""

    what: str
    case: str
    #: Which of the case's numbers; it ends in its unit.
    number: str = "us"
    at_most: float | None = None
    #: At most so many times the floor, the bare call or whatever the case compares it with.
    beside: float | None = None
    #: At least so many times as fast, or as small, as the published release.
    faster: float | None = None


ROWS = [
    Row("call that needs nobody, logged, alone", "plain_alone", beside=5, faster=1.8),
    Row("the same in a burst", "plain_burst", beside=5, faster=1.8),
    Row("approved call, logged, alone", "held_alone", faster=1.4),
    Row("the same in a burst", "held_burst", faster=1.4),
    Row("denied call, logged, in a burst", "denied_burst", faster=1.4),
    Row("call that needs nobody, log off", "plain_off", at_most=2.5, beside=10, faster=10),
    Row("async call, logged, alone", "async_alone", at_most=100),
    Row("a thousand at once, each", "async_at_once", at_most=25),
    Row("async channel, log off: what it adds", "async_held", "adds_us", at_most=3),
    Row("LangChain tool, logged: invoke", "tool_invoke", beside=1.15),
    Row("the same with a tool call", "tool_call", beside=1.15),
    Row("ainvoke", "tool_ainvoke", beside=1.5),
    Row("create_agent run with one tool call", "agent", beside=1.02),
    Row("1,000 calls wait on a blocking channel", "waiting_blocking", "s", faster=35),
    Row("the program's to_thread meanwhile", "waiting_blocking", "to_thread_ms", at_most=5),
    Row("10,000 calls wait on an async channel", "waiting_async", "s", at_most=0.3),
    Row("memory for each", "waiting_async", "KB", at_most=5),
    Row("threads for all", "waiting_async", "threads", at_most=0),
    Row("line in the log: 1 thread", "lines_thread", faster=1.8),
    Row("8 threads, each line", "lines_threads", faster=1.4),
    Row("4 processes, each line", "lines_processes", faster=1.3),
    Row("lines of 1 MB", "lines_large", faster=0.9),
    Row("line onto a million, not onto none", "large_log", beside=1.1),
    Row("approved call there, with its search", "large_log", "held_ms", at_most=2),
    Row("guarding 1,000 tools, one policy, each", "guard_tools", faster=1.0),
    Row("memory for each", "guard_tools", "KB", faster=1.0),
    Row("a policy for each tool by name, each", "guard_tools_by_name", at_most=100),
    Row("import of the public names", "imports", "ms", faster=20),
    Row("asyncio or LangChain imported", "imports", "modules", at_most=0),
    Row("policy: threshold", "policy_threshold", faster=1.0),
    Row("policy: regular expression", "policy_regex", faster=1.0),
    Row("policy: predicate", "policy_predicate", faster=0.7),
]
#: What the published release cannot do: it knows no async channels.
ONLY_HERE = {"async_held", "waiting_async"}


def published_python() -> Path:
    """The Python of an environment that has the published release."""
    folder = Path(tempfile.gettempdir()) / f"actionguard-published-{sys.version_info[1]}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "ready").exists():
        print(f"Making an environment with {PUBLISHED} ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "-q", PUBLISHED, "langchain", "langgraph"]
        subprocess.run(install, check=True)
        (folder / "ready").touch()
    return python


def measure(python: str | Path, case: str, *, here: bool, quick: bool) -> dict[str, float]:
    """The numbers of one process."""
    # As installed: with compiled modules. This checkout goes before the published release.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "QUICK": "1" if quick else ""}
    env["PYTHONPATH"] = str(SOURCE) if here else ""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-W", "ignore", HERE / "cases.py", case, folder]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder, env=env
        )
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def measure_both(case: str, rounds: int, *, quick: bool) -> tuple[Measured, Measured]:
    """What the processes of A and of B measured."""
    a: Measured = {}
    b: Measured = {}
    python = published_python()
    for which in "ABBA" * rounds if not quick else "AB":
        if which == "B" or case not in ONLY_HERE:
            numbers = measure(python, case, here=which == "B", quick=quick)
            for name, value in numbers.items():
                (b if which == "B" else a).setdefault(name, []).append(value)
    return a, b


def spread(values: list[float]) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:,.{digits}f} ({least:,.{digits}f}-{most:,.{digits}f})"


def line(row: Row, a: Measured, b: Measured) -> str:
    """A row of the table: what was measured, beside what it is compared with."""
    here = statistics.median(b[row.number])
    beside = faster = None
    if row.number == "us" and "beside_us" in b:
        pairs = zip(b["us"], b["beside_us"], strict=True)
        beside = statistics.median(us / beside_us for us, beside_us in pairs)
    if row.number in a and here:
        faster = statistics.median(a[row.number]) / here
    aims = [
        (row.at_most, f"<= {row.at_most:g}" if row.at_most is not None else "", here, 1),
        (row.beside, f"<= {row.beside:g} x bare" if row.beside else "", beside, 1),
        (row.faster, f">= {row.faster:g} x 0.2.1" if row.faster else "", faster, -1),
    ]
    stated = [
        f"{text}: {'yes' if value * sign <= limit * sign else 'NO'}"
        for limit, text, value, sign in aims
        if limit is not None and value is not None
    ]
    cells = [
        row.what,
        f"{spread(b[row.number])} {row.number.rpartition('_')[2]}",
        spread(b["beside_us"]) if beside else "",
        f"{beside:.2f}" if beside else "",
        spread(a[row.number]) if row.number in a else "",
        f"{faster:.2f}" if faster else "",
        ", ".join(stated),
    ]
    return "| " + " | ".join(cells) + " |"


def readme(all_b: dict[str, Measured]) -> list[str]:
    """The five rows of README.md."""

    def median(case: str, number: str) -> float:
        return statistics.median(all_b[case][number])

    def times(case: str) -> float:
        return median(case, "us") / median(case, "beside_us")

    return [
        "| a call that needs no approval, with its line in the log "
        f"| {median('plain_burst', 'us'):.0f} µs |",
        f"| the same with the log switched off | {median('plain_off', 'us'):.1f} µs |",
        "| `invoke` of a guarded LangChain tool, with its line "
        f"| {times('tool_invoke'):.2f} times the unguarded tool |",
        f"| a whole `create_agent` run | {times('agent'):.2f} times the unguarded run |",
        "| 10,000 async calls waiting at once "
        f"| {median('waiting_async', 's'):.1f} s, and {median('waiting_async', 'KB'):.0f} KB each |",
    ]


def main() -> None:
    quick = "--quick" in sys.argv or bool(os.environ.get("QUICK"))
    wanted = set(sys.argv[1:]) - {"--quick"} or {row.case for row in ROWS}
    rounds = int(os.environ.get("ROUNDS", "3"))
    python = sys.version.split()[0]
    print(f"Python {python}, {os.cpu_count()} cores. Medians, with minimum and maximum.")
    print('"bare" is the unguarded call, or for a line the floor: json.dumps and one os.write.\n')
    print("| what | this checkout | bare | times bare | 0.2.1 | times as fast | aim |")
    print("|---|---|---|---|---|---|---|")
    both: dict[str, tuple[Measured, Measured]] = {}
    for row in ROWS:
        if row.case in wanted:
            if row.case not in both:
                both[row.case] = measure_both(row.case, rounds, quick=quick)
            print(line(row, *both[row.case]), flush=True)
    if wanted == {row.case for row in ROWS}:
        print("\nFor README.md:\n", *readme({c: b for c, (_, b) in both.items()}), sep="\n")


if __name__ == "__main__":
    main()
