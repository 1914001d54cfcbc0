"""The application: routes, request ids, and errors that all have OpenAI's form."""

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
from offline_model.api.search import Web
from offline_model.corpus.search import Corpus
from offline_model.delivery.call_log import Ledger
from offline_model.delivery.disconnect import Receive
from offline_model.delivery.faults import MODEL, BadPace, parse_model
from offline_model.delivery.streaming import Send

CREATED = 1_700_000_000


def build(corpus: Corpus) -> "Front":
    ledger = Ledger()
    web = Web(corpus)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": MODEL, "passages": corpus.size})

    async def models(request: Request) -> Response:
        authorize(request.scope["headers"])
        return JSONResponse({"object": "list", "data": [described(MODEL)]})

    async def model(request: Request) -> Response:
        authorize(request.scope["headers"])
        name = request.path_params["name"]
        try:
            parse_model(name)
        except BadPace as problem:
            message = f"The model '{name[:200]}' does not exist ({problem})."
            raise ApiError(404, message, param="model", code="model_not_found") from None
        return JSONResponse(described(name))

    async def debug(request: Request) -> Response:
        if request.method == "DELETE":
            ledger.clear()
            return Response(status_code=204)
        return JSONResponse(ledger.shown(request.query_params.get("contains", "")))

    routes = [
        Route("/v1/chat/completions", ChatCompletions(corpus, ledger), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/search", web.search),
        Route("/page", web.page),
        Route("/health", health),
        Route("/debug/requests", debug, methods=["GET", "DELETE"]),
    ]
    return Front(Starlette(routes=routes, exception_handlers={HTTPException: not_found, ApiError: refused}))


def described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "offline-model"}


class Refusal(Response):
    """An error as a response; lets a client that is still sending finish, when its connection is closed."""

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


async def refused(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    return Refusal(problem)


async def not_found(request: Request, problem: Exception) -> Response:
    """Starlette's own 404 and 405, in OpenAI's words."""
    assert isinstance(problem, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    message = f"Invalid URL ({where})" if problem.status_code == 404 else f"Not allowed: {where}"
    return Refusal(ApiError(problem.status_code, message, headers=problem.headers))


class Front:
    """Gives every response an x-request-id."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self.run = secrets.token_hex(6)
        self.numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = f"req_{self.run}{next(self.numbers):08x}"
        scope["state"]["request_id"] = identity

        async def named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", identity.encode())]
            await send(message)

        try:
            await self.app(scope, receive, named)
        except asyncio.CancelledError:
            # The server is stopping and this answer had its last second.
            scope["state"]["hang_up"]()
