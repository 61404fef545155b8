import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.mark.parametrize("case", ["plain_burst", "async_at_once", "policy_regex"])
def test_benchmark(case, tmp_path, monkeypatch):
    """The benchmark still runs, and its table has a row for every case; how fast is not tested."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cases
    import run

    command = [sys.executable, BENCHMARKS / "cases.py", case]
    env = {**os.environ, "QUICK": "1"}
    numbers = json.loads(subprocess.check_output(command, cwd=tmp_path, env=env))
    row = next(row for row in run.ROWS if row.case == case)
    line = run.line(row, {}, {name: [value] for name, value in numbers.items()})

    assert line.startswith(f"| {row.what} | ")
    assert {row.case for row in run.ROWS} == cases.CASES.keys()
