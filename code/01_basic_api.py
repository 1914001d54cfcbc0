"""A basic agent API: a model behind four HTTP routes.

You learn: what an agent needs around it before it is worth a container: checked requests, errors that help
           and leak nothing, a deadline, streaming, and two health routes that tell the truth.
Run:       `make model`, and in a second terminal `python code/01_basic_api.py`
See:       docs/01-basic-api.md, and http://127.0.0.1:8000/docs in a browser
"""

import asyncio
import json
import logging
import re
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Annotated, Any

import httpx2
import openai
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, SecretStr, StringConstraints
from pydantic import ValidationError as BadSettings
from pydantic_settings import BaseSettings
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = "1.0.0"
MAX_BODY_BYTES = 262_144  # room for 10,000 characters, each escaped as twelve bytes of JSON, and a context

log = logging.getLogger("uvicorn.error")


# --- Settings: each field is the environment variable of the same name in capitals ---


class Settings(BaseSettings):
    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = "gpt-5.4-mini"
    timeout_seconds: float = Field(default=30, gt=0)
    body_seconds: float = Field(default=5, gt=0)  # how long a client may take to send a body
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


try:
    settings = Settings()  # type: ignore[call-arg]  # the values come from the environment
except BadSettings as bad:
    sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in bad.errors()))


# --- Models: what goes in and what comes out ---


