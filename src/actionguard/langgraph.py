"""Approvals kept by LangGraph's checkpointer, so that they outlive the process that asked."""

from __future__ import annotations

import json
import threading
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from langchain_core.messages import AIMessage, ToolMessage

from actionguard._values import cut, json_text, show
from actionguard.channels.base import ApprovalChannel, async_form_of, earlier_line
from actionguard.core import Action, Decision

try:
    from langgraph.config import get_config
    from langgraph.types import interrupt
except ImportError as error:
    raise ImportError("actionguard.langgraph needs LangGraph: pip install langgraph") from error


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
    are blocked because nothing could resume them.
    """

    name = "interrupt"

    def request_approval(self, action: Action) -> Decision:
        """Pause the graph, or return the answer that it was resumed with."""
        task = _Task()
        saved = task.saver.get_tuple(task.place) if task.is_resumed() else None
        answer = task.ask(action, saved)
        for used in task.used:
            task.saver.put_writes(task.place, *used)
        return task.decision(answer, task.saver.get_tuple(task.place), self.name)

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        task = _Task()
        saved = await task.saver.aget_tuple(task.place) if task.is_resumed() else None
        answer = task.ask(action, saved)
        for used in task.used:
            await task.saver.aput_writes(task.place, *used)
        return task.decision(answer, await task.saver.aget_tuple(task.place), self.name)

    def held_before(self, action: Action) -> bool:
        """Whether a call that the policy now releases still needs the answer of a person.

        It does if a person was asked about it before the graph was paused, and if its task has just
        been paused by another call, so that it will run again from its start.
        """
        if not _can_pause():
            return False
        task = _Task()
        return task.holds(action, task.saver.get_tuple(task.place) if task.is_resumed() else None)

    async def aheld_before(self, action: Action) -> bool:
        """The same for async code."""
        if not _can_pause():
            return False
        task = _Task()
        saved = await task.saver.aget_tuple(task.place) if task.is_resumed() else None
        return task.holds(action, saved)


_lock = threading.Lock()
#: The tasks that made a guarded call, by an object that each has to itself, and whether they wait.
_waits: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

_SEVERAL = (
    "InterruptChannel can hold one call per run of a LangGraph task, and this task makes more: "
    "give each call a task of its own, as create_agent does, or with a Send"
)


class _Task:
    """The LangGraph task that makes a call."""

    def __init__(self) -> None:
        # Only private keys tell. Tests pin them on the oldest and newest LangGraph; if one is
        # missing, the call is blocked.
        task = _configurable()
        if "__pregel_scratchpad" not in task:
            raise RuntimeError(
                "InterruptChannel can only ask inside a LangGraph run (in async runs on Python "
                "3.10, only through plain tools)"
            )
        if not task["__pregel_checkpointer"]:
            raise RuntimeError("InterruptChannel needs a graph that has a checkpointer")
        self._scratchpad = task["__pregel_scratchpad"]
        self._read = task["__pregel_read"]
        self._send = task["__pregel_send"]
        self._space = task["checkpoint_ns"]
        self.saver = task["__pregel_checkpointer"]
        #: Where the outermost graph is kept: people see and answer its questions, those of its
        #: subgraphs among them.
        self.place = {
            "configurable": {
                "thread_id": task["thread_id"],
                "checkpoint_ns": "",
                "checkpoint_id": task["checkpoint_map"][""],
            }
        }
        #: What says in the checkpoint that the answer was used.
        self.used: list[tuple[list[tuple[str, Any]], str]] = []

    def is_resumed(self) -> bool:
        """Whether there may be an answer; in a subgraph, also one that was used before."""
        plain = self._scratchpad.get_null_resume(False)
        return plain is not None or bool(self._scratchpad.resume)

    def ask(self, action: Action, saved: Any) -> Any:
        """Pause, or return what the graph was resumed with."""
        if self._has_several_tool_calls():
            raise RuntimeError(_SEVERAL)
        with _lock:
            if self._read in _waits:
                raise RuntimeError(_SEVERAL)
            _waits[self._read] = True
        self._call = _call(action)
        answer = interrupt(_request(action, self._call))
        _waits[self._read] = False
        # LangGraph keeps answers. If the body fails and the graph is run again, they would release
        # it again, and one without an interrupt's id also the next call of the same subgraph.
        self._send([("__resume__", self._scratchpad.resume[:-1])])
        is_plain = answer is self._scratchpad.get_null_resume(False)
        if is_plain:
            self.used.append(([("__resume__", None)], "00000000-0000-0000-0000-000000000000"))
        asked = self._asked(saved)
        # A plain answer is given to whoever comes first, before LangGraph 1.2 even if several calls
        # of a subgraph wait.
        self._was_asked = self._call in asked.values() and not (is_plain and len(asked) > 1)
        # If several runs have the same answer, a checkpointer keeps what the first one wrote.
        self.used.append(([("actionguard", uuid4().hex)], " ".join([self._space, *asked])))
        return answer

    def decision(self, answer: Any, saved: Any, source: str) -> Decision:
        """The answer, if it is for this call and no other run has used it."""
        if not self._was_asked:
            raise RuntimeError(
                "the graph was resumed with an answer to another call, or this call now has other "
                "arguments than were shown"
            )
        (mark,), used_by = self.used[-1]
        if (used_by, *mark) not in (saved.pending_writes or ()):
            raise RuntimeError("this answer was used by another run of the graph")
        return _decision(answer, self._call, source)

    def holds(self, action: Action, saved: Any) -> bool:
        if saved and _call(action) in self._asked(saved).values():
            return True
        with _lock:
            return _waits.setdefault(self._read, False)

    def _asked(self, saved: Any) -> dict[str, Any]:
        """The calls that people were shown when this task was paused, by the ids of the actions."""
        calls: dict[str, Any] = {}
        task = self._space.split("|")[0].split(":")[-1]
        for task_id, channel, value in (saved and saved.pending_writes) or ():
            if task_id == task and channel == "__interrupt__":
                for question in value:
                    match question.value:
                        case {
                            "action_requests": [{"name": name, "args": args}],
                            "id": str() as id_,
                        }:
                            calls[id_] = {"action": name, "args": args}
                        case _:
                            calls[question.id] = None
        return calls

    def _has_several_tool_calls(self) -> bool:
        """Whether the task was given more than one tool call, as `ToolNode` reads its input."""
        _, channels, _, task = self._read.args
        if task.path[-1] is True:  # a `@task` of the functional API
            return False
        if task.path[0] == "__pregel_push":  # a Send
            given = channels["__pregel_tasks"].get()[task.path[1]].arg
        else:
            given = {key: each.get() for key, each in channels.items() if each.is_available()}
        if not isinstance(given, dict):
            return _are_several(given)
        # Beside a single call there may be the state for its tool to read.
        return "tool_call" not in given and any(map(_are_several, given.values()))


def _whole_number(digits: str) -> int | str:
    """An int, or its text where a browser or a checkpointer could not keep all of it."""
    return int(digits) if len(digits) < 16 else digits


def _call(action: Action) -> dict[str, Any]:
    """The call as the person sees it, and as Agent Inbox sends it back."""
    args = json.loads(json_text(action.args), parse_int=_whole_number)
    return {"action": action.tool_name, "args": args}


def _request(action: Action, call: dict[str, Any]) -> dict[str, Any]:
    """The question, as LangChain's `HITLRequest`."""
    about = filter(None, [action.tool_description, earlier_line(action)])
    asked = {"name": action.tool_name, "args": call["args"], "description": "\n\n".join(about)}
    return {
        "action_requests": [asked | {"arguments": call["args"]}],  # Agent Inbox reads the last
        "review_configs": [
            {"action_name": action.tool_name, "allowed_decisions": ["approve", "reject"]}
        ],
        "message": f"Approve {action.pretty()}?",  # AG-UI shows this
        "id": action.id,
    }


