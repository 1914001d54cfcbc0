"""Structured output: a JSON object that fits the schema, filled from the conversation and the books."""

import json
import re
from typing import Any

from offline_model.api.errors import bad_request
from offline_model.conversation.documents import background
from offline_model.conversation.extraction import objects
from offline_model.conversation.messages import Conversation, Reply
from offline_model.conversation.slot_filling import Evidence
from offline_model.json_schema.generator import generate
from offline_model.json_schema.references import InvalidSchema

KEYS = re.compile(r"[\"'`]([A-Za-z_]\w{0,40})[\"'`]")
SHAPE = re.compile(r"[\"'](\w{1,40})[\"']\s*:")


def reply(conversation: Conversation) -> Reply | None:
    wanted = conversation.request.response_format
    if wanted is None or not conversation.wants_json:
        return None
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        name, schema = "object", described(conversation)
    else:
        name, schema = wanted.json_schema.name, wanted.json_schema.schema_
    evidence = Evidence(conversation, background(conversation), generous=True)
    try:
        value = generate(schema, evidence, conversation.seed)
    except InvalidSchema as problem:
        message = f"Invalid schema for response_format '{name}': {problem}."
        raise bad_request(message, "response_format", "invalid_schema") from None
    return Reply(json.dumps(value, ensure_ascii=False))


def described(conversation: Conversation) -> dict[str, Any]:
    """The object that a prompt describes: by a schema, a shape in braces, or its keys in quotes.

    Of several schemas the last one counts; the others are examples.
    """
    told = "\n".join(turn.text for turn in conversation.turns if turn.role in {"system", "user"})
    for value in reversed(objects(told)):
        if isinstance(value.get("properties"), dict):
            return {"type": "object", **value}
    keys = SHAPE.findall(told) or (KEYS.findall(told) if re.search(r"\b(?:keys?|fields?)\b", told) else [])
    names = list(dict.fromkeys(keys))[:20] or ["answer", "source"]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
