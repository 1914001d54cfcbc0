"""Chat: the model answers, and may call the container tools on the way."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState
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
        key, url = settings.openai_api_key.get_secret_value(), settings.openai_base_url
        self.model = openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0)  # the caller may retry
        self.tools = []
        for tool in toolbox.tools.values():
            told = {"description": tool.description, "parameters": tool.input.model_json_schema()}
            self.tools.append({"type": "function", "function": {"name": tool.name} | told})

    async def events(self, message: str) -> AsyncGenerator[Event]:
        """Yield `token` and `step` events, then `usage`, and at last `done`, all in TIMEOUT_SECONDS.

        Raises TimeoutError, `ModelBrokeOff` and the errors of openai.
        """
        deadline = asyncio.get_running_loop().time() + self.settings.timeout_seconds
        async with aclosing(self.converse(message)) as events:
            while True:
                # The timeout covers the wait for the next event, and never a yield (PEP 789 says why).
                async with asyncio.timeout_at(deadline):
                    if (event := await anext(events, None)) is None:
                        return
                yield event

    async def converse(self, message: str) -> AsyncGenerator[Event]:
        messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": message}]
        usage, steps, reason = {"prompt_tokens": 0, "completion_tokens": 0}, 0, None
        for left in range(self.settings.max_steps, -1, -1):
            state, reply = ChatCompletionStreamState(), None
            # With no steps left, the model has to answer without tools.
            options: dict[str, Any] = {"messages": messages} | ({"tools": self.tools} if left else {})
            stream: openai.AsyncStream[ChatCompletionChunk] = await self.model.chat.completions.create(
                model=self.settings.model_name, stream=True, stream_options={"include_usage": True}, **options
            )
            async with stream:
                async for chunk in stream:
                    state.handle_chunk(chunk)
                    reply = state.current_completion_snapshot  # the chunks so far, put together
                    if chunk.choices and (text := chunk.choices[0].delta.content):
                        yield "token", {"text": text}
            if not (reply and reply.choices and (reason := reply.choices[0].finish_reason)):
                raise ModelBrokeOff
            usage = {name: count + getattr(reply.usage, name, 0) for name, count in usage.items()}
            said = reply.choices[0].message
            if not said.tool_calls:
                break
            fields: Any = {"id": True, "type": True, "function": {"name", "arguments"}}
            calls = [call.model_dump(include=fields) for call in said.tool_calls]
            messages.append({"role": "assistant", "content": said.content, "tool_calls": calls})
            for call in said.tool_calls:
                steps += 1
                step = {"n": steps, "tool": call.function.name, **await self.call(call.function)}
                outcome = json.dumps(step["outcome"])
                messages.append({"role": "tool", "tool_call_id": call.id, "content": outcome})
                yield "step", step
        yield "usage", usage
        yield "done", {"reason": reason}

    async def call(self, function: Any) -> dict[str, Any]:
        """Call a tool for the model. Its failure is an outcome, from which the model can go on."""
        began, given = time.perf_counter(), None
        try:
            given = json.loads(function.arguments)
            outcome = await self.toolbox.call(function.name, given)
        except ToolFailed as failed:
            outcome = {"error": failed.reason, "exit_code": failed.exit_code, "stderr": failed.stderr}
        except (ValidationError, ValueError, KeyError):
            outcome = {"error": "There is no such tool, or its input does not fit its schema."}
        except (EngineDown, Overloaded):
            outcome = {"error": "Tools cannot be run at the moment."}
        return {"input": given, "outcome": outcome, "seconds": round(time.perf_counter() - began, 3)}
