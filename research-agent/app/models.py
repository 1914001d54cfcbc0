"""What goes in, what comes out, and what a run is."""

import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

State = Literal["queued", "running", "done", "failed", "cancelled"]
Query = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000, pattern=r"[^\s\u0085\ufeff]"),
]


class ResearchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: Query
    background: bool = False
    """Go on although nobody listens."""


class Source(BaseModel):
    """What a tool really returned; `n` is how the answer cites it, `step` the step that found it."""

    n: int
    title: str
    url: str
    snippet: str
    step: int


class Step(BaseModel):
    n: int
    tool: str
    input: dict[str, Any]
    outcome: Literal["ok", "empty", "failed", "refused"]


class Result(BaseModel):
    id: str
    query: str
    response: str
    """Markdown; `[n]` cites `sources`, "Inferred:" marks what no source says."""
    steps: list[Step]
    sources: list[Source]
    model: str
    tokens_used: int
    finish_reason: str
    """The model's own: "stop", or "length" when the answer was cut at MAX_TOKENS."""


class Problem(BaseModel):
    """An error in the form of RFC 9457; beside the same request id the log tells more."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


class Run(BaseModel):
    """A run as its caller sees it."""

    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    state: State = "queued"
    query: str
    background: bool = False
    created_at: float = Field(default_factory=time.time)
    """Seconds since 1970."""
    result: Result | None = None
    problem: Problem | None = None

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def last_event(self) -> tuple[str, dict[str, Any]]:
        """Type and data of the event that tells of the end of a finished run."""
        if self.problem:
            return "error", {"problem": self.problem.model_dump(exclude_none=True)}
        return "done", {"reason": self.result.finish_reason if self.result else self.state}


class Notebook(BaseModel):
    """What a run has found so far: all that another replica needs to go on from the last finished step."""

    messages: list[dict[str, Any]] = []
    """As langchain_core.messages.messages_to_dict gives them."""
    steps: list[Step] = []
    sources: list[Source] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def source(self, url: str, title: str, snippet: str) -> Source:
        """The source at this URL, noted when it is new: a page met again keeps its number."""
        for known in self.sources:
            if known.url == url:
                return known
        step = len(self.steps) + 1
        self.sources.append(Source(n=len(self.sources) + 1, title=title, url=url, snippet=snippet, step=step))
        return self.sources[-1]


class Record(BaseModel):
    """A run as the store keeps it."""

    run: Run
    caller: str
    request_id: str
    notebook: Notebook = Notebook()
    epoch: int = 0
    """Counts the replicas that have had the run."""
    takeovers: int = 0
    """Those among them that took it from a replica that had ended without handing it over."""


EventId = tuple[int, int]
"""The epoch and a number, ascending over the whole run; on the wire "EPOCH-NUMBER"."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run."""

    id: EventId
    type: str
    data: dict[str, Any]

    @property
    def last(self) -> bool:
        return self.type in ("done", "error")


def wire_id(event: EventId) -> str:
    return f"{event[0]}-{event[1]}"


def event_id(text: str) -> EventId:
    epoch, _, number = text.partition("-")
    return int(epoch), int(number)
