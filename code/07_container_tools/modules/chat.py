"""Chat: the model answers, and may call the container tools on the way."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk
from pydantic import ValidationError

from modules.config import Settings
from modules.session import EngineDown
from modules.tools.calls import Overloaded, Toolbox
from modules.tools.core import ToolFailed

SYSTEM = "Answer briefly. Use the tools instead of guessing, and say what they returned."
Event = tuple[str, dict[str, Any]]


class ModelBrokeOff(Exception):
    """The model's answer ended without a reason for its end."""


class Chat:
    def __init__(self, settings: Settings, toolbox: Toolbox) -> None:
        self.settings, self.toolbox = settings, toolbox
        self.model = openai.AsyncOpenAI(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url,
            max_retries=0,  # the caller decides whether to retry
        )
        self.tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input.model_json_schema(),
                },
            }
            for tool in toolbox.tools.values()
        ]

    async def events(self, message: str) -> AsyncGenerator[Event]:
        """Yield `token` and `step` events, then `usage`, and at last `done`. Raises `ModelBrokeOff`."""
        messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": message}]
        usage, steps = {"prompt_tokens": 0, "completion_tokens": 0}, 0
        for left in range(self.settings.max_steps, -1, -1):
            reply = Reply()
            async with aclosing(self.complete(messages, offer_tools=left > 0)) as chunks:
                async for chunk in chunks:
                    if text := reply.add(chunk):
                        yield "token", {"text": text}
            usage = {name: used + reply.usage.get(name, 0) for name, used in usage.items()}
            if not reply.calls or not reply.reason:
                break
            messages.append(reply.message())
            for call in reply.calls.values():
                steps += 1
                step = {"n": steps, "tool": call["name"], **await self.call(call["name"], call["arguments"])}
                outcome = json.dumps(step["outcome"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": outcome})
                yield "step", step
        if not reply.reason:
            raise ModelBrokeOff
        yield "usage", usage
        yield "done", {"reason": reply.reason}

    async def complete(self, messages: Any, offer_tools: bool) -> AsyncGenerator[ChatCompletionChunk]:
        options: dict[str, Any] = {"tools": self.tools} if offer_tools and self.tools else {}
        stream: openai.AsyncStream[ChatCompletionChunk] = await self.model.chat.completions.create(
            model=self.settings.model_name,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )
        async with stream:
            async for chunk in stream:
                yield chunk

    async def call(self, name: str, arguments: str) -> dict[str, Any]:
        """Call a tool for the model. Its failure is an outcome, from which the model can go on."""
        began, given = time.perf_counter(), None
        try:
            given = json.loads(arguments)
            outcome = await self.toolbox.call(name, given)
        except ToolFailed as failed:
            outcome = {"error": failed.reason, "exit_code": failed.exit_code, "stderr": failed.stderr}
        except (ValidationError, ValueError, KeyError):
            outcome = {"error": "There is no such tool, or its input does not fit its schema."}
        except (EngineDown, Overloaded):
            outcome = {"error": "Tools cannot be run at the moment."}
        return {"input": given, "outcome": outcome, "seconds": round(time.perf_counter() - began, 3)}


class Reply:
    """One reply of the model, put together from its chunks."""

    def __init__(self) -> None:
        self.text, self.reason = "", ""
        self.usage: dict[str, int] = {}
        self.calls: dict[int, dict[str, str]] = {}

    def add(self, chunk: ChatCompletionChunk) -> str:
        """Add a chunk; return its text."""
        if chunk.usage:
            self.usage = chunk.usage.model_dump(include={"prompt_tokens", "completion_tokens"})
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self.reason = choice.finish_reason or self.reason
        self.text += choice.delta.content or ""
        for part in choice.delta.tool_calls or []:
            call = self.calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += part.id or ""
            if part.function:
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
        return choice.delta.content or ""

    def message(self) -> dict[str, Any]:
        calls = [
            {"id": call["id"], "type": "function", "function": {k: call[k] for k in ("name", "arguments")}}
            for call in self.calls.values()
        ]
        return {"role": "assistant", "content": self.text or None, "tool_calls": calls}
