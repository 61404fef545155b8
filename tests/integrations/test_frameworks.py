"""Guarded functions inside agent frameworks other than LangChain, driven by models of no cost.

They have environments of their own, which .ci/run makes: frameworks.txt and crewai.txt beside this
say of what.
"""

from __future__ import annotations

import asyncio
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
    """Refund an amount.

    Args:
        amount: How much.
        customer_id: To whom.
    """
    await asyncio.sleep(0)
    RAN.append(amount)
    return f"refunded {amount} to {customer_id}"


class OpenAIAgents:
    """function_tool, in a run with a model that calls it once."""

    distribution = "openai-agents"
    of_an_error = "Please try again"

    def tool(self, function: Any) -> Any:
        from agents import function_tool

        return function_tool(function)

    def schema(self, function: Any) -> Any:
        tool = self.tool(function)
        return tool.name, tool.description, tool.params_json_schema

    def run(self, function: Any) -> str:
        from agents import (
            Agent,
            Model,
            ModelResponse,
            Runner,
            Usage,
            set_tracing_disabled,
        )
        from openai.types.responses import (
            ResponseFunctionToolCall,
            ResponseOutputMessage,
            ResponseOutputText,
        )

        read: list[str] = []

        class OneCall(Model):
            async def get_response(self, *_: Any, input: Any, **__: Any) -> Any:
                outputs = [
                    item["output"]
                    for item in input
                    if isinstance(item, dict) and item.get("type") == "function_call_output"
                ]
                read.extend(outputs)
                if outputs:
                    text = ResponseOutputText(type="output_text", text="done", annotations=[])
                    done = ResponseOutputMessage(
                        id="m", role="assistant", status="completed", type="message", content=[text]
                    )
                    return ModelResponse(output=[done], usage=Usage(), response_id=None)
                call = ResponseFunctionToolCall(
                    type="function_call",
                    call_id="call_1",
                    name=function.__name__,
                    arguments=json.dumps(ARGS),
                )
                return ModelResponse(output=[call], usage=Usage(), response_id=None)

            def stream_response(self, *_: Any, **__: Any) -> Any:
                raise NotImplementedError

        set_tracing_disabled(True)
        agent = Agent(name="clerk", tools=[self.tool(function)], model=OneCall())
        asyncio.run(Runner.run(agent, "refund it", context="the session"))
        (text,) = read
        return text

    def with_context(self) -> Any:
        from agents import RunContextWrapper

        def refund(ctx: RunContextWrapper[str], amount: float, customer_id: str) -> str:
            """Refund an amount."""
            return f"refunded {amount} in {ctx.context}"

        refund.__annotations__["ctx"] = RunContextWrapper[str]
        return refund


class PydanticAI:
    """A tool of an Agent, in a run with a FunctionModel that calls it once."""

    distribution = "pydantic-ai-slim"
    of_an_error = "the run ended"

    def tool(self, function: Any) -> Any:
        from pydantic_ai import Tool

        return Tool(function)

    def _agent(self, function: Any) -> tuple[Any, list[Any], list[str]]:
        from pydantic_ai import Agent
        from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import FunctionModel

        seen: list[Any] = []
        read: list[str] = []

        def answer(messages: Any, info: Any) -> Any:
            (tool,) = info.function_tools
            seen[:] = [tool.name, tool.description, tool.parameters_json_schema]
            read.extend(
                part.content
                for part in messages[-1].parts
                if part.part_kind in ("tool-return", "retry-prompt")
            )
            if read:
                return ModelResponse(parts=[TextPart("done")])
            return ModelResponse(parts=[ToolCallPart(tool.name, ARGS)])

        return Agent(FunctionModel(answer), tools=[function], deps_type=str), seen, read

    def schema(self, function: Any) -> Any:
        agent, seen, _ = self._agent(function)
        asyncio.run(agent.run("refund it", deps="the session"))
        return seen

    def run(self, function: Any) -> str:
        agent, _, read = self._agent(function)
        asyncio.run(agent.run("refund it", deps="the session"))
        (text,) = read
        return text

    def with_context(self) -> Any:
        from pydantic_ai import RunContext

        def refund(ctx: RunContext[str], amount: float, customer_id: str) -> str:
            """Refund an amount."""
            return f"refunded {amount} in {ctx.deps}"

        refund.__annotations__["ctx"] = RunContext[str]
        return refund


