"""A basic agent API: a model behind four HTTP routes.

You learn: what an agent needs around it before it is worth a container: checked requests, errors that help
           and leak nothing, a deadline, streaming, and two health routes that tell the truth.
Run:       `make model`, and in a second terminal `python code/01_basic_api.py`
See:       docs/01-basic-api.md, and http://127.0.0.1:8000/docs in a browser
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, cast

import httpx2
import openai
import uvicorn
from async_lru import alru_cache
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import AfterValidator, BaseModel, Field, JsonValue, SecretStr, ValidationError
from pydantic_settings import BaseSettings
from starlette.exceptions import HTTPException

VERSION = "1.0.0"
log = logging.getLogger("uvicorn.error")
# A call to the model raises these when it is too slow, or fails.
MODEL_ERRORS = (TimeoutError, openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError)


class Settings(BaseSettings):  # each field is the environment variable of the same name in capitals
    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = "gpt-5.4-mini"
    timeout_seconds: float = Field(default=30, gt=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


try:
    settings = Settings()  # type: ignore[call-arg]  # the values come from the environment
except ValidationError as error:
    sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()))


def check_encodable(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Reject values that cannot be sent: NaN is not JSON, and UTF-8 cannot encode an unpaired surrogate."""
    json.dumps(context, ensure_ascii=False, allow_nan=False).encode()
    return context


class AgentRequest(BaseModel, extra="forbid"):
    query: str = Field(min_length=1, max_length=10_000, pattern=r"[^\s\u0085\ufeff]")  # not blank
    context: Annotated[dict[str, JsonValue], AfterValidator(check_encodable)] = {}
    stream: bool = Field(default=False, strict=True)


class AgentResponse(BaseModel):
    response: str
    tokens_used: int
    model: str


class Problem(BaseModel):
    """An error in the format of RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None


class Agent:
    """A prompt, a model, and the last known state of the model."""

    def __init__(self) -> None:
        self.model = ChatOpenAI(
            model=settings.model_name,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            max_retries=0,  # a retry would hide the faults that this lesson is about
            stream_usage=True,
        )
        persona = "Answer briefly and exactly. The situation, as the caller describes it in JSON: {context}"
        prompt = ChatPromptTemplate.from_messages([("system", persona), ("human", "{query}")])
        self.chain = prompt | self.model
        self.model_status = "unknown"

    @alru_cache(ttl=1)
    async def check_model(self) -> str:
        """Ask the model's server for its list of models, at most once a second: "ok" or "unreachable"."""
        try:
            async with asyncio.timeout(2):
                await self.model.root_async_client.models.list()
            self.model_status = "ok"
        except (TimeoutError, openai.OpenAIError):
            self.model_status = "unreachable"
        return self.model_status


def prompt_variables(body: AgentRequest) -> dict[str, str]:
    return {"query": body.query, "context": json.dumps(body.context, ensure_ascii=False)}


def problem(error: Exception) -> dict[str, Any]:
    """Describe an error in our own words: an exception's text may hold a key."""
    errors = None
    if isinstance(error, HTTPException):
        status, detail = error.status_code, error.detail
    elif isinstance(error, RequestValidationError):
        status, detail = 422, "The request is not valid."
        errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
    elif isinstance(error, TimeoutError | openai.APITimeoutError):
        status, detail = 504, f"The model did not answer within {settings.timeout_seconds:g} s."
    elif isinstance(error, MODEL_ERRORS):
        status, detail = 502, "The model failed, or could not be reached."
        log.error("The model failed: %r", error)
    else:
        status, detail = 500, "Something went wrong; the log has the details."
    title = HTTPStatus(status).phrase
    described = Problem(title=title, status=status, detail=detail, errors=errors)
    return described.model_dump(exclude_none=True)


async def problem_response(request: Request, error: Exception) -> Response:
    body, headers = problem(error), getattr(error, "headers", None)
    if headers == {"Allow": "GET"}:
        headers = {"Allow": "GET, HEAD"}
    # json.dumps escapes all but ASCII, so that even a field name with a lone surrogate can be sent.
    return Response(json.dumps(body), body["status"], headers, media_type="application/problem+json")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Agent]]:
    agent = Agent()
    await agent.check_model()
    yield {"agent": agent}


