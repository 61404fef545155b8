"""Guarded functions in agent frameworks other than LangChain, driven by fake models.

They have environments of their own, which .ci/run makes from frameworks.txt and crewai.txt.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from concurrent.futures import Future
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from actionguard import Action, ApprovalChannel, ApprovalDenied, Decision, guard
from actionguard.testing import AutoApproveChannel, AutoDenyChannel, ScriptedChannel

pytestmark = [
    pytest.mark.timeout(300),
    # Their own deprecations, and CrewAI's way of importing, are theirs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ImportWarning"),
]

ARGS = {"amount": 4000.0, "customer_id": "cus_1"}
RAN: list[float] = []
WHY = "twice in a row"


def refund(amount: float, customer_id: str = "cus_0") -> str:
    """Refund an amount.

    Args:
        amount: How much.
        customer_id: To whom.
    """
    RAN.append(amount)
    return f"refunded {amount} to {customer_id}"


async def arefund(amount: float, customer_id: str = "cus_0") -> str:
    await asyncio.sleep(0)
    return refund(amount, customer_id)


arefund.__doc__ = refund.__doc__


# --- the frameworks: each shows a function to a model, which calls it once -------------------


class Framework:
    """A row of the README's table.

    `schema` is what the model gets to know of the function, `run` what it reads of its call.
    """

    distribution = ""
    #: What the model reads if the function raises.
    of_an_error = WHY
    #: How often it then calls the function.
    tries = 1
    takes_async = True
    #: Whether a plain function holds up its event loop.
    blocks = False
    #: The class of the context that it passes in, by the possible names of its module.
    context: tuple[str, ...] = ()

    def schema(self, function: Any) -> Any:
        raise NotImplementedError

    def run(self, function: Any) -> str:
        raise NotImplementedError


class OpenAIAgents(Framework):
    distribution = "openai-agents"
    of_an_error = "Please try again"
    context = ("agents:RunContextWrapper",)

    def schema(self, function: Any) -> Any:
        tool = _named("agents:function_tool")(function)
        return tool.name, tool.description, tool.params_json_schema

    def run(self, function: Any) -> str:
        tool, call = _named("agents:function_tool")(function), json.dumps(ARGS)
        context = _named("agents.tool_context:ToolContext")(
            "the session", tool_name=tool.name, tool_call_id="call_1", tool_arguments=call
        )
        return asyncio.run(tool.on_invoke_tool(context, call))


class PydanticAI(Framework):
    distribution = "pydantic-ai-slim"
    of_an_error = "the run ended"
    context = ("pydantic_ai:RunContext",)

    def _run(self, function: Any) -> tuple[Any, list[str]]:
        from pydantic_ai import Agent
        from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import FunctionModel

        tools: list[Any] = []
        read: list[str] = []

        def answer(messages: Any, info: Any) -> Any:
            tools[:] = info.function_tools
            answers = ("tool-return", "retry-prompt")
            read.extend(part.content for part in messages[-1].parts if part.part_kind in answers)
            return ModelResponse([TextPart("done") if read else ToolCallPart(tools[0].name, ARGS)])

        agent = Agent(FunctionModel(answer), tools=[function], deps_type=str)
        asyncio.run(agent.run("refund it", deps="the session"))
        return tools[0], read

    def schema(self, function: Any) -> Any:
        tool, _ = self._run(function)
        return tool.name, tool.description, tool.parameters_json_schema

    def run(self, function: Any) -> str:
        return self._run(function)[1][0]


class LlamaIndex(Framework):
    distribution = "llama-index-core"
    context = ("llama_index.core.workflow:Context",)

    def tool(self, function: Any) -> Any:
        from llama_index.core.tools import FunctionTool

        return function if hasattr(function, "metadata") else FunctionTool.from_defaults(function)

    def schema(self, function: Any) -> Any:
        metadata = self.tool(function).metadata
        return metadata.name, metadata.description, metadata.get_parameters_dict()

    def run(self, function: Any) -> str:
        from llama_index.core.agent.workflow import FunctionAgent
        from llama_index.core.base.llms.types import ToolCallBlock
        from llama_index.core.llms import ChatMessage
        from llama_index.core.llms.mock import MockFunctionCallingLLM

        tool = self.tool(function)
        read: list[str] = []

        def answer(messages: Any, **_: Any) -> Any:
            read.extend(message.content for message in messages if message.role == "tool")
            if read:
                return ChatMessage(role="assistant", content="done")
            call = ToolCallBlock(
                tool_call_id="call_1", tool_name=tool.metadata.name, tool_kwargs=ARGS
            )
            return ChatMessage(role="assistant", blocks=[call])

        async def main() -> None:
            llm = MockFunctionCallingLLM(response_generator=answer)
            await FunctionAgent(tools=[tool], llm=llm, streaming=False).run("refund it")

        asyncio.run(main())
        return read[0]


class CrewAI(Framework):
    distribution = "crewai"
    #: Whether the model has tool calls of its own, or writes them into its text.
    native = True

    def schema(self, function: Any) -> Any:
        made = _named("crewai.tools:tool")(function)
        return made.name, made.description, made.args_schema.model_json_schema()

    def run(self, function: Any) -> str:
        (text,) = self.results(function, calls=1)
        return text

    def results(self, function: Any, *, calls: int, **options: Any) -> list[str]:
        from crewai import Agent, BaseLLM, Crew, Task

        native = self.native
        read: list[str] = []

        class Calls(BaseLLM):
            def supports_function_calling(self) -> bool:
                return native

            def call(self, messages: Any, *_: Any, **__: Any) -> Any:
                read.clear()
                for message in messages[1:]:  # the first one explains how to call
                    text = message["content"] or ""
                    if message["role"] == "tool":
                        read.append(text)
                    elif "Observation: " in text:
                        read.append(text.split("Observation: ")[1])
                if len(read) == calls:
                    return "Thought: I now know the final answer\nFinal Answer: done"
                name, arguments = function.__name__, json.dumps(ARGS)
                if native:
                    return [{"id": "call_1", "function": {"name": name, "arguments": arguments}}]
                return f"Thought: refund\nAction: {name}\nAction Input: {arguments}"

        clerk = Agent(
            role="clerk",
            goal="refund",
            backstory="a clerk",
            llm=Calls(model="none"),
            tools=[_named("crewai.tools:tool")(function)],
        )
        task = Task(description="refund it", expected_output="done", agent=clerk)
        Crew(agents=[clerk], tasks=[task], **options).kickoff()
        return read


class CrewAIInText(CrewAI):
    native = False
    tries = 6


class Smolagents(Framework):
    distribution = "smolagents"
    takes_async = False

    def tool(self, function: Any) -> Any:
        from smolagents import tool

        return tool(function)

    def schema(self, function: Any) -> Any:
        made = self.tool(function)
        return made.name, made.description, made.inputs, made.output_type

    def run(self, function: Any) -> str:
        from smolagents import Model, ToolCallingAgent, models

        read: list[str] = []

        class OneCall(Model):
            def generate(self, messages: Any, **_: Any) -> Any:
                text = messages[-1].content[0]["text"]
                name, arguments = function.__name__, ARGS
                if "refunded" in text or "DENIED" in text:
                    read.append(text)
                    name, arguments = "final_answer", {"answer": "done"}
                call = models.ChatMessageToolCall(
                    models.ChatMessageToolCallFunction(name=name, arguments=arguments),
                    id=name,
                    type="function",
                )
                role = models.MessageRole.ASSISTANT
                return models.ChatMessage(role=role, content="", tool_calls=[call])

        ToolCallingAgent([self.tool(function)], model=OneCall(), verbosity_level=0).run("refund it")
        return read[0]


class MCP(Framework):
    distribution = "mcp"
    context = ("mcp.server.mcpserver:Context", "mcp.server.fastmcp:Context")  # mcp 2, mcp 1

    def __init__(self) -> None:
        self.old = _is_here(self) and version("mcp").startswith("1.")
        self.of_an_error = WHY if self.old else "Error executing tool"
        self.blocks = self.old

    def _server(self, function: Any) -> Any:
        server = _named("mcp.server.mcpserver:MCPServer", "mcp.server.fastmcp:FastMCP")("bank")
        server.add_tool(function)
        return server

    def schema(self, function: Any) -> Any:
        (tool,) = asyncio.run(self._server(function).list_tools())
        return tool.name, tool.description, tool.model_dump()

    def run(self, function: Any) -> str:
        async def main() -> Any:
            async with self.client(function) as client:
                return await self.call(client, function, timeout=60)

        (content,) = asyncio.run(main()).content
        return content.text

    def client(self, function: Any) -> Any:
        if not self.old:
            return _named("mcp.client:Client")(self._server(function))
        connected = _named("mcp.shared.memory:create_connected_server_and_client_session")
        return connected(self._server(function))

    def call(self, client: Any, function: Any, timeout: float) -> Any:
        limit = timedelta(seconds=timeout) if self.old else timeout
        return client.call_tool(function.__name__, ARGS, read_timeout_seconds=limit)


class FastMCP(MCP):
    distribution = "fastmcp"
    context = ("fastmcp:Context",)

    def __init__(self) -> None:
        self.old = False

    def _server(self, function: Any) -> Any:
        server = _named("fastmcp:FastMCP")("bank")
        server.tool(function)
        return server

    def schema(self, function: Any) -> Any:
        (tool,) = asyncio.run(self._server(function).list_tools())
        return tool.name, tool.description, tool.parameters, tool.output_schema

    def client(self, function: Any) -> Any:
        return _named("fastmcp:Client")(self._server(function))

    def call(self, client: Any, function: Any, timeout: float) -> Any:
        return client.call_tool(function.__name__, ARGS, timeout=timeout, raise_on_error=False)


def _named(*places: str) -> Any:
    """What stands at the first of these places that can be imported, as in `json:dumps`."""
    for place in places:
        module, name = place.split(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            continue
    raise ImportError(f"none of {places}")


def _is_here(framework: Framework) -> bool:
    try:
        version(framework.distribution)
    except PackageNotFoundError:
        return False
    return True


KINDS = (OpenAIAgents, PydanticAI, LlamaIndex, CrewAI, CrewAIInText, Smolagents, MCP, FastMCP)
FRAMEWORKS = [kind() for kind in KINDS]
HERE: Any = [framework for framework in FRAMEWORKS if _is_here(framework)]
if not HERE:
    pytest.skip("the frameworks have environments of their own", allow_module_level=True)


def _name(value: Any) -> str:
    return value.__name__ if callable(value) else type(value).__name__


def of(kind: type[Framework]) -> pytest.MarkDecorator:
    """Run a test with a kind of framework, if it is here."""
    some = [framework for framework in HERE if type(framework) is kind]
    if not some:
        return pytest.mark.skip(reason=f"{kind.distribution} has an environment of its own")
    return pytest.mark.parametrize("framework", some, ids=_name)


each = pytest.mark.parametrize(
    ("framework", "function"),
    [(one, f) for one in HERE for f in (refund, arefund) if f is refund or one.takes_async],
    ids=_name,
)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CrewAI reports to nobody, asks nothing, and keeps nothing in anybody's home."""
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("CREWAI_TESTING", "true")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    RAN.clear()


