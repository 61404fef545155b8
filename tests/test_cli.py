"""The terminal channel without a terminal: what is shown, and whose answer goes to whom."""

from __future__ import annotations

import asyncio
import builtins
import io
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import PRELUDE, QUESTION, environment

from actionguard import _gate
from actionguard.channels import ApprovalChannel, CLIChannel, cli
from actionguard.channels._banner import Banner
from actionguard.channels._waiting import ask_async
from actionguard.core import Action, Decision

REFUND = Action(
    "refund_customer",
    {"amount": 4000.0, "customer_id": "cus_123"},
    "Issue a refund to a customer's card.",
)
HINT = " y approves, Enter denies, other text denies with that reason"


def answered(answer: Any, action: Action = REFUND, **options: Any) -> tuple[Decision, str]:
    """The decision for an answer, and what was shown on a stream that is no terminal."""
    stream = io.StringIO()
    give = answer if callable(answer) else lambda question: answer
    decision = CLIChannel(stream=stream, input_fn=give, **options).request_approval(action)
    return decision, stream.getvalue()


def shown(action: Action) -> str:
    return answered("", action)[1]


def banner(action: Action, columns: int = 80, rows: int | None = 24, waiting: int = 0) -> str:
    return Banner(action, columns, rows, "utf-8").request(waiting)


def denied(comment: str | None = None, *, unanswered: bool = False) -> Decision:
    return Decision(False, comment, "cli", unanswered=unanswered)


# --- the answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["y", "Y", "yes", "YES", " y ", "\tYes\n"])
def test_yes(answer: str) -> None:
    """`y` and `yes` approve, in any case, with spaces around."""
    questions = []

    decision, text = answered(lambda question: questions.append(question) or answer)

    assert decision == Decision(True, source="cli")
    assert questions == [QUESTION]
    assert text.endswith(" ✅ approved\n")


@pytest.mark.parametrize(
    ("answer", "comment"),
    [
        *((no, None) for no in ("", " ", "n", "N", "no", " No ", "no.", "no!", "n,")),
        *((f"{no}wrong customer", "wrong customer") for no in ("", "no, ", "n: ", "No. ", "no - ")),
        *((whole, whole) for whole in ("no refunds on Sundays", "no-show", "not yet", "nope")),
        *((odd, odd) for odd in ("yep", "y y", "yes!", "yes, but less", "ｙ", "y\0", "1", "v")),
    ],
)
def test_anything_else_denies(answer: str, comment: str | None) -> None:
    """Whatever else a person answers is a denial, and a reason if it is more than a no."""
    decision, text = answered(answer)

    assert decision == denied(comment)
    assert text.endswith(f" ⛔ denied: {comment}\n" if comment and "\0" not in comment else "\n")


@pytest.mark.parametrize("answer", [None, True, b"yes", 1])
def test_answer_that_is_no_text(answer: Any) -> None:
    """An `input_fn` that returns no str is an error of the guard, and no yes."""
    with pytest.raises(TypeError, match="requires a 'str' object"):
        answered(answer)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (EOFError, "the input ended without an answer"),
        (NotImplementedError, "this front end takes no input"),
    ],
)
def test_input_that_gives_no_answer(error: type[Exception], why: str) -> None:
    """The end of the input is no person's no; agent and operator are told."""

    def fails(question: str) -> str:
        raise error

    decision, text = answered(fails)

    assert decision == denied(why, unanswered=True)
    assert text.endswith(f" ⛔ not approved: {why}\n")


@pytest.mark.parametrize("error", [OSError, ValueError, StopIteration, SystemExit])
@pytest.mark.parametrize("timeout", [None, 120])
def test_input_fn_that_raises(error: type[BaseException], timeout: float | None) -> None:
    """What an `input_fn` raises reaches the caller, and the next question is asked as ever."""

    def broken(question: str) -> str:
        raise error("broken")

    with pytest.raises(error, match="broken"):
        answered(broken, timeout=timeout)
    assert answered("y")[0].approved


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        *(({"stream": bad}, TypeError, "text stream as stream") for bad in (1, "log")),
        *(({"input_fn": bad}, TypeError, "as input_fn") for bad in ("y", asyncio.sleep)),
        *(
            ({"timeout": bad}, ValueError, "timeout must be a finite number of seconds")
            for bad in (-1, float("nan"), float("inf"), True, "5")
        ),
    ],
)
def test_misconfiguration(options: dict[str, Any], error: type[Exception], match: str) -> None:
    """What cannot work is an early error, which names the setting and what was given."""
    with pytest.raises(error, match=f"{match}.*, not "):
        CLIChannel(**options)


