"""README.md keeps its word: each block of Python runs as it stands, and prints what it says."""

from __future__ import annotations

import ast
import builtins
import importlib.metadata
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.example import Example
from sybil.parsers.markdown import PythonCodeBlockParser

from actionguard import (
    Action,
    ApprovalDenied,
    ApprovalPolicy,
    AuditLog,
    CLIChannel,
    Decision,
    configure,
    guard,
)
from actionguard.testing import AutoApproveChannel, AutoDenyChannel

# Some start a Python of their own, which a busy machine takes its time for.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")

# `<!-- typed: y n -->` before a block: what a person types at its prompts.
_TYPED = re.compile(r"<!-- typed: ([a-z ]+) -->\n\Z")
# A block of text right after a block of Python is what it prints.
_PRINTS = re.compile(r"\n```text\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _examples() -> list[Example]:
    sybil = Sybil(parsers=[PythonCodeBlockParser()], path=str(ROOT), pattern="README.md")
    return list(sybil.parse(README).examples())


def _is_test(example: Example) -> bool:
    return "def test_" in example.parsed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to run in, as a user would have."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Who sits at the terminal, and what they are going to type; all of it must be asked for."""
    answers: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda question: answers.pop(0))
    yield answers
    assert answers == [], "README.md says that more is typed than is asked for"


