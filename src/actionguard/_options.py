"""What `guard` and `guard_tools` were given, checked and with its defaults."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from actionguard._gate import Gate
from actionguard._signature import is_async, takes_one_argument
from actionguard.audit import AuditLog
from actionguard.channels.base import ApprovalChannel
from actionguard.channels.cli import CLIChannel
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import ApprovalPolicy, Policy, rule_names

# One for all: each empty frozenset takes 200 bytes.
_NO_NAMES: frozenset[str] = frozenset()

OnDenied = Literal["raise", "return"] | Callable[[ApprovalDenied], Any]


@dataclass(frozen=True, slots=True)
class Options:
    """How a callable is to be guarded."""

    policy: Policy
    channel: ApprovalChannel
    audit: AuditLog
    exclude: frozenset[str]

    def gate(self, name: str, description: str | None) -> Gate:
        return Gate(name, description, self.policy, self.channel, self.audit)

    def check_exclude(self, owner: str, parameters: Collection[str] | None) -> None:
        """A name in `exclude` that the callable does not have would leave a secret visible.

        Args:
            owner: What is guarded, for messages.
            parameters: The names of all its parameters; None if they cannot be known.

        Raises:
            ValueError: `exclude` names a parameter that is not there.
        """
        if parameters is None:
            return
        for name in sorted(self.exclude.difference(parameters)):
            raise ValueError(
                f"exclude names {name!r}, which is no parameter of {owner}; {_known(parameters)}"
            )

    def check_rules(
        self, owner: str, parameters: Collection[str] | None, sees: Callable[[str], bool]
    ) -> None:
        """A rule on a name that the policy never sees would be switched off: say so now.

        Args:
            owner: Has the same meaning as for `check_exclude`.
            parameters: Has the same meaning as for `check_exclude`.
            sees: Whether a policy may see an argument of that name.

        Raises:
            ValueError: The policy names an argument that is not there, or that it does not see.
        """
        for name in sorted(rule_names(self.policy)):
            if sees(name):
                continue
            if name in self.exclude or name in (parameters or ()):
                raise ValueError(
                    f"the policy names {name!r}, which is left out of what a policy sees: "
                    "it is excluded, or the runtime fills it in"
                )
            raise ValueError(
                f"the policy names {name!r}, which is no argument of {owner}; {_known(parameters)}"
            )


def _known(parameters: Collection[str] | None) -> str:
    return f"there are: {', '.join(parameters or ()) or 'none'}"


def checked_options(
    caller: str, *, policy: Any, channel: Any, audit: Any, exclude: Any = ()
) -> Options:
    """Check and complete what was given to `caller`, the function that messages name.

    Raises:
        TypeError: Something given is not of the kind that is wanted.
        OSError: The log cannot be written at its path.
    """
    log = _audit_log(caller, audit)
    log.check()
    return Options(
        policy=check_policy(
            f"{caller}(policy=...)", ApprovalPolicy() if policy is None else policy
        ),
        channel=_channel(caller, CLIChannel() if channel is None else channel),
        audit=log,
        exclude=_exclude(caller, exclude),
    )


def what_was_meant(target: Any) -> str:
    """What to do instead, for somebody who gave `guard` what it cannot guard."""
    if isinstance(target, ApprovalChannel):
        return ": write guard(channel=...)"
    if isinstance(target, (AuditLog, str, os.PathLike)):
        return ": write guard(audit=...) if this is the log"
    if inspect.ismethod(getattr(target, "needs_approval", None)):  # OpenAI's tools have a field
        return ": write guard(policy=...)"
    if isinstance(target, dict):
        return (
            ": a tool that its provider runs never passes here; if you run it, guard its function"
        )
    if isinstance(target, (list, tuple, set, frozenset)):
        return ": guard what is in it, one by one or with guard_tools"
    if inspect.iscoroutine(target):
        target.close()  # else Python warns that it was never awaited
        return ": guard the async function, and call it afterwards"
    if type(target).__module__ == "builtins":
        return ""
    return ": guard the function or tool itself, before anything else is made of it"


def check_policy(option: str, policy: Any) -> Policy:
    """Check a policy; the option, as it is written in code, is what messages name."""
    if type(policy) is ApprovalPolicy:  # as nearly always
        return policy
    needs_approval = getattr(policy, "needs_approval", None)
    wanted = f"{option} takes an ApprovalPolicy or an object with needs_approval(args)"
    if isinstance(policy, type) or not callable(needs_approval):
        raise TypeError(f"{wanted}, not {_shown(policy)}{_policy_meant(option, policy)}")
    if is_async(needs_approval) or not takes_one_argument(needs_approval):
        raise TypeError(
            f"{wanted} that is a plain method of one argument, unlike that of {policy!r}"
        )
    return policy  # type: ignore[no-any-return]


def _policy_meant(option: str, policy: Any) -> str:
    if isinstance(policy, type):
        return ""
    if isinstance(policy, Mapping):
        by_tool = ", or use guard_tools for policies by tool" if option.startswith("guard(") else ""
        return f": write ApprovalPolicy(**rules){by_tool}"
    if isinstance(policy, bool):
        return f": write ApprovalPolicy(require_always={policy})"
    if isinstance(policy, (list, tuple)):
        return ": put all rules into one ApprovalPolicy, any of which then holds a call"
    return ": write ApprovalPolicy(require_if=...)" if callable(policy) else ""


def check_on_denied(on_denied: Any) -> OnDenied:
    wanted = (
        "guard(on_denied=...) takes 'raise', 'return' or a plain function of the ApprovalDenied"
    )
    if on_denied not in ("raise", "return") and not callable(on_denied):
        raise ValueError(f"{wanted}, not {on_denied!r}")
    if isinstance(on_denied, str):
        return on_denied  # type: ignore[return-value]
    if isinstance(on_denied, type) and issubclass(on_denied, BaseException):
        raise TypeError(
            f"{wanted}, not the class {on_denied.__name__}, which would be returned and not "
            "raised: write a function that raises it"
        )
    if is_async(on_denied):
        raise TypeError(f"{wanted}, not the async {on_denied!r}")
    if not takes_one_argument(on_denied):
        raise TypeError(f"{wanted}, not {on_denied!r}, which takes no such argument")
    return on_denied  # type: ignore[no-any-return]


def _channel(caller: str, channel: Any) -> ApprovalChannel:
    if isinstance(channel, ApprovalChannel):
        return channel
    raise TypeError(
        f"{caller}(channel=...) takes an ApprovalChannel (subclass it and implement "
        f"request_approval), not {_shown(channel)}"
    )


def _audit_log(caller: str, audit: Any) -> AuditLog:
    if isinstance(audit, AuditLog):
        return audit
    if audit is None:
        return AuditLog()
    if isinstance(audit, (str, os.PathLike)):
        return AuditLog(audit)
    raise TypeError(
        f"{caller}(audit=...) takes an AuditLog or a path, not {_shown(audit)}"
        + ("; AuditLog(enabled=False) writes nothing" if audit is False else "")
    )


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}: make an instance of it"
    return repr(value)


def _exclude(caller: str, exclude: Any) -> frozenset[str]:
    if not isinstance(exclude, Collection) or isinstance(exclude, (str, bytes)):
        hint = f": write [{exclude!r}]" if isinstance(exclude, str) else ""
        raise TypeError(f"{caller}(exclude=...) takes a collection of names, not {exclude!r}{hint}")
    for name in exclude:
        if not isinstance(name, str):
            raise TypeError(f"{caller}(exclude=...) takes names of parameters, not {name!r}")
    return frozenset(exclude) or _NO_NAMES
