"""Structured output: a JSON object that fits the schema, with values from the conversation and the corpus."""

import json
import re
from typing import Any

from offline_model.conversation import Conversation, Reply
from offline_model.json_schema.extraction import json_objects_in
from offline_model.json_schema.generator import generate
from offline_model.json_schema.slot_filling import SlotValues
from offline_model.research.documents import documents_for

ORDER = 40

QUOTED_WORD = re.compile(r"[\"'`]([A-Za-z_]\w{0,40})[\"'`]")
QUOTED_KEY = re.compile(r"[\"'](\w{1,40})[\"']\s*:")


def reply(conversation: Conversation) -> Reply | None:
    if not conversation.wants_json:
        return None
    schema = conversation.response_schema
    if schema is None:
        schema = schema_in_prompt(conversation)
    values = SlotValues(conversation, documents_for(conversation), fill_from_documents=True)
    return Reply(json.dumps(generate(schema, values, conversation.seed), ensure_ascii=False))


def schema_in_prompt(conversation: Conversation) -> dict[str, Any]:
    """The object that a prompt describes: by a JSON Schema, an example in braces, or its keys in quotes.

    The last of several schemas counts; the others are examples.
    """
    text = "\n".join(turn.text for turn in conversation.turns if turn.role in {"system", "user"})
    for value in reversed(json_objects_in(text)):
        if isinstance(value.get("properties"), dict):
            return {"type": "object", **value}
    keys = QUOTED_KEY.findall(text)
    if not keys and re.search(r"\b(?:keys?|fields?)\b", text):
        keys = QUOTED_WORD.findall(text)
    names = list(dict.fromkeys(keys))[:20] or ["answer", "source"]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
