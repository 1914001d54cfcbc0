"""The application: all routes but the chat completions, and the request id of every response."""

import asyncio
import secrets
from collections.abc import MutableMapping
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from offline_model.api.chat_completions import ChatCompletions, authorize
from offline_model.api.errors import (
    ApiError,
    Scope,
    bad_request,
    handle_api_error,
    handle_http_exception,
    missing_parameter,
)
from offline_model.corpus.search import Corpus
from offline_model.delivery.call_log import CallLog
from offline_model.delivery.faults import MODEL, InvalidOptions, parse_model_name
from offline_model.delivery.streaming import Receive, Send

MODEL_CREATED = 1_700_000_000
MAX_QUERY_CHARACTERS = 2_000


def create_app(corpus: Corpus) -> "RequestIDMiddleware":
    log = CallLog()
    other = OtherRoutes(corpus, log)
    routes = [
        Route("/v1/chat/completions", ChatCompletions(corpus, log), methods=["POST"]),
        Route("/v1/models", other.models),
        Route("/v1/models/{name:path}", other.model),
        Route("/search", other.search),
        Route("/page", other.page),
        Route("/health", other.health),
        Route("/debug/requests", other.debug, methods=["GET", "DELETE"]),
    ]
    handlers = {HTTPException: handle_http_exception, ApiError: handle_api_error}
    return RequestIDMiddleware(Starlette(routes=routes, exception_handlers=handlers))


class OtherRoutes:
    """The routes that the call log does not list. Only those under /v1 need an API key."""

    def __init__(self, corpus: Corpus, log: CallLog) -> None:
        self.corpus = corpus
        self.log = log

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": MODEL, "passages": self.corpus.size})

    async def models(self, request: Request) -> Response:
        authorize(request.scope["headers"])
        return JSONResponse({"object": "list", "data": [model_object(MODEL)]})

    async def model(self, request: Request) -> Response:
        authorize(request.scope["headers"])
        name = request.path_params["name"]
        try:
            parse_model_name(name)
        except InvalidOptions as problem:
            message = f"The model '{name[:200]}' does not exist ({problem})."
            raise ApiError(404, message, param="model", code="model_not_found") from None
        return JSONResponse(model_object(name))

    async def debug(self, request: Request) -> Response:
        """`/debug/requests?contains=`: the last calls; DELETE empties the list."""
        if request.method == "DELETE":
            self.log.clear()
            return Response(status_code=204)
        return JSONResponse(self.log.as_dicts(request.query_params.get("contains", "")))

    async def search(self, request: Request) -> Response:
        """`/search?q=&format=json`. Refuses other formats; SearXNG sends HTML when the format is missing."""
        query = request.query_params.get("q", "").strip()
        if not query:
            raise missing_parameter("q")
        if len(query) > MAX_QUERY_CHARACTERS:
            raise bad_request(
                f"Invalid 'q': longer than {MAX_QUERY_CHARACTERS} characters.", "q", "string_above_max_length"
            )
        if request.query_params.get("format") != "json":
            raise bad_request("Invalid 'format': this server sends results only as 'json'.", "format")
        results = [
            {"title": found.title, "url": found.url, "content": " ".join(found.best_sentences(2))}
            for found in self.corpus.web_results(query)
        ]
        return JSONResponse({"query": query, "number_of_results": len(results), "results": results})

    async def page(self, request: Request) -> Response:
        """`/page?url=`: the text of a page or section that the search found."""
        url = request.query_params.get("url", "")
        if not url:
            raise missing_parameter("url")
        text = self.corpus.page(url)
        if not text:
            raise ApiError(404, f"The corpus has no page {url[:200]}.", param="url", code="page_not_found")
        return PlainTextResponse(text)


def model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": MODEL_CREATED, "owned_by": "offline-model"}


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
