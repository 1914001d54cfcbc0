"""Turn what a container prints into events: JSON lines of the agent, and everything else as text."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

AGENT_EVENTS = frozenset({"plan", "model", "edit", "command", "tests", "say", "result"})
CHUNK, LINE = 8192, 32_768  # bytes that are parsed at once, and characters of an event; longer lines are cut
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
        self.limit, self.bytes, self.results, self.truncated = limit, 0, 0, False
        self.result: AgentResult | None = None
        self.decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }
        self.rest = {"stdout": "", "stderr": ""}  # of a line that has not ended

    def feed(self, stream: str, data: bytes) -> Iterator[AgentEvent]:
        for start in range(0, len(data), CHUNK):
            yield from self.feed_chunk(stream, data[start : start + CHUNK])

    def end(self) -> Iterator[AgentEvent]:
        for stream in self.rest:
            yield from self.feed_chunk(stream, b"", final=True)

    def feed_chunk(self, stream: str, data: bytes, final: bool = False) -> Iterator[AgentEvent]:
        *lines, rest = (self.rest[stream] + self.decoders[stream].decode(data, final)).split("\n")
        if final or len(rest) > LINE - CHUNK:
            lines, rest = [*lines, rest], ""
        self.rest[stream] = rest
        self.bytes += len(data)
        over = self.bytes > self.limit
        if over and not self.truncated:
            self.truncated = True
            text = f"[output over {self.limit} bytes is left out]"
            yield "log", {"stream": stream, "text": text, "truncated": True}
        text_lines: list[str] = []
        for line in filter(None, lines):
            event = self.parse(line) if stream == "stdout" else None
            if over and (event is None or event[0] != "result" or self.results > RESULTS):
                continue
            if event is None:
                text_lines.append(line)
                continue
            if text_lines:
                yield "log", {"stream": stream, "text": "\n".join(text_lines)}
                text_lines = []
            yield event
        if text_lines:
            yield "log", {"stream": stream, "text": "\n".join(text_lines)}

    def parse(self, line: str) -> AgentEvent | None:
        """The event of a JSON line; None for text."""
        try:
            event = json.loads(line) if line.startswith("{") else {}
            kind = event.pop("type", None)
            if not isinstance(kind, str) or kind not in AGENT_EVENTS:
                return None
            event.pop("variation", None)  # which is the server's to say
            json.dumps(event, allow_nan=False)  # a browser cannot read NaN
            if kind == "result":
                self.result = AgentResult.model_validate(event)
                self.results += 1
        except (ValueError, RecursionError, ValidationError):
            return None
        return kind, event
