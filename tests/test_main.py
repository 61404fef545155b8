"""`python -m actionguard`, as an operator runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from actionguard import Action, AuditLog, Decision
from actionguard.__main__ import main


def record(log: AuditLog, tool: str, decision: Decision | None = None, **said: Any) -> None:
    action = Action(tool, {"amount": 4})
    said.setdefault("executed", True)
    log.record(action=action, needed_approval=decision is not None, decision=decision, **said)


@pytest.fixture
def log(log_path: Path) -> AuditLog:
    """A call that ran, one that was denied, and one that was approved and failed."""
    log = AuditLog(log_path)
    record(log, "pay")
    record(log, "refund", Decision(False, "too much", "slack", {"who": "Ann"}), executed=False)
    record(log, "pay", Decision(True, source="cli"), error="ValueError: card declined")
    return log


def test_table(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    """The last calls as a table, then those in flight."""
    old, waiting = (log.entry(number, "tell", {}) for number in "12")
    assert old
    assert waiting
    old.end(old.in_words(True, None, None, waited_s=3.25, ran_s=1))
    waiting.note(running=False, needed_approval=True)

    assert main([str(log.path)]) == 0

    waiting.drop()
    lines = capsys.readouterr().out.splitlines()
    rows = [line[21:].split("  ") for line in lines]
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        ["outcome", "tool", "args", "who", "how long", "comment"],
        ["ran", "pay", '{"amount": 4}'],
        ["denied", "refund", '{"amount": 4}', "Ann, slack", "too much"],
        ["failed", "pay", '{"amount": 4}', "cli", "ValueError: card declined"],
        ["unknown", "tell", "{}", "waited 3.2 s, ran 1.0 s"],
        ["waiting", "tell", "{}"],
    ]
    assert lines[0].startswith("time (UTC)  ")
    assert lines[1][:10] == next(log.records())["timestamp"][:10]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [0, 1, 2]),
        (["--held"], [1, 2]),
        (["--denied"], [1]),
        (["--failed"], [2]),
        (["--denied", "--failed"], [1, 2]),
        (["--tool", "pay"], [0, 2]),
        (["--tool", "pay", "--held"], [2]),
        (["--since", "1h"], [0, 1, 2]),
        (["--tool", "nobody"], []),
    ],
)
def test_filters(
    filters: list[str], expected: list[int], log: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` prints the records that a filter lets through, each as a line."""
    assert main([str(log.path), "--json", *filters]) == 0

    records = list(log.records())
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [records[number] for number in expected]


def test_since(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls that began before are left out."""
    first, *rest = log.records()
    old = datetime.now(timezone.utc) - timedelta(minutes=90)
    lines = [{**first, "timestamp": old.isoformat()}, {**first, "timestamp": None}, *rest]
    log.path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    for since, count in [("5400s", 2), ("80m", 2), ("2h", 3), ("1d", 3), ("99999d", 3)]:
        assert main([str(log.path), "--json", "--since", since]) == 0
        assert len(capsys.readouterr().out.splitlines()) == count


def test_what_is_shown_is_escaped(log_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in a log can move the cursor, forge a row or reorder it."""
    log = AuditLog(log_path)
    record(log, "\x1b[2Jpay\u202e", Decision(True, "yes\nforged", "a" * 500))

    main([str(log_path)])

    _, row = capsys.readouterr().out.splitlines()
    assert "\\x1b[2Jpay\\u202e" in row
    assert "yes\\nforged" in row
    assert "... (420 more characters)" in row


def test_damaged_lines(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    """They are counted, and the exit code says so."""
    with log.path.open("a") as file:
        file.write('torn\n[]\n{"half": \n')

    assert main([str(log.path), "--json"]) == 1

    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err == "actionguard: damaged lines that were skipped: 3\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jsonl"], "cannot read missing.jsonl: No such file or directory"),
        (["."], "cannot read .: Is a directory"),
        (["--since", "1y"], "argument --since: invalid age value: '1y'"),
    ],
)
def test_mistakes(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A clear error, and exit code 2."""
    monkeypatch.chdir(tmp_path)
    try:
        code: Any = main(arguments)
    except SystemExit as stop:
        code = stop.code

    assert code == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].endswith(said)
    assert out == ""


def test_reader_that_leaves(log: AuditLog) -> None:
    """`| head` ends it quietly."""
    log.path.write_bytes(log.path.read_bytes() * 2_000)
    command = [sys.executable, "-m", "actionguard", str(log.path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()

        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_large_log(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read line by line."""
    log.path.write_bytes(log.path.read_bytes() * 5_000)
    tracemalloc.start()
    try:
        assert main([str(log.path), "--last", "3"]) == 0
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_calls_of_a_process_that_was_killed(
    log: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are listed as the next call will log them, and reading changes no file."""
    child = os.fork()
    if not child:
        entry = AuditLog(log.path).entry("9", "tell", {})
        assert entry
        entry.note(running=True, needed_approval=False)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    before = {path.name: path.read_bytes() for path in log.path.parent.iterdir()}

    assert main([str(log.path)]) == 0

    assert before == {path.name: path.read_bytes() for path in log.path.parent.iterdir()}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last[21:].startswith("unknown  tell")
    assert "whether it took effect is unknown" in last
    assert AuditLog(log.path).in_flight() == []
    assert len(list(log.records())) == 4
