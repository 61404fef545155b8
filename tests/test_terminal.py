"""The terminal channel on a real terminal, with a person's hands on its keys."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
import textwrap
import threading
from pathlib import Path

import pytest
from terminal import QUESTION, Terminal

CTRL_C, CTRL_D = "\x03", "\x04"

#: A task that asks, and is cancelled by SIGUSR1.
CANCELLABLE = """
import signal
async def cancellable(action):
    task = asyncio.ensure_future(aask(action))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        print("<cancelled>", flush=True)
"""


def screen(terminal: Terminal, columns: int, rows: int) -> list[str]:
    """What a terminal of that size shows after all that was written."""
    pyte = pytest.importorskip("pyte")
    display = pyte.Screen(columns, rows)
    pyte.Stream(display).feed(terminal.output.replace("\n", "\r\n"))
    return [line.rstrip() for line in display.display]


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("asking", ["ask(refund)", "asyncio.run(aask(refund))"])
def test_yes_and_no(asking: str) -> None:
    """A person is asked on stderr, answers, and sees what came of it."""
    with Terminal(f"for _ in range(3): say({asking})") as terminal:
        shown = terminal.answer("y\n")
        assert " Tool: refund_customer\n" in shown
        assert " ✅ approved\n<approved>" in terminal.expect("<approved>")
        terminal.answer("\n")
        terminal.expect("⛔ denied\n<denied>")
        terminal.answer("no, wrong customer\n")
        terminal.expect("⛔ denied: wrong customer\n<denied> wrong customer")
        assert terminal.rest().strip() == ""
        assert "\x1b" not in terminal.output


@pytest.mark.parametrize("asking", ["ask(refund)", "asyncio.run(aask(refund))"])
def test_ctrl_d(asking: str) -> None:
    """Ctrl-D leaves the question unanswered; the next one is asked as ever."""
    with Terminal(f"say({asking}); say({asking})") as terminal:
        terminal.answer(CTRL_D)
        terminal.expect("<unanswered> the input ended without an answer")
        terminal.answer("y\n")
        terminal.expect("<approved>")


def test_half_an_answer() -> None:
    """A yes that was never confirmed with Enter is none."""
    with Terminal("say(ask(refund))") as terminal:
        terminal.answer("y" + CTRL_D)
        terminal.type(CTRL_D)
        terminal.expect("<unanswered>")


def test_corrected_answer() -> None:
    """The line can be edited before Enter."""
    with Terminal("say(ask(refund))") as terminal:
        terminal.answer("n\x7fyes\n")
        terminal.expect("<approved>")


def test_type_ahead() -> None:
    """Keys that were pressed before the question do not answer it, whole lines or half ones."""
    with Terminal(
        "print('<ready>', flush=True); sys.stdin.readline(); say(ask(refund))"
    ) as terminal:
        terminal.expect("<ready>")
        terminal.type("go\ny\ny\nye")
        terminal.answer("s\n")
        terminal.expect("<denied>")


def test_type_ahead_in_the_buffer() -> None:
    """What Python has read ahead for the program remains the program's."""
    program = """
    print('<ready>', flush=True)
    print(sys.stdin.buffer.read(3), flush=True)
    say(ask(refund))
    print(sys.stdin.buffer.readline(), flush=True)
    """
    with Terminal(program) as terminal:
        terminal.expect("<ready>")
        terminal.type("go y\n")
        terminal.expect("b'go '")
        terminal.answer("n\n")
        terminal.expect("<denied>")
        terminal.expect(r"b'y\n'")


def test_pasted_answers() -> None:
    """Of several pasted lines, the first answers this question and none the next."""
    with Terminal("for _ in range(3): say(ask(refund))") as terminal:
        terminal.answer("y\ny\ny\n")
        terminal.expect("<approved>")
        terminal.answer("n\ny\n")
        terminal.expect("<denied>")
        terminal.answer("y\n")
        terminal.expect("<approved>")


def test_long_paste() -> None:
    """A paste of any length is over before the next question appears."""
    program = """
    from actionguard.channels import _terminal
    _terminal._PAUSE = 1  # a busy machine may let the person wait in the midst of it
    for _ in range(2): say(ask(refund))
    """
    with Terminal(program) as terminal:
        terminal.expect(QUESTION)
        paste = threading.Thread(target=terminal.type, args=("y\n" * 200_000,))
        paste.start()
        terminal.expect("<approved>")
        terminal.answer("n\n")
        terminal.expect("<denied>")
        paste.join()


