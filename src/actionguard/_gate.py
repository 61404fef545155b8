"""The one path of a guarded call: ask, run, record."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from actionguard._signature import Unnamed
from actionguard._snapshot import Snapshot, slots_of
from actionguard.audit import AuditLog
from actionguard.channels.base import ApprovalChannel, ask
from actionguard.core import Action, Decision, blocked_message, denial_message
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import Policy, is_bool, rule_names

T = TypeVar("T")


#: An attribute of a cancellation: it came after a call's release, but before its body began.
NEVER_BEGAN = "_actionguard_never_began"


class Refused(Exception):
    """The gate did not release a call: in words for an agent, and as an error for code.

    Unwinds a call up to its gate, or through the gates of a tool that was guarded twice. An edge is
    handed it, and says it in its caller's language.
    """

    def __init__(self, message: str, error: Exception, logged: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        #: What a guarded function raises: `ApprovalDenied`, or what the policy or channel raised.
        self.error = error
        #: What the log says; None where the decision says it all.
        self.logged = logged


AnyCallable = Callable[..., Any]
#: Names a call's arguments; raises TypeError where they do not fit.
Bind = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]
#: Says a refusal to the caller: raises, or returns what the call returns instead.
Refuse = Callable[[Refused], Any]
#: Asks a channel from plain code.
Ask = Callable[[ApprovalChannel, Action], Decision]


@dataclass(eq=False)
class Gate:
    """One guarded callable's policy, channel and log, and the way of a call between them.

    The four forms differ only in how they wait and run; what guarding means stands in `_Passage`.
    Each guarded function is the one frame that stands between the caller and the body.
    """

    name: str
    description: str | None
    policy: Policy
    channel: ApprovalChannel
    audit: AuditLog

    def __post_init__(self) -> None:
        #: Whether the policy has rules that need to know which argument is which.
        self.needs_names = bool(rule_names(self.policy))

    def plain(self, run: AnyCallable, bind: Bind, refuse: Refuse, ask: Ask = ask) -> AnyCallable:
        """The guarded form of a plain callable."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            with _Passage(self, bind(args, kwargs)) as passage, passage:
                if passage.held():
                    passage.answered(ask(self.channel, passage.action))
                passage.starts()
                return passage.returned(run(*args, **kwargs))
            return refuse(passage.refusal())

        return guarded

    def coroutine(self, run: AnyCallable, bind: Bind, refuse: Refuse) -> AnyCallable:
        """The guarded form of a coroutine function: it waits on the caller's loop."""
        from actionguard.channels._waiting import ask_async

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            with _Passage(self, bind(args, kwargs)) as passage, passage:
                if passage.held():
                    passage.answered(await ask_async(self.channel, passage.action))
                passage.starts()
                return passage.returned(await run(*args, **kwargs))
            return refuse(passage.refusal())

        return guarded

    def generator(self, run: AnyCallable, bind: Bind, refuse: Refuse) -> AnyCallable:
        """The guarded form of a generator function: its first step is what has to be released."""

        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with _Passage(self, bind(args, kwargs)) as passage, passage:
                if passage.held():
                    passage.answered(ask(self.channel, passage.action))
                passage.starts()
                return passage.returned((yield from run(*args, **kwargs)))
            yield refuse(passage.refusal())

        return guarded

    def async_generator(self, run: AnyCallable, bind: Bind, refuse: Refuse) -> AnyCallable:
        """The guarded form of an async generator function."""
        from actionguard.channels._waiting import ask_async

        async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            with _Passage(self, bind(args, kwargs)) as passage, passage:
                if passage.held():
                    passage.answered(await ask_async(self.channel, passage.action))
                passage.starts()
                # What `yield from` is for a plain generator; async ones have none (PEP 525).
                steps = run(*args, **kwargs)
                try:
                    item = await _first_step(steps)
                    while True:
                        try:
                            sent = yield item
                        except GeneratorExit:
                            await steps.aclose()
                            raise
                        except BaseException as thrown:
                            item = await steps.athrow(thrown)
                        else:
                            item = await steps.asend(sent)
                except StopAsyncIteration:
                    return
            yield refuse(passage.refusal())

        return guarded


def _first_step(steps: AsyncGenerator[T, Any]) -> Awaitable[T]:
    """Begin an async generator that whoever iterates it also closes.

    Else its loop would close it as well, at the end of the program and when it is collected, and
    of two that close it at once one fails: https://peps.python.org/pep-0525/#finalization.
    """
    hooks = sys.get_asyncgen_hooks()  # they are looked up now, and kept
    sys.set_asyncgen_hooks(firstiter=_not_ours, finalizer=_not_ours)
    try:
        return steps.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _not_ours(steps: AsyncGenerator[Any, Any]) -> None:
    pass


