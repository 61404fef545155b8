"""Measures this checkout beside the published actionguard 0.2.1, and prints one table.

Usage: python tests/benchmarks/run.py [--quick] [CASE ...]

The first run makes an environment with the published release in the temporary folder, and keeps
it. Each case runs in processes of its own in the order A B B A (A: published, B: this checkout), as
often as ROUNDS says (2). Both use the same LangChain. This is no test: it takes about ten minutes,
and the figures depend on the machine and on what else it does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

CASES = Path(__file__).with_name("cases.py")
SOURCE = os.environ.get("SOURCE") or CASES.parent.parent.parent / "src"
PUBLISHED = "actionguard==0.2.1"
#: What it cannot do: it knows no async channels.
ONLY_HERE = {"async_held", "waiting_async"}


class Row(NamedTuple):
    """A row of the table, with its aims."""

    what: str
    case: str
    #: Which of the case's numbers; it ends with its unit.
    number: str = "us"
    at_most: float | None = None
    #: At most so many times what the case compares it with: the bare call, or the floor.
    bare: float | None = None
    #: At least so many times as fast, or as small, as the published release.
    faster: float | None = None


ROWS = [
    Row("call that needs nobody, logged, alone", "plain_alone", bare=5, faster=1.8),
    Row("the same, in a burst", "plain_burst", bare=5, faster=1.8),
    Row("approved call, logged, alone", "held_alone", faster=1.4),
    Row("denied call, logged, in a burst", "denied_burst", faster=1.4),
    Row("call that needs nobody, log off", "plain_off", at_most=2.5, bare=10, faster=10),
    Row("async call, logged, alone", "async_alone", at_most=100),
    Row("the same, one after the other", "async_burst", at_most=100),
    Row("the same, a thousand at once", "async_at_once", at_most=25),
    Row("what an async channel adds, log off", "async_held", "adds_us", at_most=3),
    Row("LangChain tool, logged: invoke", "tool_invoke", bare=1.15),
    Row("invoke with a tool call", "tool_call", bare=1.15),
    Row("ainvoke", "tool_ainvoke", bare=1.5),
    Row("create_agent run with one tool call", "agent", bare=1.02),
    Row("1,000 calls wait on a blocking channel", "waiting_blocking", "s", faster=35),
    Row("longest to_thread meanwhile", "waiting_blocking", "delay_ms", at_most=5),
    Row("10,000 calls wait on an async channel", "waiting_async", "s", at_most=0.3),
    Row("memory for each", "waiting_async", "KB", at_most=5),
    Row("threads for all", "waiting_async", "threads", at_most=0),
    Row("line in the log, 1 thread", "lines_thread", faster=1.8),
    Row("8 threads", "lines_threads", faster=1.4),
    Row("4 processes", "lines_processes", faster=1.3),
    Row("line of 1 MB", "lines_large", faster=0.9),
    Row("line onto a million lines, beside none", "large_log", bare=1.1),
    Row("approved call there, with 20 equal ones", "large_log", "held_ms", at_most=2),
    Row("guarding 1,000 tools, for each", "guarding", faster=1),
    Row("memory for each", "guarding", "KB", faster=1),
    Row("the same with a policy by name", "guarding_by_name", at_most=100),
    Row("import of the public names", "imports", "ms", faster=20),
    Row("asyncio or LangChain imported", "imports", "modules", at_most=0),
    Row("policy: threshold", "policy_threshold", faster=1),
    Row("policy: regular expression", "policy_regex", faster=1),
    Row("policy: predicate", "policy_predicate", faster=0.7),
]


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


def numbers_of(case: str, python: Path, source: Any, *, quick: bool) -> dict[str, float]:
    """What one process measures; `source` goes before what is installed."""
    env = {**os.environ, "PYTHONPATH": str(source), "QUICK": "1" if quick else ""}
    env["PYTHONDONTWRITEBYTECODE"] = ""  # compiled, as installed modules are
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-W", "ignore", CASES, case]
        done = subprocess.run(command, check=False, capture_output=True, cwd=folder, env=env)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr.decode()}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def spread(values: list[float]) -> str:
    digits = 0 if median(values) >= 100 else 1 if median(values) >= 10 else 2
    return "{:,.{d}f} ({:,.{d}f}-{:,.{d}f})".format(
        median(values), min(values), max(values), d=digits
    )


def line(row: Row, a: dict[str, list[float]], b: dict[str, list[float]]) -> str:
    """A row as text: what was measured, what it is compared with, and which aims it keeps."""
    here, bare, before = b[row.number], b.get("beside_us", []), a.get(row.number, [])
    bare = bare if row.number == "us" else []
    times = median(us / beside for us, beside in zip(here, bare, strict=True)) if bare else None
    faster = median(before) / median(here) if before and median(here) else None
    aims = (
        ("to", row.at_most, "", median(here)),
        ("to", row.bare, " x bare", times),
        ("from", row.faster, " x 0.2.1", faster),
    )
    stated = []
    for word, aim, what, value in aims:
        if aim is not None and value is not None:
            kept = value == aim or (value < aim) == (word == "to")
            stated.append(f"{word} {aim:g}{what}: {'yes' if kept else 'NO'}")
    unit = row.number.rpartition("_")[2]
    compared = [f"{value:.2f}" if value else "" for value in (times, faster)]
    shown = [spread(values) if values else "" for values in (here, bare, before)]
    cells = [row.what, f"{shown[0]} {unit}", shown[1], compared[0], shown[2], compared[1]]
    return f"| {' | '.join(cells)} | {', '.join(stated)} |"


def readme(here: dict[str, dict[str, list[float]]]) -> str:
    """The five rows of README.md."""
    m = {case: {name: median(n) for name, n in numbers.items()} for case, numbers in here.items()}
    times = {case: n["us"] / n["beside_us"] for case, n in m.items() if "beside_us" in n}
    waiting = m["waiting_async"]
    return f"""
