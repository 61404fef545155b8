"""The terminal channel on a real terminal, with a person's hands on its keys."""

from __future__ import annotations

import json
import re
import signal
import subprocess
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
async def cancellable(*actions):
    task = asyncio.gather(*map(aask, actions))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        print("<cancelled>", flush=True)
"""

both = pytest.mark.parametrize("asking", ["ask(refund)", "asyncio.run(aask(refund))"])


def cancelling(program: str) -> Terminal:
    return Terminal(CANCELLABLE + textwrap.dedent(program))


def screen(terminal: Terminal, columns: int, rows: int) -> list[str]:
    """What a terminal of that size shows after all that was written."""
    pyte = pytest.importorskip("pyte")
    display = pyte.Screen(columns, rows)
    pyte.Stream(display).feed(terminal.output.replace("\n", "\r\n"))
    return [line.rstrip() for line in display.display]


# --- answers ---------------------------------------------------------------------------------


@both
def test_answers(asking: str) -> None:
    """A person is asked on stderr, answers, and sees what came of it; the mode stays as it is."""
    with Terminal(f"for _ in range(4): say({asking})") as terminal:
        shown = terminal.expect(QUESTION)
        assert " Tool: refund_customer\n" in shown
        assert termios.tcgetattr(terminal.terminal) == terminal.modes
        terminal.type("y\n")
        assert " ✅ approved\n<approved>" in terminal.expect("<approved>")
        terminal.answer("\n")
        terminal.expect(" ⛔ denied\n<denied>")
        terminal.answer("n\x7fyes\n")  # edited before Enter
        terminal.expect(" ✅ approved\n<approved>")
        terminal.answer("no, wrong customer\n")
        terminal.expect(" ⛔ denied: wrong customer\n<denied> wrong customer")
        assert terminal.rest().strip() == ""
        assert "\x1b" not in terminal.output


@both
def test_ctrl_d(asking: str) -> None:
    """Ctrl-D leaves the question unanswered, also after a yes without Enter; the next is asked."""
    with Terminal(f"for _ in range(3): say({asking})") as terminal:
        terminal.answer(CTRL_D)
        terminal.expect("<unanswered> the input ended without an answer")
        terminal.answer("y" + CTRL_D + CTRL_D)
        terminal.expect("<unanswered>")
        terminal.answer("y\n")
        terminal.expect("<approved>")


@both
def test_timeout(asking: str) -> None:
    """A question that nobody answers in time is denied as unanswered, and the next is asked."""
    program = f"""
    patient, channel = channel, CLIChannel(timeout=0.3)
    say({asking})
    channel = patient
    say({asking})
    """
    with Terminal(program) as terminal:
        terminal.answer("ye")
        terminal.expect("⛔ not approved: denied automatically after 0.3 s\n<unanswered> denied")
        terminal.answer("s\n")
        terminal.expect("<denied> s")


def test_everything_in_the_pager() -> None:
    """`v` shows what was cut in the pager, and the question comes again with the whole request."""
    program = 'say(ask(Action("run", {"script": "\\n".join(map(str, range(1000)))})))'
    with Terminal(program, env={"PAGER": "cat"}, rows=20) as terminal:
        shown = terminal.answer("v\n")
        assert "lines left out" in shown
        assert "│ 500\n" not in shown
        shown = terminal.answer("too long\n")
        assert shown.count("│ 500\n") == 1
        assert any(line == " Tool: run" for line in screen(terminal, 80, 20))
        terminal.expect("<denied> too long")


def test_type_ahead() -> None:
    """Keys that were pressed before the question do not answer it, whole lines or half ones."""
    program = """
    print('<ready>', flush=True)
    print(sys.stdin.buffer.read(3), flush=True)
    say(ask(refund))
    print(sys.stdin.buffer.readline(), flush=True)
    """
    with Terminal(program) as terminal:
        terminal.expect("<ready>")
        terminal.type("go y\ny\ny\nye")
        terminal.expect("b'go '")
        terminal.answer("s\n")
        terminal.expect("<denied> s")
        terminal.expect(r"b'y\n'")  # what Python has read ahead remains the program's


@pytest.mark.parametrize("lines", [3, 200_000])
def test_paste(lines: int) -> None:
    """Of a paste of any length, the first line answers this question and none the next."""
    program = """
    from actionguard.channels import _terminal
    _terminal._PAUSE = 1  # a busy machine may let the person wait in the midst of it
    for _ in range(2): say(ask(refund))
    """
    with Terminal(program) as terminal:
        terminal.expect(QUESTION)
        paste = threading.Thread(target=terminal.type, args=("y\n" * lines,))
        paste.start()
        terminal.expect("<approved>")
        terminal.answer("n\n")
        terminal.expect("<denied>")
        paste.join()


def test_after_a_program_that_left_the_terminal_raw() -> None:
    """Enter works without line mode, too."""
    with Terminal("import tty; tty.setraw(0); say(ask(refund))") as terminal:
        terminal.answer("y\r")
        terminal.expect("<approved>")


# --- Ctrl-C ----------------------------------------------------------------------------------

CTRL_C_PROGRAMS = {
    "plain": "ask(refund)",
    "task": "asyncio.run(aask(refund))",
    "plain in a task": """
        async def main(): ask(refund)
        asyncio.run(main())
        """,
    "executor": """
        async def main(): await asyncio.to_thread(ask, refund)
        asyncio.run(main())
        """,
    "thread": "threading.Thread(target=ask, args=(refund,)).start()",
    "thread pool": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor() as pool:
            list(pool.map(ask, [refund] * 5))
        """,
    "tasks in threads": """
        threads = [threading.Thread(target=lambda: asyncio.run(aask(refund))) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
    "plain before a thread": """
        def ask_while_another_waits(question):
            thread = threading.Thread(target=ask, args=(refund,))
            thread.start()
            while len(cli._turns) < 2: time.sleep(0.01)
            print(question, end="", file=sys.stderr, flush=True)
            return sys.stdin.readline()
        from actionguard.channels import cli
        CLIChannel(input_fn=ask_while_another_waits).request_approval(refund)
        """,
}


@pytest.mark.parametrize("program", CTRL_C_PROGRAMS.values(), ids=CTRL_C_PROGRAMS)
def test_ctrl_c(program: str) -> None:
    """One Ctrl-C ends the program, whoever asks."""
    with Terminal(program) as terminal:
        terminal.answer(CTRL_C)
        rest = terminal.rest()
        assert "KeyboardInterrupt" in rest
        assert QUESTION not in rest


@pytest.mark.parametrize("call", ["agent.invoke(messages)", "asyncio.run(agent.ainvoke(messages))"])
def test_ctrl_c_in_an_agent(call: str, tmp_path: Path) -> None:
    """LangGraph asks from a pool of threads that it waits for; one Ctrl-C ends that as well."""
    pytest.importorskip("langgraph")
    program = f"""
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
    agent = graph.compile()
    calls = [{{"name": "refund", "args": {{"amount": n}}, "id": str(n)}} for n in range(3)]
    messages = {{"messages": [AIMessage("", tool_calls=calls)]}}
    {call}
    """
    with Terminal(program, cwd=tmp_path) as terminal:
        terminal.answer(CTRL_C)
        assert "KeyboardInterrupt" in terminal.rest()
        assert "<refunded>" not in terminal.output
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["executed"], line["approved"]) for line in lines] == [(False, None)] * 3


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
    while thread in threading.enumerate(): time.sleep(0.01)
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


# --- withdrawn -------------------------------------------------------------------------------


def test_withdrawn_question() -> None:
    """A cancelled wait takes its question back; half an answer to it does not go to the next."""
    program = """
    async def main():
        await cancellable(refund, *[Action(f"tool{n}", {}) for n in range(5)])
        say(await aask(Action("second", {})))
    asyncio.run(main())
    """
    with cancelling(program) as terminal:
        terminal.answer("ye")
        terminal.expect("ye")
        terminal.process.send_signal(signal.SIGUSR1)
        shown = terminal.answer("s\n")
        assert "<cancelled>" in shown
        assert "not approved: the request was withdrawn" in shown
        assert re.findall(r"Tool: (\w+)", shown) == ["second"]
        terminal.expect("<denied> s")


def test_input_after_a_withdrawn_question() -> None:
    """What the program itself asks for next gets its line, and nothing of the question is left."""
    program = """
    if sys.version_info >= (3, 13):  # Python's own prompt, as at its REPL
        from _pyrepl.readline import _setup
        _setup({})
    asyncio.run(cancellable(refund))
    print(f"<{input('>>> ')}>", flush=True)
    say(ask(refund))
    """
    with cancelling(program) as terminal:
        terminal.expect(QUESTION)
        terminal.process.send_signal(signal.SIGUSR1)
        terminal.expect(">>> ")
        terminal.type("2 + 2\r")
        terminal.expect("<2 + 2>")
        terminal.answer("y\n")
        terminal.expect("<approved>")


# --- where it is asked -----------------------------------------------------------------------


@both
def test_redirected(asking: str) -> None:
    """A pipe for stdout stays clean; with `2>log` the question is still put to the person."""
    with Terminal(f"say({asking})", stdout=subprocess.PIPE) as terminal:
        terminal.answer("y\n")
        assert terminal.process.stdout.read() == b"<approved> \n"
    with Terminal(f"say({asking})", stderr=subprocess.PIPE) as terminal:
        assert "Tool: refund_customer" in terminal.answer("y\n")
        terminal.expect("✅ approved\n<approved>")
        assert terminal.process.stderr.read() == b""


def test_stdin_is_a_pipe() -> None:
    """With a pipe for stdin nobody is asked, not at the terminal either."""
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