class _Passage:
    """One call on its way through the gate; leaving it, by whatever way, writes the audit line.

    Entered twice: Ctrl-C may come before the first step of leaving, or in the midst of it, and then
    leaving once more writes the line.
    """

    def __init__(self, gate: Gate, args: dict[str, Any]) -> None:
        self._gate = gate
        self._unnamed = type(args) is Unnamed
        self._snapshot = Snapshot(args)
        self._view = self._snapshot.copy()
        self._id = os.urandom(8).hex()
        self._entry = gate.audit.entry(self._id, gate.name, self._view)
        self._needed = True  # until the policy says otherwise
        self._asked: Action | None = None
        self._decision: Decision | None = None
        self._result: Any = None
        self._left = False
        #: Who is at work, and so whose an exception is: the "policy", the "audit log", the
        #: "channel", its "answer", the "way to the body" (an executor's) or the "body".
        self._stage = "policy"
        # Set when the block was left without the body having started.
        self._refused: Refused

    def __enter__(self) -> _Passage:
        return self

    def held(self) -> bool:
        """Whether a person has to be asked first."""
        gate = self._gate
        if not (self._unnamed and gate.needs_names):
            answer = gate.policy.needs_approval(self._view)
            self._needed = answer if type(answer) is bool else _as_bool(gate.policy, answer)
        if self._needed:
            if self._entry is not None:
                self._stage = "audit log"
                self._entry.note(running=False, needed_approval=True)
            self._stage = "channel"
        return self._needed

    @property
    def action(self) -> Action:
        """What is handed to the channel: a copy, since the channel is anybody's code."""
        if self._asked is None:
            self._asked = self._new_action()
        return self._asked

    def answered(self, decision: Decision) -> None:
        """Take the channel's answer; goes on only if it releases the call."""
        if not isinstance(decision, Decision):
            raise TypeError(
                f"{type(self._gate.channel).__name__}.request_approval() must return a Decision "
                f"(Decision.approve() or .deny()), not {type(decision).__name__}"
            )
        decision = _copied(decision)  # what was answered now counts, whatever becomes of it
        approved = decision.approved  # read once: in a subclass it may be anybody's code
        if not isinstance(approved, bool):
            raise TypeError(f"Decision.approved must be True or False, not {approved!r}")
        decision.source = decision.source or self._gate.channel.name
        if decision.unanswered:  # the log tells it from a person's no by the comment
            decision.comment = decision.comment or "nobody answered"
        self._decision = decision
        if not approved:
            self._stage = "answer"
            action = self._new_action()
            message = denial_message(action, decision)
            raise Refused(message, ApprovalDenied(message, action=action, decision=decision))

    def starts(self) -> None:
        """The last step before the body: nothing may have changed, and the log must be ready."""
        if self._snapshot.changed():
            self._stage = "answer"
            why = "its arguments changed after they were checked"
            action = self._new_action()
            message = blocked_message(action, why, broken=False)
            denied = ApprovalDenied(message, action=action, decision=self._decision)
            raise Refused(message, denied, f"blocked: {why}")
        if self._entry is not None:
            self._stage = "audit log"
            self._entry.note(running=True, needed_approval=self._needed, decision=self._decision)
        self._stage = "body"

    def returned(self, result: T) -> T:
        self._result = result
        return result

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if self._left or (error is None and self._entry is None):
            return False
        return self._leave(error)

    def _leave(self, error: BaseException | None) -> bool:
        """Write the line; a refusal ends here.

        It is said outside of the block, so that an error reaches the caller without a context that
        it did not have.
        """
        refused = self._as_refusal(error)
        if NEVER_BEGAN in getattr(error, "__dict__", ()):
            self._stage = "way to the body"
        if self._entry is not None and _pauses(error):
            self._entry.drop()
        elif self._entry is not None:
            self._entry.close(
                needed_approval=self._needed,
                decision=self._decision,
                executed=self._stage == "body",
                result=self._result,
                error=refused.logged if refused else self._in_words(error),
            )
        self._left = True
        if refused is None:
            return False
        self._refused = refused
        return True

    def refusal(self) -> Refused:
        """What is said in place of a result; once, as by its traceback it keeps this call alive."""
        refused = self._refused
        del self._refused
        return refused

    def _as_refusal(self, error: BaseException | None) -> Refused | None:
        """The refusal, if the body did not start and the program itself is not being stopped."""
        if isinstance(error, Refused):
            if self._stage == "body":  # what we guard has a gate of its own
                self._stage = "inner gate"
                return Refused(error.message, error.error, "refused by a second gate")
            return error
        if self._stage == "body" or not isinstance(error, Exception) or _is_control_flow(error):
            return None
        # The exception's type only: its text may hold what neither agent nor log may see.
        name = type(error).__name__
        fault = f"the guard's {self._stage} failed ({name})"
        import logging

        logging.getLogger("actionguard").debug("%s: %s", self._gate.name, fault, exc_info=error)
        return Refused(
            blocked_message(self._new_action(), fault), error, f"{self._stage} failed: {name}"
        )

    def _in_words(self, error: BaseException | None) -> str | None:
        if error is None:
            return None
        if self._stage == "body":
            return _describe(error)
        return f"{type(error).__name__} before the body began"

    def _new_action(self) -> Action:
        action = Action(self._gate.name, self._snapshot.copy(), self._gate.description)
        vars(action)["_id"] = self._id
        return action


def _copied(decision: Decision) -> Decision:
    copied = object.__new__(type(decision))  # copy.copy would take 1 us more
    vars(copied).update(vars(decision))
    for slot in () if type(decision) is Decision else slots_of(type(decision)):
        with suppress(AttributeError):  # it is empty
            slot.__set__(copied, slot.__get__(decision))
    return copied


def _as_bool(policy: Policy, answer: Any) -> bool:
    """A numpy bool as bool; nothing else is an answer, least of all None."""
    if is_bool(answer):
        return bool(answer)
    if inspect.iscoroutine(answer):
        answer.close()  # nobody will await it, and it would warn about that
    raise TypeError(
        f"{type(policy).__name__}.needs_approval() must return True or False, "
        f"not {type(answer).__name__}"
    )


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # its __str__ is anybody's code
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_control_flow(error: BaseException | None) -> bool:
    """Whether LangGraph steers by this exception, so that it must pass untouched."""
    langgraph = sys.modules.get("langgraph.errors")
    return langgraph is not None and isinstance(error, langgraph.GraphBubbleUp)


def _pauses(error: BaseException | None) -> bool:
    """Whether LangGraph will run this call again, so that it is not over yet."""
    langgraph = sys.modules.get("langgraph.errors")
    return _is_control_flow(error) and not isinstance(error, langgraph.ParentCommand)  # type: ignore[union-attr]
