"""examples/slack_end_to_end.py, run as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent / "examples" / "slack_end_to_end.py"


def test_shows_what_it_says(tmp_path: Path) -> None:
    """One request is denied, the other approved, each by the person who clicked."""
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FILE)],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**{k: v for k, v in os.environ.items() if "SLACK" not in k}, **settings},
        text=True,
        timeout=280,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    requests = re.findall(r"Slack shows: request \d, Tool: refund", done.stdout)
    assert requests == [f"Slack shows: request {number}, Tool: refund" for number in (1, 2)]
    for line, count in {
        "Slack shows: Denied by <@U0ADA>.": 1,
        "Slack shows: Approved by <@U0GRACE>.": 1,
        "Agent gets:  ": 2,
        "Agent gets:  refunded $50.00 to cus_123": 1,
        "Agent gets:  DENIED: ": 1,
        "denied by U0ADA": 1,
        "Audit log:   executed=False {'who': 'U0ADA'}": 1,
        "Audit log:   executed=True {'who': 'U0GRACE'}": 1,
    }.items():
        assert done.stdout.count(line) == count, line
