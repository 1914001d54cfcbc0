"""The body of POST /v1/chat/completions, and its conversion into the conversation that intents read."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from offline_model.conversation import Conversation, Tool, ToolCall, Turn, parse_json
from offline_model.corpus.search import Corpus

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
# OpenAI's own limit; a JSON number may be far larger.
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]

CALL_IN_TEXT = re.compile(r"Calling tools:.*?'name': '([^']+)'", re.DOTALL)


class StrictModel(BaseModel):
    """Unknown fields and wrong types are errors, as in OpenAI's API."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, defer_build=True)


class LenientModel(BaseModel):
    """Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, defer_build=True)


class ContentPart(LenientModel):
    """A part of a message. `validation.py` refuses all types but text."""

    type: str
    text: str | None = None
    refusal: str | None = None


class MessageFunctionCall(StrictModel):
    name: str
    arguments: str
    provider_specific_fields: Any = None


class MessageToolCall(LenientModel):
    id: str
    type: Literal["function"] = "function"
    function: MessageFunctionCall


class ChatMessage(StrictModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    # LiteLLM adds this field to answers, and sends it back with the history.
    provider_specific_fields: Any = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text or part.refusal or "" for part in self.content)
        return self.content or ""


class FunctionDefinition(StrictModel):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(StrictModel):
    type: Literal["function"]
    function: FunctionDefinition

    @model_validator(mode="before")
    @classmethod
    def not_custom(cls, tool: Any) -> Any:
        if isinstance(tool, dict) and tool.get("type") == "custom":
            raise PydanticCustomError("unsupported", "the offline model has no custom tools, only functions")
        return tool


class ChosenFunction(StrictModel):
    name: str


class NamedToolChoice(StrictModel):
    type: Literal["function"]
    function: ChosenFunction


class AllowedTools(StrictModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolChoice], Field(min_length=1)]


class AllowedToolChoice(StrictModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JSONSchemaFormat(StrictModel):
    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None


class StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class CompletionRequest(StrictModel):
    """The parameters from `temperature` on are accepted and have no effect."""

    model: Annotated[str, Field(max_length=512)]
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[FunctionTool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | AllowedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Seed | None = None

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    # `validation.py` refuses values of these that would change the answer.
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    functions: Any = None
    function_call: Any = None


def to_conversation(request: CompletionRequest, corpus: Corpus) -> Conversation:
    tools = [to_tool(tool.function) for tool in request.tools or []]
    choice = request.tool_choice or "auto"
    forced_tool = None
    if isinstance(choice, NamedToolChoice):
        forced_tool = next(tool for tool in tools if tool.name == choice.function.name)
        choice = "auto"
    elif isinstance(choice, AllowedToolChoice):
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        tools = [tool for tool in tools if tool.name in allowed]
        choice = choice.allowed_tools.mode
    response_format = request.response_format
    json_schema = response_format.json_schema if response_format else None
    return Conversation(
        corpus,
        to_turns(request.messages),
        tools,
        choice,
        forced_tool,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        wants_json=response_format is not None and response_format.type != "text",
        response_schema=json_schema.schema_ if json_schema else None,
        seed=request.seed or 0,
    )


def to_tool(function: FunctionDefinition) -> Tool:
    schema = function.parameters or {"type": "object", "properties": {}}
    return Tool(function.name, function.description or "", schema)


def to_turns(messages: list[ChatMessage]) -> list[Turn]:
    """Convert messages to turns.

    Tool calls and tool results that smolagents writes as plain text are recognised as such.
    """
    turns: list[Turn] = []
    for turn in map(to_turn, messages):
        before = turns[-1] if turns else turn
        if turn.role == "assistant" and (called := CALL_IN_TEXT.match(turn.text)):
            turn = Turn("assistant", "", {called[1]: ToolCall(called[1], {})})
        elif turn.role == "user" and before.calls and turn.text.startswith("Observation:"):
            turn = Turn(
                "tool", turn.text.removeprefix("Observation:").strip(), call_id=next(iter(before.calls))
            )
        turns.append(turn)
    return turns


def to_turn(message: ChatMessage) -> Turn:
    role = "system" if message.role == "developer" else message.role
    calls = {}
    for call in message.tool_calls or []:
        arguments = parse_json(call.function.arguments)
        calls[call.id] = ToolCall(call.function.name, arguments if isinstance(arguments, dict) else {})
    return Turn(role, message.text, calls, message.tool_call_id)
