"""An agent with guarded tools: you are asked before the refund, and the agent gets your answer.

Run:  pip install langchain langgraph && python examples/agent_loop.py
A fake model plays the agent. It looks up a customer, which needs no approval, and then wants to
refund 4,000, which does. Deny it with a reason, such as "wrong customer", and see what it says.
"""

from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

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


# One policy for each tool. A tool that is not listed here would always need approval.
tools = guard_tools(
    [find_customer, refund_customer],
    policy={
        "find_customer": ApprovalPolicy(require_always=False),
        "refund_customer": ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100}),
    },
)


class Model(GenericFakeChatModel):
    """Calls both tools and reports the outcome; a real one comes from langchain.chat_models."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
        answers = [message for message in messages if isinstance(message, ToolMessage)]
        if not answers:
            reply = calls("find_customer", name="Ann")
        elif len(answers) == 1:
            reply = calls("refund_customer", amount=4000.0, customer_id=answers[0].content)
        elif answers[-1].status == "error":
            reply = AIMessage("I could not make the refund: it was not approved.")
        else:
            reply = AIMessage(f"Done: {answers[-1].content}")
        return ChatResult(generations=[ChatGeneration(message=reply)])


def calls(tool: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": args, "id": f"call {tool}"}])


if __name__ == "__main__":
    agent = create_agent(Model(messages=iter(())), tools)
    state = agent.invoke({"messages": [("user", "Please refund Ann her 4,000.")]})
    for message in state["messages"]:
        if isinstance(message, ToolMessage):
            print(f"{message.name} ({message.status}): {message.content}")
        elif message.content:
            print(f"{message.type}: {message.content}")
