"""Responses: a completion and the chunks of a streamed one, field for field as OpenAI sends them."""

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptDetails(BaseModel):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionDetails(BaseModel):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()
    completion_tokens_details: CompletionDetails = CompletionDetails()


class CalledFunction(BaseModel):
    name: str
    arguments: str


class Called(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ReplyMessage(BaseModel):
    """`tool_calls` is left out, not null, when there are none."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[str] = []
    tool_calls: list[Called] = []


class Choice(BaseModel):
    index: int = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: FinishReason


class Completion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