def test_after_a_program_that_left_the_terminal_raw() -> None:
    """The question works without echo and line mode, too, and leaves the modes as they were."""
    program = """
    import tty
    tty.setraw(0)
    before = __import__("termios").tcgetattr(0)
    say(ask(refund))
    print("<same>" if __import__("termios").tcgetattr(0) == before else "<other>", flush=True)
    """
    with Terminal(program) as terminal:
        terminal.answer("y\r")
        terminal.expect("<approved>")
        terminal.expect("<same>")


# --- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asking",
    [
        "ask(refund)",
        "asyncio.run(aask(refund))",
        """
        async def main(): ask(refund)
        asyncio.run(main())
        """,
        "threading.Thread(target=ask, args=(refund,)).start()",
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor() as pool:
            list(pool.map(ask, [refund] * 5))
        """,
        """
        threads = [threading.Thread(target=lambda: asyncio.run(aask(refund))) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
        """
        def ask_while_another_waits(question):
            thread = threading.Thread(target=ask, args=(refund,))
            thread.start()
            while len(cli._line) < 2: time.sleep(0.01)
            print(question, end="", file=sys.stderr, flush=True)
            return sys.stdin.readline()
        from actionguard.channels import cli
        CLIChannel(input_fn=ask_while_another_waits).request_approval(refund)
        """,
    ],
    ids=[
        "plain",
        "task",
        "plain in a task",
        "thread",
        "thread pool",
        "tasks in threads",
        "plain before a thread",
    ],
)
def test_ctrl_c(asking: str) -> None:
    """One Ctrl-C ends the program, whoever asks, and leaves the terminal as it was."""
    with Terminal(asking) as terminal:
        terminal.answer(CTRL_C)
        rest = terminal.rest()
        assert "KeyboardInterrupt" in rest
        assert QUESTION not in rest
        assert termios.tcgetattr(terminal.terminal) == terminal.modes


def test_ctrl_c_in_an_agent(tmp_path: Path) -> None:
    """LangGraph asks from a pool of threads that it waits for; one Ctrl-C ends that as well."""
    pytest.importorskip("langgraph")
    program = """
    from actionguard import AuditLog, guard
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool
    from langgraph.graph import MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    @guard(audit=AuditLog("audit.jsonl"))
    @tool
    def refund(amount: int) -> str:
        "Issue a refund."
        print("<refunded>")

    graph = StateGraph(MessagesState).add_node("tools", ToolNode([refund]))
    graph.set_entry_point("tools")
    calls = [
        {"name": "refund", "args": {"amount": n}, "id": str(n), "type": "tool_call"}
        for n in range(3)
    ]
    graph.compile().invoke({"messages": [AIMessage("", tool_calls=calls)]})
    """
    with Terminal(program, cwd=tmp_path) as terminal:
        terminal.answer(CTRL_C)
        assert "KeyboardInterrupt" in terminal.rest()
        assert "<refunded>" not in terminal.output
        assert termios.tcgetattr(terminal.terminal) == terminal.modes
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["executed"] for line in lines] == [False] * 3
    assert not any(line["approved"] for line in lines)


def test_ctrl_c_can_be_survived() -> None:
    """A program that catches it goes on, and can ask again."""
    program = """
    def work():
        try:
            ask(refund)
        except KeyboardInterrupt:
            print("<thread interrupted>", flush=True)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        print("<main interrupted>", flush=True)
        thread.join()
    say(ask(refund))
    """
    with Terminal(program) as terminal:
        terminal.answer("y" + CTRL_C)
        terminal.answer("y\n")
        terminal.expect("<approved>")
        assert "<main interrupted>" in terminal.output
        assert "<thread interrupted>" in terminal.output


def test_ctrl_c_ignored() -> None:
    """Where the program ignores Ctrl-C, so does the question."""
    program = """
    import signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    thread = threading.Thread(target=lambda: say(ask(refund)))
    thread.start()
    thread.join()
    """
    with Terminal(program) as terminal:
        terminal.answer(CTRL_C + "y\n")
        terminal.expect("<approved>")


