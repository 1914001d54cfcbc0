"""Graceful shutdown: stop a server without cutting off the requests in flight.

You learn: what a server does between the first signal and its exit: it makes /ready fail, finishes requests
           in flight, ends the remaining ones with an error, and exits within a time limit.
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
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from http import HTTPStatus
from multiprocessing import connection, get_context
from socket import socket
from typing import Annotated, Any
from weakref import WeakSet

# The kernel delivers a signal to process 1 of a container only if the process handles it.
# During the imports, handle SIGTERM by exiting at once.
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
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("uvicorn.error")
# A call to the model raises these when it is too slow, or fails.
MODEL_ERRORS = (TimeoutError, openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError)
Query = Annotated[str, Body(embed=True, min_length=1, max_length=10_000)]


class Settings(BaseSettings):  # each field is the environment variable of the same name in capitals
    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = "gpt-5.4-mini"
    timeout_seconds: float = Field(default=30, gt=0)
    # The time that a proxy needs to notice that /ready fails; 0 if there is no proxy.
    drain_delay_seconds: float = Field(default=0, ge=0)
    drain_seconds: float = Field(default=20, ge=0)  # the time for requests in flight after that
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


try:
    settings = Settings()  # type: ignore[call-arg]  # the values come from the environment
except ValidationError as error:
    sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()))


class Drain:
    """The state of a stop, the number of requests in flight, and the timeouts of waits for the model."""

    def __init__(self) -> None:
        self.began = self.over = False
        self.in_flight = 0
        self.timeouts: WeakSet[asyncio.Timeout] = WeakSet()

    def timeout_at(self, deadline: float) -> asyncio.Timeout:
        """Time out at the deadline (in the loop's time), or at the end of the drain if that is earlier."""
        timeout = asyncio.timeout_at(0 if self.over else deadline)
        self.timeouts.add(timeout)
        return timeout

    def end(self) -> None:
        self.over = True
        for timeout in list(self.timeouts):
            with suppress(RuntimeError):  # it has just expired
                timeout.reschedule(0)


drain = Drain()


class DrainingServer(uvicorn.Server):
    """Drains at the first signal and then exits with 0; a second signal ends it at once."""

    parent: connection.Connection | None = None  # in a worker: closed when the parent stops or dies
    exit_code = 0

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.parent:
            asyncio.get_running_loop().add_reader(self.parent.fileno(), self.stop)

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.parent:  # a terminal signals the whole group; a worker waits for its parent to stop it
            return
        if drain.began:
            self.exit_code = 128 + sig
        asyncio.get_running_loop().call_soon_threadsafe(self.abort if drain.began else self.stop)
        drain.began = True

    def stop(self) -> None:
        """Make /ready fail now, refuse new connections after the delay, end the drain DRAIN_SECONDS later."""
        drain.began = True
        loop = asyncio.get_running_loop()
        if self.parent:
            loop.remove_reader(self.parent.fileno())
        delay = settings.drain_delay_seconds  # also when idle: a proxy may send a request right now
        log.info("Stopping: %d requests in flight, new connections for %g s more", drain.in_flight, delay)
        loop.call_later(delay, setattr, self, "should_exit", True)
        loop.call_later(delay + settings.drain_seconds, drain.end)

    def abort(self) -> None:
        """Close all connections now, which also cancels the calls to the model."""
        log.warning("Stopping at once: %d requests in flight are cut off", drain.in_flight)
        self.should_exit = self.force_exit = True
        for client in list(self.server_state.connections):
            client.transport.abort()


def serve(parent: connection.Connection | None = None, sockets: list[socket] | None = None) -> int:
    """Run one server until it has stopped, and return the exit code."""
    # h11 limits the size of a request's headers; uvicorn's other parser, httptools, does not.
    options: dict[str, Any] = {"http": "h11", "h11_max_incomplete_event_size": 65_536}
    # uvicorn's own timeout ends requests that do not wait for the model, such as half-sent ones.
    options["timeout_graceful_shutdown"] = settings.drain_seconds + 0.5
    server = DrainingServer(uvicorn.Config(app, settings.host, settings.port, access_log=False, **options))
    server.parent = parent
    server.run(sockets)
    return server.exit_code


def supervise(count: int) -> int:
    """Run workers on one socket until they have drained; return 1 if one exited before a signal."""
    listening = uvicorn.Config(app, settings.host, settings.port).bind_socket()
    spawn = get_context("spawn")
    theirs, ours = spawn.Pipe(duplex=False)
    workers = [spawn.Process(target=serve, args=(theirs, [listening])) for _ in range(count)]
    signals: list[int] = []

    def stop_workers(sig: int, frame: object) -> None:
        signals.append(sig)
        if len(signals) == 1:  # only once: the second signal may come in the middle of this close
            ours.close()
            return
        for worker in workers:
            if worker.pid:
                worker.kill()

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, stop_workers)
    for worker in workers:
        worker.start()
    theirs.close()
    listening.close()  # or the socket would still accept connections when all workers have closed it
    connection.wait([worker.sentinel for worker in workers])
    died = not signals
    ours.close()  # when one worker has died, the others drain
    for worker in workers:
        worker.join()
    return 1 if died else 128 + signals[-1] if len(signals) > 1 else 0