def sendable(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what no model can be sent: NaN is not JSON, half a surrogate pair is not Unicode."""
    json.dumps(context, ensure_ascii=False, allow_nan=False).encode()
    return context


class AgentRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: Annotated[
        str,
        StringConstraints(
            strip_whitespace=True, min_length=1, max_length=10_000, pattern=r"[^\s\u0085\ufeff]"
        ),
    ]
    context: Annotated[dict[str, JsonValue], AfterValidator(sendable)] = {}
    stream: bool = Field(default=False, strict=True)


class AgentResponse(BaseModel):
    response: str
    tokens_used: int
    model: str


class Health(BaseModel):
    status: str
    version: str
    dependencies: dict[str, str]


class Problem(BaseModel):
    """An error in the form of RFC 9457; beside the same request id the log tells more."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


# --- The agent: a prompt, a model, and what is known of the model's health ---


class Agent:
    def __init__(self) -> None:
        self.model = ChatOpenAI(
            model=settings.model_name,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            max_retries=0,  # a retry would hide the very faults this lesson is about
            stream_usage=True,
        )
        persona = "Answer briefly and exactly. What the caller tells of the situation, as JSON: {context}"
        prompt = ChatPromptTemplate.from_messages([("system", persona), ("human", "{query}")])
        self.chain = prompt | self.model
        self.model_status = "unknown"
        self.checked_at = float("-inf")

    async def check_model(self) -> str:
        """Ask the model's server for a sign of life, at most once a second: "ok" or "unreachable"."""
        now = asyncio.get_running_loop().time()
        if now - self.checked_at > 1:
            self.checked_at = now
            try:
                async with asyncio.timeout(2):
                    await self.model.root_async_client.models.list()
                self.model_status = "ok"
            except (TimeoutError, openai.OpenAIError):
                self.model_status = "unreachable"
        return self.model_status


# --- The application ---


class Envelope:
    """Around every request, in pure ASGI: an id in and out, and bounds on the body's size and time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope.get("method") == "HEAD":  # is GET without the body, which uvicorn leaves out
            scope = {**scope, "method": "GET"}
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        scope["state"]["request_id"] = request_id
        deadline = asyncio.get_running_loop().time() + settings.body_seconds
        size, complete = 0, False

        async def bounded_receive() -> Message:
            nonlocal size, complete
            if complete:  # the only message still to come is that the client has left
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"The body took longer than {settings.body_seconds:g} s.") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
            return message

        async def named_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await self.app(scope, bounded_receive, named_send)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Agent]]:
    agent = Agent()
    await agent.check_model()
    yield {"agent": agent}


async def the_agent(request: Request) -> Agent:
    agent: Agent = request.state.agent
    return agent


CurrentAgent = Annotated[Agent, Depends(the_agent)]
schema: dict[str, Any] = {"application/problem+json": {"schema": Problem.model_json_schema()}}
any_problem: dict[int | str, dict[str, Any]] = {"default": {"description": "A problem", "content": schema}}
app = FastAPI(title="A basic agent API", version=VERSION, lifespan=lifespan, responses=any_problem)
app.openapi_version = "3.2.0"  # the first that can describe the events of a stream
app.add_middleware(Envelope)


# --- Errors: one form for all, and never the text of an exception ---


def problem(
    request: Request, status: int, detail: str, errors: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    title, request_id = HTTPStatus(status).phrase, request.state.request_id
    told = Problem(title=title, status=status, detail=detail, request_id=request_id, errors=errors)
    return told.model_dump(exclude_none=True)


def reply(problem: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    # json.dumps escapes what is not ASCII: a field's name with half a surrogate pair in it can be told, too.
    return Response(json.dumps(problem), problem["status"], headers, media_type="application/problem+json")


@app.exception_handler(HTTPException)
async def http_error(request: Request, error: HTTPException) -> Response:
    headers = {"Allow": "GET, HEAD"} if error.headers == {"Allow": "GET"} else error.headers
    return reply(problem(request, error.status_code, error.detail), headers)


@app.exception_handler(RequestValidationError)
async def invalid_request(request: Request, error: RequestValidationError) -> Response:
    errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
    return reply(problem(request, 422, "The request is not valid.", errors))


@app.exception_handler(Exception)
async def our_own_fault(request: Request, error: Exception) -> Response:
    request_id = {"X-Request-ID": request.state.request_id}  # this reply goes round the Envelope
    return reply(problem(request, 500, "Something went wrong; the log has the details."), request_id)


@contextmanager
def model_errors_told(request: Request) -> Iterator[None]:
    """What can go wrong with the model becomes 504 (too slow) or 502 (failed); the cause goes to the log."""
    try:
        yield
    except (TimeoutError, openai.APITimeoutError):
        raise HTTPException(504, f"The model did not answer within {settings.timeout_seconds:g} s.") from None
    except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
        log.error("request %s: the model failed: %r", request.state.request_id, error)
        raise HTTPException(502, "The model failed, or could not be reached.") from None


# --- Talking to the model ---


async def events(request: Request, agent: Agent, body: AgentRequest) -> AsyncGenerator[ServerSentEvent]:
    """The answer as it comes: `token` events, then `usage`, and `done` or `error` always last."""
    deadline = asyncio.get_running_loop().time() + settings.timeout_seconds
    reason = None
    try:
        with model_errors_told(request):
            async with aclosing(agent.chain.astream(variables(body))) as chunks:  # type: ignore[type-var]
                while True:
                    # The timer runs while we wait for the model, never across a yield (PEP 789 says why).
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    if chunk.text:
                        yield ServerSentEvent(event="token", data={"text": chunk.text})
                    if used := chunk.usage_metadata:
                        counts = {
                            "prompt_tokens": used["input_tokens"],
                            "completion_tokens": used["output_tokens"],
                        }
                        yield ServerSentEvent(event="usage", data=counts)
                    reason = chunk.response_metadata.get("finish_reason", reason)
        if reason is None:
            raise HTTPException(502, "The model's answer broke off.")
        yield ServerSentEvent(event="done", data={"reason": reason})
    except HTTPException as error:
        told = problem(request, error.status_code, error.detail)
        yield ServerSentEvent(event="error", data={"problem": told})


def variables(body: AgentRequest) -> dict[str, str]:
    return {"query": body.query, "context": json.dumps(body.context, ensure_ascii=False)}


async def unless_client_leaves(request: Request, answer: Coroutine[Any, Any, AIMessage]) -> AIMessage | None:
    """The answer, or None when the client left first; then the call is cancelled, down to the model."""

    async def client_left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    call, left = asyncio.ensure_future(answer), asyncio.ensure_future(client_left())
    try:
        await asyncio.wait({call, left}, return_when=asyncio.FIRST_COMPLETED)
        return call.result() if call.done() else None
    finally:
        call.cancel()
        left.cancel()


# --- Routes ---


@app.get("/health")
async def health(agent: CurrentAgent) -> Health:
    """Liveness: this process turns its event loop. Awaits nothing; shows what was last known of the model."""
    return Health(status="healthy", version=VERSION, dependencies={"model": agent.model_status})


@app.get("/ready")
async def ready(agent: CurrentAgent) -> dict[str, bool]:
    """Readiness: the model answers, so a request sent here now has a chance; else 503."""
    if await agent.check_model() != "ok":
        raise HTTPException(503, "The model is unreachable.")
    return {"ready": True}


@app.post("/v1/invoke", response_model=AgentResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def invoke(request: Request, agent: CurrentAgent, body: AgentRequest) -> AgentResponse | Response:
    """The whole answer at once; or, with `"stream": true`, the events of /v1/stream."""
    if body.stream:
        answer = events(request, agent, body)
        encoded = (format_sse_event(event=e.event, data_str=json.dumps(e.data)) async for e in answer)
        return EventSourceResponse(encoded)
    with model_errors_told(request):
        async with asyncio.timeout(settings.timeout_seconds):
            message = await unless_client_leaves(request, agent.chain.ainvoke(variables(body)))
    if message is None:
        return Response(status_code=499)  # nginx's word for it; nobody is there to read it
    used = message.usage_metadata["total_tokens"] if message.usage_metadata else 0
    model = message.response_metadata["model_name"]
    return AgentResponse(response=message.text, tokens_used=used, model=model)


@app.post("/v1/stream", response_class=EventSourceResponse)
async def stream(request: Request, agent: CurrentAgent, body: AgentRequest) -> AsyncIterator[ServerSentEvent]:
    """The answer as server-sent events."""
    async with aclosing(events(request, agent, body)) as answer:
        async for event in answer:
            yield event


if __name__ == "__main__":
    # Of uvicorn's two parsers, h11 bounds the size of a request's headers (64 KB).
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False, http="h11")