def test_is_a_channel() -> None:
    """The class is an ApprovalChannel called cli, and can be pickled."""
    channel = pickle.loads(pickle.dumps(CLIChannel(timeout=5)))

    assert isinstance(channel, ApprovalChannel)
    assert (channel.name, channel.timeout) == ("cli", 5)


# --- nobody to ask ---------------------------------------------------------------------------


@pytest.mark.parametrize("stdin", ["pytest's", None, "closed", "text"])
def test_no_stdin(
    stdin: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal at stdin the request is denied at once, and stderr says so in a line."""
    closed = io.StringIO()
    closed.close()
    if stdin != "pytest's":
        objects = {None: None, "closed": closed, "text": io.StringIO("y\n")}
        monkeypatch.setattr(sys, "stdin", objects[stdin])

    decision = CLIChannel().request_approval(REFUND)

    assert (decision.approved, decision.unanswered, decision.source) == (False, True, "cli")
    assert re.match("standard input |there is no standard input", decision.comment)
    error = capsys.readouterr().err
    assert error == f"actionguard: refund_customer was not approved: {decision.comment}\n"


def test_nowhere_to_show_it() -> None:
    """Nobody is asked a question that nobody can see."""
    closed = io.StringIO()
    closed.close()

    def must_not_be_called(question: str) -> str:
        raise AssertionError

    with pytest.raises(ValueError, match="closed file"):
        CLIChannel(stream=closed, input_fn=must_not_be_called).request_approval(REFUND)
    assert answered("y")[0].approved


def test_replaced_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sys.stderr` and a replaced `input` are those of the moment; stdout stays untouched."""
    channel = CLIChannel()
    stream = io.StringIO()
    questions = []
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(builtins, "input", lambda prompt="": questions.append(prompt) or "y")

    assert channel.request_approval(REFUND).approved
    assert asyncio.run(ask_async(channel, REFUND)).approved
    assert questions == [QUESTION] * 2
    assert stream.getvalue().count("refund_customer") == 2
    assert capsys.readouterr().out == ""


def run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program without a terminal."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        **options,
    )


@pytest.mark.parametrize("kind", ["pipe", "file", "socket", "nothing", "closed"])
def test_stdin_that_is_no_terminal(kind: str, tmp_path: Path) -> None:
    """Of a pipe, a file or a socket not a byte is read; an open one keeps nobody waiting."""
    code = """
say(ask(refund)); say(asyncio.run(aask(refund)))
thread = threading.Thread(target=lambda: say(ask(refund)))
thread.start()
thread.join()
"""
    (tmp_path / "file").write_text("y\n" * 4)
    ours, theirs = socket.socketpair()
    ours.send(b"y\n" * 4)
    with open(tmp_path / "file") as file, ours, theirs:
        options: dict[str, Any] = {
            "pipe": {"input": "y\n" * 4},
            "file": {"stdin": file},
            "socket": {"stdin": theirs},
            "nothing": {"stdin": subprocess.DEVNULL},
            "closed": {"preexec_fn": lambda: os.close(0)},
        }
        left = "print(os.read(0, 100))" if kind in ("pipe", "file", "socket") else ""
        done = run(code + left, **options[kind])

    assert done.stdout.count("<unanswered>") == 3
    assert "<approved>" not in done.stdout
    assert left == "" or done.stdout.endswith(repr(b"y\n" * 4) + "\n")
    assert QUESTION not in done.stderr
    if kind != "closed":
        assert "CLIChannel(input_fn=input)" in done.stderr


def test_answers_from_a_pipe_that_are_meant() -> None:
    """`input_fn=input` takes the answers from wherever stdin comes."""
    code = "for _ in range(3): say(CLIChannel(input_fn=input).request_approval(refund))"

    done = run(code, input="y\nno, mine\n")

    assert re.findall(r"<.*", done.stdout) == [
        "<approved> ",
        "<denied> mine",
        "<unanswered> the input ended without an answer",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "gbk", "cp437"])
