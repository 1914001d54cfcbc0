"""The application: routes, request ids, and errors in OpenAI's format."""

import asyncio
import secrets
from collections.abc import MutableMapping
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from offline_model.api.chat_completions import ChatCompletions, Scope, authorize
from offline_model.api.errors import ApiError
from offline_model.api.request_body import discard
from offline_model.api.search_routes import SearchRoutes
from offline_model.corpus.search import Corpus
from offline_model.delivery.call_log import CallLog
from offline_model.delivery.disconnect import Receive
from offline_model.delivery.faults import MODEL, InvalidOptions, parse_model_name
from offline_model.delivery.streaming import Send

MODEL_CREATED = 1_700_000_000


def create_app(corpus: Corpus) -> "RequestIDMiddleware":
    log = CallLog()
    search_routes = SearchRoutes(corpus)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": MODEL, "passages": corpus.size})

    async def models(request: Request) -> Response:
        authorize(request.scope["headers"])
        return JSONResponse({"object": "list", "data": [model_object(MODEL)]})

    async def model(request: Request) -> Response:
        authorize(request.scope["headers"])
        name = request.path_params["name"]
        try:
            parse_model_name(name)
        except InvalidOptions as problem:
            message = f"The model '{name[:200]}' does not exist ({problem})."
            raise ApiError(404, message, param="model", code="model_not_found") from None
        return JSONResponse(model_object(name))

    async def debug(request: Request) -> Response:
        if request.method == "DELETE":
            log.clear()
            return Response(status_code=204)
        return JSONResponse(log.as_dicts(request.query_params.get("contains", "")))

    routes = [
        Route("/v1/chat/completions", ChatCompletions(corpus, log), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/search", search_routes.search),
        Route("/page", search_routes.page),
        Route("/health", health),
        Route("/debug/requests", debug, methods=["GET", "DELETE"]),
    ]
    handlers = {HTTPException: handle_http_exception, ApiError: handle_api_error}
    return RequestIDMiddleware(Starlette(routes=routes, exception_handlers=handlers))


def model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": MODEL_CREATED, "owned_by": "offline-model"}


class ErrorResponse(Response):
    """An error; before it closes the connection, it reads what the client is still sending."""

    media_type = "application/json"

    def __init__(self, problem: ApiError) -> None:
        super().__init__(problem.body(), problem.status, problem.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        closing = "connection" in self.headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": closing})
        if closing:
            await discard(receive)
            await send({"type": "http.response.body", "body": b""})


async def handle_api_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    return ErrorResponse(problem)


async def handle_http_exception(request: Request, problem: Exception) -> Response:
    """Starlette's own 404 and 405 in OpenAI's format."""
    assert isinstance(problem, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    message = f"Not allowed: {where}"
    if problem.status_code == 404:
        message = f"Invalid URL ({where}). This server has /v1/chat/completions and /v1/models."
    return ErrorResponse(ApiError(problem.status_code, message, headers=problem.headers))


class RequestIDMiddleware:
    """Adds x-request-id to every response."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self.prefix = secrets.token_hex(6)
        self.numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{self.prefix}{next(self.numbers):08x}"
        scope["state"]["request_id"] = request_id

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server is stopping, and the time to finish responses is over.
            scope["state"]["close_connection"]()
