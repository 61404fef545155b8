"""Watch a call wait for approval at your terminal: no model and no API key needed.

Run:  python examples/quickstart.py
You are asked twice. Approve the first refund with y and deny the second, which the prompt shows as
a repeat. Compare what the agent gets, then run: python -m actionguard
"""

from langchain_core.tools import tool

from actionguard import guard


# With no policy given, every call needs approval: the safe default.
@guard()
@tool
def refund_customer(amount: float, customer_id: str) -> str:
    """Issue a refund to a customer's card."""
    return f"✅ Refunded ${amount:.2f} to {customer_id}"


if __name__ == "__main__":
    print("Agent: issuing the refund now...")
    print(refund_customer.invoke({"amount": 4000.0, "customer_id": "cus_123"}))
    print("Agent: did that go through? Trying again to be safe...")
    # The dangerous duplicate: deny it at the prompt!
    print(refund_customer.invoke({"amount": 4000.0, "customer_id": "cus_123"}))
