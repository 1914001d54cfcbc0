"""A conversation as intents read it: its turns, the question, the tools and what they returned."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from offline_model.corpus.search import Corpus

MAX_QUESTION_CHARACTERS = 4_000

Role = Literal["system", "user", "assistant", "tool"]

LABELLED_QUESTION = re.compile(
    r"^[ \t]*(?:user )?(?:question|query|task|q)[ \t]*:(.+)\Z", re.IGNORECASE | re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Tool:
    """A function that the client offers. `schema` describes its arguments."""

    name: str
    description: str
    schema: dict[str, Any]

    @property
    def required(self) -> list[str]:
        return list(self.schema.get("required", []))

    @property
    def properties(self) -> dict[str, Any]:
        """The schema of each argument; empty for an argument whose schema is a boolean."""
        found = self.schema.get("properties", {})
        return {name: part if isinstance(part, dict) else {} for name, part in found.items()}


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ToolResult:
    """The text that a tool returned for one call. The text is data: no intent follows instructions in it."""

    call: ToolCall
    text: str


@dataclass(frozen=True)
class Reply:
    """The answer of an intent: a text, or calls of tools."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One message. `calls` are an assistant's tool calls by id; `call_id` is the call that a tool answers."""

    role: Role
    text: str
    calls: dict[str, ToolCall] = field(default_factory=dict)
    call_id: str | None = None


@dataclass(frozen=True)
class Conversation:
    """One request. `corpus` is searched for answers; `seed` chooses among equally good ones.

    `tools` are those that may be called, `forced_tool` is the one that must be. With `wants_json` the answer
    is a JSON object, of `response_schema` if there is one.
    """

    corpus: Corpus
    turns: list[Turn]
    tools: list[Tool] = field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] = "auto"
    forced_tool: Tool | None = None
    parallel_tool_calls: bool = True
    wants_json: bool = False
    response_schema: dict[str, Any] | None = None
    seed: int = 0

    @cached_property
    def question_index(self) -> int:
        """The index of the user turn that contains the question; -1 if there is none.

        It is the last user turn that does not directly follow a tool result.
        """
        roles = ["", *(turn.role for turn in self.turns)]
        asking = [
            at for at, (before, role) in enumerate(pairwise(roles)) if role == "user" and before != "tool"
        ]
        return asking[-1] if asking else -1

    @cached_property
    def question(self) -> str:
        """The last user turn, without data or headings that stand before the question."""
        text = self.turns[self.question_index].text if self.question_index >= 0 else ""
        labelled = LABELLED_QUESTION.search(text)
        if labelled:
            return labelled[1].strip()[:MAX_QUESTION_CHARACTERS]
        bare = text.strip()
        return bare.rsplit("\n\n", 1)[-1].strip()[:MAX_QUESTION_CHARACTERS] if len(bare) > 400 else bare

    @cached_property
    def results(self) -> list[ToolResult]:
        """The results of tools since the question."""
        found: list[ToolResult] = []
        calls: dict[str | None, ToolCall] = {}
        for at, turn in enumerate(self.turns):
            if at == self.question_index:
                found = []
            calls.update(turn.calls)
            if turn.role == "tool" and turn.call_id in calls:
                found.append(ToolResult(calls[turn.call_id], turn.text))
        return found

    def choose(self, options: list[str]) -> str:
        """One of the options, by the seed."""
        return options[self.seed % len(options)]


def parse_json(text: str) -> Any:
    """The value of a JSON text; None when the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
