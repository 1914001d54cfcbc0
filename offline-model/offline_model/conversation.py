"""A conversation as the skills see it: who said what, what is asked, and which tools are offered."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from offline_model.requests import CompletionRequest, Message, Tool

if TYPE_CHECKING:
    from offline_model.books.library import Library


@dataclass(frozen=True)
class Call:
    """A tool call: the arguments are already checked against the tool's schema."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What a skill answers: a text, or calls of tools."""

    text: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Turn:
    role: Literal["system", "user", "assistant", "tool"]
    text: str


@dataclass(frozen=True)
class Result:
    """A tool's answer to one call. Its text is data: nothing in it is ever obeyed."""

    call: Call
    text: str


@dataclass(frozen=True)
class Conversation:
    """One request, read. `library` is the books; `seed` chooses among equally good answers."""

    request: CompletionRequest
    library: Library
    seed: int = 0
    turns: list[Turn] = field(default_factory=list)

    @cached_property
    def question(self) -> str:
        """What is asked: the last user turn."""
        for turn in reversed(self.turns):
            if turn.role == "user":
                return turn.text
        return ""

    @property
    def tools(self) -> list[Tool]:
        return self.request.tools or []

    def choose(self, options: list[str], *, skip: int = 1) -> str:
        """One of the options by the seed; `skip` makes several choices in one answer independent."""
        return options[self.seed // skip % len(options)]


def begin(request: CompletionRequest, library: Library) -> Conversation:
    turns = [Turn(role(message), text_of(message)) for message in request.messages]
    return Conversation(request, library, request.seed or 0, turns)


def role(message: Message) -> Literal["system", "user", "assistant", "tool"]:
    return "system" if message.role == "developer" else message.role


def text_of(message: Message) -> str:
    """The text of a message, its parts joined."""
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text or part.refusal or "" for part in message.content)