async def get_agent(request: Request) -> Agent:
    return cast(Agent, request.state.agent)


CurrentAgent = Annotated[Agent, Depends(get_agent)]
ERRORS = (HTTPException, RequestValidationError, *MODEL_ERRORS, Exception)
problem_schema = {"application/problem+json": {"schema": Problem.model_json_schema()}}
app = FastAPI(
    title="A basic agent API",
    version=VERSION,
    lifespan=lifespan,
    responses={"default": {"description": "A problem", "content": problem_schema}},
    exception_handlers=dict.fromkeys(ERRORS, problem_response),
)
app.openapi_version = "3.2.0"  # the first version that can describe the events of a stream


@app.head("/health", include_in_schema=False)
@app.get("/health")
async def health(agent: CurrentAgent) -> dict[str, Any]:
    """Liveness: this process runs its event loop. Awaits nothing; shows the last known state of the model."""
    return {"status": "healthy", "version": VERSION, "dependencies": {"model": agent.model_status}}


@app.head("/ready", include_in_schema=False)
@app.get("/ready")
async def ready(agent: CurrentAgent) -> dict[str, bool]:
    """Readiness: the model answers, so a request sent here now has a chance; else 503."""
    if await agent.check_model() != "ok":
        raise HTTPException(503, "The model is unreachable.")
    return {"ready": True}


@app.post("/v1/stream", response_class=EventSourceResponse)
async def stream(request: Request, agent: CurrentAgent, body: AgentRequest) -> AsyncIterator[ServerSentEvent]:
    """Stream the answer as `token` events, then `usage`; the last event is `done` or `error`."""
    deadline, reason = asyncio.get_running_loop().time() + settings.timeout_seconds, None
    try:
        async with aclosing(agent.chain.astream(prompt_variables(body))) as chunks:  # type: ignore[type-var]
            while True:
                # The timeout covers the wait for the model, and never a yield (PEP 789 says why).
                async with asyncio.timeout_at(deadline):
                    if (chunk := await anext(chunks, None)) is None:
                        break
                if chunk.text:
                    yield ServerSentEvent(event="token", data={"text": chunk.text})
                if used := chunk.usage_metadata:
                    data = {"prompt_tokens": used["input_tokens"], "completion_tokens": used["output_tokens"]}
                    yield ServerSentEvent(event="usage", data=data)
                reason = chunk.response_metadata.get("finish_reason", reason)
        if reason is None:
            raise HTTPException(502, "The model's answer broke off.")
        yield ServerSentEvent(event="done", data={"reason": reason})
    except (HTTPException, *MODEL_ERRORS) as error:
        yield ServerSentEvent(event="error", data={"problem": problem(error)})


@app.post("/v1/invoke", response_model=AgentResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def invoke(request: Request, agent: CurrentAgent, body: AgentRequest) -> AgentResponse | Response:
    """Return the whole answer; or with `"stream": true` the events of /v1/stream."""
    if body.stream:
        events = stream(request, agent, body)
        encoded = (format_sse_event(event=e.event, data_str=json.dumps(e.data)) async for e in events)
        return EventSourceResponse(encoded)
    async with asyncio.timeout(settings.timeout_seconds):
        message = await cancel_on_disconnect(request, agent.chain.ainvoke(prompt_variables(body)))
    if message is None:
        return Response(status_code=499)  # nginx's status for a client that has left
    used = message.usage_metadata["total_tokens"] if message.usage_metadata else 0
    model = message.response_metadata["model_name"]
    return AgentResponse(response=message.text, tokens_used=used, model=model)


async def cancel_on_disconnect(request: Request, answer: Coroutine[Any, Any, AIMessage]) -> AIMessage | None:
    """Return the answer. If the client leaves first, cancel the call to the model and return None."""
    # After the body, the only message still to come is http.disconnect.
    call, left = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({call, left}, return_when=asyncio.FIRST_COMPLETED)
        return call.result() if call.done() else None
    finally:
        call.cancel()
        left.cancel()


if __name__ == "__main__":
    # h11 limits the size of a request's headers; uvicorn's other parser, httptools, does not.
    bounds: dict[str, Any] = {"http": "h11", "h11_max_incomplete_event_size": 65_536}
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False, **bounds)
