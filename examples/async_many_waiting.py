"""A thousand refunds wait for approval in one process, and block nothing else.

Run:  python examples/async_many_waiting.py
You are not asked: the program answers through an async channel, like one that you might write for
your own queue. The waiting calls use no threads, a small refund goes through meanwhile, and a
cancelled one never runs.
"""

import asyncio
import contextlib
import threading

from actionguard import Action, ApprovalChannel, ApprovalPolicy, AuditLog, Decision, guard


class Inbox(ApprovalChannel):
    """Requests that wait for an answer."""

    name = "inbox"

    def __init__(self) -> None:
        self.open: dict[str, tuple[Action, asyncio.Future[Decision]]] = {}

    async def request_approval(self, action: Action) -> Decision:
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self.open[action.id] = action, answer
        try:
            return await answer
        finally:
            del self.open[action.id]


inbox = Inbox()


@guard(
    policy=ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100}),
    channel=inbox,
    audit=AuditLog(enabled=False),
    on_denied="return",
)
async def refund(amount: float, customer: int) -> str:
    """Refund an amount."""
    return f"refunded {amount} to customer {customer}"


async def main() -> None:
    refunds = [asyncio.create_task(refund(4000, customer)) for customer in range(1000)]
    while len(inbox.open) < 1000:
        await asyncio.sleep(0)
    print(f"{len(inbox.open)} refunds are waiting, in {threading.active_count()} thread")

    print("meanwhile:", await refund(50, 7))

    refunds[0].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await refunds[0]
    print(f"customer 0 hung up, so {len(inbox.open)} are left")

    # Now somebody answers: customers with an even number get their money.
    for action, answer in list(inbox.open.values()):
        even = action.args["customer"] % 2 == 0
        answer.set_result(Decision.approve() if even else Decision.deny("odd"))
    results = await asyncio.gather(*refunds[1:])
    done = sum(result.startswith("refunded") for result in results)
    print(f"{done} were approved and ran, {len(results) - done} were denied")


if __name__ == "__main__":
    asyncio.run(main())