| a call that needs no approval, with its line in the log | {m["plain_burst"]["us"]:.0f} µs |
| the same with the log switched off | {m["plain_off"]["us"]:.1f} µs |
| `invoke` of a guarded LangChain tool, with its line | {times["tool_invoke"]:.2f} times the \
unguarded tool |
| a whole `create_agent` run | {times["agent"]:.2f} times the unguarded run |
| 10,000 async calls waiting at once | {waiting["s"]:.1f} s, and {waiting["KB"]:.0f} KB each |
"""


def main() -> None:
    quick = "--quick" in sys.argv or bool(os.environ.get("QUICK"))
    order = "AB" if quick else "ABBA" * int(os.environ.get("ROUNDS", "2"))
    wanted = set(sys.argv[1:]) - {"--quick"} or {row.case for row in ROWS}
    python = published_python()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores: median (minimum-maximum).")
    print('"bare" is the unguarded call; for a plain logged call it is the floor of a line,')
    print("json.dumps of the record and one os.write.\n")
    print("| what | this checkout | bare | times bare | 0.2.1 | times as fast | aims |")
    print("|---|---|---|---|---|---|---|")
    seen: dict[str, tuple[dict[str, list[float]], dict[str, list[float]]]] = {}
    for row in ROWS:
        if row.case in wanted and row.case not in seen:
            seen[row.case] = defaultdict(list), defaultdict(list)
            for which in order:
                if which == "B" or row.case not in ONLY_HERE:
                    source = SOURCE if which == "B" else ""
                    numbers = numbers_of(row.case, python, source, quick=quick)
                    for name, value in numbers.items():
                        seen[row.case]["AB".index(which)][name].append(value)
        if row.case in wanted:
            print(line(row, *seen[row.case]), flush=True)
    if len(seen) == len({row.case for row in ROWS}):
        print(readme({case: b for case, (_, b) in seen.items()}))


if __name__ == "__main__":
    main()
