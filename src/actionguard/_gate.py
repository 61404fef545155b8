"""The one path of a guarded call: ask, run, record."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from actionguard._signature import Unnamed
from actionguard._values import cannot_change, copied, json_text, stand_in
from actionguard.audit import AuditLog, Entry
from actionguard.channels.base import ApprovalChannel
from actionguard.core import (
    Action,
    Decision,
    blocked_message,
    denial_message,
    may_have_run,
    new_id,
    seconds_since,
)
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import ApprovalPolicy, Policy, is_bool, rule_names

T = TypeVar("T")
AnyCallable = Callable[..., Any]
#: Names a call's arguments; raises TypeError if they do not fit.
Bind = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]


class Refused(Exception):
    """A call that the gate stopped. An edge says it in its caller's language."""

    def __init__(self, message: str, error: Exception, logged: str | None = None) -> None:
        super().__init__(message)
        #: What an agent is told.
        self.message = message
        #: What a guarded function raises: `ApprovalDenied`, or what the policy or channel raised.
        self.error = error
        #: The log's `error`; None if the decision says it all.
        self.logged = logged


#: Says a refusal to the caller: raises, or returns what the call returns instead.
Refuse = Callable[[Refused], Any]


class Route(NamedTuple):
    """Who is asked, and where the line goes."""

    channel: ApprovalChannel | None = None
    audit: AuditLog | None = None


class Settings:
    """What holds for every guard in the process, looked up at each call."""

    #: For guards that name none: `configure`.
    defaults = Route()
    #: For all guards, in place of what they name: `actionguard.testing.answering`.
    override = Route()


@dataclass(eq=False, slots=True)
class Gate:
    """One guarded callable's policy, channel and log, and the way of a call between them.

    The four forms differ only in how they wait and run; `_Passage` holds the rules. Each guarded
    function is the one frame that stands between the caller and the body.
    """

    name: str
    description: str | None
    policy: Policy
    own: Route
    fallback: Route
    secret: frozenset[str]

    @property
    def repeat_within(self) -> float | None:
        """For how many seconds the policy holds a call that repeats another."""
        policy = self.policy
        return policy.repeat_within if isinstance(policy, ApprovalPolicy) else None

    def route(self) -> tuple[ApprovalChannel, AuditLog]:
        channel: Any = None
        audit: Any = None
        for route in (Settings.override, self.own, Settings.defaults, self.fallback):
            channel = route.channel if channel is None else channel  # a channel may have a length
            audit = route.audit if audit is None else audit
        return channel, audit

    def plain(self, run: AnyCallable, bind: Bind, refuse: Refuse) -> AnyCallable:
        """The guarded form of a plain callable."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            with _Passage(self, bind(args, kwargs)) as passage:
                if passage.held():
                    passage.answered(ask(passage.channel, passage.asks()))
                passage.starts()
                return passage.returned(run(*args, **kwargs))
            return refuse(passage.refusal())

        return guarded

    def coroutine(self, run: AnyCallable, bind: Bind, refuse: Refuse) -> AnyCallable:
        """The guarded form of a coroutine function: it waits on the caller's loop."""
        from actionguard.channels._waiting import ask_async

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            async with _Passage(self, bind(args, kwargs)) as passage:
                if await passage.aheld():
                    passage.answered(await ask_async(passage.channel, passage.asks()))
                await passage.astarts()
                return passage.returned(await run(*args, **kwargs))
            return refuse(passage.refusal())

        return guarded

    def generator(self, run: AnyCallable, bind: Bind, refuse: Refuse) -> AnyCallable:
        """The guarded form of a generator function: its first step is what needs approval."""

        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with _Passage(self, bind(args, kwargs)) as passage:
                if passage.held():
                    passage.answered(ask(passage.channel, passage.asks()))
                passage.starts()
                return passage.returned((yield from run(*args, **kwargs)))
            yield refuse(passage.refusal())

        return guarded

    def async_generator(self, run: AnyCallable, bind: Bind, refuse: Refuse) -> AnyCallable:
        """The guarded form of an async generator function."""
        from actionguard.channels._waiting import ask_async

        async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            async with _Passage(self, bind(args, kwargs)) as passage:
                if await passage.aheld():
                    passage.answered(await ask_async(passage.channel, passage.asks()))
                await passage.astarts()
                # What `yield from` is for a plain generator; async ones have none. Whoever closes
                # this one closes the body's, so their loop must not do it too, by hooks that it
                # looks up at its first step (PEP 525).
                steps = run(*args, **kwargs)
                hooks = sys.get_asyncgen_hooks()
                sys.set_asyncgen_hooks(_not_ours, _not_ours)
                first = anext(steps)
                sys.set_asyncgen_hooks(*hooks)
                try:
                    item = await first
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


def ask(channel: ApprovalChannel, action: Action) -> Decision:
    """Ask from sync code."""
    answer = channel.request_approval(action)
    if isinstance(answer, Decision) or not inspect.isawaitable(answer):
        return answer
    # asyncio is slow to import, so only those who use it pay for that.
    from actionguard.channels._waiting import run_sync

    return run_sync(answer)


