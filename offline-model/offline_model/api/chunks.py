"""Chunks: an answer as the server-sent events of OpenAI's stream."""

import json
from collections.abc import Iterator
from typing import Any

from offline_model.api.answers import Answer

DONE = b"data: [DONE]\n\n"


class Chunks:
    """Writes the events of one stream. `usage` asks for the null in each chunk and the count at the end."""

    def __init__(self, head: dict[str, Any], usage: bool) -> None:
        self.head = json.dumps(head | {"object": "chat.completion.chunk"}, ensure_ascii=False)[:-1]
        self.tail = ', "usage": null}' if usage else "}"
        self.usage = usage

    def event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        choices = json.dumps([choice], ensure_ascii=False)
        return f'data: {self.head}, "choices": {choices}{self.tail}\n\n'.encode()

    def opening(self, answer: Answer) -> bytes:
        content = None if answer.calls else ""
        return self.event({"role": "assistant", "content": content, "refusal": None})

    def pieces(self, answer: Answer) -> Iterator[tuple[bytes, int]]:
        """Each event with the number of tokens it carries."""
        if not answer.calls:
            for piece in answer.pieces[0]:
                yield self.event({"content": piece}), 1
            return
        for index, (call, pieces) in enumerate(zip(answer.calls, answer.pieces, strict=True)):
            named = {"name": call.function.name, "arguments": ""}
            start = {"index": index, "id": call.id, "type": call.type, "function": named}
            yield self.event({"tool_calls": [start]}), 0
            for piece in pieces:
                yield self.event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), 1

    def closing(self, answer: Answer) -> bytes:
        end = self.event({}, answer.finish)
        if self.usage:
            end += (
                f'data: {self.head}, "choices": [], "usage": {answer.usage.model_dump_json()}}}\n\n'.encode()
            )
        return end + DONE
