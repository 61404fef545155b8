"""The prompt in a notebook: a real Jupyter kernel, with the test as its front end."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipykernel")
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

QUESTION = "Approve this action? [y/N] "
TIMEOUT = 250

SETUP = """
import asyncio, os
from actionguard import ApprovalDenied, AuditLog, guard

@guard(audit=AuditLog(enabled=False))
def refund(amount):
    return f"refunded {amount}"

@guard(audit=AuditLog(enabled=False))
async def arefund(amount):
    return f"refunded {amount}"
"""


class Notebook:
    """Runs cells; answers their questions, if it has answers."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client

    def run(
        self, code: str, *answers: str | Callable[[], object], allow_stdin: bool = True
    ) -> dict[str, Any]:
        """Run a cell; a function in place of an answer is called, and leaves it unanswered.

        Returns:
            Its text by stream, its error's name, and what it asked.
        """
        left = list(answers)
        seen: dict[str, Any] = {"stdout": "", "stderr": "", "asked": [], "error": None}

        def output(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                seen[content["name"]] += content["text"]
            elif message["msg_type"] == "error":
                seen["error"] = content["ename"]

        def question(message: dict[str, Any]) -> None:
            seen["asked"].append(message["content"]["prompt"])
            answer = left.pop(0)
            if callable(answer):
                answer()
            else:
                self._client.input(answer)

        self._client.execute_interactive(
            code,
            allow_stdin=allow_stdin,
            output_hook=output,
            stdin_hook=question,
            timeout=TIMEOUT,
        )
        assert not left
        return seen


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingKernelClient]:
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        manager = KernelManager(connection_file=str(folder / "kernel.json"))
        manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.fixture
def notebook(kernel: BlockingKernelClient) -> Notebook:
    notebook = Notebook(kernel)
    assert notebook.run(SETUP)["error"] is None
    return notebook


def test_sync_cell(notebook: Notebook) -> None:
    """A plain guarded call shows the request below its cell and asks there."""
    seen = notebook.run("print(refund(4000))", "y")

    assert seen["asked"] == [QUESTION]
    assert seen["stdout"] == "refunded 4000\n"
    assert " Tool: refund\n" in seen["stderr"]
    assert "    amount = 4000\n" in seen["stderr"]
    assert "✅ approved" in seen["stderr"]


def test_denied_cell(notebook: Notebook) -> None:
    """A no denies, as everywhere."""
    seen = notebook.run("refund(4000)", "")

    assert seen["error"] == "ApprovalDenied"
    assert seen["stdout"] == ""


def test_awaited_in_a_cell(notebook: Notebook) -> None:
    """`await` in a cell asks in the cell, too."""
    seen = notebook.run("print(await arefund(4000))", "y")

    assert seen["asked"] == [QUESTION]
    assert seen["stdout"] == "refunded 4000\n"
    assert " Tool: arefund\n" in seen["stderr"]


def test_plain_call_in_an_async_cell(notebook: Notebook) -> None:
    """A plain guarded call works while the notebook's loop runs."""
    seen = notebook.run("await asyncio.sleep(0)\nprint(refund(1), await arefund(2))", "y", "yes")

    assert seen["stdout"] == "refunded 1 refunded 2\n"


def test_gathered_in_a_cell(notebook: Notebook) -> None:
    """Several at once ask one after the other, each for itself."""
    seen = notebook.run(
        "print(await asyncio.gather(*map(arefund, range(3)), return_exceptions=True))",
        *("y", "n", "y"),
    )

    assert len(seen["asked"]) == 3
    assert "['refunded 0', ApprovalDenied(" in seen["stdout"]
    assert seen["stdout"].endswith("'refunded 2']\n")


@pytest.mark.parametrize("call", ["refund(4000)", "await arefund(4000)"])
def test_front_end_without_input(notebook: Notebook, call: str) -> None:
    """Where the front end takes no input, the call is denied at once, saying why."""
    seen = notebook.run(
        f"try: {call}\nexcept ApprovalDenied as denied: print(denied)", allow_stdin=False
    )

    assert "this front end takes no input" in seen["stdout"]
    assert "a person refused" not in seen["stdout"]
    assert "not approved: this front end takes no input" in seen["stderr"]


def test_interrupted(notebook: Notebook, kernel: BlockingKernelClient) -> None:
    """Interrupting the kernel at the question ends the call, and the next is asked as ever."""
    manager = kernel.parent
    errors = []

    kernel.execute_interactive(
        "refund(4000)",
        output_hook=lambda m: m["msg_type"] == "error" and errors.append(m["content"]["ename"]),
        stdin_hook=lambda message: manager.interrupt_kernel(),
        stop_on_error=False,  # else the kernel drops a cell that comes soon after
        timeout=TIMEOUT,
    )

    assert errors == ["KeyboardInterrupt"]
    assert notebook.run("print(refund(1))", "y")["stdout"] == "refunded 1\n"


def test_interrupted_pool(notebook: Notebook, kernel: BlockingKernelClient) -> None:
    """An interrupted cell takes the questions of its threads along: the next is asked as ever."""
    manager = kernel.parent
    cell = """
    from concurrent.futures import ThreadPoolExecutor
    ThreadPoolExecutor().submit(refund, 4000).result()
    """

    kernel.execute_interactive(
        textwrap.dedent(cell),
        stdin_hook=lambda message: manager.interrupt_kernel(),
        stop_on_error=False,  # else the kernel drops a cell that comes soon after
        timeout=TIMEOUT,
    )

    assert notebook.run("print(refund(1))", "y")["stdout"].endswith("refunded 1\n")


def test_timeout(notebook: Notebook) -> None:
    """A question that nobody answered in time is taken back: the next cell asks as ever."""
    cell = """
    from actionguard import CLIChannel
    guard(refund.__wrapped__, audit=AuditLog(enabled=False), channel=CLIChannel(timeout=0.2))(4000)
    """

    seen = notebook.run(textwrap.dedent(cell), lambda: None)

    assert seen["error"] == "ApprovalDenied"
    assert "not approved: denied automatically after 0.2 s" in seen["stderr"]
    assert notebook.run("print(refund(1))", "y")["stdout"] == "refunded 1\n"


def test_task_that_gives_up(notebook: Notebook, tmp_path: Path) -> None:
    """A question whose task gave up is taken back: the next cell asks as ever."""
    asked = tmp_path / "asked"
    cell = f"""
    waiting = asyncio.ensure_future(arefund(4000))
    while not os.path.exists({str(asked)!r}):
        await asyncio.sleep(0.01)
    await asyncio.wait_for(waiting, 0.01)
    """

    seen = notebook.run(textwrap.dedent(cell), asked.touch)

    assert seen["error"] == "TimeoutError"
    seen = notebook.run("print(await arefund(1))", "y")
    assert seen["asked"] == [QUESTION]
    assert seen["stdout"] == "refunded 1\n"
