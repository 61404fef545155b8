"""An approval that outlives the process: asked for in one, answered in another, kept in SQLite.

Run:  pip install langgraph langgraph-checkpoint-sqlite
      python examples/durable_approval.py
Without the second package, the same happens in one process and in memory.

The graph pauses at the refund; nothing waits, and no process has to stay alive. Whoever resumes it
gives the answer: your own code as below, or a UI for LangChain agents, Agent Inbox or AG-UI.

LangGraph runs a paused node again from its start. So avoid side effects before the guarded call in
a node, and make only one guarded call per node. In an agent made with `create_agent`, each tool
call already has a task of its own.
"""

import subprocess
import sys
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from actionguard import guard
from actionguard.langgraph import InterruptChannel

try:
    from langgraph.checkpoint.sqlite import SqliteSaver
except ImportError:
    SqliteSaver = None

ORDER = {"configurable": {"thread_id": "order 42"}}


class Order(TypedDict, total=False):
    amount: float
    customer_id: str
    receipt: str


@guard(channel=InterruptChannel())
def refund_customer(amount: float, customer_id: str) -> str:
    """Issue a refund to a customer's card."""
    return f"refunded {amount} to {customer_id}"


def pay_back(order: Order) -> Order:
    return {"receipt": refund_customer(order["amount"], order["customer_id"])}


def ask(saver: Any) -> None:
    paused = workflow(saver).invoke({"amount": 4000.0, "customer_id": "cus_123"}, ORDER)
    (question,) = paused["__interrupt__"]
    print("asked:", question.value["message"])


def answer(saver: Any) -> None:
    # To deny it: {"type": "reject", "message": "wrong customer"}
    order = workflow(saver).invoke(Command(resume={"type": "approve"}), ORDER)
    print("done:", order["receipt"])


def workflow(saver: Any) -> Any:
    graph = StateGraph(Order).add_node(pay_back).add_edge(START, "pay_back")
    return graph.compile(checkpointer=saver)


if __name__ == "__main__":
    if SqliteSaver is None:
        memory = InMemorySaver()
        ask(memory)
        answer(memory)
    elif len(sys.argv) == 1:
        for step in ("ask", "answer"):
            subprocess.run([sys.executable, __file__, step], check=True)  # noqa: S603
    else:
        with SqliteSaver.from_conn_string("checkpoints.sqlite") as sqlite:
            {"ask": ask, "answer": answer}[sys.argv[1]](sqlite)
