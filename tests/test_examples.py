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


class Shown(list[str]):
    """The lines an example printed, and what its terminal showed."""

    asked = ""


def run(name: str, folder: Path, *answers: str, warnings: str = "error") -> Shown:
    """Run an example in a folder of its own, at a terminal where these answers are typed."""
    terminal = pytest.importorskip("terminal", reason="Windows has no pseudo-terminals")
    program = f"import runpy; runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    env = {"PYTHONWARNINGS": warnings}
    with terminal.Terminal(program, cwd=folder, stdout=subprocess.PIPE, env=env) as person:
        for answer in answers:
            person.answer(f"{answer}\n")
        printed, _ = person.process.communicate(timeout=250)
        asked = person.rest()
    assert person.process.returncode == 0, person.output
    assert "[y/N]" not in asked, "it asks more often than the test answers"
    shown = Shown(printed.decode().splitlines())
    shown.asked = person.output
    return shown


def log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "actionguard_audit.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_quickstart(tmp_path: Path) -> None:
    """The first refund is approved, its duplicate is shown as one and denied; each has a line."""
    shown = run("quickstart.py", tmp_path, "y", "n")

    assert shown[1] == "✅ Refunded $4000.00 to cus_123"
    assert shown[3].startswith("DENIED: a person denied refund_customer(")
    assert shown.asked.count("actionguard — approval required") == 2
    assert re.findall(r"The same call ran \d+ s ago", shown.asked)
    assert [line["executed"] for line in log(tmp_path)] == [True, False]


def test_threshold_and_regex(tmp_path: Path) -> None:
    """Of eight calls, those that a rule applies to ask, and the others just run."""
    shown = run("threshold_and_regex.py", tmp_path, "n", "y", "n", "paid already")

    assert [line.split("(")[0] for line in shown] == [
        "refunded 50 to cus_1",
        "DENIED: a person denied refund",
        "dropped orders in test-eu",
        "dropped orders in prod-eu",
        "sent 'Minutes' to ann@example.com",
        "DENIED: a person denied send_email",
        "paid 2026-117",
        "DENIED: a person denied pay",
    ]
    assert "Reason: paid already." in shown[-1]
    assert [line["needed_approval"] for line in log(tmp_path)] == [False, True] * 4


def test_any_function_approved(tmp_path: Path) -> None:
    """Approved, each callable does what it did before, and the key is shown to nobody."""
    shown = run("any_function.py", tmp_path, *"yyyyy")

    assert shown == [
        "deleted u_42",
        "closed the account of ann",
        "{'ok': True, 'version': '1.4.2'}",
        "['deleted a.txt', 'deleted b.txt']",
        "the folder is gone",
    ]
    assert "<secret: 12 characters>" in shown.asked
    assert "not-a-secret" not in shown.asked
    assert log(tmp_path)[0]["args"] == {"user_id": "u_42", "api_key": "<secret: 12 characters>"}


def test_any_function_denied(tmp_path: Path) -> None:
    """Denied, each raises or returns what was chosen for it."""
    shown = run("any_function.py", tmp_path, "n", "n", "no, not on Fridays", "n", "n")

    assert shown[0].startswith("not done: delete_user(user_id='u_42', api_key=")
    assert shown[1].startswith("DENIED: a person denied close(reason='moved away')")
    assert shown[2] == "{'ok': False, 'why': 'not on Fridays'}"
    assert shown[3].startswith("""["DENIED: a person denied delete_files(""")
    assert shown[4] == "the folder is still there"


def test_async_many_waiting(tmp_path: Path) -> None:
    """A thousand calls wait in one thread, and get the answers that are theirs."""
    assert run("async_many_waiting.py", tmp_path) == [
        "1000 refunds are waiting, in 1 thread",
        "meanwhile: refunded 50 to customer 7",
        "customer 0 hung up, so 999 are left",
        "499 were approved and ran, 500 were denied",
    ]


@pytest.mark.parametrize(
    ("answer", "refund", "said"),
    [
        ("y", "success): refunded 4000.0 to cus_123", "Done: refunded 4000.0 to cus_123"),
        (
            "wrong customer",
            "error): DENIED: a person denied refund_customer(",
            "I could not make the refund: it was not approved.",
        ),
    ],
    ids=["approved", "denied"],
)
def test_agent_loop(answer: str, refund: str, said: str, tmp_path: Path) -> None:
    """The agent's lookup asks nobody; it reports what became of its refund, truthfully."""
    pytest.importorskip("langgraph.prebuilt")

    shown = run("agent_loop.py", tmp_path, answer, warnings="default")

    assert shown[1] == "find_customer (success): cus_123"
    assert shown[2].startswith(f"refund_customer ({refund}")
    assert ("Reason: wrong customer." in shown[2]) is (answer != "y")
    assert shown[3] == f"ai: {said}"
    assert [line["needed_approval"] for line in log(tmp_path)] == [False, True]


def test_custom_channel(tmp_path: Path) -> None:
    """Its page shows what waits, and each button answers its own request, the last one too."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "custom_channel.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONWARNINGS": "error"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            ids: dict[str, str] = {}
            while len(ids) < 2:  # until both calls wait
                page = urlopen(url).read().decode()
                ids = dict(re.findall(r"(cus_\d).*?name=id value=([\w-]+)", page))
            press(url, id=ids["cus_2"], answer="deny", comment="too soon")
            first = process.stdout.readline()
            last_page = press(url, id=ids["cus_1"], answer="approve")
            rest = process.stdout.read()
        finally:
            if process.poll() is None:
                process.kill()

    assert first.startswith("DENIED: a person denied refund(amount=250, customer_id='cus_2')")
    assert "Reason: too soon." in first
    assert "Nothing is waiting." in last_page
    assert rest == "refunded 4000 to cus_1\n"


def press(url: str, **form: str) -> str:
    return urlopen(url, urlencode(form).encode()).read().decode()


def test_testing_your_gate(tmp_path: Path) -> None:
    """The example's own tests pass, with nobody at the keyboard."""
    example = str(EXAMPLES / "testing_your_gate.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", example]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
    )

    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_other_frameworks(tmp_path: Path) -> None:
    """Each framework that is here tells its model of the denial; the others are named."""
    modules = ("agents", "pydantic_ai", "llama_index", "crewai", "fastmcp", "smolagents")
    here = [module for module in modules if importlib.util.find_spec(module) is not None]

    shown = run("other_frameworks.py", tmp_path, *["n"] * len(here), warnings="default")

    said = dict(line.split(": ", 1) for line in shown if line.startswith(modules))
    assert set(said) == set(modules)
    for module, text in said.items():
        assert ("DENIED: a person denied refund" if module in here else "not installed") in text


def test_each_example_says_how_to_run_it() -> None:
    """The first comment of each example says what it shows, how to run it, and what comes of it."""
    for path in EXAMPLES.glob("*.py"):
        comment = path.read_text(encoding="utf-8").split('"""')[1]

        assert comment[0].isupper(), path
        assert f"examples/{path.name}\n" in comment.split("Run:  ")[1], path
