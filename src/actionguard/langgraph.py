"""Approvals kept by LangGraph's checkpointer, so that they outlive the process that asked."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.runnables.config import ensure_config
from langgraph.types import interrupt

from actionguard._values import cut, json_text, show
from actionguard.channels.base import ApprovalChannel, earlier_line
from actionguard.core import Action, Decision, new_id

# Takes back an answer without an interrupt's id, which LangGraph keeps for no task in particular.
_NO_ANSWER = [("__resume__", None)], "00000000-0000-0000-0000-000000000000"


class InterruptChannel(ApprovalChannel):
    """Pauses the graph with `interrupt()`; the value that resumes the graph is the answer.

    The request is LangChain's `HITLRequest` for one action. Resume with
    `Command(resume={"type": "approve"})` or `Command(resume={"type": "reject", "message": "why"})`;
    if several calls are waiting, with a dict of such answers by interrupt id. The answers that the
    UIs of LangChain, Agent Inbox and AG-UI send work, too. Any other answer blocks the call.

    An answer is used once, and only for the call and the arguments that were shown. If the body
    fails and the graph is run again, approval is requested again.

    Each call needs a LangGraph task of its own. `create_agent` gives it one; so does a node that
    makes one guarded call. Several tool calls in one `ToolNode`, or several guarded calls in one
    node, are blocked: LangGraph resumes a task from its start, so a body could run twice, or an
    answer could reach the wrong call. As with any interrupt, whatever else a node does before the
    call, or beside it in threads of its own, is repeated when the node resumes. The guarded body
    itself must not pause the graph: its answer would be taken for one to another call.

    Calls outside a graph, or in a graph without a checkpointer, are blocked because nothing could
    resume them. On Python 3.10, calls in async nodes are blocked, too. Even in async graphs, the
    checkpointer's sync methods are used, in a thread; LangGraph's own checkpointers have both.
    """

    name = "interrupt"

    def request_approval(self, action: Action) -> Decision:
        """Pause the graph, or return the answer that it was resumed with."""
        task = _task()
        if task is None:
            raise RuntimeError("InterruptChannel needs a LangGraph run that has a checkpointer")
        if _has_several_tool_calls(task) or _first_call(task, action) != action.id:
            raise RuntimeError(
                "InterruptChannel can hold one call of a task, but this task makes more"
            )
        call = _call(action)
        # The answer that has no interrupt's id.
        plain = task["__pregel_scratchpad"].get_null_resume(False)
        answer = interrupt(_question(action, call["args"]))
        asked = _asked(task)
        _use_up(task, asked)
        # A plain one is given to whoever comes first, before LangGraph 1.2 even if several calls of
        # a subgraph wait.
        if call not in asked.values() or (answer is plain and len(asked) > 1):
            raise RuntimeError(
                "this answer belongs to another call, or to one with other arguments"
            )
        return _decision(answer, call, self.name)

    def held_before(self, action: Action) -> bool:
        """Whether there is a person's answer for a call that the policy no longer holds."""
        task = _task()
        if task is None:
            return False
        scratchpad = task["__pregel_scratchpad"]
        may_be_answered = scratchpad.resume or scratchpad.get_null_resume(False) is not None
        if may_be_answered and _call(action) in _asked(task).values():
            return True
        _first_call(task, action)
        return False


# --- what LangGraph keeps of a task ----------------------------------------------------------

# Only private keys tell. Tests pin them on the oldest and newest LangGraph; if one is missing, the
# call is blocked.


def _task() -> dict[str, Any] | None:
    """The task that makes the call; None if nobody could resume it."""
    task = ensure_config()["configurable"]
    return task if task.get("__pregel_checkpointer") else None


def _first_call(task: dict[str, Any], action: Action) -> Any:
    """The id of the first call of this run of the task, kept by an object of the run."""
    return vars(task["__pregel_read"]).setdefault("actionguard", action.id)


def _has_several_tool_calls(task: dict[str, Any]) -> bool:
    """Whether the task was given more than one tool call, as `ToolNode` reads its input."""
    _, channels, _, this = task["__pregel_read"].args
    given: Any = {name: each.get() for name, each in channels.items() if each.is_available()}
    if isinstance(this.path[1], int):  # it was sent what it works on
        given = given["__pregel_tasks"][this.path[1]].arg
    for some in given.values() if isinstance(given, dict) else [given]:
        if isinstance(some, list) and some:
            calls = getattr(some[-1], "tool_calls", some)  # of the last message
            if sum(isinstance(one, dict) and one.get("type") == "tool_call" for one in calls) > 1:
                return True
    return False


