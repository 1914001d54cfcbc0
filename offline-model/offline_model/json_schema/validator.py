"""Checking: is a JSON schema valid, and does a value fit it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from offline_model.json_schema.references import BadSchema, check_references

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

# jsonschema is imported where it is used: most requests have no schema, and the start is quicker without.


def search(pattern: str, text: str) -> bool:
    """Whether a schema's pattern is found in a text, in linear time; `re` may take for ever for `(a|a)*b`."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.search(pattern, text, options) is not None
    except re2.error as problem:
        raise BadSchema(
            f"the pattern {pattern[:100]!r} is not supported ({problem.args[0].decode()})"
        ) from None


def match_pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not search(pattern, value):
        yield ValidationError("does not match its pattern")


def match_properties(validator: Any, parts: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    for pattern, part in parts.items() if isinstance(value, dict) else ():
        for name in value:
            if search(pattern, name):
                yield from validator.descend(value[name], part)


def match_others(validator: Any, rule: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """The members that no other keyword speaks of."""
    from jsonschema import ValidationError

    for name in value if isinstance(value, dict) else ():
        patterns = schema.get("patternProperties", {})
        if name not in schema.get("properties", {}) and not any(search(each, name) for each in patterns):
            if rule is False:
                yield ValidationError("has a member too many")
            else:
                yield from validator.descend(value[name], rule)


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
    from jsonschema.validators import extend, validator_for

    schema = json.loads(text)
    check_references(schema)
    if not isinstance(schema.get("$schema", ""), str):
        raise BadSchema("$schema is not a string")
    kind = validator_for(schema, default=Draft202012Validator)
    schema.pop("$schema", None)  # it would bring the draft's own keywords back
    try:
        kind.check_schema(schema)
    except SchemaError as problem:
        where = "/".join(str(step) for step in problem.absolute_path)
        raise BadSchema(f"{problem.message[:300]}" + (f" (at {where})" if where else "")) from None
    keywords = {
        "pattern": match_pattern,
        "patternProperties": match_properties,
        "additionalProperties": match_others,
    }
    linear: type[Validator] = extend(kind, keywords)  # type: ignore[no-untyped-call]
    return linear(schema, **validator_options())


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
    except BadSchema:
        raise
    except Exception as problem:  # noqa: BLE001 - some keywords' values only fail when they are used
        raise BadSchema(f"cannot be checked ({type(problem).__name__})") from None
