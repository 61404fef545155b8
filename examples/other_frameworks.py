"""One guarded function as a tool of other frameworks: each installed framework calls it.

Run:  pip install openai-agents pydantic-ai-slim llama-index-core fastmcp smolagents
      python examples/other_frameworks.py
You need no model and no API key: each framework gets the call that a model would make, and the
program prints what the model would read. You are asked once for each; deny some. CrewAI is tried as
well, but needs an environment of its own.
"""

import asyncio
import importlib.util
import json
from collections.abc import Awaitable, Callable

from actionguard import guard


# A denial is returned, because each framework gives its model what a tool returns.
@guard(on_denied="return")
async def refund(amount: float, customer_id: str) -> str:
    """Issue a refund to a customer's card."""
    return f"refunded {amount} to {customer_id}"


@guard(on_denied="return")
def refund_now(amount: float, customer_id: str) -> str:
    """Issue a refund to a customer's card.

    Args:
        amount: The amount in dollars.
        customer_id: Who gets it.
    """
    return f"refunded {amount} to {customer_id}"


CALL = {"amount": 4000.0, "customer_id": "cus_123"}


async def openai_agents() -> object:
    from agents import function_tool
    from agents.tool_context import ToolContext

    tool = function_tool(refund)
    call = json.dumps(CALL)
    context = ToolContext(None, tool_name="refund", tool_call_id="1", tool_arguments=call)
    return await tool.on_invoke_tool(context, call)


async def pydantic_ai() -> object:
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    run = await Agent(TestModel(), tools=[refund]).run("Refund it.")
    return run.output


async def llama_index() -> object:
    from llama_index.core.tools import FunctionTool

    return await FunctionTool.from_defaults(refund).acall(**CALL)


async def crewai() -> object:
    from crewai.tools import tool

    return await tool(refund).arun(**CALL)


async def fastmcp() -> object:
    from fastmcp import Client, FastMCP

    server = FastMCP("bank")
    server.tool(refund)
    async with Client(server) as client:
        return (await client.call_tool("refund", CALL)).data


async def smolagents() -> object:
    from smolagents import tool

    # It takes no async functions. This runs in a thread, as a plain function blocks while it waits.
    return await asyncio.to_thread(tool(refund_now), **CALL)


FRAMEWORKS: dict[str, Callable[[], Awaitable[object]]] = {
    "agents": openai_agents,
    "pydantic_ai": pydantic_ai,
    "llama_index": llama_index,
    "crewai": crewai,
    "fastmcp": fastmcp,
    "smolagents": smolagents,
}


async def main() -> None:
    for module, call in FRAMEWORKS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{module}: not installed")
        else:
            print(f"{module}: {await call()}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
