"""An agent with guarded tools: it asks you before the refund, and reads what you said.

Run:  pip install langchain langgraph && python examples/agent_loop.py
A model of no cost plays the agent. It looks up a customer, which asks nobody, and wants to refund
4,000, which asks you. Deny it: the agent reads why, and goes on with its conversation.
"""

from collections.abc import Iterator
from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage

from actionguard import ApprovalPolicy, guard_tools

try:
    from langchain.agents import create_agent
except ImportError:  # LangChain before 1.0
    from langgraph.prebuilt import create_react_agent as create_agent


def find_customer(name: str) -> str:
    """Look up a customer's id by name."""
    return "cus_123"


def refund_customer(amount: float, customer_id: str) -> str:
    """Issue a refund to a customer's card."""
    return f"refunded {amount} to {customer_id}"


# One policy for each tool by name. A tool that is not listed here would be held always.
tools = guard_tools(
    [find_customer, refund_customer],
    policy={
        "find_customer": ApprovalPolicy(require_always=False),
        "refund_customer": ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100}),
    },
)


class Model(GenericFakeChatModel):
    """Says what it was told to; a real model would come from langchain.chat_models."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def script() -> Iterator[AIMessage]:
    find = {"name": "find_customer", "args": {"name": "Ann"}, "id": "call_1"}
    yield AIMessage("", tool_calls=[{**find, "type": "tool_call"}])
    refund = {"amount": 4000.0, "customer_id": "cus_123"}
    call = {"name": "refund_customer", "args": refund, "id": "call_2"}
    yield AIMessage("", tool_calls=[{**call, "type": "tool_call"}])
    yield AIMessage("I have seen to it.")


if __name__ == "__main__":
    agent = create_agent(Model(messages=script()), tools)
    state = agent.invoke({"messages": [("user", "Please refund Ann her 4,000.")]})
    for message in state["messages"]:
        if isinstance(message, ToolMessage):
            print(f"{message.name} ({message.status}): {message.content}")
        elif message.content:
            print(f"{message.type}: {message.content}")
