"""Responses: a completion and the chunks of a streamed one, field for field as OpenAI sends them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls"]


class Wire(BaseModel):
    # Built when first used: the start is quicker, and the parts are only ever used inside the whole.
    model_config = ConfigDict(defer_build=True)


class PromptDetails(Wire):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionDetails(Wire):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Wire):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()
    completion_tokens_details: CompletionDetails = CompletionDetails()


class CalledFunction(Wire):
    name: str
    arguments: str


class Called(Wire):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ReplyMessage(Wire):
    """`tool_calls` is left out, not null, when there are none."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[str] = []
    tool_calls: list[Called] = []


class Choice(Wire):
    index: int = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: FinishReason


class Completion(Wire):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