def test_each_has_an_environment() -> None:
    """What is tested here is what the environments are made of."""
    files = [Path(__file__).parent / name for name in ("frameworks.txt", "crewai.txt")]
    pinned = re.findall(r"^([\w-]+)==", "".join(map(Path.read_text, files)), re.MULTILINE)

    tested_elsewhere = {"deepagents"}
    assert set(pinned) - tested_elsewhere == {framework.distribution for framework in FRAMEWORKS}


class Looks:
    """A policy that sees where it is asked."""

    def __init__(self) -> None:
        self.on_loop: list[bool] = []

    def needs_approval(self, args: dict[str, Any]) -> bool:
        self.on_loop.append(asyncio._get_running_loop() is not None)
        return True


@pytest.mark.parametrize("outcome", ["approved", "returned", "raised"])
@each
def test_calls(framework: Any, function: Any, outcome: str, log_path: Path, lines: Any) -> None:
    """The model sees the same tool; approved, it runs once; denied, the model can be told why.

    An async function waits on the framework's loop, a plain one in one of its threads.
    """
    channel = AutoApproveChannel() if outcome == "approved" else AutoDenyChannel(WHY)
    on_denied: Any = "raise" if outcome == "raised" else "return"
    policy = Looks()
    guarded = guard(function, policy=policy, audit=log_path, channel=channel, on_denied=on_denied)

    try:
        text = framework.run(guarded)
    except ApprovalDenied:
        text = "the run ended"

    reads = {
        "approved": "refunded 4000.0 to cus_1",
        "returned": f"DENIED: a person denied {function.__name__}(amount=4000.0, customer_id=",
        "raised": framework.of_an_error,
    }
    assert reads[outcome] in text
    assert (WHY in text) is (outcome == "returned" or reads[outcome] == WHY)
    assert [4000.0] * (outcome == "approved") == RAN
    calls = framework.tries if outcome == "raised" else 1
    assert [request.args for request in channel.requests] == [ARGS] * calls
    assert [line["executed"] for line in lines()] == [outcome == "approved"] * calls
    assert policy.on_loop == [function is arefund or framework.blocks] * calls
    if outcome == "approved":
        assert framework.schema(guarded) == framework.schema(function)


