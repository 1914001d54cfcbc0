"""The data of the API and of the store: requests, results, runs and their events."""

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
    background: bool = False  # continue even if no client follows the run


class Source(BaseModel):
    """A page that a tool has returned. The answer cites it as `[n]`; `step` is the step that found it."""

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
    # Markdown. `[n]` cites `sources`; "Inferred:" marks a conclusion that no source states.
    response: str
    steps: list[Step]
    sources: list[Source]
    model: str
    tokens_used: int
    # The model's own: "stop", or "length" if the answer was cut at MAX_TOKENS.
    finish_reason: str


class Problem(BaseModel):
    """An error in the form of RFC 9457. The log has more about it under the same request id."""

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
    created_at: float = Field(default_factory=time.time)  # seconds since 1970
    result: Result | None = None
    problem: Problem | None = None

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def last_event(self) -> tuple[str, dict[str, Any]]:
        """The type and the data of the last event of a finished run."""
        if self.problem:
            return "error", {"problem": self.problem.model_dump(exclude_none=True)}
        return "done", {"reason": self.result.finish_reason if self.result else self.state}


class Checkpoint(BaseModel):
    """The progress of a run: all that another replica needs to continue from the last finished step."""

    messages: list[dict[str, Any]] = []  # from langchain_core.messages.messages_to_dict
    steps: list[Step] = []
    sources: list[Source] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def source(self, url: str, title: str, snippet: str) -> Source:
        """Return the source with this URL; add it if it is new, so that a page keeps its number."""
        for known in self.sources:
            if known.url == url:
                return known
        step = len(self.steps) + 1
        self.sources.append(Source(n=len(self.sources) + 1, title=title, url=url, snippet=snippet, step=step))
        return self.sources[-1]


class StoredRun(BaseModel):
    """A run as the store keeps it."""

    # The stored JSON calls the checkpoint "notebook": replicas of an older version read it under that name.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    run: Run
    caller: str
    request_id: str
    checkpoint: Checkpoint = Field(default=Checkpoint(), alias="notebook")
    epoch: int = 0  # counts the replicas that have owned the run
    takeovers: int = 0  # from replicas that ended without handing the run over


EventId = tuple[int, int]  # the epoch, and a number; ids ascend over the whole run
STREAM_START_ID: EventId = (0, 0)  # smaller than the id of any event, as in Redis


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run."""

    id: EventId
    type: str
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.type in ("done", "error")


def format_event_id(event_id: EventId) -> str:
    """Return the id as it is stored and sent: "EPOCH-NUMBER"."""
    return f"{event_id[0]}-{event_id[1]}"


def parse_event_id(text: str) -> EventId:
    epoch, _, number = text.partition("-")
    return int(epoch), int(number)
