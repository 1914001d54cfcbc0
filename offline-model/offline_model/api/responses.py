"""Responses: an answer as the bytes that OpenAI sends, one JSON body or a stream of server-sent events."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import cycle, islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from offline_model.api.requests import CompletionRequest
from offline_model.conversation import Reply, ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]

# A word (or seven characters of it) with the space before it, a few signs, or one white space character.
# Each character matches one of the three, so the tokens join to exactly the text.
TOKEN = re.compile(r" ?\w{1,7}| ?[^\w\s]{1,4}|\s")
TOKENS_PER_MESSAGE = 4
MAX_CACHED_CHARACTERS = 20_000

DONE = b"data: [DONE]\n\n"


class ResponseModel(BaseModel):
    # Pydantic builds the validators at the first use, so that the server starts faster.
    model_config = ConfigDict(defer_build=True)


class PromptTokensDetails(ResponseModel):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(ResponseModel):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class ResponseFunctionCall(ResponseModel):
    name: str
    arguments: str


class ResponseToolCall(ResponseModel):
    id: str
    type: Literal["function"] = "function"
    function: ResponseFunctionCall


class ResponseMessage(ResponseModel):
    """`tool_calls` is left out, not null, when there are none."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[str] = []
    tool_calls: list[ResponseToolCall] = []


class Choice(ResponseModel):
    index: int = 0
    message: ResponseMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(ResponseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    service_tier: Literal["default"] = "default"
    system_fingerprint: str


@dataclass(frozen=True)
class Answer:
    """`tokens` are those of the text, or of each call's arguments, in the order of the stream."""

    text: str | None
    calls: list[ResponseToolCall]
    tokens: list[list[str]]
    finish_reason: FinishReason
    usage: Usage


def prepare(request: CompletionRequest, reply: Reply, request_id: str) -> Answer:
    """Cut the text, or the arguments of the calls, at the token limit, as the real API does."""
    texts = [json.dumps(call.arguments, ensure_ascii=False) for call in reply.calls]
    left: int | None = request.max_completion_tokens or request.max_tokens
    finish_reason: FinishReason = "tool_calls" if reply.calls else "stop"
    tokens: list[list[str]] = []
    for text in texts or [before_stop(reply.text, request.stop)]:
        found = split_tokens(text)
        if left is not None:
            if len(found) > left:
                found, finish_reason = found[:left], "length"
            left -= len(found)
        if reply.calls and not found:
            break
        tokens.append(found)
    calls = [
        response_call(call, f"{request_id}/{number}", "".join(arguments))
        for number, (call, arguments) in enumerate(zip(reply.calls, tokens, strict=False))
    ]
    usage = [count_prompt_tokens(request), sum(map(len, tokens))]
    return Answer(
        None if reply.calls else "".join(tokens[0]),
        calls,
        tokens,
        finish_reason,
        Usage(prompt_tokens=usage[0], completion_tokens=usage[1], total_tokens=sum(usage)),
    )


def response_call(call: ToolCall, identity: str, arguments: str) -> ResponseToolCall:
    digest = blake2b(identity.encode(), digest_size=12).hexdigest()
    function = ResponseFunctionCall(name=call.name, arguments=arguments)
    return ResponseToolCall(id=f"call_{digest}", function=function)


def repeat_text(reply: Reply, count: int) -> Reply:
    """Repeat the reply's text until it has `count` tokens (for the fault `long`)."""
    tokens = split_tokens(f"{reply.text or 'On and on.'}\n\n")
    return Reply("".join(islice(cycle(tokens), count)))


def before_stop(text: str, stop: str | list[str] | None) -> str:
    """The text before the first stop sequence."""
    for sequence in [stop] if isinstance(stop, str) else stop or []:
        text = text.split(sequence, 1)[0]
    return text


def count_prompt_tokens(request: CompletionRequest) -> int:
    total = 0
    for message in request.messages:
        total += TOKENS_PER_MESSAGE + count_tokens(message.text)
        for call in message.tool_calls or []:
            total += count_tokens(call.function.name + call.function.arguments)
    if request.tools:
        total += sum(count_tokens(tool.model_dump_json()) for tool in request.tools)
    return total


def split_tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


def count_tokens(text: str) -> int:
    return count_cached(text) if len(text) <= MAX_CACHED_CHARACTERS else len(TOKEN.findall(text))


@lru_cache(maxsize=512)
def count_cached(text: str) -> int:
    """Cached, because each request of a conversation repeats all its messages."""
    return len(TOKEN.findall(text))


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