@pytest.mark.parametrize("framework", [one for one in HERE if one.context], ids=_name)
def test_context(framework: Any, log_path: Path, lines: Any) -> None:
    """The framework's context is passed to the body, and neither to the person nor to the log."""
    context = _named(*framework.context)

    async def refund(ctx: Any, amount: float, customer_id: str) -> str:
        """Refund an amount."""
        return f"refunded {amount} with {type(ctx).__name__}"

    generic = isinstance(framework, (OpenAIAgents, PydanticAI))
    refund.__annotations__["ctx"] = context[str] if generic else context
    channel = AutoApproveChannel()
    guarded = guard(refund, audit=log_path, channel=channel)

    text = framework.run(guarded)

    assert "refunded 4000.0 with " in text
    assert "Context" in text
    assert [request.args for request in channel.requests] == [ARGS]
    assert [line["args"] for line in lines()] == [ARGS]
    assert framework.schema(guarded) == framework.schema(refund)


# --- what holds for some ---------------------------------------------------------------------


@of(LlamaIndex)
@pytest.mark.parametrize("function", [refund, arefund])
def test_existing_llama_index_tool(
    framework: Any, function: Any, log_path: Path, lines: Any
) -> None:
    """A tool of LlamaIndex is a callable: guarded, it is still a tool for its agents."""
    channel = ScriptedChannel(True, True, False)
    tool = guard(framework.tool(function), audit=log_path, channel=channel)

    assert framework.schema(tool) == framework.schema(function)
    assert tool(**ARGS).content == "refunded 4000.0 to cus_1"
    assert framework.run(tool) == "refunded 4000.0 to cus_1"
    assert "DENIED: a person denied" in framework.run(tool)
    assert {request.tool_name for request in channel.requests} == {function.__name__}
    assert [line["executed"] for line in lines()] == [True, True, False]