def _configurable() -> dict[str, Any]:
    try:
        return get_config().get("configurable", {})
    except RuntimeError:  # nothing runs
        return {}


def _can_pause() -> bool:
    task = _configurable()
    return "__pregel_scratchpad" in task and bool(task["__pregel_checkpointer"])


def _are_several(given: Any) -> bool:
    """Whether this is a list of tool calls, or of messages that end in such."""
    if not isinstance(given, list):
        return False
    calls = [one for one in given if isinstance(one, dict) and one.get("type") == "tool_call"]
    for message in given:
        if isinstance(message, AIMessage):
            calls = [dict(call) for call in message.tool_calls]
    done = {message.tool_call_id for message in given if isinstance(message, ToolMessage)}
    return len(calls) > 1 and not done.issuperset(call["id"] for call in calls)


def _decision(answer: Any, call: dict[str, Any], source: str) -> Decision:
    """The answer, if it is one that a UI sends for an approval."""
    comment: Any = None
    match answer:
        case {"decisions": [{"type": "approve" | "reject"} as only], **rest} if not rest:
            answer = only
    match answer:
        case {"type": "approve", **rest} if not rest:  # LangChain
            approved = True
        case {"type": "reject", **rest} if rest.keys() <= {"message"}:
            approved, comment = False, rest.get("message")
        case [{"type": "accept", **rest}] if rest in ({}, {"args": None}, {"args": call}):
            approved = True  # Agent Inbox, which may send back what it was asked
        case [{"type": "ignore", **rest}] if rest.keys() <= {"args"}:
            approved = False
        case [{"type": "response", "args": str() as comment, **rest}] if not rest:
            approved = False
        case {"approved": bool() as approved, **rest} if rest.keys() <= {"reason"}:  # AG-UI
            comment = rest.get("reason")
        case {"__agui_cancelled__": True, **rest} if rest.keys() <= {"interrupt_id"}:
            return Decision(False, "the request was cancelled", source, unanswered=True)
        case _:
            raise ValueError(
                'resume the graph with {"type": "approve"}, or {"type": "reject", "message": '
                f'"why"}}, not {cut(show(answer), 200)}'
            )
    if not isinstance(comment, (str, type(None))):
        raise TypeError(f"the comment of an answer must be text, not {cut(show(comment), 200)}")
    return Decision(approved, comment, source)
