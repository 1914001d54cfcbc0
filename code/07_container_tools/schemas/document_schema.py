"""The stored schemas, by name. A caller of /validate-document names one, or sends a schema of their own."""

from typing import Any

DOCUMENT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A document for a search index",
    "type": "object",
    "required": ["id", "title", "content"],
    "properties": {
        "id": {"type": "string", "pattern": "^[a-z0-9-]{1,64}$"},
        "title": {"type": "string", "minLength": 1, "maxLength": 200},
        "content": {"type": "string", "minLength": 1},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "metadata": {
            "type": "object",
            "properties": {"source": {"type": "string"}, "version": {"type": "integer", "minimum": 1}},
        },
    },
    "additionalProperties": False,
}

SCHEMAS = {"document": DOCUMENT}