def _not_ours(_: object) -> None:
    """Leave an async generator to whoever iterates it."""


class _Passage:
    """One call on its way through the gate; leaving it, by whatever way, writes the audit line.

    Methods that touch the file system are run by the caller's thread for plain code, and by the
    log's own thread for async code.
    """

    #: Who is at work, and so whose an exception is: the "policy", the "audit log", the "channel",
    #: "nobody" or the "body".
    _stage = "policy"
    _needed = True  # until the policy says otherwise
    _earlier: Sequence[dict[str, Any]] = ()
    _id: str | None = None
    #: The call as it was when a person was asked, if its arguments can change.
    _asked: Action | None = None
    _decision: Decision | None = None
    #: The arguments as they were; empty until something is waited for, or if they cannot change.
    _before = ""
    _result: Any = None
    _refused: Refused | None = None
    # Of the monotonic clock, in seconds.
    _asked_at: float | None = None
    _answered_at: float | None = None
    _started_at: float | None = None
    _ended_at = 0.0

    def __init__(self, gate: Gate, args: dict[str, Any]) -> None:
        self._gate = gate
        self._args = self._shown = args
        if not gate.secret.isdisjoint(args):
            self._shown = {n: stand_in(v) if n in gate.secret else v for n, v in args.items()}
        self.channel, log = gate.route()
        self._entry: Entry | None = None
        if log.enabled:
            self._id = new_id()
            self._entry = log.entry(self._id, gate.name, self._shown)

    # --- is a person needed? ---

    def held(self) -> bool:
        """Whether a person has to be asked first."""
        self._judge()
        if not self._needed and self.channel.held_before:
            self._stage = "channel"
            self._needed = self.channel.held_before(self._new_action())
        if self._looks_back():
            self._look()
        return self._needed

    async def aheld(self) -> bool:
        """The same for async code."""
        self._judge()
        if not self._needed and self.channel.held_before:
            from actionguard.channels._waiting import in_thread

            self._stage = "channel"
            self._needed = await in_thread(self.channel.held_before, self._new_action())
        if self._looks_back() and self._entry is not None:
            await self._entry.aside(self._look)
        return self._needed

    def _judge(self) -> None:
        gate = self._gate
        if type(self._args) is Unnamed and rule_names(gate.policy):
            return  # nobody can tell which arguments its rules are about: held
        policy = gate.policy
        # ApprovalPolicy itself only looks at them; any other policy gets a copy.
        args = self._args if type(policy) is ApprovalPolicy else copied(self._args)
        answer = policy.needs_approval(args)
        if not is_bool(answer):  # nothing else is an answer, least of all None
            raise TypeError(
                f"{type(policy).__name__}.needs_approval() must return True or False, "
                f"not {type(answer).__name__}"
            )
        self._needed = bool(answer)

    def _looks_back(self) -> bool:
        """Whether equal calls in the log matter."""
        if self._entry is not None:
            return self._needed or self._gate.repeat_within is not None
        if self._gate.repeat_within is not None:
            raise ValueError("repeat_within needs an audit log, but the log is switched off")
        return False

    def _look(self) -> None:
        """Note the call, and only then look for equal ones: of two at once, each sees the other."""
        assert self._entry is not None
        self._note(running=False)
        self._earlier = self._entry.earlier(self._gate.repeat_within)
        if not self._needed and any(map(self._repeats, self._earlier)):
            self._needed = True
            self._note(running=False)

    def _repeats(self, record: dict[str, Any]) -> bool:
        """Whether an equal call is in flight, or may have run lately."""
        within = self._gate.repeat_within or 0
        return "state" in record or (may_have_run(record) and seconds_since(record) <= within)

    # --- what does the person say? ---

    def asks(self) -> Action:
        """What the channel is asked: with a copy of the arguments, since it can do anything."""
        self._watch()
        if self._before:
            self._asked = self._new_action()
        self._stage, self._asked_at = "channel", monotonic()
        return self._new_action()

    def answered(self, decision: Decision) -> None:
        """Take the channel's answer; goes on only if it approves the call."""
        self._answered_at = monotonic()
        if not isinstance(decision, Decision):
            raise TypeError(
                f"{type(self.channel).__name__}.request_approval() must return a Decision "
                f"(Decision.approve() or .deny()), not {type(decision).__name__}"
            )
        approved = decision.approved  # read once: in a subclass it can be any code
        if not isinstance(approved, bool):
            raise TypeError(f"Decision.approved must be True or False, not {approved!r}")
        comment, unanswered = decision.comment, decision.unanswered
        if unanswered:  # in the log, this tells it apart from a person's denial
            comment = comment or "nobody answered"
        source, metadata = decision.source or self.channel.name, dict(decision.metadata)
        decision = Decision(approved, comment, source, metadata, unanswered=unanswered)
        self._decision = decision
        if not approved:
            action = self._kept_action()
            message = denial_message(action, decision)
            raise Refused(message, ApprovalDenied(message, action=action, decision=decision))

    # --- the body ---

    def _watch(self) -> None:
        """Remember the arguments before something is waited for, unless they cannot change."""
        if not (self._before or cannot_change(self._shown)):
            self._before = self._entry.args_json if self._entry else json_text(self._shown)

    def starts(self) -> None:
        """The last step before the body: the log is ready, and nothing has changed meanwhile."""
        if self._entry is not None:
            self._note(running=True)
            self._started_at = monotonic()
        self._start()

    async def astarts(self) -> None:
        """The same for async code."""
        if self._entry is not None:
            self._watch()
            await self._entry.aside(lambda: self._note(running=True))
            self._started_at = monotonic()
        self._start()

    def _note(self, *, running: bool) -> None:
        assert self._entry is not None
        self._stage = "audit log"
        self._entry.note(running, self._needed, self._decision, self._waited())

    def _waited(self) -> float | None:
        return _seconds(self._asked_at, self._answered_at or self._ended_at)

    def _start(self) -> None:
        if self._before and (now := json_text(self._shown)) != self._before and self._stops(now):
            why = "its arguments changed after they were checked"
            action = self._kept_action()
            message = blocked_message(action, why, broken=False)
            denied = ApprovalDenied(message, action=action, decision=self._decision)
            raise Refused(message, denied, f"blocked: {why}")
        self._stage = "body"

    def _stops(self, args_json: str) -> bool:
        """Whether a call stops here since its arguments are others now.

        If nobody was shown them, they only changed while the log was noting the call: then those of
        now count, for the policy, the log and the body.
        """
        if self._asked_at is not None or self._gate.repeat_within is not None:
            return True
        assert self._entry is not None
        self._entry.take(args_json)
        self._stage = "policy"
        self._judge()
        return self._needed

    def returned(self, result: T) -> T:
        self._result = result
        return result

    # --- leaving ---

    def __enter__(self) -> _Passage:
        return self

    async def __aenter__(self) -> _Passage:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._leave(error)
        if self._entry is not None:
            self._record(error)
        return self._refused is not None

    async def __aexit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._leave(error)
        if self._entry is not None:
            if isinstance(error, GeneratorExit):  # nobody may be waited for any more
                self._entry.submit(lambda: self._record(error))
            else:
                await self._entry.aside(lambda: self._record(error))
        return self._refused is not None

    def _leave(self, error: BaseException | None) -> None:
        """Turn what stopped the call into a refusal, unless the program itself is being stopped."""
        self._ended_at = monotonic()
        if isinstance(error, Refused):  # ours, or that of a second guard around the body
            self._stage, self._refused = "nobody", error
        elif self._stage != "body" and isinstance(error, Exception) and not _steers(error):
            self._refused = self._broken(error)

    def _broken(self, error: Exception) -> Refused:
        """The guard itself failed: the operator is told all of it, the agent only the type."""
        fault = f"the guard's {self._stage} failed"
        logging.getLogger("actionguard").error("%s: %s", self._gate.name, fault, exc_info=error)
        note = f"actionguard: {fault}; {self._gate.name} did not run"
        if hasattr(error, "add_note") and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        why = f"{fault} ({type(error).__name__})"
        message = blocked_message(self._kept_action(), why)
        return Refused(message, error, f"{self._stage} failed: {_described(error)}")

    def _record(self, error: BaseException | None) -> None:
        assert self._entry is not None
        if error is not None and _pauses(error):
            self._entry.drop()
            return
        began = self._stage == "body"
        logged = self._refused.logged if self._refused else _described(error)
        if logged and not (began or self._refused):
            logged += " before the body began"
        ran = _seconds(self._started_at, self._ended_at) if began else None
        needed, decision, waited = self._needed, self._decision, self._waited()
        entry = self._entry
        entry.end(entry.in_words(needed, decision, began, self._result, logged, waited, ran))

    def refusal(self) -> Refused:
        """What is said in place of a result; once, since its traceback keeps this call alive."""
        refused, self._refused = self._refused, None
        assert refused is not None
        return refused

    # --- odds and ends ---

    def _new_action(self) -> Action:
        gate, self._id = self._gate, self._id or new_id()
        args = copied(self._shown, secrets=True)
        earlier = [dict(record) for record in self._earlier]
        return Action(gate.name, args, gate.description, id=self._id, earlier=earlier)

    def _kept_action(self) -> Action:
        """The call as it was when a person was asked, for messages and errors."""
        return self._asked or self._new_action()


def _seconds(start: float | None, end: float) -> float | None:
    return None if start is None else end - start


def _described(error: BaseException | None) -> str | None:
    if error is None:
        return None
    try:
        text = str(error)
    except Exception:  # its __str__ can be any code
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _steers(error: BaseException) -> bool:
    """Whether LangGraph steers by this exception, so that it must pass untouched."""
    langgraph = sys.modules.get("langgraph.errors")
    return langgraph is not None and isinstance(error, langgraph.GraphBubbleUp)


def _pauses(error: BaseException) -> bool:
    """Whether LangGraph will run this call again, so that it is not over yet."""
    langgraph = sys.modules.get("langgraph.errors")
    return _steers(error) and not isinstance(error, langgraph.ParentCommand)  # type: ignore[union-attr]
