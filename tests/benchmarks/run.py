"""Measures the working tree beside the published actionguard 0.2.1 and prints one table.

Run:  python tests/benchmarks/run.py [CASE ...]
Makes an environment for each release (kept in the temporary folder for the next run), runs every
case in processes of its own in the order A B B A, as often as ROUNDS says, and prints medians with
minimum and maximum. A: the published release; B: the working tree. Not part of the test suite.
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

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PACKAGES = ["langchain-core", "langchain", "langgraph", "requests"]

# Case, and the case of B that it is also held against (bare call, floor).
CASES: list[tuple[str, str | None]] = [
    ("import_names", None),
    ("plain_off", "bare_plain"),
    ("plain_audited", "floor"),
    ("denied_audited", "floor"),
    ("async_audited", "floor"),
    ("async_held_off", "async_not_held_off"),
    ("tool_invoke", "tool_bare"),
    ("tool_call", "tool_bare"),
    ("tool_ainvoke", "tool_ainvoke_bare"),
    ("agent_guarded", "agent_bare"),
    ("waiting_blocking_1000", None),
    ("waiting_async_10000", None),
    ("log_small_1_thread", "floor"),
    ("log_small_8_threads", "log_small_1_thread"),
    ("log_small_4_processes", None),
    ("log_1mb", None),
    ("log_onto_a_million", "log_small_1_thread"),
    ("guard_1000_tools", None),
    ("guard_tools_singly", None),
    ("scale_waiting", None),
    ("scale_tools", None),
    ("scale_log", None),
    ("policy_threshold", None),
    ("policy_regex", None),
    ("policy_predicate", None),
]
# What the published release cannot do: it knows no async channel.
ONLY_B = {"async_held_off", "waiting_async_10000", "scale_waiting"}


def environment(name: str, package: list[str]) -> Path:
    folder = Path(tempfile.gettempdir()) / f"actionguard-bench-{name}-{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making the environment {name} ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *package, *PACKAGES], check=True)
        (folder / "ready").touch()
    return python


def measure(python: Path, case: str) -> dict[str, float]:
    # Both as installed: with compiled modules, also where this process writes none.
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-W", "ignore", HERE / "cases.py", case, folder]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder, env=compiled
        )
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f}-{max(values):,.1f})"


def main() -> None:
    published = environment("published", ["actionguard==0.2.1"])
    tree = environment("tree", [])
    install = [tree, "-m", "pip", "install", "-q", "--no-deps", "-e", str(ROOT)]  # from wherever
    subprocess.run(install, check=True)
    wanted = sys.argv[1:] or [case for case, _ in CASES]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, medians (min-max) in us")
    print("| case | 0.2.1 (A) | this (B) | A/B | beside | B/beside | more |")
    print("|---|---|---|---|---|---|---|")
    for case, beside in CASES:
        if case not in wanted:
            continue
        a: list[float] = []
        b: list[float] = []
        c: list[float] = []
        extra: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for which in "ABBA":
                if which == "B":
                    result = measure(tree, case)
                    b.append(result.pop("us"))
                    for key, value in result.items():
                        extra.setdefault(key, []).append(value)
                    if beside:
                        c.append(measure(tree, beside)["us"])
                elif case not in ONLY_B:
                    a.append(measure(published, case)["us"])
        ratio = f"{statistics.median(a) / statistics.median(b):.2f}" if a else "-"
        over = f"{statistics.median(b) / statistics.median(c):.2f}" if c else "-"
        more = ", ".join(f"{key} {spread(values)}" for key, values in extra.items())
        print(
            f"| {case} | {spread(a) if a else '-'} | {spread(b)} | {ratio} "
            f"| {f'{beside}: {spread(c)}' if c else '-'} | {over} | {more} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