class Late(ApprovalChannel):
    """Approves when nobody listens any more."""

    def __init__(self) -> None:
        self._yes: Future[Decision] = Future()

    async def request_approval(self, action: Action) -> Decision:
        return await asyncio.wrap_future(self._yes)

    def approve(self) -> None:
        if self._yes.set_running_or_notify_cancel():
            self._yes.set_result(Decision.approve())


@pytest.mark.parametrize(
    ("framework", "function"),
    [
        (one, function)
        for one in HERE
        if isinstance(one, MCP)
        for function in (refund, arefund)
        if function is arefund or isinstance(one, FastMCP)
    ],
    ids=_name,
)
def test_a_client_that_gives_up(framework: Any, function: Any, log_path: Path, lines: Any) -> None:
    """It ends the wait of an async function; a plain one waits on, and a late approval runs it.

    The server of mcp 1 is not told, so an async function runs there, too.
    """
    channel = Late()
    guarded = guard(function, audit=log_path, channel=channel, on_denied="return")

    async def main() -> None:
        async with framework.client(guarded) as client:
            with pytest.raises(Exception, match=r"(?i)timed out"):
                await framework.call(client, function, timeout=2.0)
            channel.approve()
            while not lines():
                await asyncio.sleep(0.01)

    asyncio.run(main())

    runs = function is refund or framework.old
    assert [4000.0] * runs == RAN
    assert [line["executed"] for line in lines()] == [runs]


