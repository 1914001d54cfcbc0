"""Encode an answer as the bytes that OpenAI sends: one JSON body, or a stream of server-sent events."""

import json
from collections.abc import Iterator
from typing import Any

from offline_model.api.answers import Answer
from offline_model.api.responses import ChatCompletion, Choice, ResponseMessage

DONE = b"data: [DONE]\n\n"


def encode_completion(answer: Answer, head: dict[str, Any]) -> bytes:
    message = ResponseMessage(content=answer.text, tool_calls=answer.calls)
    choice = Choice(message=message, finish_reason=answer.finish_reason)
    exclude = None if answer.calls else {"choices": {0: {"message": {"tool_calls"}}}}
    completion = ChatCompletion(**head, choices=[choice], usage=answer.usage)
    return completion.model_dump_json(exclude=exclude).encode()


def first_tokens(body: bytes, answer: Answer, count: int) -> bytes:
    """The beginning of a body: up to `count` tokens of the text, or of the first call's arguments."""
    kept = "".join(answer.tokens[0][:count])
    mark = b'"arguments":"' if answer.calls else b'"content":"'
    return body[: body.find(mark) + len(mark) + len(json.dumps(kept, ensure_ascii=False).encode()) - 2]


class StreamEncoder:
    """Encodes the events of one stream.

    With `include_usage` each event has `"usage": null`, and one more at the end has the counts.
    """

    def __init__(self, head: dict[str, Any], include_usage: bool) -> None:
        self.head = json.dumps(head | {"object": "chat.completion.chunk"}, ensure_ascii=False)[:-1]
        self.tail = ', "usage": null}' if include_usage else "}"
        self.include_usage = include_usage

    def event(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        choices = json.dumps([choice], ensure_ascii=False)
        return f'data: {self.head}, "choices": {choices}{self.tail}\n\n'.encode()

    def first(self, answer: Answer) -> bytes:
        content = None if answer.calls else ""
        return self.event({"role": "assistant", "content": content, "refusal": None})

    def token_events(self, answer: Answer) -> Iterator[tuple[bytes, int]]:
        """Each event with the number of tokens in it."""
        if not answer.calls:
            for token in answer.tokens[0]:
                yield self.event({"content": token}), 1
            return
        for index, (call, tokens) in enumerate(zip(answer.calls, answer.tokens, strict=True)):
            function = {"name": call.function.name, "arguments": ""}
            start = {"index": index, "id": call.id, "type": call.type, "function": function}
            yield self.event({"tool_calls": [start]}), 0
            for token in tokens:
                yield self.event({"tool_calls": [{"index": index, "function": {"arguments": token}}]}), 1

    def last(self, answer: Answer) -> bytes:
        end = self.event({}, answer.finish_reason)
        if self.include_usage:
            usage = answer.usage.model_dump_json()
            end += f'data: {self.head}, "choices": [], "usage": {usage}}}\n\n'.encode()
        return end + DONE
