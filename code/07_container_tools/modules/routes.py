"""The routes: the tools, chat, and those for operators."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

import prometheus_client as prometheus
from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from modules.problems import Stopping, problem
from modules.session import EngineDown
from modules.tools import document_tool, hello_tool, qdrant_tool
from modules.tools.calls import Toolbox

router = APIRouter()
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy may buffer events
STARTED_AT = time.monotonic()


async def get_toolbox(request: Request) -> Toolbox:
    toolbox: Toolbox = request.state.toolbox
    return toolbox


Tools = Annotated[Toolbox, Depends(get_toolbox)]


class ChatRequest(BaseModel, extra="forbid"):
    message: str = Field(min_length=1, max_length=10_000)
    stream: bool = False


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, Any]) -> Response:
    """Answer with the result of the work. If the client leaves first, cancel it, down to the container."""
    await request.body()
    # After the body, the only message still to come is http.disconnect.
    call, left = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({call, left}, return_when=asyncio.FIRST_COMPLETED)
        # 499 is nginx's status for a client that has left
        return JSONResponse(call.result()) if call.done() else Response(status_code=499)
    finally:
        call.cancel()
        left.cancel()


@router.get("/")
async def welcome(tools: Tools) -> dict[str, Any]:
    return {"message": "Agent tools that run in containers", "tools": list(tools.tools)}


@router.get("/hello", response_model=hello_tool.Output)
async def hello(request: Request, tools: Tools, name: str = "World") -> Response:
    """A greeting from a container."""
    return await unless_client_leaves(request, tools.call("hello", {"name": name}))


@router.post("/validate-document", response_model=document_tool.Output)
async def validate_document(request: Request, tools: Tools, body: document_tool.Input) -> Response:
    """Validate a JSON or YAML document; each fault is named by its JSON pointer."""
    arguments = body.model_dump(by_alias=True)
    return await unless_client_leaves(request, tools.call("validate_document", arguments))


@router.post("/test-qdrant", response_model=qdrant_tool.Output)
async def test_qdrant(request: Request, tools: Tools, body: qdrant_tool.Input) -> Response:
    """Ask a Qdrant server, from inside a container."""
    return await unless_client_leaves(request, tools.call("test_qdrant", body.model_dump()))


@router.get("/tools")
async def list_tools(tools: Tools) -> list[dict[str, Any]]:
    """Which tools there are, with the JSON Schemas of what they take and return."""
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "input": tool.input.model_json_schema(),
            "output": tool.output.model_json_schema(),
        }
        for tool in tools.tools.values()
    ]


@router.post("/tools/{name}", response_model=dict[str, Any])
async def call_tool(
    request: Request, tools: Tools, name: str, arguments: Annotated[dict[str, Any], Body()]
) -> Response:
    """Call a tool."""
    if name not in tools.tools:
        raise HTTPException(404, f"There is no such tool. There are: {', '.join(tools.tools)}.")
    return await unless_client_leaves(request, tools.call(name, arguments))


@router.post("/chat", response_model=dict[str, Any], responses={200: {"content": {"text/event-stream": {}}}})
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a message, with the tools' help. With `"stream": true` the answer comes as events."""
    if body.stream:
        return EventSourceResponse(encoded_events(request, body.message), headers=STREAM_HEADERS)
    return await unless_client_leaves(request, whole_answer(request, body.message))


async def encoded_events(request: Request, message: str) -> AsyncIterator[bytes]:
    """The chat's events. The last one is `done` or `error`."""
    try:
        async with aclosing(request.state.chat.events(message)) as events:
            async for kind, data in events:
                yield format_sse_event(event=kind, data_str=json.dumps(data))
    except Exception as error:  # noqa: BLE001  # whatever it is, the stream must not end as if all were well
        yield format_sse_event(event="error", data_str=json.dumps({"problem": problem(request, error)}))


async def whole_answer(request: Request, message: str) -> dict[str, Any]:
    async with aclosing(request.state.chat.events(message)) as events:
        got = [event async for event in events]
    text = "".join(data["text"] for kind, data in got if kind == "token")
    calls = [data for kind, data in got if kind == "step"]
    return {"response": text, "calls": calls, "usage": dict(got)["usage"]}


@router.get("/health")
async def health(request: Request, tools: Tools) -> dict[str, Any]:
    """Liveness: this process turns its event loop. Awaits nothing; shows the engine's last known state."""
    return {
        "status": "stopping" if request.state.shutdown.requested else "healthy",
        "version": tools.settings.app_version,
        "uptime_seconds": round(time.monotonic() - STARTED_AT, 2),
        "dependencies": {"engine": tools.session.status},
    }


@router.get("/ready")
async def ready(request: Request, tools: Tools) -> dict[str, bool]:
    """Readiness: the engine answers, and the server has not been told to stop."""
    if request.state.shutdown.requested:
        raise Stopping
    if await tools.session.check() != "ok":
        raise EngineDown
    return {"ready": True}


@router.get("/metrics")
async def metrics() -> Response:
    """Metrics in Prometheus's text format."""
    return Response(prometheus.generate_latest(), media_type=prometheus.CONTENT_TYPE_LATEST)
