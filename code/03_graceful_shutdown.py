"""Graceful shutdown: a stop that cuts nobody off.

You learn: what a process owes its callers between the first signal and its end: to say that it is leaving, to
           finish what it has begun, to end with a word what it cannot finish, and to be gone in bounded time.
Run:       `make model`, and in a second terminal `python code/03_graceful_shutdown.py`, or with --workers 4
See:       curl -N localhost:8000/v1/stream --json '{"query": "What is a container?"}', and Ctrl-C meanwhile
"""

import argparse
import asyncio
import gc
import json
import logging
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from multiprocessing import connection, get_context
from socket import socket
from typing import Annotated, Any
from weakref import WeakSet

# Process 1 of a container gets no signal that it does not handle. During the imports there is nothing to end.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import httpx2
import openai
import uvicorn
from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, ServerSentEvent
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger("uvicorn.error")
Query = Annotated[str, Body(embed=True, min_length=1, max_length=10_000)]


class Settings(BaseSettings):
    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = "gpt-5.4-mini"
    timeout_seconds: float = Field(default=30, gt=0)
    drain_delay_seconds: float = Field(default=0, ge=0)  # until a proxy has noticed; 0 where there is none
    drain_seconds: float = Field(default=20, ge=0)  # from then on, for what is still in flight
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


try:
    settings = Settings()  # type: ignore[call-arg]  # the values come from the environment
except ValidationError as bad:
    sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in bad.errors()))


class Drain:
    """Whether this process is stopping, how much is in flight, and what waits for the model."""

    def __init__(self) -> None:
        self.began = self.over = False
        self.in_flight = 0
        self.timers: WeakSet[asyncio.Timeout] = WeakSet()

    def timeout(self, deadline: float) -> asyncio.Timeout:
        """Bound a wait by its deadline (in the loop's time), or by the end of the drain if that is first."""
        timer = asyncio.timeout_at(0 if self.over else deadline)
        self.timers.add(timer)
        return timer

    def end(self) -> None:
        self.over = True
        for timer in list(self.timers):
            with suppress(RuntimeError):  # it has expired in this very moment
                timer.reschedule(0)


drain = Drain()


class DrainingServer(uvicorn.Server):
    """uvicorn, but the first signal drains, the second ends at once, and who has drained exits with 0."""

    parent: connection.Connection | None = None  # a worker's: closed to stop it, also by the parent's death
    exit_code = 0

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.parent:
            asyncio.get_running_loop().add_reader(self.parent.fileno(), self.stop)

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.parent:  # a terminal signals the whole group: the stop reaches us from the parent as well
            return
        if drain.began:
            self.exit_code = 128 + sig
        asyncio.get_running_loop().call_soon_threadsafe(self.cut if drain.began else self.stop)
        drain.began = True

    def stop(self) -> None:
        """Not ready from now on; no new connections after the delay; nothing in flight after the drain."""
        drain.began = True
        loop = asyncio.get_running_loop()
        if self.parent:
            loop.remove_reader(self.parent.fileno())
        delay = settings.drain_delay_seconds  # also when idle: a proxy may send a request right now
        log.info("Stopping: %d in flight, new connections for %g s more", drain.in_flight, delay)
        loop.call_later(delay, setattr, self, "should_exit", True)
        loop.call_later(delay + settings.drain_seconds, drain.end)

    def cut(self) -> None:
        """End at once: whoever is connected is cut off, which cancels the model's work for them, too."""
        log.warning("Stopping at once: %d in flight are cut off", drain.in_flight)
        self.should_exit = self.force_exit = True
        for client in list(self.server_state.connections):
            client.transport.abort()


def serve(parent: connection.Connection | None = None, sockets: list[socket] | None = None) -> int:
    # Of uvicorn's two parsers, h11 bounds the size of a request's headers (64 KB).
    config = uvicorn.Config(app, host=settings.host, port=settings.port, access_log=False, http="h11")
    # For those who do not even read their last event; uvicorn says int, asyncio takes any number.
    config.timeout_graceful_shutdown = settings.drain_seconds + 0.5  # type: ignore[assignment]
    server = DrainingServer(config)
    server.parent = parent
    server.run(sockets)
    return server.exit_code


def supervise(count: int) -> int:
    """Run workers on one socket until they have drained; the exit code: 1 when one of them died unasked."""
    listening = uvicorn.Config(app, host=settings.host, port=settings.port).bind_socket()
    spawn = get_context("spawn")
    theirs, ours = spawn.Pipe(duplex=False)
    workers = [spawn.Process(target=serve, args=(theirs, [listening])) for _ in range(count)]
    signals: list[int] = []

    def pass_on(sig: int, frame: object) -> None:
        signals.append(sig)
        ours.close()
        for worker in workers:
            if len(signals) > 1 and worker.pid:
                worker.kill()

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, pass_on)
    for worker in workers:
        worker.start()
    theirs.close()
    listening.close()  # or callers would still be let in when every worker has closed its copy
    connection.wait([worker.sentinel for worker in workers])
    died = not signals
    ours.close()  # when one has died unasked, the others drain
    for worker in workers:
        worker.join()
    return 1 if died else 128 + signals[-1] if len(signals) > 1 else 0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, ChatOpenAI]]:
    server: dict[str, Any] = {"api_key": settings.openai_api_key, "base_url": settings.openai_base_url}
    yield {"model": ChatOpenAI(model=settings.model_name, max_retries=0, stream_usage=True, **server)}


