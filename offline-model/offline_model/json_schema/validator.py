"""Validation: whether a JSON schema is valid, and strict enough, and whether a value fits it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from offline_model.json_schema.schemas import DATA_KEYWORDS, InvalidSchema, check_references

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

# jsonschema is imported inside functions: most requests have no schema, and the start is quicker without.
# Its keywords for patterns use `re`, which may take for ever for `(a|a)*b`; ours use RE2.


def pattern_matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text, in linear time."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.search(pattern, text, options) is not None
    except re2.error as error:
        reason = error.args[0].decode()
        raise InvalidSchema(f"the pattern {pattern[:100]!r} is not supported ({reason})") from None


def pattern_keyword(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not pattern_matches(pattern, value):
        yield ValidationError("does not match its pattern")


def pattern_properties_keyword(
    validator: Any, patterns: Any, value: Any, schema: Any
) -> Iterator[ValidationError]:
    for pattern, part in patterns.items() if isinstance(value, dict) else ():
        for name in value:
            if pattern_matches(pattern, name):
                yield from validator.descend(value[name], part)


def additional_properties_keyword(
    validator: Any, rule: Any, value: Any, schema: Any
) -> Iterator[ValidationError]:
    """Check the properties that neither `properties` nor `patternProperties` names."""
    from jsonschema import ValidationError

    patterns = schema.get("patternProperties", {})
    for name in value if isinstance(value, dict) else ():
        if name in schema.get("properties", {}) or any(pattern_matches(each, name) for each in patterns):
            continue
        if rule is False:
            yield ValidationError(f"has an additional property {name!r}")
        else:
            yield from validator.descend(value[name], rule)


@cache
def validator_options() -> dict[str, Any]:
    """Formats are checked. The registry is empty, so a reference to another host is never downloaded."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return {"registry": Registry(), "format_checker": Draft202012Validator.FORMAT_CHECKER}


@lru_cache(maxsize=256)
def cached_validator(text: str) -> Validator:
    """A validator for a schema. The schema is given as JSON text, which can be a key of the cache."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend, validator_for

    schema = json.loads(text)
    check_references(schema)
    if not isinstance(schema.get("$schema", ""), str):
        raise InvalidSchema("$schema is not a string")
    draft = validator_for(schema, default=Draft202012Validator)
    schema.pop("$schema", None)  # with it, jsonschema would go back to the keywords of the draft
    try:
        draft.check_schema(schema)
    except SchemaError as error:
        path = "/".join(str(step) for step in error.absolute_path)
        raise InvalidSchema(f"{error.message[:300]}" + (f" (at {path})" if path else "")) from None
    keywords = {
        "pattern": pattern_keyword,
        "patternProperties": pattern_properties_keyword,
        "additionalProperties": additional_properties_keyword,
    }
    with_re2: type[Validator] = extend(draft, keywords)  # type: ignore[no-untyped-call]
    return with_re2(schema, **validator_options())


def validator_of(schema: dict[str, Any]) -> Validator:
    """A validator for a schema; raises InvalidSchema."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidSchema("not JSON, or nested too deeply") from None
    return cached_validator(text)


def is_valid(validator: Validator, schema: Any, value: Any) -> bool:
    """Whether a value fits a part of the validator's schema. References are resolved in the whole schema."""
    try:
        return validator.evolve(schema=schema).is_valid(value)
    except InvalidSchema:
        raise
    except Exception as error:  # noqa: BLE001 - the values of some keywords only fail when they are used
        raise InvalidSchema(f"cannot be checked ({type(error).__name__})") from None


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
