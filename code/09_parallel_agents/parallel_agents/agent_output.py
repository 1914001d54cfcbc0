"""Turn what a container prints into events: JSON lines of the agent, and everything else as text."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

AGENT_EVENTS = frozenset({"plan", "model", "edit", "command", "tests", "say", "result"})
LINE = 16_384  # characters; longer lines are text, in pieces
RESULTS = 10  # results that are still read when the output is over its limit
AgentEvent = tuple[str, dict[str, Any]]


class AgentResult(BaseModel):
    status: Literal["passed", "failed"]
    tests_passed: int = Field(ge=0, le=2**31)
    tests_failed: int = Field(ge=0, le=2**31)
    summary: str = Field(max_length=4000)


class OutputParser:
    """The events of one container's output, in order. Keeps `limit` bytes, and says if there are more."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.result: AgentResult | None = None
        self.results = 0
        decoder = codecs.getincrementaldecoder("utf-8")
        self.decoders = {"stdout": decoder("replace"), "stderr": decoder("replace")}
        self.rest = {"stdout": "", "stderr": ""}
        self.truncated = False

    def feed(self, stream: str, data: bytes, final: bool = False) -> Iterator[AgentEvent]:
        self.bytes += len(data)
        over = self.bytes > self.limit
        if over and not self.truncated:
            self.truncated = True
            yield (
                "log",
                {
                    "stream": stream,
                    "text": f"[output over {self.limit} bytes is left out]",
                    "truncated": True,
                },
            )
        lines = (self.rest[stream] + self.decoders[stream].decode(data, final)).split("\n")
        self.rest[stream] = "" if final else lines.pop()
        if len(self.rest[stream]) > LINE:
            lines.append(self.rest[stream])
            self.rest[stream] = ""
        text: list[str] = []
        for line in lines:
            event = self.parse(line) if stream == "stdout" else None
            if event and event[0] == "result":
                self.results += 1
            if over and not (event and event[0] == "result" and self.results <= RESULTS):
                continue
            if event is None:
                text.append(line)
                continue
            yield from as_log(stream, text)
            text = []
            yield event
        yield from as_log(stream, text)

    def end(self) -> Iterator[AgentEvent]:
        for stream in ("stdout", "stderr"):
            if self.rest[stream]:
                yield from self.feed(stream, b"", final=True)

    def parse(self, line: str) -> AgentEvent | None:
        """The event of a JSON line; None for text."""
        if not line.startswith("{") or len(line) > LINE:
            return None
        try:
            told = json.loads(line)
            kind = told.pop("type", None)
        except (ValueError, RecursionError):
            return None
        if not isinstance(kind, str) or kind not in AGENT_EVENTS:
            return None
        told.pop("variation", None)  # which is the server's to say
        if kind == "result":
            try:
                self.result = AgentResult.model_validate(told)
            except ValidationError:
                return None
        return kind, told


def as_log(stream: str, lines: list[str]) -> Iterator[AgentEvent]:
    """Lines of text as events of about LINE characters."""
    piece: list[str] = []
    size = 0
    for line in lines:
        if not line:
            continue
        for start in range(0, len(line), LINE):
            part = line[start : start + LINE]
            if piece and size + len(part) > LINE:
                yield "log", {"stream": stream, "text": "\n".join(piece)}
                piece, size = [], 0
            piece.append(part)
            size += len(part)
    if piece:
        yield "log", {"stream": stream, "text": "\n".join(piece)}