def test_ctrl_c_that_cancels_nothing() -> None:
    """A loop that Ctrl-C stopped, its tasks left pending as in IPython, keeps no question open."""
    program = """
    task = (loop := asyncio.new_event_loop()).create_task(aask(refund))
    try:
        loop.run_until_complete(task)
    except KeyboardInterrupt:
        print("<interrupted>", flush=True)
    say(ask(Action("second", {})))
    say(loop.run_until_complete(task))
    """
    with Terminal(program) as terminal:
        terminal.answer(CTRL_C)
        assert "Tool: second" in terminal.answer("y\n")
        assert "not approved: the request was withdrawn" in terminal.output
        terminal.expect("<approved>")
        terminal.expect("<unanswered> the request was withdrawn")


def test_question_within_a_question() -> None:
    """A signal handler that asks while its thread asks is denied at once; both would wait."""
    program = """
    import signal
    signal.signal(signal.SIGUSR1, lambda *_: say(ask(Action("handler", {}))))
    say(ask(refund))
    """
    with Terminal(program) as terminal:
        terminal.expect(QUESTION)
        terminal.process.send_signal(signal.SIGUSR1)
        terminal.expect("<unanswered> it was asked for in the middle of another question")
        terminal.type("y\n")
        terminal.expect("<approved>")


# --- withdrawn -------------------------------------------------------------------------------


def test_withdrawn_question() -> None:
    """A cancelled wait takes its question back; half an answer to it does not go to the next."""
    program = """
    async def main():
        await cancellable(refund)
        say(await aask(Action("second", {})))
    asyncio.run(main())
    """
    with Terminal(CANCELLABLE + textwrap.dedent(program)) as terminal:
        terminal.answer("ye")
        terminal.expect("ye")
        terminal.process.send_signal(signal.SIGUSR1)
        shown = terminal.answer("s\n")
        assert "<cancelled>" in shown
        assert "not approved: the request was withdrawn" in shown
        assert "Tool: second" in shown
        terminal.expect("<denied>")
        terminal.rest()
        assert termios.tcgetattr(terminal.terminal) == terminal.modes


def test_terminal_after_a_withdrawn_question() -> None:
    """When a cancelled wait is over, so is its use of the terminal: the program may go on there."""
    program = """
    before = __import__("termios").tcgetattr(0)
    asyncio.run(cancellable(refund))
    print("<same>" if __import__("termios").tcgetattr(0) == before else "<other>", flush=True)
    """
    with Terminal(CANCELLABLE + textwrap.dedent(program)) as terminal:
        terminal.expect(QUESTION)
        terminal.process.send_signal(signal.SIGUSR1)
        terminal.expect("<same>")


def test_exit_after_a_withdrawn_question() -> None:
    """The program ends at once when its only wait was cancelled."""
    program = """
    asyncio.run(cancellable(refund))
    """
    with Terminal(CANCELLABLE + textwrap.dedent(program)) as terminal:
        terminal.expect(QUESTION)
        terminal.process.send_signal(signal.SIGUSR1)
        terminal.expect("<cancelled>")
        terminal.rest()
        assert terminal.process.returncode == 0


@pytest.mark.skipif(sys.version_info < (3, 13), reason="has no such prompt")
def test_withdrawn_at_pythons_prompt() -> None:
    """Python's own prompt reads on as before a question that was taken back, and asks again."""
    program = """
    from _pyrepl.readline import _setup
    _setup({})
    asyncio.run(cancellable(refund))
    print(f"<{input('>>> ')}>", flush=True)
    say(ask(refund))
    """
    with Terminal(CANCELLABLE + textwrap.dedent(program)) as terminal:
        terminal.expect(QUESTION)
        terminal.process.send_signal(signal.SIGUSR1)
        terminal.expect(">>> ")
        terminal.type("2 + 2\r")
        terminal.expect("<2 + 2>")
        terminal.answer("y\n")
        terminal.expect("<approved>")


def test_timeout_of_a_group() -> None:
    """Several waits that are cancelled together leave nothing behind for the next question."""
    program = """
    async def main():
        waits = asyncio.gather(*[aask(Action(f"tool{n}", {})) for n in range(5)])
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, waits.cancel)
        try:
            await waits
        except asyncio.CancelledError:
            say(await aask(refund))
    asyncio.run(main())
    """
    with Terminal(CANCELLABLE + textwrap.dedent(program)) as terminal:
        terminal.expect(QUESTION)
        terminal.process.send_signal(signal.SIGUSR1)
        shown = terminal.answer("y\n")
        assert "Tool: refund_customer" in shown
        assert "Tool: tool1" not in terminal.output
        terminal.expect("<approved>")