class RequestContextMiddleware:
    """Gives every request an id, counts it while it is in flight, and closes connections during a drain."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # answered like GET; uvicorn leaves out the body
            scope = {**scope, "method": "GET"}
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        scope["state"]["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                closing = {"Connection": "close"} if drain.began else {}
                MutableHeaders(scope=message).update({"X-Request-ID": request_id} | closing)
            await send(message)

        counted = scope["path"].startswith("/v1/")  # probes do not count
        drain.in_flight += counted
        try:
            await self.app(scope, receive, send_with_headers)  # returns when the last byte is sent
        finally:
            drain.in_flight -= counted


def problem(request: Request, error: Exception) -> dict[str, Any]:
    if isinstance(error, HTTPException):
        status, detail = error.status_code, error.detail
    elif isinstance(error, RequestValidationError):
        status, detail = 422, "The request is not valid."
    elif isinstance(error, TimeoutError | openai.APITimeoutError) and drain.over:
        status, detail = 503, "The server is stopping."
    elif isinstance(error, TimeoutError | openai.APITimeoutError):
        status, detail = 504, f"The model did not answer within {settings.timeout_seconds:g} s."
    elif isinstance(error, MODEL_ERRORS):
        status, detail = 502, "The model failed, or could not be reached."
        log.error("request %s: the model failed: %r", request.state.request_id, error)
    else:
        status, detail = 500, "Something went wrong; the log has the details."
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return body | {"request_id": request.state.request_id}


async def problem_response(request: Request, error: Exception) -> Response:
    body = problem(request, error)
    headers = {"Retry-After": "1"} if body["status"] == 503 else getattr(error, "headers", None)
    if headers == {"Allow": "GET"}:
        headers = {"Allow": "GET, HEAD"}
    return Response(json.dumps(body), body["status"], headers, media_type="application/problem+json")


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[dict[str, ChatOpenAI]]:
    server: dict[str, Any] = {"api_key": settings.openai_api_key, "base_url": settings.openai_base_url}
    yield {"model": ChatOpenAI(model=settings.model_name, max_retries=0, stream_usage=True, **server)}


ERRORS = (HTTPException, RequestValidationError, *MODEL_ERRORS, Exception)
api = FastAPI(
    title="An agent API with graceful shutdown",
    lifespan=lifespan,
    responses={"default": {"description": "A problem", "content": {"application/problem+json": {}}}},
    exception_handlers=dict.fromkeys(ERRORS, problem_response),
)
api.openapi_version = "3.2.0"  # the first version that can describe the events of a stream
app = RequestContextMiddleware(api)


@api.get("/health")
async def health() -> dict[str, str | int]:
    """Liveness: this process runs its event loop, also while it stops; there is no need to kill it."""
    return {"status": "stopping" if drain.began else "healthy", "in_flight": drain.in_flight}


@api.get("/ready")
async def ready() -> dict[str, bool]:
    """Readiness: requests may be sent here; 503 from the first signal on."""
    if drain.began:
        raise HTTPException(503, "The server is stopping.")
    return {"ready": True}


@api.post("/v1/stream", response_class=EventSourceResponse)
async def stream(request: Request, query: Query) -> AsyncIterator[ServerSentEvent]:
    """Stream the answer as `token` events, then `usage`; the last event is `done` or `error`."""
    deadline, reason = asyncio.get_running_loop().time() + settings.timeout_seconds, None
    try:
        async with aclosing(request.state.model.astream(query)) as chunks:
            while True:
                # The timeout covers the wait for the model, and never a yield (PEP 789 says why).
                async with drain.timeout_at(deadline):
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
        yield ServerSentEvent(event="error", data={"problem": problem(request, error)})


@api.post("/v1/invoke", response_model=dict[str, str | int])
async def invoke(request: Request, query: Query) -> dict[str, str | int] | Response:
    """Return the whole answer: `response`, `tokens_used`, `model`."""
    async with drain.timeout_at(asyncio.get_running_loop().time() + settings.timeout_seconds):
        message = await cancel_on_disconnect(request, request.state.model.ainvoke(query))
    if message is None:
        return Response(status_code=499)  # nginx's status for a client that has left
    used = message.usage_metadata["total_tokens"] if message.usage_metadata else 0
    return {"response": message.text, "tokens_used": used, "model": message.response_metadata["model_name"]}


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


gc.freeze()  # or Python's last garbage collection takes longer than the rest of an idle stop

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    count = parser.parse_args().workers
    sys.exit(supervise(count) if count > 1 else serve())