@pytest.mark.parametrize(
    "example",
    [example for example in _examples() if not _is_test(example)],
    ids=lambda example: f"line {example.line}",
)
def test_block(example: Example, person: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A block is complete: it runs by itself, and prints what the block of text after it says."""
    for module in re.findall(r"^(?:from|import) (\w+)", example.parsed, re.MULTILINE):
        pytest.importorskip(module, reason=f"{module} has an environment of its own")
    before, after = TEXT[: example.start], TEXT[example.end :]
    if typed := _TYPED.search(before):
        person.extend(typed[1].split())
    example.document.namespace.clear()
    example.document.namespace["__name__"] = "__main__"

    try:
        example.evaluate()
    finally:
        configure()  # a block may say where guards ask

    if prints := _PRINTS.match(after.removeprefix("```").removeprefix("\n")):
        assert capsys.readouterr().out == prints[1]


@pytest.mark.parametrize(
    "example",
    [example for example in _examples() if _is_test(example)],
    ids=lambda example: f"line {example.line}",
)
def test_block_of_tests(example: Example, elsewhere: Path) -> None:
    """A block with tests passes as a file of tests."""
    (elsewhere / "test_block.py").write_text(example.parsed, encoding="utf-8")

    done = _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_block.py"])

    assert done.returncode == 0, done.stdout


def _run(command: list[str]) -> Any:
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, timeout=280
    )


def _table(heading: str) -> set[str]:
    """The words in code in the first column of the table with that heading."""
    rows = re.search(rf"^\| {heading} \|.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert rows is not None
    firsts = " ".join(row.split("|")[1] for row in rows[1].splitlines())
    return set(re.findall(r"`(\w+)`", firsts))


def test_the_program_in_the_picture() -> None:
    """The first block is the quickstart, whose session the picture shows."""
    first = _examples()[0].parsed
    quickstart = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")

    assert ast.dump(ast.parse(first)) == ast.dump(ast.parse(quickstart.split('"""\n', 1)[1]))


def test_three_lines() -> None:
    """The lines that guard a tool are numbered, and without them it is the bare tool."""
    (block,) = (example.parsed for example in _examples() if "  # 1\n" in example.parsed)

    assert re.findall(r"  # (\d)$", block, re.MULTILINE) == ["1", "2", "3"]
    bare = re.sub(r"^.*  # \d\n", "", block, flags=re.MULTILINE)
    assert "guard" not in bare
    exec(compile(bare, "README.md", "exec"), {})


def test_options_of_guard() -> None:
    """The table of options names what guard takes."""
    assert _table("option") == set(inspect.signature(guard).parameters) - {"target"}


def test_keys_of_the_log(elsewhere: Path) -> None:
    """The table of keys names those that each line has."""
    log = AuditLog("audit.jsonl")
    guard(lambda: None, channel=AutoApproveChannel(), audit=log)()
    (record,) = log.records()

    assert _table("key") == set(record)
    assert len(record) == 13


def test_line_of_the_log(person: list[str]) -> None:
    """The line that the README shows is what the first example writes for its second refund."""
    person.extend(["y", "a duplicate"])
    (block,) = re.findall(r"^```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    shown = json.loads(block)

    exec(compile(_examples()[0].parsed, "README.md", "exec"), {"__name__": "__main__"})

    *_, record = AuditLog().records()
    assert list(shown) == list(record)
    differ = {"timestamp", "id", "waited_s"}
    assert {key for key in shown if shown[key] != record[key]} == differ


def test_fields_of_an_action_and_a_decision() -> None:
    """The sentence that lists them leaves none out."""
    action, decision = re.findall(r"(?:An action|a decision) has\s([^;.]+)[;.]", TEXT)

    assert re.findall(r"`(\w+)`", action) == [field.name for field in fields(Action)]
    assert re.findall(r"`(\w+)`", decision) == [field.name for field in fields(Decision)]


@pytest.mark.parametrize(
    "command", re.findall("`python -m (actionguard[^`]*)`", TEXT), ids=str.strip
)
def test_commands_that_read_the_log(command: str, elsewhere: Path) -> None:
    """The commands run as they stand, and show a call that was denied."""
    words = command.split()
    path = words[1] if len(words) > 1 else "actionguard_audit.jsonl"

    def refund_customer(amount: float) -> None:
        pass

    refund = guard(
        refund_customer, channel=AutoDenyChannel("too much"), audit=path, on_denied="return"
    )
    refund(4000)

    done = _run([sys.executable, "-m", *words])

    assert done.returncode == 0, done.stderr
    assert "refund_customer" in done.stdout
    assert "too much" in done.stdout


def test_files_named_in_the_readme_exist() -> None:
    """Each file that the README names or shows is there."""
    named = set(re.findall(r"(?:examples|tests|src)/[\w/]+\.\w+", TEXT))

    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_links_within_the_readme() -> None:
    """Each section that the README links to is there."""
    headings = re.findall(r"^## (.+)", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\(#([\w-]+)\)", TEXT)) <= anchors


def test_extras_named_in_the_readme_exist() -> None:
    """Each extra that the README installs is declared."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"\[(\w+)\]\"", TEXT))

    assert "dev" in extras
    assert [extra for extra in sorted(extras) if f"\n{extra} = [" not in declared] == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_picture() -> None:
    """The picture of the prompt is what a terminal shows when the quickstart is run today."""
    import picture

    assert picture.PICTURE.read_text(encoding="utf-8") == picture.svg(
        picture.quickstart()
    ), "the prompt has changed: run python tests/picture.py"


# --- claims that nothing else tests -----------------------------------------------------------


def test_the_only_dependency() -> None:
    """Without an extra, langchain-core is all that is installed with it."""
    required = importlib.metadata.requires("actionguard") or []

    (only,) = [name for name in required if "extra ==" not in name]
    assert re.match(r"[\w-]+", only)[0] == "langchain-core"  # type: ignore[index]


def test_the_undecorated_function_can_be_called() -> None:
    """It is not a sandbox: the bare function is within reach of code in the same process."""
    channel = AutoDenyChannel()
    ran: list[float] = []

    def refund(amount: float) -> None:
        ran.append(amount)

    guarded = guard(refund, channel=channel)
    refund(4000)
    guarded.__wrapped__(4000)  # type: ignore[attr-defined]

    assert ran == [4000, 4000]
    assert channel.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_the_log_has_the_default_permissions(elsewhere: Path) -> None:
    """The log may be read by whoever may read a file that the program makes."""
    before = os.umask(0o027)
    try:
        guard(lambda: None, channel=AutoApproveChannel(), audit=elsewhere / "log.jsonl")()
    finally:
        os.umask(before)

    assert (elsewhere / "log.jsonl").stat().st_mode & 0o777 == 0o640


def test_released_calls_go_on_while_somebody_is_asked() -> None:
    """A call that needs nobody does not wait for the prompt of one that does."""
    asked, answer = threading.Event(), threading.Event()

    def prompt(question: str) -> str:
        asked.set()
        answer.wait(60)
        return "y"

    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})
    done: list[float] = []
    refund = guard(
        lambda amount: done.append(amount), policy=policy, channel=CLIChannel(input_fn=prompt)
    )
    waiting = threading.Thread(target=refund, args=(4000,))
    waiting.start()
    assert asked.wait(60)

    refund(50)
    assert done == [50]

    answer.set()
    waiting.join()
    assert done == [50, 4000]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_without_a_unix_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no termios, keys that were pressed before the question count."""
    person, terminal = os.openpty()
    with open(terminal, encoding="utf-8") as stdin, open(person, "wb", buffering=0) as keys:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setitem(sys.modules, "termios", None)
        keys.write(b"y\n")

        assert guard(lambda: "ran")() == "ran"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm(elsewhere: Path) -> None:
    """Python ends at once, and whoever opens the log next writes that the call did not run."""
    program = """
        from actionguard import guard
        from actionguard.testing import SilentChannel
        guard(lambda amount: None, channel=SilentChannel(), audit="audit.jsonl")(4000)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    log = AuditLog("audit.jsonl")
    while not [call for call in log.in_flight() if call["state"] == "waiting"]:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM

    AuditLog("audit.jsonl")

    (record,) = log.records()
    assert (record["args"], record["executed"]) == ({"amount": 4000}, False)
    assert list(elsewhere.iterdir()) == [elsewhere / "audit.jsonl"]


def test_repeats_after_rotation(elsewhere: Path) -> None:
    """A log that was renamed is still searched; one that was deleted is forgotten."""
    pay = guard(
        lambda: "paid",
        policy=ApprovalPolicy(repeat_within=600),
        channel=AutoDenyChannel(),
        audit="audit.jsonl",
    )
    pay()
    with pytest.raises(ApprovalDenied):
        pay()

    (elsewhere / "audit.jsonl").rename("audit.jsonl.1")
    with pytest.raises(ApprovalDenied):
        pay()
    for log in elsewhere.glob("audit.jsonl*"):
        log.unlink()

    assert pay() == "paid"