class LlamaIndex:
    """FunctionTool, in a run of a FunctionAgent with a model that calls it once."""

    distribution = "llama-index-core"

    def tool(self, function: Any) -> Any:
        from llama_index.core.tools import FunctionTool

        return FunctionTool.from_defaults(function)

    def schema(self, function: Any) -> Any:
        metadata = self.tool(function).metadata
        return metadata.name, metadata.description, metadata.get_parameters_dict()

    def run(self, function: Any) -> str:
        from llama_index.core.agent.workflow import FunctionAgent
        from llama_index.core.base.llms.types import ToolCallBlock
        from llama_index.core.llms import ChatMessage
        from llama_index.core.llms.mock import MockFunctionCallingLLM

        read: list[str] = []

        def answer(messages: Any, **_: Any) -> Any:
            read.extend(m.content for m in messages if m.role == "tool")
            if read:
                return ChatMessage(role="assistant", content="done")
            call = ToolCallBlock(
                tool_call_id="call_1", tool_name=function.__name__, tool_kwargs=ARGS
            )
            return ChatMessage(role="assistant", blocks=[call])

        async def main() -> None:
            agent = FunctionAgent(
                tools=[self.tool(function)],
                llm=MockFunctionCallingLLM(response_generator=answer),
                streaming=False,
            )
            await agent.run("refund it")

        asyncio.run(main())
        return read[0]

    def with_context(self) -> Any:
        from llama_index.core.workflow import Context

        async def refund(ctx: Context, amount: float, customer_id: str) -> str:
            """Refund an amount."""
            return f"refunded {amount} in {type(ctx).__name__}"

        refund.__annotations__["ctx"] = Context
        return refund


class CrewAI:
    """A tool of an Agent in a Crew, with a model that calls it."""

    distribution = "crewai"
    #: Whether the model has tool calls of its own, or writes them into its text.
    native = True

    def tool(self, function: Any) -> Any:
        from crewai.tools import tool

        return tool(function)

    def schema(self, function: Any) -> Any:
        made = self.tool(function)
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
            tools=[self.tool(function)],
        )
        task = Task(description="refund it", expected_output="done", agent=clerk)
        Crew(agents=[clerk], tasks=[task], **options).kickoff()
        return read


class CrewAIInText(CrewAI):
    """The same, with a model that writes its calls into its text."""

    native = False
    tries = 6  # a tool that raised is run again and again


class Smolagents:
    """A tool of a ToolCallingAgent, with a model that calls it once."""

    distribution = "smolagents"
    takes_async = False

    def tool(self, function: Any) -> Any:
        from smolagents import tool

        return tool(function)

    def schema(self, function: Any) -> Any:
        made = self.tool(function)
        return made.name, made.description, made.inputs, made.output_type

    def run(self, function: Any) -> str:
        from smolagents import Model, ToolCallingAgent
        from smolagents.models import (
            ChatMessage,
            ChatMessageToolCall,
            ChatMessageToolCallFunction,
            MessageRole,
        )

        read: list[str] = []

        class OneCall(Model):
            def generate(self, messages: Any, **_: Any) -> Any:
                text = str(messages[-1].content)
                if "refunded" not in text and "DENIED" not in text:
                    return self._calls(function.__name__, ARGS)
                read.append(messages[-1].content[0]["text"])
                return self._calls("final_answer", {"answer": "done"})

            def _calls(self, name: str, arguments: Any) -> Any:
                call = ChatMessageToolCall(
                    function=ChatMessageToolCallFunction(name=name, arguments=arguments),
                    id=name,
                    type="function",
                )
                return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])

        agent = ToolCallingAgent(tools=[self.tool(function)], model=OneCall(), verbosity_level=0)
        agent.run("refund it")
        return read[0]


