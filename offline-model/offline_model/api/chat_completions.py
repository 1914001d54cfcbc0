"""POST /v1/chat/completions: read and check the request, answer it, send the answer, log the call."""

import asyncio
import time
from functools import partial

from pydantic import ValidationError

from offline_model.api import errors, responses, validation
from offline_model.api.errors import ApiError, Scope
from offline_model.api.requests import CompletionRequest, to_conversation
from offline_model.corpus.search import Corpus
from offline_model.delivery import faults
from offline_model.delivery.call_log import CallLog, LoggedCall
from offline_model.delivery.streaming import (
    ClientConnection,
    ClientDisconnected,
    Receive,
    ResponseSender,
    Send,
)
from offline_model.intents import registry
from offline_model.json_schema.schemas import InvalidSchema

FINGERPRINT = "fp_offline"
MAX_BODY_BYTES = 4 * 1024 * 1024
READ_SECONDS = 10.0  # for the whole body to arrive


class ChatCompletions:
    """An ASGI endpoint instead of a Starlette function, to detect a client disconnect while it waits."""

    def __init__(self, corpus: Corpus, log: CallLog) -> None:
        self.corpus = corpus
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self.log.open(scope["state"]["request_id"], scope["headers"])
        client = ClientConnection(receive)
        sender = ResponseSender(
            call, faults.DeliveryOptions(), client, send, scope["state"]["close_connection"]
        )
        try:
            body = await read_body(receive, scope["headers"])
            await self.serve(call, body, sender)
            call.state = "failed" if sender.options.fault in faults.FAILURES else "finished"
        except ClientDisconnected:
            call.state = "cancelled"
        except ApiError as problem:
            call.status = problem.status
            call.state = "failed" if sender.options.fault in faults.FAILURES else "finished"
            raise
        finally:
            client.close()
            if call.state == "running":
                call.state = "failed"

    async def serve(self, call: LoggedCall, body: bytes, sender: ResponseSender) -> None:
        call.set_body(body)
        authorize(call.headers)
        request = parse(body)
        call.model = request.model
        sender.options = self.delivery_options(request.model, call)
        validation.check(request)
        await sender.wait_for_first_token()
        errors.raise_fault(sender.options, call)
        answer = self.answer(request, sender.options, call.id)
        head = {
            "id": f"chatcmpl-{call.id[4:]}",
            "created": int(time.time()),
            "model": request.model,
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
        }
        if request.stream:
            include_usage = bool(request.stream_options and request.stream_options.include_usage)
            stream = responses.StreamEncoder(head, include_usage)
            await sender.send_stream(stream.first(answer), stream.token_events(answer), stream.last(answer))
        else:
            encoded = responses.encode_completion(answer, head)
            first_tokens = partial(responses.first_tokens, encoded, answer)
            await sender.send_json(encoded, answer.usage.completion_tokens, first_tokens)

    def answer(
        self, request: CompletionRequest, options: faults.DeliveryOptions, identity: str
    ) -> responses.Answer:
        try:
            reply = registry.answer(to_conversation(request, self.corpus))
        except InvalidSchema as problem:
            raise errors.from_schema_error(problem, request) from None
        if options.fault == "long":
            reply = responses.repeat_text(reply, options.tokens)
        return responses.prepare(request, reply, identity)

    def delivery_options(self, model: str, call: LoggedCall) -> faults.DeliveryOptions:
        """Return the options in the header X-Offline, or else those in the model name.

        The model name is always validated.
        """
        try:
            options = faults.parse_model_name(model)
        except faults.InvalidOptions as problem:
            message = f"The model `{model[:200]}` does not exist or you do not have access to it ({problem})."
            raise ApiError(404, message, code="model_not_found") from None
        header = dict(call.headers).get(b"x-offline", b"").decode("latin-1")
        if header:
            try:
                options = faults.parse_options(header)
            except faults.InvalidOptions as problem:
                raise errors.bad_request(f"Invalid header X-Offline: {problem}.", "X-Offline") from None
        if options.fault and not self.log.count_call(f"{model} {header}", options.every):
            return options.model_copy(update={"fault": None})
        return options


async def read_body(receive: Receive, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The whole body; 413 as soon as it is too large, 408 when it is not complete in time."""
    for name, value in headers:
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            raise too_large()
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(READ_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_large()
                more = message.get("more_body", False)
    except TimeoutError:
        why = f"The rest of the request body did not arrive within {READ_SECONDS:g} seconds."
        raise ApiError(408, why, code="request_timeout", headers={"connection": "close"}) from None
    return bytes(body)


def too_large() -> ApiError:
    message = f"The request body is larger than {MAX_BODY_BYTES} bytes."
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})


def parse(body: bytes) -> CompletionRequest:
    try:
        return CompletionRequest.model_validate_json(body)
    except ValidationError as problem:
        raise errors.from_validation(problem) from None


def authorize(headers: list[tuple[bytes, bytes]]) -> None:
    """Accept any key, but demand one, so that a program that forgets its key fails here too."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer " and value[7:].strip():
            return
    raise ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY). Any key will do for the offline model.",
    )
