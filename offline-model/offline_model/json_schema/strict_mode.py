"""Strict mode: with `strict: true`, OpenAI wants every object closed and every property required."""

from typing import Any

from offline_model.json_schema.references import DATA_KEYWORDS


def strict_mode_error(schema: Any, context: tuple[str, ...] = ()) -> str:
    """OpenAI's message about the first object that is open or has an optional property; empty if none."""
    if isinstance(schema, list):
        schema = {str(index): part for index, part in enumerate(schema)}
    if not isinstance(schema, dict):
        return ""
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return f"In context={context}, 'additionalProperties' is required to be supplied and to be false"
        for name in schema.get("properties", {}):
            if name not in schema.get("required", []):
                return (
                    f"In context={context}, 'required' is required to be supplied and to be an array "
                    f"including every key in properties. Missing '{name}'"
                )
    inner = (
        strict_mode_error(part, (*context, key)) for key, part in schema.items() if key not in DATA_KEYWORDS
    )
    return next(filter(None, inner), "")