class MCP:
    """A tool of an MCP server, called by a client in the same process; the reference SDK."""

    distribution = "mcp"

    def __init__(self) -> None:
        self.old = _is_here(self) and version("mcp").startswith("1.")
        self.of_an_error = WHY if self.old else "Error executing tool"
        self.blocks = self.old  # a plain function holds up its loop

    def _server(self, function: Any) -> Any:
        try:
            from mcp.server.mcpserver import MCPServer
        except ImportError:  # before 2.0
            from mcp.server.fastmcp import FastMCP as MCPServer

        server = MCPServer("bank")
        server.add_tool(function)
        return server

    def schema(self, function: Any) -> Any:
        (tool,) = asyncio.run(self._server(function).list_tools())
        return tool.name, tool.description, tool.model_dump()

    def run(self, function: Any) -> str:
        async def main() -> Any:
            async with self.client(function) as client:
                return await client.call_tool(function.__name__, ARGS)

        (content,) = asyncio.run(main()).content
        return content.text

    def client(self, function: Any) -> Any:
        if self.old:
            from mcp.shared.memory import create_connected_server_and_client_session

            return create_connected_server_and_client_session(self._server(function))
        from mcp.client import Client

        return Client(self._server(function))

    async def call(self, client: Any, name: str, timeout: float) -> Any:
        return await client.call_tool(
            name, ARGS, read_timeout_seconds=timedelta(seconds=timeout) if self.old else timeout
        )

    def with_context(self) -> Any:
        try:
            from mcp.server.mcpserver import Context
        except ImportError:
            from mcp.server.fastmcp import Context

        async def refund(amount: float, customer_id: str, ctx: Context) -> str:
            """Refund an amount."""
            return f"refunded {amount} in {type(ctx).__name__}"

        refund.__annotations__["ctx"] = Context
        return refund


class FastMCP:
    """A tool of a FastMCP server, called by a client in the same process."""

    distribution = "fastmcp"

    def tool(self, function: Any) -> Any:
        from fastmcp.tools import Tool

        return Tool.from_function(function)

    def _server(self, function: Any) -> Any:
        import fastmcp

        server = fastmcp.FastMCP("bank")
        server.tool(function)
        return server

    def schema(self, function: Any) -> Any:
        (tool,) = asyncio.run(self._server(function).list_tools())
        return tool.name, tool.description, tool.parameters, tool.output_schema

    def run(self, function: Any) -> str:
        async def main() -> Any:
            async with self.client(function) as client:
                return await client.call_tool(function.__name__, ARGS, raise_on_error=False)

        (content,) = asyncio.run(main()).content
        return content.text

    def client(self, function: Any) -> Any:
        import fastmcp

        return fastmcp.Client(self._server(function))

    async def call(self, client: Any, name: str, timeout: float) -> Any:
        return await client.call_tool(name, ARGS, timeout=timeout)

    def with_context(self) -> Any:
        from fastmcp import Context

        async def refund(amount: float, customer_id: str, ctx: Context) -> str:
            """Refund an amount."""
            return f"refunded {amount} in {type(ctx).__name__}"

        refund.__annotations__["ctx"] = Context
        return refund


def _is_here(framework: Any) -> bool:
    try:
        version(framework.distribution)
    except PackageNotFoundError:
        return False
    return True


FRAMEWORKS = [
    OpenAIAgents(),
    PydanticAI(),
    LlamaIndex(),
    CrewAI(),
    CrewAIInText(),
    Smolagents(),
    MCP(),
    FastMCP(),
]
HERE = [framework for framework in FRAMEWORKS if _is_here(framework)]
if not HERE:
    pytest.skip("the frameworks have environments of their own", allow_module_level=True)


def _name(value: Any) -> str:
    return value.__name__ if callable(value) else type(value).__name__


each = pytest.mark.parametrize(
    ("framework", "function"),
    [
        (framework, function)
        for framework in HERE
        for function in (refund, arefund)
        if function is refund or getattr(framework, "takes_async", True)
    ],
    ids=_name,
)


def needs(framework: Any) -> pytest.MarkDecorator:
    distribution = framework.distribution
    reason = f"{distribution} has an environment of its own"
    return pytest.mark.skipif(not _is_here(framework), reason=reason)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CrewAI reports to nobody, asks nothing, and keeps nothing in anybody's home."""
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("CREWAI_TESTING", "true")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    RAN.clear()


