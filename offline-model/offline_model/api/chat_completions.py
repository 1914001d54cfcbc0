"""POST /v1/chat/completions: read, check, answer, deliver, and keep the ledger."""

import time
from collections.abc import MutableMapping
from typing import Any

from pydantic import ValidationError

from offline_model.api import answers, errors, request_body, validation
from offline_model.api.chunks import Chunks
from offline_model.api.requests import CompletionRequest
from offline_model.conversation.messages import Conversation
from offline_model.corpus.search import Corpus
from offline_model.delivery import faults
from offline_model.delivery.call_log import Call, Ledger
from offline_model.delivery.disconnect import ClientLeft, Presence, Receive
from offline_model.delivery.streaming import FINGERPRINT, Delivery, Send
from offline_model.intents import registry
from offline_model.json_schema.references import InvalidSchema

# The faults after which a call has failed; a long answer is an answer.
SPOILED = {"hang", "401", "429", "500", "cut", "malformed"}

Scope = MutableMapping[str, Any]


class ChatCompletions:
    """An ASGI endpoint rather than a function: it must hear of a client that leaves while it waits."""

    def __init__(self, corpus: Corpus, ledger: Ledger) -> None:
        self.corpus = corpus
        self.ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self.ledger.open(scope["state"]["request_id"], scope["headers"])
        presence = Presence(receive)
        delivery = Delivery(call, faults.Pace(), presence, send, scope["state"]["hang_up"])
        try:
            raw = await request_body.read(receive, scope["headers"])
            await self.serve(call, raw, delivery)
            call.state = "failed" if delivery.pace.fault in SPOILED else "finished"
        except ClientLeft:
            call.state = "cancelled"
        except errors.ApiError as problem:
            call.status = problem.status
            call.state = "failed" if delivery.pace.fault in SPOILED else "finished"
            raise
        finally:
            presence.close()
            if call.state == "running":
                call.state = "failed"

    async def serve(self, call: Call, raw: bytes, delivery: Delivery) -> None:
        call.keep(raw)
        authorize(call.headers)
        request = parse(raw)
        call.model = request.model
        delivery.pace = self.pace_of(request.model, call)
        validation.check(request)
        await delivery.wait_for_first_token()
        talk = Conversation(request, self.corpus)
        try:
            reply = registry.answer(talk)
        except InvalidSchema as problem:
            raise errors.bad_request(f"Invalid schema: {problem}.", None, "invalid_schema") from None
        if delivery.pace.fault == "long":
            reply = answers.lengthened(reply, delivery.pace.tokens)
        ready = answers.prepare(request, reply, call.id)
        head = {
            "id": f"chatcmpl-{call.id[4:]}",
            "created": int(time.time()),
            "model": request.model,
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
        }
        if request.stream:
            options = request.stream_options
            await delivery.stream(ready, Chunks(head, bool(options and options.include_usage)))
        else:
            await delivery.plain(ready, head)

    def pace_of(self, model: str, call: Call) -> faults.Pace:
        """The header wins over the name, but the name must be this model's all the same."""
        try:
            chosen = faults.parse_model(model)
        except faults.BadPace as problem:
            message = f"The model `{model[:200]}` does not exist or you do not have access to it ({problem})."
            raise errors.ApiError(404, message, code="model_not_found") from None
        name = model
        for key, value in call.headers:
            if key == b"x-offline":
                name = f"{model} {value.decode('latin-1')}"
                try:
                    chosen = faults.parse(value.decode("latin-1"))
                except faults.BadPace as problem:
                    raise errors.bad_request(f"Invalid header X-Offline: {problem}.", "X-Offline") from None
        if chosen.fault and not self.ledger.strikes(name, chosen.every):
            return chosen.model_copy(update={"fault": None})
        return chosen


def parse(raw: bytes) -> CompletionRequest:
    try:
        return CompletionRequest.model_validate_json(raw)
    except ValidationError as problem:
        raise errors.from_validation(problem) from None


def authorize(headers: list[tuple[bytes, bytes]]) -> None:
    """Any key will do, but there must be one: a program that forgets it should learn so here."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer " and value[7:].strip():
            return
    raise errors.ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY). Any key will do for the offline model.",
    )