# --- where it is asked -----------------------------------------------------------------------


def test_stdout_is_a_pipe() -> None:
    """What the program prints into a pipe stays clean."""
    with Terminal("say(ask(refund))", stdout=subprocess.PIPE) as terminal:
        terminal.answer("y\n")
        assert terminal.process.stdout.read() == b"<approved> \n"


@pytest.mark.parametrize("asking", ["ask(refund)", "asyncio.run(aask(refund))"])
def test_stderr_is_redirected(asking: str) -> None:
    """With `2>log`, the question is still put to the person at the terminal."""
    with Terminal(f"say({asking})", stderr=subprocess.PIPE) as terminal:
        shown = terminal.answer("y\n")
        assert "Tool: refund_customer" in shown
        terminal.expect("✅ approved\n<approved>")
        assert terminal.process.stderr.read() == b""


def test_stream_is_given() -> None:
    """A stream that was asked for is used, and the keys still come from the terminal."""
    program = """
    stream = io.StringIO()
    channel = CLIChannel(stream=stream)
    threading.Thread(target=lambda: say(channel.request_approval(refund))).start()
    while "[y/N]" not in stream.getvalue(): time.sleep(0.01)
    print("<asked>", flush=True)
    """
    with Terminal(program) as terminal:
        terminal.expect("<asked>")
        assert QUESTION not in terminal.output
        terminal.type("y\n")
        terminal.expect("<approved>")


def test_stdin_is_a_pipe() -> None:
    """With a pipe for stdin nobody is asked, at the terminal neither."""
    with Terminal("say(ask(refund))", stdin=subprocess.PIPE) as terminal:
        terminal.expect("<unanswered> standard input is not a terminal")
        assert QUESTION not in terminal.output


def test_background() -> None:
    """A background job is not stopped by its question, but denied."""
    program = """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    else:
        os.setpgid(0, 0)
        say(ask(refund))
    """
    with Terminal(program) as terminal:
        terminal.expect("<unanswered> this process runs in the background of its terminal")
        terminal.rest()


def test_dumb_terminal() -> None:
    """A dumb terminal gets a banner in ASCII."""
    with Terminal("say(ask(refund))", env={"TERM": "dumb"}) as terminal:
        assert terminal.answer("y\n").isascii()
        assert " !! actionguard - approval required\n" in terminal.output
        terminal.expect("<approved>")


def test_hang_up() -> None:
    """A terminal that goes away leaves the question unanswered."""
    read, write = os.pipe()
    program = f"""
    import signal
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    decision = ask(refund)
    os.write({write}, str(decision.unanswered).encode())
    """
    terminal = Terminal(program, pass_fds=[write])
    try:
        terminal.expect(QUESTION)
        terminal.hang_up()
        terminal.process.wait(250)
        os.close(write)
        assert os.read(read, 100) == b"True"
    finally:
        os.close(read)
        terminal.close()


# --- windows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "rows"), [(20, 6), (20, 20), (30, 14), (62, 10), (80, 5), (80, 24), (200, 60)]
)
def test_windows(columns: int, rows: int) -> None:
    """Name and question are on the screen together, in any window, whatever the arguments."""
    program = """
    junk = "x\\n" * 1000 + " Tool: harmless\\n" * 50 + "中" * 1000
    say(ask(Action("delete_everything", {f"a{n}": junk for n in range(50)}, junk)))
    """
    with Terminal(program, columns=columns, rows=rows) as terminal:
        terminal.answer("")
        lines = screen(terminal, columns, rows)
        assert "".join(lines).endswith(QUESTION.rstrip())
        (tool,) = [number for number, line in enumerate(lines) if line.startswith(" Tool: ")]
        name = lines[tool][7:] + (lines[tool + 1][8:] if columns < 25 else "")
        assert name == "delete_everything"
        assert any(re.match(r"    … \d+ more", line) for line in lines)
        terminal.type("y\n")
        terminal.expect("<approved>")
