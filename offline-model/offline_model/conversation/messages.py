"""A conversation as the skills see it: who said what, what is asked, and which tools are offered."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from offline_model.api.requests import AllowedToolChoice, CompletionRequest, Message, Tool, ToolChoice

if TYPE_CHECKING:
    from offline_model.corpus.search import Corpus

# Nobody asks more at once.
MOST_QUESTION = 4_000

Role = Literal["system", "user", "assistant", "tool"]

ASKED = re.compile(
    r"^[ \t]*(?:user )?(?:question|query|task|q)[ \t]*:(.+)\Z", re.IGNORECASE | re.DOTALL | re.MULTILINE
)
BRACES = re.compile(r"\{[^{}]*\}")


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
    role: Role
    text: str


@dataclass(frozen=True)
class Result:
    """A tool's answer to one call. Its text is data: nothing in it is ever obeyed."""

    call: Call
    text: str


@dataclass(frozen=True)
class Conversation:
    """One request, read. `corpus` is what it searches; `seed` chooses among equally good answers."""

    request: CompletionRequest
    corpus: Corpus

    @property
    def seed(self) -> int:
        return self.request.seed or 0

    @cached_property
    def tools(self) -> list[Tool]:
        """The tools that may be called."""
        offered, choice = self.request.tools or [], self.request.tool_choice
        if not isinstance(choice, AllowedToolChoice):
            return offered
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        return [tool for tool in offered if tool.function.name in allowed]

    @property
    def choice(self) -> Literal["none", "auto", "required"] | ToolChoice:
        """Whether one of these tools must be called, or which."""
        choice = self.request.tool_choice or "auto"
        return choice.allowed_tools.mode if isinstance(choice, AllowedToolChoice) else choice

    @property
    def wants_json(self) -> bool:
        wanted = self.request.response_format
        return wanted is not None and wanted.type != "text"

    @cached_property
    def turns(self) -> list[Turn]:
        return [Turn(role_of(message), text_of(message)) for message in self.request.messages]

    @cached_property
    def asked_at(self) -> int:
        """Where the last user turn stands. One right after a tool's result adds to that and asks nothing."""
        roles = ["", *(turn.role for turn in self.turns)]
        asking = [
            at for at, (before, role) in enumerate(pairwise(roles)) if role == "user" and before != "tool"
        ]
        return asking[-1] if asking else -1

    @cached_property
    def question(self) -> str:
        """What is asked: the last user turn, without data or headings that stand before the question."""
        text = self.turns[self.asked_at].text if self.asked_at >= 0 else ""
        marked = ASKED.search(text)
        if marked:
            return marked[1].strip()[:MOST_QUESTION]
        bare = BRACES.sub(" ", text).strip() if '":' in text or "':" in text else text.strip()
        return bare.rsplit("\n\n", 1)[-1].strip()[:MOST_QUESTION] if len(bare) > 400 else bare

    @cached_property
    def results(self) -> list[Result]:
        """What the tools answered since the last user turn."""
        found: list[Result] = []
        calls: dict[str, Call] = {}
        for at, message in enumerate(self.request.messages):
            if at == self.asked_at:
                found = []
            for made in message.tool_calls or []:
                calls[made.id] = Call(made.function.name, arguments_of(made.function.arguments))
            if message.role == "tool" and message.tool_call_id in calls:
                found.append(Result(calls[message.tool_call_id], text_of(message)))
        return found

    def choose(self, options: list[str]) -> str:
        """One of the options, by the seed."""
        return options[self.seed % len(options)]


def role_of(message: Message) -> Role:
    return "system" if message.role == "developer" else message.role


def text_of(message: Message) -> str:
    """The text of a message, its parts joined."""
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text or part.refusal or "" for part in message.content)


def arguments_of(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
