"""Prepare an answer for sending: apply `stop` and the token limits, split into tokens, count the usage."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import cycle, islice

from offline_model.api.requests import CompletionRequest
from offline_model.api.responses import FinishReason, ResponseFunctionCall, ResponseToolCall, Usage
from offline_model.conversation.messages import Reply

# A word (or seven characters of it) with the space before it, a few signs, or one white space character.
# Each character matches one of the three, so the tokens join to exactly the text.
TOKEN = re.compile(r" ?\w{1,7}| ?[^\w\s]{1,4}|\s")
TOKENS_PER_MESSAGE = 4
MAX_CACHED_CHARACTERS = 20_000


@dataclass(frozen=True)
class Answer:
    """`tokens` are those of the text, or of each call's arguments, in the order of the stream."""

    text: str | None
    calls: list[ResponseToolCall]
    tokens: list[list[str]]
    finish_reason: FinishReason
    usage: Usage


def prepare(request: CompletionRequest, reply: Reply, request_id: str) -> Answer:
    limit = request.max_completion_tokens or request.max_tokens
    prompt_tokens = count_prompt_tokens(request)
    if reply.calls:
        return prepare_calls(reply, request_id, limit, prompt_tokens)
    text = before_stop(reply.text, request.stop)
    tokens = split_tokens(text)
    finish_reason: FinishReason = "stop"
    if limit is not None and len(tokens) > limit:
        tokens, finish_reason = tokens[:limit], "length"
        text = "".join(tokens)
    return Answer(text, [], [tokens], finish_reason, usage_of(prompt_tokens, len(tokens)))


def prepare_calls(reply: Reply, request_id: str, limit: int | None, prompt_tokens: int) -> Answer:
    """Send calls whose arguments are cut at the limit, as the real API does."""
    left = limit
    calls: list[ResponseToolCall] = []
    tokens: list[list[str]] = []
    finish_reason: FinishReason = "tool_calls"
    for number, call in enumerate(reply.calls):
        arguments = split_tokens(json.dumps(call.arguments, ensure_ascii=False))
        if left is not None:
            if len(arguments) > left:
                arguments, finish_reason = arguments[:left], "length"
            left -= len(arguments)
        if not arguments:
            break
        digest = blake2b(f"{request_id}/{number}".encode(), digest_size=12).hexdigest()
        function = ResponseFunctionCall(name=call.name, arguments="".join(arguments))
        calls.append(ResponseToolCall(id=f"call_{digest}", function=function))
        tokens.append(arguments)
    return Answer(None, calls, tokens, finish_reason, usage_of(prompt_tokens, sum(map(len, tokens))))


def repeat_text(reply: Reply, count: int) -> Reply:
    """Repeat the reply's text until it has `count` tokens (for the fault `long`)."""
    tokens = split_tokens(f"{reply.text or 'On and on.'}\n\n")
    return Reply("".join(islice(cycle(tokens), count)))


def before_stop(text: str, stop: str | list[str] | None) -> str:
    """The text before the first stop sequence."""
    for sequence in [stop] if isinstance(stop, str) else stop or []:
        text = text.split(sequence, 1)[0]
    return text


def usage_of(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def count_prompt_tokens(request: CompletionRequest) -> int:
    total = 0
    for message in request.messages:
        total += TOKENS_PER_MESSAGE
        if isinstance(message.content, str):
            total += count_tokens(message.content)
        else:
            total += sum(count_tokens(part.text or "") for part in message.content or [])
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
