"""The terminal channel: what a person sees there, and whose answer goes to whom."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import io
import itertools
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import PRELUDE, QUESTION, environment

from actionguard.channels import ApprovalChannel, CLIChannel, cli
from actionguard.channels._banner import Banner
from actionguard.channels._waiting import ask_async
from actionguard.core import Action, Decision

REFUND = Action(
    "refund_customer",
    {"amount": 4000.0, "customer_id": "cus_123"},
    "Issue a refund to a customer's card.",
)


def shown(action: Action, **options: Any) -> str:
    """What somebody sees who looks at a stream that is no terminal."""
    stream = io.StringIO()
    CLIChannel(stream=stream, input_fn=lambda question: "", **options).request_approval(action)
    return stream.getvalue()


def banner(
    action: Action, columns: int = 80, rows: int | None = 24, waiting: int | None = None
) -> str:
    return Banner(columns, rows, "utf-8", dumb=False).text(action, waiting)


# --- the answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["y", "Y", "yes", "YES", " y ", "\tYes\n"])
def test_yes(answer: str) -> None:
    """`y` and `yes` approve, in any case, with spaces around."""
    questions = []

    decision = CLIChannel(
        stream=io.StringIO(), input_fn=lambda question: questions.append(question) or answer
    ).request_approval(REFUND)

    assert decision == Decision(True)
    assert questions == [QUESTION]


@pytest.mark.parametrize("answer", ["", "n", "no", "yep", "y y", "yes!", "ｙ", "ok", "y\0", "1"])
def test_anything_else_denies(answer: str) -> None:
    """Whatever else a person answers is a denial, by a person; Enter too."""
    decision = CLIChannel(stream=io.StringIO(), input_fn=lambda _: answer).request_approval(REFUND)

    assert decision == Decision(False)
    assert not decision.unanswered


def test_outcome_is_shown() -> None:
    """The person is told what became of the request."""
    stream = io.StringIO()
    answers = iter(["y", "n"])
    channel = CLIChannel(stream=stream, input_fn=lambda _: next(answers))

    channel.request_approval(REFUND)
    assert stream.getvalue().endswith(" ✅ approved\n")
    channel.request_approval(REFUND)
    assert stream.getvalue().endswith(" ⛔ denied\n")


@pytest.mark.parametrize("answer", [None, True, b"yes", 1])
def test_answer_that_is_no_text(answer: Any) -> None:
    """An `input_fn` that returns no str is an error of the guard, and no yes."""
    channel = CLIChannel(stream=io.StringIO(), input_fn=lambda _: answer)

    with pytest.raises(TypeError, match="must be a str, not"):
        channel.request_approval(REFUND)


@pytest.mark.parametrize("error", [OSError, RuntimeError, ValueError, StopIteration, SystemExit])
def test_input_fn_that_raises(error: type[BaseException]) -> None:
    """What an `input_fn` raises reaches the caller."""

    def broken(question: str) -> str:
        raise error("broken")

    with pytest.raises(error, match="broken"):
        CLIChannel(stream=io.StringIO(), input_fn=broken).request_approval(REFUND)


def test_input_fn_that_raises_for_a_task() -> None:
    """A StopIteration, which no task can raise, ends the wait as well."""
    answers: Iterator[str] = iter([])
    channel = CLIChannel(stream=io.StringIO(), input_fn=lambda _: next(answers))

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(ask_async(channel, REFUND))


@pytest.mark.parametrize(
    "options",
    [
        {"stream": 1},
        {"stream": "log.txt"},
        {"stream": io.StringIO},
        {"input_fn": "y"},
        {"input_fn": str},
        {"input_fn": asyncio.sleep},
    ],
)
def test_misconfiguration(options: dict[str, Any]) -> None:
    """A stream that cannot be written or a function that cannot be called is an early error."""
    name = next(iter(options))

    with pytest.raises(TypeError, match=f"CLIChannel takes an? .* as {name}, not "):
        CLIChannel(**options)


def test_is_a_channel() -> None:
    """The class is an ApprovalChannel called cli, and can be pickled."""
    channel = pickle.loads(pickle.dumps(CLIChannel()))

    assert isinstance(channel, ApprovalChannel)
    assert channel.name == "cli"


# --- nobody to ask ---------------------------------------------------------------------------


def test_end_of_input() -> None:
    """EOF is no person's no, and the reason says so."""

    def ended(question: str) -> str:
        raise EOFError

    stream = io.StringIO()
    decision = CLIChannel(stream=stream, input_fn=ended).request_approval(REFUND)

    assert decision == Decision(False, "the input ended without an answer", unanswered=True)
    assert stream.getvalue().endswith("not approved: the input ended without an answer\n")


