"""Checking: is a JSON schema valid, and does a value fit it."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from offline_model.schemas.references import BadSchema, check_references

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

# jsonschema is imported where it is used: most requests have no schema, and the start is quicker without.


@cache
def validator_options() -> dict[str, Any]:
    """Formats count, and a reference to another host is an error, never a download."""
    from jsonschema import FormatChecker
    from referencing import Registry

    return {"registry": Registry(), "format_checker": FormatChecker()}


@lru_cache(maxsize=256)
def validator(text: str) -> Validator:
    """A validator for a schema (as JSON text, so that the same schema is only checked once)."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    schema = json.loads(text)
    check_references(schema)
    if not isinstance(schema.get("$schema", ""), str):
        raise BadSchema("$schema is not a string")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as problem:
        where = "/".join(str(step) for step in problem.absolute_path)
        raise BadSchema(f"{problem.message[:300]}" + (f" (at {where})" if where else "")) from None
    return kind(schema, **validator_options())


def validator_of(schema: dict[str, Any]) -> Validator:
    try:
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError):
        raise BadSchema("not JSON, or nested too deeply") from None
    return validator(text)


def fits(checker: Validator, schema: Any, value: Any) -> bool:
    """Whether a value fits a part of the checker's schema; its references are looked up in the whole."""
    try:
        return checker.evolve(schema=schema).is_valid(value)
    except Exception as problem:  # noqa: BLE001 - some keywords' values only fail when they are used
        raise BadSchema(f"cannot be checked ({type(problem).__name__})") from None