@of(CrewAI)
@pytest.mark.parametrize(("cache", "asked"), [(True, 1), (False, 2)], ids=["cache", "no cache"])
def test_crewai_keeps_results(framework: Any, cache: bool, asked: int, log_path: Path) -> None:
    """CrewAI answers an equal call with the first one's result, and asks and runs nothing."""
    channel = ScriptedChannel(False, True)
    guarded = guard(refund, audit=log_path, channel=channel, on_denied="return")

    first, second = framework.results(guarded, calls=2, cache=cache)

    assert "DENIED: a person denied" in first
    assert ("DENIED: a person denied" in second) is cache
    assert len(channel.requests) == asked


@of(Smolagents)
def test_smolagents_takes_plain_functions(framework: Any, log_path: Path) -> None:
    """An async function is refused, guarded or not."""
    for function in (arefund, guard(arefund, audit=log_path)):
        with pytest.raises(ValueError, match="No function definition found"):
            framework.schema(function)


@of(Smolagents)
def test_smolagents_sends_source_without_the_guard(framework: Any, log_path: Path) -> None:
    """What smolagents would send to a remote executor is the body alone."""

    def find(name: str) -> str:
        """Find a customer.

        Args:
            name: Whom.
        """
        return name

    guarded = framework.tool(guard(find, audit=log_path))

    assert guarded.to_dict()["code"] == framework.tool(find).to_dict()["code"]


@of(Smolagents)
@pytest.mark.parametrize("on_denied", ["return", "raise"])
def test_smolagents_code(framework: Any, on_denied: Any, log_path: Path, lines: Any) -> None:
    """The code that a model writes goes on with a returned denial, and is stopped by an error."""
    from smolagents import CodeAgent, Model, models

    read: list[str] = []
    code = [f"said = refund(**{ARGS})\nprint('told the customer:', said)", "final_answer('done')"]

    class Writes(Model):
        def generate(self, messages: Any, **_: Any) -> Any:
            read.append(messages[-1].content[0]["text"])
            content = f"<code>\n{code.pop(0)}\n</code>"
            return models.ChatMessage(role=models.MessageRole.ASSISTANT, content=content)

    channel = AutoDenyChannel(WHY)
    guarded = guard(refund, audit=log_path, channel=channel, on_denied=on_denied)
    CodeAgent([framework.tool(guarded)], model=Writes(), verbosity_level=0).run("refund it")

    assert WHY in read[1]
    assert ("told the customer:" in read[1]) is (on_denied == "return")
    assert [line["executed"] for line in lines()] == [False]
