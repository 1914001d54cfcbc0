"""POST /v1/chat/completions: read and check the request, answer it, send the answer, log the call."""

import time
from collections.abc import MutableMapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from offline_model.api import answers, encoding, errors, request_body, validation
from offline_model.api.conversion import to_conversation
from offline_model.api.requests import CompletionRequest
from offline_model.corpus.search import Corpus
from offline_model.delivery import faults
from offline_model.delivery.call_log import CallLog, LoggedCall
from offline_model.delivery.disconnect import ClientConnection, ClientDisconnected, Receive
from offline_model.delivery.streaming import ResponseSender, Send
from offline_model.intents import registry
from offline_model.intents.errors import UnusableSchema
from offline_model.json_schema.references import InvalidSchema

FINGERPRINT = "fp_offline"

Scope = MutableMapping[str, Any]


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
            body = await request_body.read(receive, scope["headers"])
            await self.serve(call, body, sender)
            call.state = "failed" if sender.options.fault in faults.FAILURES else "finished"
        except ClientDisconnected:
            call.state = "cancelled"
        except errors.ApiError as problem:
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
            stream = encoding.StreamEncoder(head, include_usage)
            await sender.send_stream(stream.first(answer), stream.token_events(answer), stream.last(answer))
        else:
            encoded = encoding.encode_completion(answer, head)
            first_tokens = partial(encoding.first_tokens, encoded, answer)
            await sender.send_json(encoded, answer.usage.completion_tokens, first_tokens)

    def answer(
        self, request: CompletionRequest, options: faults.DeliveryOptions, identity: str
    ) -> answers.Answer:
        try:
            reply = registry.answer(to_conversation(request, self.corpus))
        except (InvalidSchema, UnusableSchema) as problem:
            raise errors.from_schema_error(problem, request) from None
        if options.fault == "long":
            reply = answers.repeat_text(reply, options.tokens)
        return answers.prepare(request, reply, identity)

    def delivery_options(self, model: str, call: LoggedCall) -> faults.DeliveryOptions:
        """Return the options in the header X-Offline, or else those in the model name.

        The model name is always validated.
        """
        try:
            options = faults.parse_model_name(model)
        except faults.InvalidOptions as problem:
            message = f"The model `{model[:200]}` does not exist or you do not have access to it ({problem})."
            raise errors.ApiError(404, message, code="model_not_found") from None
        name = model
        for key, value in call.headers:
            if key == b"x-offline":
                name = f"{model} {value.decode('latin-1')}"
                try:
                    options = faults.parse_options(value.decode("latin-1"))
                except faults.InvalidOptions as problem:
                    raise errors.bad_request(f"Invalid header X-Offline: {problem}.", "X-Offline") from None
        if options.fault and not self.log.count_call(name, options.every):
            return options.model_copy(update={"fault": None})
        return options


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
    raise errors.ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY). Any key will do for the offline model.",
    )
