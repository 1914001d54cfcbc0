"""An answer ready to send: cut at stop words and token limits, split into tokens, counted."""

import json
from dataclasses import dataclass
from hashlib import blake2b
from itertools import cycle, islice

from offline_model.api import tokenizer
from offline_model.api.requests import CompletionRequest
from offline_model.api.responses import Called, CalledFunction, FinishReason, Usage
from offline_model.conversation.messages import Reply


@dataclass(frozen=True)
class Answer:
    """`pieces` are the tokens of the text, or of each call's arguments, in the order they are streamed."""

    text: str | None
    calls: list[Called]
    pieces: list[list[str]]
    finish: FinishReason
    usage: Usage


def prepare(request: CompletionRequest, reply: Reply, identity: str) -> Answer:
    limit = request.max_completion_tokens or request.max_tokens
    prompt = prompt_tokens(request)
    if reply.calls:
        return calls_answer(reply, identity, limit, prompt)
    text = before_stop(reply.text, request.stop)
    pieces = tokenizer.split(text)
    finish: FinishReason = "stop"
    if limit is not None and len(pieces) > limit:
        pieces, finish = pieces[:limit], "length"
        text = "".join(pieces)
    return Answer(text, [], [pieces], finish, usage(prompt, len(pieces)))


def calls_answer(reply: Reply, identity: str, limit: int | None, prompt: int) -> Answer:
    """Calls whose arguments are cut at the limit are sent all the same: that is what the real one does."""
    left = limit
    called: list[Called] = []
    pieces: list[list[str]] = []
    finish: FinishReason = "tool_calls"
    for number, call in enumerate(reply.calls):
        arguments = tokenizer.split(json.dumps(call.arguments, ensure_ascii=False))
        if left is not None:
            if len(arguments) > left:
                arguments, finish = arguments[:left], "length"
            left -= len(arguments)
        if not arguments:
            break
        digest = blake2b(f"{identity}/{number}".encode(), digest_size=12).hexdigest()
        called.append(
            Called(id=f"call_{digest}", function=CalledFunction(name=call.name, arguments="".join(arguments)))
        )
        pieces.append(arguments)
    return Answer(None, called, pieces, finish, usage(prompt, sum(map(len, pieces))))


def lengthened(reply: Reply, count: int) -> Reply:
    """The same text over and over, so many tokens long."""
    pieces = tokenizer.split(f"{reply.text or 'On and on.'}\n\n")
    return Reply("".join(islice(cycle(pieces), count)))


def before_stop(text: str, stop: str | list[str] | None) -> str:
    """The text up to the first stop sequence, which is not part of it."""
    for sequence in [stop] if isinstance(stop, str) else stop or []:
        text = text.split(sequence, 1)[0]
    return text


def usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def prompt_tokens(request: CompletionRequest) -> int:
    total = 0
    for message in request.messages:
        total += tokenizer.TOKENS_PER_MESSAGE
        if isinstance(message.content, str):
            total += tokenizer.count(message.content)
        else:
            total += sum(tokenizer.count(part.text or "") for part in message.content or [])
        for call in message.tool_calls or []:
            total += tokenizer.count(call.function.name + call.function.arguments)
    if request.tools:
        total += sum(tokenizer.count(tool.model_dump_json()) for tool in request.tools)
    return total