def test_captured_stdin(capsys: pytest.CaptureFixture[str]) -> None:
    """Under pytest, whose stdin cannot be read, the request is shown and denied at once."""
    decision = CLIChannel().request_approval(REFUND)

    assert decision == Decision(False, "standard input cannot be read (OSError)", unanswered=True)
    assert "refund_customer" in capsys.readouterr().err


@pytest.mark.parametrize("stdin", [None, "closed"])
def test_no_stdin(
    stdin: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a standard input the request is denied at once."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed if stdin else None)

    decision = CLIChannel().request_approval(REFUND)

    why = "standard input cannot be read (ValueError)" if stdin else "there is no standard input"
    assert decision == Decision(False, why, unanswered=True)


def test_front_end_without_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A front end whose `input` says that it has none is believed."""

    def refuse(prompt: str = "") -> str:
        raise NotImplementedError

    monkeypatch.setattr(builtins, "input", refuse)

    decision = CLIChannel().request_approval(REFUND)

    assert decision == Decision(False, "this front end takes no input", unanswered=True)


def test_broken_stream() -> None:
    """Nobody is asked a question that nobody can see."""
    closed = io.StringIO()
    closed.close()

    def must_not_be_called(question: str) -> str:
        raise AssertionError

    decision = CLIChannel(stream=closed, input_fn=must_not_be_called).request_approval(REFUND)

    assert decision == Decision(
        False, "the question could not be shown (ValueError)", unanswered=True
    )


def test_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without stderr is denied at once, too."""
    monkeypatch.setattr(sys, "stderr", None)

    decision = CLIChannel(input_fn=lambda _: "y").request_approval(REFUND)

    assert decision.unanswered
    assert not decision.approved


def test_stream_that_breaks_after_the_answer() -> None:
    """A yes stays a yes when its confirmation cannot be shown any more."""
    stream = io.StringIO()

    def answer(question: str) -> str:
        stream.close()
        return "y"

    assert CLIChannel(stream=stream, input_fn=answer).request_approval(REFUND).approved


# --- where it is asked -----------------------------------------------------------------------


def test_streams_are_looked_up_when_asking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sys.stderr` and `builtins.input` are those of the moment, and stdout stays untouched."""
    channel = CLIChannel()
    stream = io.StringIO()
    questions = []
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(builtins, "input", lambda prompt="": questions.append(prompt) or "y")

    assert channel.request_approval(REFUND).approved
    assert questions == [QUESTION]
    assert "refund_customer" in stream.getvalue()
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


def test_answers_from_a_pipe() -> None:
    """A piped script answers line by line, also after the program has read from it itself."""
    done = run(
        "print(input()); say(ask(refund)); say(asyncio.run(aask(refund))); say(ask(refund))",
        input="hello\ny\nn\n",
    )

    assert done.stdout.splitlines() == [
        "hello",
        "<approved> ",
        "<denied> ",
        "<unanswered> the input ended without an answer",
    ]
    assert done.stderr.count(QUESTION) == 3


def test_no_input_at_all() -> None:
    """With /dev/null for stdin, as under cron, nobody is waited for."""
    done = run("say(ask(refund)); say(asyncio.run(aask(refund)))", stdin=subprocess.DEVNULL)

    assert done.stdout.count("<unanswered>") == 2


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
def test_withdrawn_from_a_pipe(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe's line goes to the question that stands when it comes, and to no later one."""
    read, write = os.pipe()
    stream = io.StringIO()
    channel = CLIChannel(stream=stream)

    def asked(times: int) -> None:
        while stream.getvalue().count(QUESTION) < times:
            time.sleep(0.01)

    async def withdraw() -> None:
        task = asyncio.create_task(ask_async(channel, REFUND))
        await asyncio.to_thread(asked, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with open(read) as stdin, open(write, "w", buffering=1) as pipe, ThreadPoolExecutor() as pool:
        monkeypatch.setattr(sys, "stdin", stdin)
        asyncio.run(withdraw())
        if late:
            pipe.write("y\n")
            while any(thread.name.startswith("actionguard") for thread in threading.enumerate()):
                time.sleep(0.01)
        for times, answer in ((2, "n"), (3, "y")):
            decision = pool.submit(channel.request_approval, REFUND)
            asked(times)
            pipe.write(f"{answer}\n")
            assert decision.result(timeout=120).approved is (answer == "y")


def test_exit_with_a_reader_left_behind() -> None:
    """A process whose wait on a silent pipe was cancelled ends in peace."""
    read, write = os.pipe()
    try:
        done = run(
            """
async def main():
    try:
        await asyncio.wait_for(aask(refund), 0.5)
    except asyncio.TimeoutError:
        print("<timeout>")
asyncio.run(main())
""",
            stdin=read,
        )
    finally:
        os.close(read)
        os.close(write)

    assert (done.stdout, done.returncode) == ("<timeout>\n", 0)
    assert "Fatal" not in done.stderr


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


def test_stream_with_an_encoding_of_its_own() -> None:
    """A stream whose encoding nobody knows gets what every stream can say."""

    class Console(io.StringIO):
        encoding = "console"  # type: ignore[assignment]

    stream = Console()
    action = Action("refund", {"name": "Zoë"})

    assert CLIChannel(stream=stream, input_fn=lambda _: "y").request_approval(action).approved
    assert "    name = 'Zo\\xeb'\n" in stream.getvalue()


def test_terminal_of_unknown_size() -> None:
    """A stream that is a terminal, but has no descriptor, has a window all the same."""

    class Console(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Console()
    action = Action("refund", {f"a{number}": number for number in range(60)})

    CLIChannel(stream=stream, input_fn=lambda _: "y").request_approval(action)

    last_screen = stream.getvalue().splitlines()[-22:]
    assert " Tool: refund" in last_screen


# --- what is seen ----------------------------------------------------------------------------


def test_banner() -> None:
    """The request reads like this."""
    assert shown(REFUND) == """
──────────────────────────────────────────────────────────────
 🛑 actionguard — approval required
──────────────────────────────────────────────────────────────
 Tool: refund_customer
 About: Issue a refund to a customer's card.
 Args:
    amount = 4000.0
    customer_id = 'cus_123'
──────────────────────────────────────────────────────────────
 ⛔ denied
"""


def test_banner_without_anything() -> None:
    """A call without arguments and description is shown as such."""
    text = shown(Action("ping", {}))

    assert " Tool: ping\n Args:\n    (none)\n" in text
    assert "About" not in text


def test_description_is_summed_up() -> None:
    """Of a long docstring the first paragraph is shown, as one."""
    text = shown(Action("ping", {}, "  Ping a\n    host.\n\n    Args:\n        host: which."))

    assert " About: Ping a host.\n Args:\n    (none)\n" in text


def test_short_text_of_several_lines() -> None:
    """Two lines are a text already, and stand beside other arguments."""
    text = shown(Action("mail", {"body": "Dear Ann,\nplease pay.", "copies": 1}))

    assert "    body =\n      │ Dear Ann,\n      │ please pay.\n    copies = 1\n" in text


def test_text_of_several_lines() -> None:
    """A text of several lines is shown as such, each line marked."""
    text = shown(Action("send", {"body": "Dear you,\n\n\tC:\\new\\x1b\r\nBye", "to": "a\n"}))

    assert text.partition(" Args:\n")[2].splitlines()[:6] == [
        "    body =",
        "      │ Dear you,",
        "      │ ",
        r"      │ \tC:\\new\\x1b\r",
        "      │ Bye",
        r"    to = 'a\n'",
    ]


def test_argument_names_are_unmistakable() -> None:
    """A name that is no plain name is quoted, so that it cannot pass for name and value."""
    text = shown(Action("pay", {"amount = 5\n": 4000, "user-id": 1, "аmount": 2}))

    assert "    'amount = 5\\n' = 4000\n    'user-id' = 1\n    'аmount' = 2\n" in text


HOSTILE = [
    "\x1b[2J\x1b[1;1H", "\r", "\b" * 9, "\x7f", "\x9b2K", "\x00", "\x85", "\x0c", "\x0b",
    "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u2028", "\u2029", "\ud800",
    "\U000e0041", "\u115f", "\u3164", "\u2800", "\ufe0f", "\u00a0", "\u3000", "\ue000",
    "e" + "\u0301" * 50,
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
    assert not re.search("\u0301{5}", text)
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
    r"─+$| 🛑 actionguard|    \S| Tool: | About: | {6,9}[┆│] | Args:$|$| {6}…[ +]| \d+ more | \w"
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
    waiting=st.none() | st.integers(0, 1000),
)
def test_layout(
    name: str, args: dict[str, Any], about: str, columns: int, rows: int, waiting: int | None
) -> None:
    """Whatever is shown, no line is wider than the window, and the last screen holds the name."""
    lines = banner(Action(name, args, about), columns, rows, waiting).splitlines()

    for line in lines:
        assert LEADS.match(line), line
        assert cells(line) < columns
    screen = lines[-(rows - 1 - (columns < len(QUESTION) + 3)) :]
    assert any(line.startswith(" Tool: ") for line in screen)


@pytest.mark.parametrize("char", ["\N{REGIONAL INDICATOR SYMBOL LETTER D}", "☰", "䷀", "𝍠"])
def test_symbols_never_wrap(char: str) -> None:
    """What only some terminals draw in two cells has the room: a line that wraps may be forged."""
    for line in banner(Action("note", {"text": char * 100}), columns=40).splitlines():
        assert len(line) + line.count(char) < 40


def cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def test_long_text_is_cut_in_the_middle() -> None:
    """Of a long value head and tail are shown, and how many characters are not."""
    value = "start " + "x" * 1_000_000 + " end"

    text = banner(Action("write", {"data": value}))

    value_shown = "".join(
        line[8:] if line.startswith("      ┆ ") else line.partition("data = ")[2]
        for line in text.rpartition(" Args:\n")[2].splitlines()[:-1]
    )
    head, count, tail = re.split(r" … ([\d,]+) characters left out … ", value_shown)
    assert head.startswith("'start xxx")
    assert tail.endswith("xxx end'")
    assert len(head) + int(count.replace(",", "")) + len(tail) == len(repr(value))


@given(
    rows=st.lists(st.text("ab 中", max_size=40).map(lambda text: text * 50), min_size=2),
    columns=st.integers(20, 100),
)
def test_long_text_of_several_lines_is_cut_in_the_middle(rows: list[str], columns: int) -> None:
    """Of a text of several lines, too, the count is exact, however long each of them is."""
    value = "\n".join(["start", *rows, "end"])

    text = banner(Action("write", {"data": value}), columns, rows=24).rpartition(" Args:\n")[2]

    seen = "".join(
        line[8:] if line.startswith("      ┆ ") else line.replace("      │ ", "\n")
        for line in text.splitlines()
        if line.startswith(" " * 6)
    )
    head, *cut = re.split(r" … ([\d,]+) characters left out … ", seen.removeprefix("\n"))
    left_out, tail = cut or ("0", "")
    assert value.startswith(head)
    assert value.endswith(tail)
    assert len(head) + int(left_out.replace(",", "")) + len(tail) == len(value)


def test_too_much_for_a_window() -> None:
    """What does not fit is there to scroll back to; the last screen has a part of everything."""
    args = {"subject": "Hello", "body": "\n".join(f"line {n}" for n in range(40)), "copies": 3}

    text = banner(Action("send", args))

    full, short = text.split(" approval required (in short)\n")
    assert all(f"│ line {number}\n" in full for number in range(40))
    assert len(short.splitlines()) + 2 <= 22
    assert "subject = 'Hello'" in short
    assert "line 0" in short
    assert "line 39" in short
    assert "copies = 3" in short


def test_too_many_arguments() -> None:
    """Arguments that do not fit are counted."""
    text = banner(Action("set", {f"a{number}": number for number in range(10_000)}))

    short = text.rpartition("(in short)")[2]
    assert f"… {10_000 - short.count(' = '):,} more\n" in short
    assert len(short.splitlines()) < 22


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, "中" * 10**6, "\n" * 10**6, "a\n" * 10**6, "\x1b" * 10**6, list(range(10**5))],
    ids=["ascii", "wide", "newlines", "lines", "control", "list"],
)
def test_huge_values(value: Any) -> None:
    """A megabyte costs no more than some lines, wherever it stands."""
    text = banner(Action("write", {"data": value}, str(value)[: 10**6]))

    assert len(text.splitlines()) < 150
    assert len(text) < 20_000


def test_waiting_requests_are_counted() -> None:
    """The person knows how many more are waiting."""
    assert " Waiting behind this one: 0\n" in banner(REFUND, waiting=0)
    assert " Waiting behind this one: 2,000\n" in banner(REFUND, waiting=2000)
    assert "Waiting" not in banner(REFUND)


# --- one at a time ---------------------------------------------------------------------------


class Person:
    """Answers one question at a time, when told to; notices if two are asked at once."""

    def __init__(self) -> None:
        self.screen = io.StringIO()
        self.asked = threading.Semaphore(0)
        self.answers: list[str] = []
        self._told = threading.Semaphore(0)
        self._busy = threading.Lock()

    def channel(self) -> CLIChannel:
        return CLIChannel(stream=self.screen, input_fn=self._input)

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


def test_threads_take_turns() -> None:
    """Threads ask one after the other, and each gets its own answer."""
    person = Person()
    decisions: dict[str, bool] = {}

    def ask(name: str) -> None:
        decisions[name] = person.channel().request_approval(Action(name, {})).approved

    threads = [threading.Thread(target=ask, args=(f"tool{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    while len(cli._line) < 8:
        time.sleep(0.01)
    answers = {}
    for number in range(8):
        yes = number % 3 == 0
        answers[person.answer("y" if yes else "n")] = yes
    for thread in threads:
        thread.join()

    assert decisions == answers
    assert "Waiting behind this one: 6\n" in person.screen.getvalue()


def test_tasks_take_turns() -> None:
    """Tasks ask in their order, with one thread for all who wait."""
    person = Person()
    before = set(threading.enumerate())

    async def main() -> None:
        tasks = [
            asyncio.create_task(ask_async(person.channel(), Action(f"tool{n}", {})))
            for n in range(100)
        ]
        assert await asyncio.to_thread(person.asked.acquire, timeout=120)
        person.asked.release()
        new = set(threading.enumerate()) - before
        assert sum(thread.name.startswith("actionguard") for thread in new) == 1
        for number in range(100):
            assert await person.aanswer("y" if number % 3 else "n") == f"tool{number}"
        decisions = await asyncio.gather(*tasks)
        assert [decision.approved for decision in decisions] == [bool(n % 3) for n in range(100)]

    asyncio.run(main())


def test_cancelled_waiter_leaves_the_line() -> None:
    """A task that was cancelled in the line is never asked for; the others move up."""
    person = Person()

    async def main() -> None:
        first, second, third = (
            asyncio.create_task(ask_async(person.channel(), Action(name, {})))
            for name in ("first", "second", "third")
        )
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await person.aanswer("y") == "first"
        assert await person.aanswer("n") == "third"
        assert (await first).approved
        assert not (await third).approved

    asyncio.run(main())
    assert "second" not in person.screen.getvalue()


def test_cancelled_question() -> None:
    """The answer to a withdrawn question counts for nothing, and the person is told."""
    person = Person()

    async def main() -> None:
        task = asyncio.create_task(ask_async(person.channel(), Action("first", {})))
        assert await asyncio.to_thread(person.asked.acquire, timeout=120)
        person.asked.release()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        following = asyncio.create_task(ask_async(person.channel(), Action("second", {})))
        assert await person.aanswer("y") == "first"
        assert await person.aanswer("n") == "second"
        assert not (await following).approved

    asyncio.run(main())
    assert "not approved: the request was withdrawn" in person.screen.getvalue()
    assert "✅" not in person.screen.getvalue()


def test_a_blocked_loop_is_no_deadlock() -> None:
    """A plain call on the loop may queue behind tasks of that same loop."""
    person = Person()

    async def main() -> None:
        tasks = [
            asyncio.create_task(ask_async(person.channel(), Action(name, {})))
            for name in ("first", "second")
        ]
        await asyncio.sleep(0)
        assert person.channel().request_approval(Action("third", {})).approved
        assert [(await task).approved for task in tasks] == [True, True]

    def answer() -> None:
        assert [person.answer("y") for _ in range(3)] == ["first", "second", "third"]

    thread = threading.Thread(target=answer)
    thread.start()
    asyncio.run(main())
    thread.join()


def test_context_arrives() -> None:
    """An `input_fn` sees the context variables of who asks."""
    user = contextvars.ContextVar("user", default="nobody")
    channel = CLIChannel(stream=io.StringIO(), input_fn=lambda _: user.get())

    async def main() -> Decision:
        user.set("yes")
        return await ask_async(channel, REFUND)

    assert asyncio.run(main()).approved


@pytest.mark.parametrize("inner", [False, True], ids=["plain", "task"])
@pytest.mark.parametrize("outer", [False, True], ids=["plain", "task"])
def test_question_within_a_question(outer: bool, inner: bool) -> None:
    """An `input_fn` that makes a guarded call is no deadlock: that call is denied at once."""

    def ask(channel: CLIChannel, as_task: bool) -> Decision:
        if as_task:
            return asyncio.run(ask_async(channel, REFUND))
        return channel.request_approval(REFUND)

    inside = []

    def answer(question: str) -> str:
        channel = CLIChannel(stream=io.StringIO(), input_fn=lambda _: "y")
        inside.extend([ask(channel, inner), ask(channel, inner)])
        return "y"

    assert ask(CLIChannel(stream=io.StringIO(), input_fn=answer), outer).approved
    assert [(decision.approved, decision.unanswered) for decision in inside] == [(False, True)] * 2
    assert shown(REFUND)


def test_signal_at_any_moment_of_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal whose handler asks never makes its thread wait for itself."""
    channel = CLIChannel(stream=io.StringIO(), input_fn=lambda _: "y")

    def interrupted_at(moment: int) -> bool:
        monkeypatch.setattr(cli, "_line", cli._Line())
        lines = itertools.count()
        answers: list[Decision] = []

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename != cli.__file__:
                return None
            if event == "line" and next(lines) == moment:
                sys.settrace(None)
                answers.append(channel.request_approval(Action("handler", {})))
            return trace

        def ask() -> None:
            sys.settrace(trace)
            answers.append(channel.request_approval(REFUND))
            sys.settrace(None)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(120)
        assert answers, f"a deadlock at line {moment}"
        assert answers[-1] == Decision.approve()
        assert all(answer.approved or answer.unanswered for answer in answers)
        return len(answers) == 2

    moments = list(itertools.takewhile(interrupted_at, itertools.count()))
    assert len(moments) > 50


def test_failing_question_passes_the_turn_on() -> None:
    """A question that fails does not block the next."""

    def broken(question: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        CLIChannel(stream=io.StringIO(), input_fn=broken).request_approval(REFUND)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask_async(CLIChannel(stream=io.StringIO(), input_fn=broken), REFUND))
    assert shown(REFUND)


def test_asked_after_the_main_thread() -> None:
    """A thread that outlives the main thread can still ask."""
    done = run(
        """
def late():
    threading.main_thread().join()
    say(ask(refund))
threading.Thread(target=late).start()
""",
        input="y\n",
    )

    assert "<approved>" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_asking() -> None:
    """A child that was forked while its parent asks can ask on its own."""
    done = run(
        """
def fork_and_answer(question):
    child = os.fork()
    if not child:
        decision = CLIChannel(input_fn=lambda _: "y").request_approval(refund)
        os._exit(0 if decision.approved else 1)
    print("<child>" if os.waitpid(child, 0)[1] == 0 else "<child denied>")
    thread = threading.Thread(target=lambda: say(ask(refund)))
    thread.start()
    return "y"
say(CLIChannel(input_fn=fork_and_answer).request_approval(refund))
""",
        input="n\n",
    )

    # Two threads' prints may share a line.
    assert sorted(re.findall("<[a-z]+>", done.stdout)) == ["<approved>", "<child>", "<denied>"]