problems: dict[int | str, dict[str, Any]] = {
    "default": {"description": "A problem", "content": {"application/problem+json": {}}}
}
api = FastAPI(title="An agent API that stops well", lifespan=lifespan, responses=problems)
api.openapi_version = "3.2.0"  # the first that can describe the events of a stream


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Around every request: its id, its place in the count, and when we stop, a word to connect elsewhere."""
    if scope.get("method") == "HEAD":  # is GET without the body, which uvicorn leaves out
        scope = {**scope, "method": "GET"}
    given = dict(scope.get("headers", ())).get(b"x-request-id", b"").decode("latin-1")
    sound = re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given)
    scope["state"]["request_id"] = request_id = given if sound else uuid.uuid4().hex

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            closing = [(b"connection", b"close")] if drain.began else []
            message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *closing]
        await send(message)

    work = scope.get("path", "").startswith("/v1/")  # a probe is none
    drain.in_flight += work
    try:
        await api(scope, receive, send_more)  # which returns when the last byte is sent, also of a stream
    finally:
        drain.in_flight -= work


def problem(request: Request, error: HTTPException) -> dict[str, Any]:
    title, told = HTTPStatus(error.status_code).phrase, {"status": error.status_code, "detail": error.detail}
    return {"type": "about:blank", "title": title, **told, "request_id": request.state.request_id}


@api.exception_handler(HTTPException)
@api.exception_handler(RequestValidationError)
@api.exception_handler(Exception)
async def reply(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = HTTPException(422, "The request is not valid.")
    elif not isinstance(error, HTTPException):
        error = HTTPException(500, "Something went wrong; the log has the details.")
    told, kind = problem(request, error), "application/problem+json"
    headers = {"Allow": "GET, HEAD"} if error.headers == {"Allow": "GET"} else error.headers
    return Response(json.dumps(told), error.status_code, headers, media_type=kind)


@contextmanager
def errors_told(request: Request) -> Iterator[None]:
    try:
        yield
    except (TimeoutError, openai.APITimeoutError):
        if drain.over:
            raise HTTPException(503, "The server is stopping.", {"Retry-After": "1"}) from None
        raise HTTPException(504, f"The model did not answer within {settings.timeout_seconds:g} s.") from None
    except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
        log.error("request %s: the model failed: %r", request.state.request_id, error)
        raise HTTPException(502, "The model failed, or could not be reached.") from None


@api.get("/health")
async def health() -> dict[str, str | int]:
    """Liveness: this process turns its event loop, also while it stops; nobody needs to kill it."""
    return {"status": "stopping" if drain.began else "healthy", "in_flight": drain.in_flight}


@api.get("/ready")
async def ready() -> dict[str, bool]:
    """Readiness: send requests here; from the first signal on, elsewhere."""
    if drain.began:
        raise HTTPException(503, "The server is stopping.", {"Retry-After": "1"})
    return {"ready": True}


async def unless_client_leaves(request: Request, answer: Awaitable[AIMessage]) -> AIMessage | None:
    """The answer, or None when the client left first; then the call is cancelled, down to the model."""
    # The body has been read: the only message still to come is that the client has left.
    call, left = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({call, left}, return_when=asyncio.FIRST_COMPLETED)
        return call.result() if call.done() else None
    finally:
        call.cancel()
        left.cancel()


@api.post("/v1/invoke", response_model=dict[str, str | int])
async def invoke(request: Request, query: Query) -> dict[str, str | int] | Response:
    """The whole answer at once: `response`, `tokens_used`, `model`."""
    with errors_told(request):
        async with drain.timeout(asyncio.get_running_loop().time() + settings.timeout_seconds):
            message = await unless_client_leaves(request, request.state.model.ainvoke(query))
    if message is None:
        return Response(status_code=499)  # nginx's word for it; nobody is there to read it
    used = message.usage_metadata["total_tokens"] if message.usage_metadata else 0
    return {"response": message.text, "tokens_used": used, "model": message.response_metadata["model_name"]}


def event(name: str, **data: Any) -> ServerSentEvent:
    return ServerSentEvent(event=name, data=data)


@api.post("/v1/stream", response_class=EventSourceResponse)
async def stream(request: Request, query: Query) -> AsyncIterator[ServerSentEvent]:
    """The answer as it comes: `token` events, then `usage`, and `done` or `error` always last."""
    deadline, reason = asyncio.get_running_loop().time() + settings.timeout_seconds, None
    try:
        with errors_told(request):
            async with aclosing(request.state.model.astream(query)) as chunks:
                while True:
                    async with drain.timeout(deadline):
                        if (chunk := await anext(chunks, None)) is None:
                            break
                    if chunk.text:
                        yield event("token", text=chunk.text)
                    if (used := chunk.usage_metadata) is not None:
                        sent, received = used["input_tokens"], used["output_tokens"]
                        yield event("usage", prompt_tokens=sent, completion_tokens=received)
                    reason = chunk.response_metadata.get("finish_reason", reason)
        if reason is None:
            raise HTTPException(502, "The model's answer broke off.")
        yield event("done", reason=reason)
    except HTTPException as error:
        yield event("error", problem=problem(request, error))


gc.freeze()  # or Python's last garbage collection takes as long as all the rest of a stop

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    count = parser.parse_args().workers
    sys.exit(supervise(count) if count > 1 else serve())
