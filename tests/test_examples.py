"""Each example runs as its first comment says, and shows what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

# Each starts a Python of its own, which a busy machine takes its time for.
pytestmark = pytest.mark.timeout(300)

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, folder: Path, typed: str = "", command: tuple[str, ...] = ()) -> Any:
    """Run an example in a folder of its own; what is typed comes through a pipe."""
    done = subprocess.run(
        [sys.executable, *command, str(EXAMPLES / name)],
        input=typed,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done


def environment() -> dict[str, str]:
    # Warnings in an example would meet its readers first.
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONWARNINGS": "error"}


def log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "actionguard_audit.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_quickstart(tmp_path: Path) -> None:
    """The first refund is approved, its duplicate is denied, and both leave a line."""
    done = run("quickstart.py", tmp_path, "y\nn\n")

    assert "✅ Refunded $4000.00 to cus_123\n" in done.stdout
    assert "\nDENIED: a person refused refund_customer(" in done.stdout
    assert done.stderr.count("actionguard — approval required") == 2
    assert [line["executed"] for line in log(tmp_path)] == [True, False]


def test_threshold_and_regex(tmp_path: Path) -> None:
    """Of six calls, those that a rule holds ask, and the others just run."""
    done = run("threshold_and_regex.py", tmp_path, "n\ny\nn\n")

    assert [line.split("(")[0] for line in done.stdout.splitlines()] == [
        "refunded 50 to cus_1",
        "DENIED: a person refused refund",
        "dropped orders in test-eu",
        "dropped orders in prod-eu",
        "sent 'Minutes' to ann@example.com",
        "DENIED: a person refused send_email",
    ]
    held = [line["needed_approval"] for line in log(tmp_path)]
    assert held == [False, True, False, True, False, True]


def test_any_function_approved(tmp_path: Path) -> None:
    """Approved, each callable does what it did before."""
    done = run("any_function.py", tmp_path, "y\n" * 5)

    assert done.stdout.splitlines() == [
        "deleted u_42",
        "closed the account of ann",
        "{'ok': True, 'version': '1.4.2'}",
        "['deleted a.txt', 'deleted b.txt']",
        "the folder is gone",
    ]


def test_any_function_denied(tmp_path: Path) -> None:
    """Denied, each raises or returns what was chosen for it."""
    done = run("any_function.py", tmp_path, "n\n" * 5)

    shown = done.stdout.splitlines()
    assert shown[0] == "not done: delete_user(user_id='u_42')"
    assert shown[1].startswith("DENIED: a person refused close(reason='moved away')")
    assert shown[2] == """{'ok': False, 'why': "deploy(version='1.4.2')"}"""
    assert shown[3].startswith("""["DENIED: a person refused delete_files(""")
    assert shown[4] == "the folder is still there"


def test_async_many_waiting(tmp_path: Path) -> None:
    """A thousand calls wait in one thread, and get the answers that are theirs."""
    done = run("async_many_waiting.py", tmp_path)

    assert done.stdout.splitlines() == [
        "1000 refunds wait, in 1 thread",
        "meanwhile: refunded 50 to customer 7",
        "customer 0 hung up, so 999 are left",
        "499 were approved and ran, 500 were denied",
    ]


def test_agent_loop(tmp_path: Path) -> None:
    """The agent's lookup asks nobody, its refund is denied, and it goes on."""
    pytest.importorskip("langgraph.prebuilt")

    done = run("agent_loop.py", tmp_path, "n\n", ("-W", "default"))

    assert "find_customer (success): cus_123\n" in done.stdout
    assert "refund_customer (error): DENIED: a person refused refund_customer(" in done.stdout
    assert done.stdout.endswith("ai: I have seen to it.\n")
    assert [line["executed"] for line in log(tmp_path)] == [True, False]


def test_custom_channel(tmp_path: Path) -> None:
    """Its page shows what waits, and each button answers its own request, the last one too."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "custom_channel.py")],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            ids: dict[str, str] = {}
            while len(ids) < 2:  # until both calls wait
                page = urlopen(url).read().decode()
                ids = dict(re.findall(r"(cus_\d).*?name=id value=(\w+)", page))
            press(url, id=ids["cus_2"], answer="deny", comment="too soon")
            first = process.stdout.readline()
            last_page = press(url, id=ids["cus_1"], answer="approve")
            rest = process.stdout.read()
        finally:
            if process.poll() is None:
                process.kill()

    assert first.startswith("DENIED: a person refused refund(amount=250, customer_id='cus_2')")
    assert "Their comment: too soon" in first
    assert "Nothing waits." in last_page
    assert rest == "refunded 4000 to cus_1\n"


def press(url: str, **form: str) -> str:
    return urlopen(url, urlencode(form).encode()).read().decode()


def test_testing_your_gate(tmp_path: Path) -> None:
    """The example's own tests pass, with nobody at the keyboard."""
    done = run(
        "testing_your_gate.py", tmp_path, "", ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    )

    assert "5 passed" in done.stdout


def test_other_frameworks(tmp_path: Path) -> None:
    """Each framework that is here tells its model of the denial; the others are named."""
    done = run("other_frameworks.py", tmp_path, "n\n" * 6, ("-W", "default"))

    shown = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert len(shown) == 6
    for line in shown:
        module, _, said = line.partition(": ")
        here = importlib.util.find_spec(module) is not None
        assert ("DENIED: a person refused refund" if here else "not installed") in said


def test_each_example_says_how_to_run_it() -> None:
    """The first comment of each example says what it shows, how to run it, and what comes of it."""
    for path in EXAMPLES.glob("*.py"):
        comment = path.read_text(encoding="utf-8").split('"""')[1]

        assert comment[0].isupper(), path
        assert f"examples/{path.name}\n" in comment.split("Run:  ")[1], path