def test_each_has_an_environment() -> None:
    """What is tested here is what the environments are made of."""
    folder = Path(__file__).parent
    pinned = [
        name
        for file in ("frameworks.txt", "crewai.txt")
        for name in re.findall(r"^([\w-]+)==", (folder / file).read_text("utf-8"), re.MULTILINE)
    ]

    assert set(pinned) == {framework.distribution for framework in FRAMEWORKS}


@each
def test_schema(framework: Any, function: Any, log_path: Path) -> None:
    """The framework shows its model the same tool as for the bare function."""
    guarded = guard(function, audit=log_path, channel=AutoApproveChannel(), on_denied="return")

    assert framework.schema(guarded) == framework.schema(function)


@each
def test_approved(framework: Any, function: Any, log_path: Path, lines: Any) -> None:
    """An approved call runs once, its result reaches the model, and one line is left."""
    channel = AutoApproveChannel()
    guarded = guard(function, audit=log_path, channel=channel, on_denied="return")

    text = framework.run(guarded)

    assert "refunded 4000.0 to cus_1" in text
    assert [request.args for request in channel.requests] == [ARGS]
    assert RAN == [4000.0]
    (line,) = lines()
    assert (line["args"], line["executed"]) == (ARGS, True)


@each
def test_denied(framework: Any, function: Any, log_path: Path, lines: Any) -> None:
    """A denied call does not run, and its model reads why."""
    channel = AutoDenyChannel(WHY)
    guarded = guard(function, audit=log_path, channel=channel, on_denied="return")

    text = framework.run(guarded)

    assert "DENIED: a person refused" in text
    assert WHY in text
    assert RAN == []
    (line,) = lines()
    assert (line["approved"], line["executed"]) == (False, False)


@each
def test_denied_as_an_error(framework: Any, function: Any, log_path: Path, lines: Any) -> None:
    """Some frameworks tell their model of the error too; with the others it has to be returned."""
    channel = AutoDenyChannel(WHY)
    guarded = guard(function, audit=log_path, channel=channel)

    try:
        text = framework.run(guarded)
    except ApprovalDenied:
        text = "the run ended"

    of_an_error = getattr(framework, "of_an_error", WHY)
    assert of_an_error in text
    assert (WHY in text) is (of_an_error == WHY)
    assert RAN == []
    asked = getattr(framework, "tries", 1)
    assert [(line["approved"], line["executed"]) for line in lines()] == [(False, False)] * asked


@pytest.mark.parametrize("framework", HERE, ids=_name)
def test_method(framework: Any, log_path: Path, lines: Any) -> None:
    """A method that is guarded in its class goes where a function goes."""
    options: dict[str, Any] = {"channel": AutoApproveChannel(), "audit": log_path}

    class Bank:
        def bare(self, amount: float, customer_id: str = "cus_0") -> str:
            """Refund an amount.

            Args:
                amount: How much.
                customer_id: To whom.
            """
            return f"refunded {amount} to {customer_id}"

        guarded = guard(bare, **options)

    bank = Bank()

    assert framework.schema(bank.guarded) == framework.schema(bank.bare)
    lines_before = len(lines())
    assert "refunded 4000.0 to cus_1" in framework.run(bank.guarded)
    assert [line["args"] for line in lines()[lines_before:]] == [ARGS]


@needs(FastMCP)
def test_fastmcp_takes_no_guarded_bound_method(log_path: Path) -> None:
    """What `guard` makes of a bound method is no method, and is refused; see `test_method`."""

    class Bank:
        def refund(self, amount: float) -> str:
            """Refund an amount."""
            return f"refunded {amount}"

    with pytest.raises(Exception, match="Unable to generate pydantic-core schema"):
        FastMCP().schema(guard(Bank().refund, audit=log_path))


@each
def test_where_it_waits(framework: Any, function: Any, log_path: Path) -> None:
    """An async function waits on the framework's loop, and a plain one in a thread beside it."""
    on_loop: list[bool] = []

    class Looks:
        def needs_approval(self, args: dict[str, Any]) -> bool:
            on_loop.append(asyncio._get_running_loop() is not None)
            return False

    framework.run(guard(function, policy=Looks(), audit=log_path))

    assert on_loop == [function is arefund or getattr(framework, "blocks", False)]