def test_stream_without_these_characters(encoding: str) -> None:
    """A stream that lacks the banner's characters gets a plain one; values keep what it has."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    action = Action("café", {"name": "Zoë 中 🛑", "text": "a\n" * 3}, "Naïve — …")

    CLIChannel(stream=stream, input_fn=lambda _: "y").request_approval(action)

    lines = raw.getvalue().decode(encoding).splitlines()
    assert lines[1] == "-" * 62
    assert lines[2] == " !! actionguard - approval required"
    assert lines[-1] == " -> approved"
    sayable = "Zoë 中 🛑".encode(encoding, "backslashreplace").decode(encoding)
    assert f"    name = '{sayable}'" in lines


# --- what is seen ----------------------------------------------------------------------------


def test_banner() -> None:
    """The request reads like this."""
    assert shown(REFUND) == f"""
──────────────────────────────────────────────────────────────
 🛑 actionguard — approval required
──────────────────────────────────────────────────────────────
 Tool: refund_customer
 About: Issue a refund to a customer's card.
 Args:
    amount = 4000.0
    customer_id = 'cus_123'
──────────────────────────────────────────────────────────────
{HINT}
 ⛔ denied
"""


def test_banner_of_a_repeat_while_others_wait() -> None:
    """An equal call before, and the number of those that wait, stand above the question."""
    action = Action("refund", {})
    action.earlier = [{"state": "running"}]  # type: ignore[attr-defined]

    text = banner(action, waiting=2000)

    assert text.endswith(f"──\n ⚠ The same call is running.\n 2,000 more waiting\n{HINT}\n")
    assert "waiting" not in banner(REFUND)


@pytest.mark.parametrize(
    ("action", "part"),
    [
        (Action("ping", {}), " Tool: ping\n Args:\n    (none)\n──"),
        (
            Action("ping", {}, "  Ping a\n    host.\n\n    Args:\n        host: which."),
            " About: Ping a host.\n Args:\n    (none)\n──",
        ),
        (
            Action("mail", {"body": "Dear Ann,\nplease pay.", "copies": 1}),
            "    body =\n      │ Dear Ann,\n      │ please pay.\n    copies = 1\n──",
        ),
        (
            Action("send", {"body": "Dear you,\n\n\tC:\\new\\x1b\r\nBye", "to": "a\n"}),
            (
                "    body =\n      │ Dear you,\n      │ \n      │ \\tC:\\\\new\\\\x1b\\r\n"
                "      │ Bye\n    to = 'a\\n'\n──"
            ),
        ),
        (
            Action("pay", {"amount = 5\n": 4000, "user-id": 1, "аmount": 2}),
            "    'amount = 5\\n' = 4000\n    'user-id' = 1\n    'аmount' = 2\n──",
        ),
    ],
    ids=["nothing", "docstring", "short text", "long text", "odd names"],
)
def test_parts_of_the_banner(action: Action, part: str) -> None:
    """A docstring is summed up; a text stands in its lines; a name cannot pass for more."""
    assert part in shown(action)


HOSTILE = [
    "\x1b[2J\x1b[1;1H", "\r", "\b" * 9, "\x7f", "\x9b2K", "\x00", "\x85", "\x0c", "\x0b",
    "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u2028", "\u2029", "\ud800",
    "\U000e0041", "\u115f", "\u3164", "\u2800", "\ufe0f", "\u00a0", "\u3000", "\ue000",

]  # fmt: skip


class Liar:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_nothing_is_forged(hostile: str) -> None:
    """No agent-made text moves, hides, reorders or starts a line, wherever it stands."""
    rule = "─" * 62
    forged = f"x{hostile}\n{rule}\n Tool: harmless\nApprove this action? [y/N] "
    action = Action(
        f"tool{forged}",
        {
            f"name{forged}": 1,
            "line": f"x{hostile}y",
            "lines": forged,
            "liar": Liar(forged),
            "nested": {forged: [forged, (Liar(forged),)]},
        },
        f"about{forged}",
    )

    text = shown(action)

    for char in text.replace("\n", ""):
        assert unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        assert char == " " or not unicodedata.category(char).startswith("Z")
        assert char not in HOSTILE
    assert text.count(f"\n{rule}\n") == 3
    assert len(re.findall("^ Tool:", text, re.MULTILINE)) == 1
    assert len(re.findall("^Approve", text, re.MULTILINE)) == 0


class Lie(str):  # noqa: SLOT000 - anybody's
    """A text that claims to be another, in all that one can ask of it."""

    def __str__(self) -> str:
        return "harmless"

    def isascii(self) -> bool:
        return True

    __getitem__ = __format__ = __repr__ = strip = encode = lambda self, *_: "harmless"  # type: ignore[assignment]
    isidentifier = isascii


def test_no_text_lies() -> None:
    """The name, the description, argument names and values are read past what they claim."""
    text = shown(Action(Lie("rm\x1b"), {Lie("k\x1b"): Lie("v\n\x1b")}, Lie("about\x1b")))

    assert "harmless" not in text
    assert r" Tool: rm\x1b" in text
    assert r" About: about\x1b" in text
    assert r"    Lie('k\x1b') = Lie('v\n\x1b')" in text


LEADS = re.compile(
    r"─+$| 🛑 actionguard|    \S| Tool: | About: | {6,9}[┆│] | Args:$|$| {6}… \d| \d+ more | \w"
)


@given(
    name=st.text(max_size=300),
    args=st.dictionaries(
        st.text(max_size=100),
        st.text(max_size=500) | st.lists(st.integers()) | st.text("ab\n中", max_size=500),
        max_size=30,
    ),
    about=st.text(max_size=300),
    columns=st.integers(20, 200),
    rows=st.integers(6, 60),
    waiting=st.integers(0, 1000),
)
def test_layout(
    name: str, args: dict[str, Any], about: str, columns: int, rows: int, waiting: int
) -> None:
    """Whatever is shown, no line is wider than the window, and all fits with the question."""
    action = Action(name, args, about)
    layout = Banner(action, columns, rows, "utf-8")
    lines = layout.request(waiting).splitlines()
    everything = layout.everything().splitlines()

    for line in [*lines, *everything]:
        assert LEADS.match(line), line
        assert cells(line) < columns
    assert any(line.startswith(" Tool: ") for line in lines[-(rows - 1) :])
    assert len(lines) <= rows - (columns < len(QUESTION) + 3)


def cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


@given(
    rows=st.lists(st.text("ab 中", max_size=40).map(lambda text: text * 50)),
    columns=st.integers(20, 100),
)
def test_what_is_left_out_is_counted(rows: list[str], columns: int) -> None:
    """Of a long text head and tail are shown, cut between lines, and the count is exact."""
    value = "\n".join(["start", *rows, "end"])

    text = banner(Action("write", {"data": value}), columns).partition(" =\n")[2]

    seen = re.match(r"((?: {6}[│┆] .*\n)+)(?: {6}… ([\d,]+)(.*)\n((?: {6}[│┆] .*\n)*))?", text)
    head, number, unit, tail = seen.groups()
    head, tail = (re.sub("\n {6}┆ ", "", part or "") for part in (head, tail))
    head = head.replace("      │ ", "").removesuffix("\n")
    if number is None:
        assert head == value
        return
    count = int(number.replace(",", ""))
    is_inside = tail.startswith("      ┆ ")
    tail = re.sub("^ {6}┆ ", "", tail).replace("      │ ", "").removesuffix("\n")
    assert value.startswith(head)
    assert value.endswith(tail)
    middle = value[len(head) : len(value) - len(tail)]
    lines = middle.count("\n") - (1 if tail and not is_inside else 0)
    assert count in (len(middle), lines)
    if "lines" in unit:
        assert count == lines and middle.startswith("\n") and (not tail or middle.endswith("\n"))


def test_too_much_for_a_window() -> None:
    """What does not fit is cut once, and never printed twice; the last screen has all names."""
    args = {"subject": "Hello", "body": "\n".join(f"line {n}" for n in range(40)), "copies": 3}

    text = banner(Action("send", args))

    assert text.count(" Tool: send\n") == 1
    assert len(text.splitlines()) <= 23
    for part in ("subject = 'Hello'", "│ line 0\n", "lines left out", "copies = 3"):
        assert part in text
    assert text.endswith(f"{HINT}; v shows all\n")


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, "中" * 10**6, "\n" * 10**6, "a\n" * 10**6, "\x1b" * 10**6, list(range(10**5))],
    ids=["ascii", "wide", "newlines", "lines", "control", "list"],
)
def test_huge_values(value: Any) -> None:
    """A megabyte costs no more than some lines, wherever it stands."""
    for rows in (24, None):
        text = banner(Action("write", {"data": value}, str(value)[: 10**6]), rows=rows)

        assert len(text.splitlines()) < 130
        assert len(text) < 20_000


def test_v_shows_everything() -> None:
    """`v` shows what was cut, and then asks again; any other letter is an answer."""
    script = "\n".join(f"line {n}" for n in range(500))
    action = Action("run", {"script": script}, "Run.\n\nAll of it.")
    answers = iter(["v", " V ", "y"])

    decision, text = answered(lambda _: next(answers), action)

    assert decision.approved
    assert text.count("│ line 250\n") == 2
    assert text.count("│ All of it.\n") == 2
    assert text.count("; v shows all\n") == 3


# --- one at a time ---------------------------------------------------------------------------


class Person:
    """Answers one question at a time, when told to; notices if two are asked at once."""

    def __init__(self) -> None:
        self.screen = io.StringIO()
        self.asked = threading.Semaphore(0)
        self.answers: list[str] = []
        self._told = threading.Semaphore(0)
        self._busy = threading.Lock()

    def channel(self, **options: Any) -> CLIChannel:
        return CLIChannel(stream=self.screen, input_fn=self._input, **options)

    def _input(self, question: str) -> str:
        assert self._busy.acquire(blocking=False), "two questions at once"
        try:
            self.asked.release()
            assert self._told.acquire(timeout=120)
            return self.answers.pop(0)
        finally:
            self._busy.release()

    def answer(self, text: str) -> str:
        """Wait until asked, and answer; returns the tool that was asked for last."""
        assert self.asked.acquire(timeout=120)
        tool = re.findall(r"Tool: (\w+)", self.screen.getvalue())[-1]
        self.answers.append(text)
        self._told.release()
        return tool

    async def aanswer(self, text: str) -> str:
        return await asyncio.to_thread(self.answer, text)

    def ask(self, *names: str, **options: Any) -> list[asyncio.Task[Decision]]:
        """Let a task ask for each of these."""
        channels = [self.channel(**options) for _ in names]
        waits = zip(channels, names, strict=True)
        return [asyncio.create_task(ask_async(c, Action(name, {}))) for c, name in waits]


async def in_line(count: int) -> None:
    """Wait until so many wait, the one included that is asked."""
    while len(cli._turns) != count:
        await asyncio.sleep(0.005)


def test_threads_and_tasks_take_turns() -> None:
    """Twenty at once are asked one after the other, and each gets its own answer."""
    person = Person()
    decisions: dict[str, bool] = {}

    def ask(name: str) -> None:
        decisions[name] = person.channel().request_approval(Action(name, {})).approved

    async def main() -> dict[str, bool]:
        threads = [threading.Thread(target=ask, args=(f"thread{n}",)) for n in range(10)]
        for thread in threads:
            thread.start()
        names = [f"task{n}" for n in range(10)]
        tasks = person.ask(*names)
        answers = {}
        for number in range(20):
            yes = number % 3 == 0
            answers[await person.aanswer("y" if yes else "n")] = yes
        for name, task in zip(names, tasks, strict=True):
            decisions[name] = (await task).approved
        for thread in threads:
            thread.join()
        return answers

    assert asyncio.run(main()) == decisions
    assert len(decisions) == 20
    assert " 1 more waiting\n" in person.screen.getvalue()


def test_cancelled_in_the_line() -> None:
    """A task that was cancelled in the line is neither asked for nor counted."""
    person = Person()

    async def main() -> None:
        (first,) = person.ask("first")
        await in_line(1)
        (second,) = person.ask("second")
        await in_line(2)
        (third,) = person.ask("third")
        await in_line(3)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await in_line(2)
        assert await person.aanswer("y") == "first"
        assert await person.aanswer("n") == "third"
        assert ((await first).approved, (await third).approved) == (True, False)

    asyncio.run(main())
    assert "second" not in person.screen.getvalue()


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
def test_question_that_is_taken_back(how: str) -> None:
    """Its caller goes on at once; a late answer counts for nothing, and for no later question."""
    person = Person()

    async def main() -> None:
        (task,) = person.ask("first", **({"timeout": 0.01} if how == "timeout" else {}))
        assert await asyncio.to_thread(person.asked.acquire, timeout=120)
        person.asked.release()
        if how == "cancelled":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert await task == denied("denied automatically after 0.01 s", unanswered=True)
        (following,) = person.ask("second")
        assert await person.aanswer("y") == "first"
        assert await person.aanswer("n") == "second"
        assert not (await following).approved

    asyncio.run(main())
    text = person.screen.getvalue()
    why = "the request was withdrawn" if how == "cancelled" else "denied automatically after 0.01 s"
    assert f" ⛔ not approved: {why}" in text
    assert "✅" not in text


def test_timeout() -> None:
    """A plain caller whose time is over is denied as unanswered, in the line as at the prompt."""
    person = Person()
    decisions: list[Decision] = []

    def ask() -> None:
        decisions.append(person.channel(timeout=0).request_approval(REFUND))
        decisions.append(person.channel(timeout=0.02).request_approval(REFUND))

    asker = threading.Thread(target=ask)
    with pytest.raises(ZeroDivisionError):

        def busy(question: str) -> str:
            asker.start()
            asker.join()
            raise ZeroDivisionError

        answered(busy)
    ask()
    person.answer("y")

    after = [f"denied automatically after {seconds} s" for seconds in (0, 0.02)] * 2
    assert decisions == [denied(why, unanswered=True) for why in after]
    assert answered("y", timeout=120)[0] == Decision(True, source="cli")


def in_a_task(channel: CLIChannel) -> Decision:
    return asyncio.run(ask_async(channel, REFUND))


def in_plain_code(channel: CLIChannel) -> Decision:
    return channel.request_approval(REFUND)


def test_question_within_a_question() -> None:
    """An `input_fn` that makes a guarded call is no deadlock: that call is denied at once."""
    inside = []

    def answer(question: str) -> str:
        inside.extend(answered("y")[0] for _ in range(2))
        return "y"

    assert answered(answer)[0].approved
    why = "it was asked for while the same thread was asking another question"
    assert inside == [denied(why, unanswered=True)] * 2
    assert shown(REFUND)


class Twice(CLIChannel):
    """Has a second look at each yes."""

    def request_approval(self, action: Action) -> Decision:
        first = super().request_approval(action)
        return super().request_approval(action) if first.approved else first


class TwiceAsync(CLIChannel):
    async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
        first = super().request_approval(action)
        return super().request_approval(action) if first.approved else first


@pytest.mark.parametrize("kind", [Twice, TwiceAsync])
@pytest.mark.parametrize("how", [in_plain_code, in_a_task])
def test_subclass_that_asks_twice(kind: Any, how: Callable[[Any], Any]) -> None:
    """A subclass of the channel may call the method that it replaces, plain or async."""
    answers = iter(["y", "no, too much"])
    channel = kind(stream=io.StringIO(), input_fn=lambda _: next(answers))
    ask = _gate.ask if how is in_plain_code else lambda channel, _: how(channel)

    assert ask(channel, REFUND) == denied("too much")


def test_cancelled_question_of_a_subclass() -> None:
    """A cancelled task's question is taken back also where a subclass or another channel asks."""

    async def main() -> None:
        task = asyncio.create_task(
            ask_async(Twice(stream=person.screen, input_fn=person._input), REFUND)
        )
        assert await asyncio.to_thread(person.asked.acquire, timeout=120)
        person.asked.release()
        task.cancel()
        await asyncio.wait({task})
        (following,) = person.ask("second")
        assert await person.aanswer("y") == "refund_customer"
        assert await person.aanswer("n") == "second"
        assert not (await following).approved

    person = Person()
    asyncio.run(main())
    assert "the request was withdrawn" in person.screen.getvalue()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_asking() -> None:
    """A child that was forked while its parent asks can ask on its own."""
    done = run("""
def fork():
    asked.wait()
    child = os.fork()
    if not child:
        os._exit(not CLIChannel(input_fn=lambda _: "y").request_approval(refund).approved)
    print("<child>" if os.waitpid(child, 0)[1] == 0 else "<child denied>", flush=True)
    forked.set()
def answer(question):
    asked.set()
    forked.wait()
    return "y"
import warnings
warnings.simplefilter("ignore")
asked, forked = threading.Event(), threading.Event()
thread = threading.Thread(target=fork)
thread.start()
say(CLIChannel(input_fn=answer).request_approval(refund))
thread.join()
""")

    assert re.findall("<.*?>", done.stdout) == ["<child>", "<approved>"]
