"""Calls of tools: validate the input, run the script on the shared session, bound the load, and count."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import prometheus_client as prometheus
from pydantic import JsonValue

from modules.config import Settings
from modules.session import Session
from modules.tools import load_tools
from modules.tools.core import Tool, ToolFailed, run_tool

ENGINE_SECONDS = 60  # for a script's container to start on a busy engine, besides the script's own time

calls_total = prometheus.Counter("tool_calls_total", "Tool calls", ["tool", "outcome"])
call_seconds = prometheus.Histogram("tool_call_seconds", "Seconds of a tool call", ["tool"])


class Overloaded(Exception):
    """Too many tool calls wait."""


class Toolbox:
    """The tools, and the session on which all calls of them run."""

    def __init__(self, settings: Settings, session: Session) -> None:
        self.settings, self.session = settings, session
        self.tools = load_tools()
        self.slots = asyncio.Semaphore(settings.max_concurrency)
        self.pending = 0  # calls that run or wait

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool. Raises KeyError, ValidationError, `ToolFailed`, `EngineDown` or `Overloaded`."""
        tool = self.tools[name]
        given = tool.input.model_validate(arguments)
        extra: dict[str, JsonValue] = {each: getattr(self.settings, each) for each in tool.settings}
        began, outcome = time.perf_counter(), "failed"
        try:
            async with self.slot():
                result = await self.run(tool, given, extra)
            outcome = "ok"
            return result
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            calls_total.labels(name, outcome).inc()
            call_seconds.labels(name).observe(time.perf_counter() - began)

    async def run(self, tool: Tool, given: Any, extra: dict[str, JsonValue]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(tool.limits.seconds + ENGINE_SECONDS):
                return await self.session.run(lambda client: run_tool(client, tool, given, extra))
        except TimeoutError:
            raise ToolFailed("The engine did not run the script in time.", 124, "") from None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Run MAX_CONCURRENCY calls at once, let as many wait, and refuse the rest."""
        if self.pending >= 2 * self.settings.max_concurrency:
            raise Overloaded
        self.pending += 1
        try:
            async with self.slots:
                yield
        finally:
            self.pending -= 1
