"""Approvals kept by LangGraph's checkpointer, so that they outlive the process that asked."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.config import get_config
from langgraph.types import interrupt

from actionguard._values import cut, json_text, show
from actionguard.channels.base import ApprovalChannel, async_form_of, earlier_line
from actionguard.core import Action, Decision, new_id

# Takes back an answer without an interrupt's id, which LangGraph keeps for no task in particular.
_NO_ANSWER = [("__resume__", None)], "00000000-0000-0000-0000-000000000000"


class InterruptChannel(ApprovalChannel):
    """Pauses the graph with `interrupt()`; what resumes the graph is the answer.

    The request is LangChain's `HITLRequest` for one action. Resume with
    `Command(resume={"type": "approve"})` or `Command(resume={"type": "reject", "message": "why"})`;
    if several calls wait, with a dict of such answers by interrupt id. What the UIs of LangChain,
    Agent Inbox and AG-UI send for an approval is understood too. Any other answer blocks the call.

    An answer counts once, and only for the call that was shown, with the arguments that were shown.
    If the body fails and the graph is run again, somebody is asked again.

    Each call needs a LangGraph task of its own. `create_agent` gives it one; so does a node that
    makes one guarded call. Several tool calls in one `ToolNode`, or several guarded calls in one
    node, are blocked: LangGraph resumes a task from its start, so that a body could run twice and
    an answer reach the wrong call. Calls outside a graph, or in a graph without a checkpointer,
    are blocked because nothing could resume them. On Python 3.10, so are calls of async nodes.
    """

    name = "interrupt"

    def request_approval(self, action: Action) -> Decision:
        """Pause the graph, or return the answer that it was resumed with."""
        task = _Task()
        answer = task.ask(action, task.saved())
        task.saver.put_writes(task.place, *_NO_ANSWER)
        task.saver.put_writes(task.place, [task.mark[1:]], task.mark[0])
        return task.decision(answer, task.saved(), self.name)

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        task = _Task()
        answer = task.ask(action, await task.asaved())
        await task.saver.aput_writes(task.place, *_NO_ANSWER)
        await task.saver.aput_writes(task.place, [task.mark[1:]], task.mark[0])
        return task.decision(answer, await task.asaved(), self.name)

    def held_before(self, action: Action) -> bool:
        """Whether a call that the policy now releases still needs the answer of a person.

        It does if a person was asked about it before the graph was paused, and if its task has just
        been paused by another call, so that it will run again from its start.
        """
        task = _Task() if _configurable() else None
        return task is not None and task.holds(action, task.saved())

    async def aheld_before(self, action: Action) -> bool:
        """The same for async code."""
        task = _Task() if _configurable() else None
        return task is not None and task.holds(action, await task.asaved())


def _configurable() -> dict[str, Any]:
    """What LangGraph says of the task that makes a call; nothing if nobody could resume it."""
    try:
        task = get_config().get("configurable", {})
    except RuntimeError:  # no graph runs
        return {}
    return task if task.get("__pregel_checkpointer") else {}


class _Task:
    """The LangGraph task that makes a call."""

    #: Whether it was paused by the call.
    _waits = False

    def __init__(self) -> None:
        # Only private keys tell. Tests pin them on the oldest and newest LangGraph; if one is
        # missing, the call is blocked.
        if not (task := _configurable()):
            raise RuntimeError("InterruptChannel needs a LangGraph run that has a checkpointer")
        self._read, self._send = task["__pregel_read"], task["__pregel_send"]
        self._scratchpad, self._space = task["__pregel_scratchpad"], task["checkpoint_ns"]
        self.saver = task["__pregel_checkpointer"]
        # Where the outermost graph is kept: people see and answer its questions, those of its
        # subgraphs among them.
        place = {"checkpoint_ns": "", "checkpoint_id": task["checkpoint_map"][""]}
        self.place = {"configurable": {"thread_id": task["thread_id"], **place}}
        #: The answer that has no interrupt's id.
        self._plain = self._scratchpad.get_null_resume(False)
        #: Whether there may be an answer; in a subgraph, also one that was used before.
        self._is_resumed = self._plain is not None or bool(self._scratchpad.resume)

    def saved(self) -> Any:
        """What is kept of the task from before it was resumed."""
        return self.saver.get_tuple(self.place) if self._is_resumed else None

    async def asaved(self) -> Any:
        return await self.saver.aget_tuple(self.place) if self._is_resumed else None

    def ask(self, action: Action, saved: Any) -> Any:
        """Pause, or return what the graph was resumed with."""
        self._waits = True
        if self._has_several_tool_calls() or self._first() is not self:
            raise RuntimeError("InterruptChannel can hold one call of a task, and this makes more")
        self._call = _call(action)
        answer = interrupt(_question(action, self._call["args"]))
        self._waits = False
        # LangGraph keeps answers. If the body fails and the graph is run again, they would release
        # it again, and one without an interrupt's id also the next call of the same subgraph.
        self._send([("__resume__", self._scratchpad.resume[:-1])])
        asked = self._asked(saved)
        # An answer without an id is given to whoever comes first, before LangGraph 1.2 even if
        # several calls of a subgraph wait.
        is_clear = answer is not self._plain or len(asked) == 1
        self._was_asked = is_clear and self._call in asked.values()
        # If several runs have the same answer, a checkpointer keeps the mark of the first.
        self.mark = " ".join([self._space, *asked]), "actionguard", new_id()
        return answer

    def decision(self, answer: Any, saved: Any, source: str) -> Decision:
        """The answer, if it is for this call and no other run has used it."""
        if not self._was_asked:
            raise RuntimeError("this answer is to another call, or to one with other arguments")
        if self.mark not in (saved.pending_writes or ()):
            raise RuntimeError("this answer was used by another run of the graph")
        return _decision(answer, self._call, source)

    def holds(self, action: Action, saved: Any) -> bool:
        return _call(action) in self._asked(saved).values() or bool(self._first()._waits)

    def _first(self) -> Any:
        """The first call of this run of the task, kept by an object that belongs to the run."""
        return vars(self._read).setdefault("actionguard", self)

    def _asked(self, saved: Any) -> dict[str, Any]:
        """The calls that people were shown when this task was paused, by the ids of the actions."""
        task = self._space.split("|")[0].split(":")[-1]
        writes = (saved and saved.pending_writes) or ()
        questions = [value for by, kind, value in writes if (by, kind) == (task, "__interrupt__")]
        return dict(_shown(one) for several in questions for one in several)

    def _has_several_tool_calls(self) -> bool:
        """Whether the task was given more than one tool call, as `ToolNode` reads its input."""
        channels, task = self._read.args[1], self._read.args[3]
        if isinstance(task.path[1], int):  # a Send
            return _are_several(channels["__pregel_tasks"].get()[task.path[1]].arg)
        return any(_are_several(each.get()) for each in channels.values() if each.is_available())


def _are_several(given: Any) -> bool:
    """Whether these are tool calls, or messages that end in such, or a state with such."""
    if isinstance(given, dict):  # beside a single call, the state is there for its tool to read
        return "tool_call" not in given and any(map(_are_several, given.values()))
    if not isinstance(given, list) or not given:
        return False
    calls = given[-1].tool_calls if isinstance(given[-1], AIMessage) else given
    return len([c for c in calls if isinstance(c, dict) and c.get("type") == "tool_call"]) > 1


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


def _shown(question: Any) -> tuple[str, Any]:
    """The id and the call of one of our questions."""
    match question.value:
        case {"action_requests": [{"name": name, "args": args}], "id": str() as id_}:
            return id_, {"action": name, "args": args}
    return question.id, None


def _decision(answer: Any, call: dict[str, Any], source: str) -> Decision:
    """The answer, if it is one that a UI sends for an approval."""
    comment: Any = ...  # not understood
    # Agent Inbox may send back what it was asked.
    echoes: Any = ({}, {"args": None}, {"args": call})
    match answer:
        case {"decisions": [{"type": "approve" | "reject"} as only], **rest} if not rest:
            return _decision(only, call, source)
        case {"type": "approve", **rest} | [{"type": "accept", **rest}] if rest in echoes:
            approved, comment = True, None
        case {"type": "reject", **rest} if rest.keys() <= {"message"}:
            approved, comment = False, rest.get("message")
        case [{"type": "ignore" | "response", **rest}] if rest.keys() <= {"args"}:
            approved, comment = False, rest.get("args")
        case {"approved": bool() as approved, **rest} if rest.keys() <= {"reason"}:
            comment = rest.get("reason")
        case {"__agui_cancelled__": True, **rest} if rest.keys() <= {"interrupt_id"}:
            return Decision(False, "the request was cancelled", source, unanswered=True)
    if not isinstance(comment, str | None):
        raise TypeError(f'an answer has the type "approve" or "reject": {cut(show(answer), 200)}')
    return Decision(approved, comment, source)
