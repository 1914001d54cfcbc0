"""Schemas: check and resolve their references, and merge two that both apply into one."""

from collections.abc import Iterator
from typing import Any

# OpenAI allows ten levels of objects. The validator makes several calls a level; Python allows a thousand.
MAX_DEPTH = 50
UNSUPPORTED = ("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "unevaluatedProperties")
# Keywords whose values are data, not schemas.
DATA_KEYWORDS = {"const", "enum", "default", "examples"}

Schema = dict[str, Any]

LOWER_BOUNDS = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"}
UPPER_BOUNDS = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"}
ANNOTATIONS = {
    "title", "description", "default", "examples", "$comment", "$schema", "$id", "$defs", "definitions",
}  # fmt: skip


class InvalidSchema(ValueError):
    """The schema is invalid or unsupported, or no value that fits it was found. The message says why."""


def check_references(schema: Any) -> None:
    for part in subschemas(schema, 0):
        for keyword in UNSUPPORTED:
            if keyword in part:
                raise InvalidSchema(f"{keyword} is not supported")
        for keyword in ("$id", "$schema"):
            if part is not schema and isinstance(part.get(keyword), str):
                raise InvalidSchema(f"{keyword} is not supported inside a schema")
        if isinstance(part.get("$ref"), str):
            resolve(schema, part["$ref"])


def subschemas(node: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Every object of the schema that may be a schema itself."""
    if depth > MAX_DEPTH:
        raise InvalidSchema("nested too deeply")
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key not in DATA_KEYWORDS:
                yield from subschemas(value, depth + 1)
    elif isinstance(node, list):
        for value in node:
            yield from subschemas(value, depth + 1)


def resolve(root: Any, reference: str) -> Any:
    """The part of a schema that a JSON pointer such as `#/$defs/node` refers to (RFC 6901)."""
    # Imported here because most requests have no schema, and the start is quicker without.
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        if reference != "#" and not reference.startswith("#/"):
            raise Unresolvable(ref=reference)
        return DRAFT202012.create_resource(root).pointer(reference[1:], Registry().resolver()).contents
    except (Unresolvable, ValueError, TypeError, AttributeError):
        raise InvalidSchema(f"unresolvable reference {reference[:100]!r}") from None


def merged(one: Any, other: Any) -> Any:
    """Both schemas as one; of an object and a boolean, the object.

    Keywords that cannot be joined go to allOf; the result is validated in the end.
    """
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one if isinstance(one, dict) else other
    result = dict(one)
    for key, value in other.items():
        if key not in result or result[key] == value:
            result[key] = value
        elif key not in ANNOTATIONS:
            joined = join_keyword(key, result[key], value)
            if joined is None:
                result["allOf"] = [*result.get("allOf", []), {key: value}]
            else:
                result[key] = joined
    return result


def join_keyword(key: str, one: Any, other: Any) -> Any:
    if key in LOWER_BOUNDS:
        return max(one, other)
    if key in UPPER_BOUNDS:
        return min(one, other)
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key == "enum":
        return [value for value in one if value in other]
    if key == "type":
        return common_types(one, other)
    if key in {"properties", "patternProperties"}:
        shared = {name: {"allOf": [one[name], other[name]]} for name in one.keys() & other.keys()}
        return {**one, **other, **shared}
    # The generator follows one of the two; whether the value fits the other is checked afterwards.
    return None if key in {"anyOf", "oneOf", "$ref"} else one


def common_types(one: Any, other: Any) -> list[str]:
    left, right = types(one), types(other)
    kept = [each for each in left if each in right]
    if "integer" not in kept and "integer" in left + right and "number" in left + right:
        kept.append("integer")
    return kept


def types(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