def _saver(task: dict[str, Any]) -> tuple[Any, Any]:
    """The checkpointer, and where it keeps the outermost graph.

    People see and answer the questions of that one, those of its subgraphs among them.
    """
    at = {"checkpoint_ns": "", "checkpoint_id": task["checkpoint_map"][""]}
    return task["__pregel_checkpointer"], {"configurable": {"thread_id": task["thread_id"], **at}}


def _asked(task: dict[str, Any]) -> dict[str, Any]:
    """The calls that people were shown when this task was paused, by the ids of the actions."""
    saver, place = _saver(task)
    outermost = task["checkpoint_ns"].split("|")[0].split(":")[-1]
    shown = {}
    for by, kind, value in saver.get_tuple(place).pending_writes:
        for question in value if (by, kind) == (outermost, "__interrupt__") else ():
            match question.value:
                case {"action_requests": [{"name": name, "args": args}], "id": str() as id_}:
                    shown[id_] = {"action": name, "args": args}
    return shown


def _use_up(task: dict[str, Any], asked: dict[str, Any]) -> None:
    """Make sure that nobody else gets the answer.

    LangGraph keeps answers. If the body fails and the graph is run again, they would release it
    again, and one without an interrupt's id also the next call of the same subgraph.

    Raises:
        RuntimeError: Another run of the graph had it first.
    """
    task["__pregel_send"]([("__resume__", task["__pregel_scratchpad"].resume[:-1])])
    saver, place = _saver(task)
    saver.put_writes(place, *_NO_ANSWER)
    # If several runs have the same answer, a checkpointer keeps the mark of the first.
    mark = " ".join([task["checkpoint_ns"], *asked]), "actionguard", new_id()
    saver.put_writes(place, [mark[1:]], mark[0])
    if mark not in saver.get_tuple(place).pending_writes:
        raise RuntimeError("this answer was used by another run of the graph")


# --- questions and answers -------------------------------------------------------------------


def _call(action: Action) -> dict[str, Any]:
    """The call as the person sees it, and as Agent Inbox sends it back."""
    # Neither browsers nor checkpointers keep all digits of a long number.
    args = json.loads(json_text(action.args), parse_int=lambda n: int(n) if len(n) < 16 else n)
    return {"action": action.tool_name, "args": args}


def _question(action: Action, args: Any) -> dict[str, Any]:
    """The question, as LangChain's `HITLRequest`."""
    about = filter(None, [action.tool_description, earlier_line(action)])
    asked = {"name": action.tool_name, "args": args, "arguments": args}  # the last: Agent Inbox
    allowed = {"action_name": action.tool_name, "allowed_decisions": ["approve", "reject"]}
    return {
        "action_requests": [{**asked, "description": "\n\n".join(about)}],
        "review_configs": [allowed],
        "message": f"Approve {action.pretty()}?",  # AG-UI shows this
        "id": action.id,
    }


def _decision(answer: Any, call: dict[str, Any], source: str) -> Decision:
    """The answer, if it is one that a UI sends for an approval."""
    approve = {"type": "approve"}
    # Agent Inbox may send back what it was asked.
    accepts = [[{"type": "accept", **echo}] for echo in ({}, {"args": None}, {"args": call})]
    if answer in (approve, {"decisions": [approve]}, *accepts):
        return Decision(True, source=source)
    comment: Any = ...  # not understood
    match answer:
        case {"type": "reject", **rest} | {"decisions": [{"type": "reject", **rest}]}:
            approved, comment = False, rest.get("message")
        case [{"type": "ignore" | "response", **rest}]:
            approved, comment = False, rest.get("args")
        case {"approved": bool() as approved, **rest} if rest.keys() <= {"reason"}:
            comment = rest.get("reason")
        case {"__agui_cancelled__": True}:
            return Decision(False, "the request was cancelled", source, unanswered=True)
    if not isinstance(comment, str | None):
        raise TypeError(f"an answer must be an approve or a reject, not {cut(show(answer), 200)}")
    return Decision(approved, comment, source)