@pytest.mark.parametrize(
    "framework",
    [one for one in HERE if hasattr(one, "tool") and not isinstance(one, (Smolagents, LlamaIndex))],
    ids=_name,
)
def test_a_tool_that_is_made_already(framework: Any) -> None:
    """The framework's own tool cannot be guarded: the function has to be, before."""
    with pytest.raises(TypeError, match="guard the function"):
        guard(framework.tool(refund))


@pytest.mark.parametrize(
    "framework", [one for one in HERE if isinstance(one, LlamaIndex)], ids=_name
)
@pytest.mark.parametrize("function", [refund, arefund])
def test_a_tool_that_is_called(
    framework: Any, function: Any, log_path: Path, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool of LlamaIndex's is a callable: guarded, it is a tool for its agents still."""
    channel = ScriptedChannel(True, True, True, False)
    tool = framework.tool(function)
    guarded = guard(tool, audit=log_path, channel=channel)
    schema = framework.schema(function)
    monkeypatch.setattr(framework, "tool", lambda _: guarded)

    assert framework.schema(function) == schema
    assert guarded(**ARGS).content == "refunded 4000.0 to cus_1"
    assert guarded.call(**ARGS).content == "refunded 4000.0 to cus_1"
    assert framework.run(function) == "refunded 4000.0 to cus_1"
    assert "DENIED: a person refused" in framework.run(function)
    assert len(RAN) == 3
    assert {request.tool_name for request in channel.requests} == {function.__name__}
    assert {request.tool_description for request in channel.requests} == {tool.metadata.description}
    assert [line["executed"] for line in lines()] == [True, True, True, False]


@pytest.mark.parametrize(
    "framework", [one for one in HERE if hasattr(one, "with_context")], ids=_name
)
def test_runtime_context(framework: Any, log_path: Path, lines: Any) -> None:
    """What the framework passes in reaches the body, and neither the person nor the log."""
    function = framework.with_context()
    channel = AutoApproveChannel()
    guarded = guard(function, audit=log_path, channel=channel, exclude=["ctx"])

    text = framework.run(guarded)

    assert "refunded 4000.0 in " in text
    assert [request.args for request in channel.requests] == [ARGS]
    (line,) = lines()
    assert line["args"] == ARGS
    assert framework.schema(guarded) == framework.schema(function)


@pytest.mark.parametrize(
    "framework", [one for one in HERE if isinstance(one, (MCP, FastMCP))], ids=_name
)
def test_results_that_are_checked(framework: Any, log_path: Path, lines: Any) -> None:
    """Where a string is no result, the framework's own error says that the call was denied."""
    if framework.distribution == "fastmcp":
        from fastmcp.exceptions import ToolError
    else:
        try:
            from mcp.server.mcpserver.exceptions import ToolError
        except ImportError:  # before 2.0
            from mcp.server.fastmcp.exceptions import ToolError

    def refund(amount: float, customer_id: str) -> dict[str, float]:
        """Refund an amount."""
        return {customer_id: amount}

    def refuse(denied: ApprovalDenied) -> Any:
        raise ToolError(str(denied))

    channel = AutoDenyChannel(WHY)
    returns = guard(refund, audit=log_path, channel=channel, on_denied="return")
    raises = guard(refund, audit=log_path, channel=channel, on_denied=refuse)

    assert framework.schema(raises) == framework.schema(refund)
    assert "It was not executed" not in framework.run(returns)
    assert "DENIED: a person refused" in framework.run(raises)
    assert WHY in framework.run(raises)
    assert [line["executed"] for line in lines()] == [False] * 3


class Late(ApprovalChannel):
    """Says yes when nobody listens any more."""

    def __init__(self) -> None:
        self._yes: Future[Decision] = Future()

    async def request_approval(self, action: Action) -> Decision:
        return await asyncio.wrap_future(self._yes)

    def say_yes(self) -> None:
        if self._yes.set_running_or_notify_cancel():
            self._yes.set_result(Decision.approve())


@pytest.mark.parametrize(
    ("framework", "function", "runs"),
    [
        (framework, function, function is refund or getattr(framework, "old", False))
        for framework in HERE
        if isinstance(framework, (MCP, FastMCP))
        for function in (refund, arefund)
        if function is arefund or isinstance(framework, FastMCP)
    ],
    ids=_name,
)
def test_a_client_that_gives_up(
    framework: Any, function: Any, runs: bool, log_path: Path, lines: Any
) -> None:
    """It ends the wait of an async function; a plain one waits on, and a late yes runs it."""
    channel = Late()
    guarded = guard(function, audit=log_path, channel=channel, on_denied="return")

    async def main() -> None:
        async with framework.client(guarded) as client:
            with pytest.raises(Exception, match=r"(?i)timed out"):
                await framework.call(client, function.__name__, timeout=2.0)
            channel.say_yes()
            while not lines():
                await asyncio.sleep(0.01)

    asyncio.run(main())

    assert [4000.0] * runs == RAN
    assert [line["executed"] for line in lines()] == [runs]


@pytest.mark.parametrize(("cache", "asked"), [(True, 1), (False, 2)], ids=["cache", "no cache"])
@needs(CrewAI)
def test_crewai_keeps_results(cache: bool, asked: int, log_path: Path) -> None:
    """CrewAI answers an equal call with the first one's result, and asks and runs nothing."""
    channel = ScriptedChannel(False, True)
    guarded = guard(refund, audit=log_path, channel=channel, on_denied="return")

    first, second = CrewAI().results(guarded, calls=2, cache=cache)

    assert "DENIED: a person refused" in first
    assert ("DENIED: a person refused" in second) is cache
    assert len(channel.requests) == asked


@needs(Smolagents)
def test_smolagents_takes_no_async_functions(log_path: Path) -> None:
    """An async function is refused with the same error as if it had no guard."""
    guarded = guard(arefund, audit=log_path, channel=AutoApproveChannel())

    for function in (arefund, guarded):
        with pytest.raises(ValueError, match="No function definition found"):
            Smolagents().schema(function)


@needs(Smolagents)
def test_smolagents_takes_no_guarded_tool(log_path: Path) -> None:
    """Where the guard is put around its own tool, smolagents says so."""
    from smolagents import Model, ToolCallingAgent

    with pytest.raises(AssertionError, match="instance of BaseTool"):
        ToolCallingAgent(tools=[guard(Smolagents().tool(refund), audit=log_path)], model=Model())


@needs(Smolagents)
def test_smolagents_sends_source_without_the_guard(log_path: Path) -> None:
    """What smolagents would send to a remote executor is the body alone."""
    from smolagents import tool

    def find(name: str) -> str:
        """Find a customer.

        Args:
            name: Whom.
        """
        return name

    guarded = guard(find, audit=log_path, channel=AutoDenyChannel())

    assert tool(guarded).to_dict()["code"] == tool(find).to_dict()["code"]


@pytest.mark.parametrize("on_denied", ["return", "raise"])
@needs(Smolagents)
def test_smolagents_code(on_denied: Any, log_path: Path, lines: Any) -> None:
    """The code that a model writes goes on with a returned denial, and is stopped by an error."""
    from smolagents import CodeAgent, Model, tool
    from smolagents.models import ChatMessage, MessageRole

    read: list[str] = []
    code = [
        f"said = refund(**{ARGS})\nprint('told the customer:', said)",
        "final_answer('done')",
    ]

    class Writes(Model):
        def generate(self, messages: Any, **_: Any) -> Any:
            read.append(messages[-1].content[0]["text"])
            return ChatMessage(
                role=MessageRole.ASSISTANT, content=f"<code>\n{code.pop(0)}\n</code>"
            )

    channel = AutoDenyChannel(WHY)
    guarded = guard(refund, audit=log_path, channel=channel, on_denied=on_denied)
    CodeAgent(tools=[tool(guarded)], model=Writes(), verbosity_level=0).run("refund it")

    assert WHY in read[1]
    assert ("told the customer:" in read[1]) is (on_denied == "return")
    (line,) = lines()
    assert line["executed"] is False
