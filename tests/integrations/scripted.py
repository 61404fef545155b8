"""Agents whose model says what a test wrote down, on LangChain before and after 1.0."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

try:
    from langchain.agents import create_agent
except ImportError:  # before 1.0
    from langgraph.prebuilt import create_react_agent as create_agent

__all__ = ["Model", "create_agent"]


class Model(BaseChatModel):
    """Says its turns one after the other; the messages tell how far it got."""

    turns: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        turn = self.turns[sum(message.type == "ai" for message in messages)]
        return ChatResult(generations=[ChatGeneration(message=turn)])
