"""Merging: two schemas that both apply, as one that is easier to fill."""

from typing import Any

Schema = dict[str, Any]

LOWER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"}
UPPER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"}
NOTES = {"title", "description", "default", "examples", "$comment", "$schema", "$id", "$defs", "definitions"}


def merged(one: Schema, other: Schema) -> Schema:
    """What cannot be said in one keyword stays behind in allOf; the final check still sees the originals."""
    result = dict(one)
    for key, value in other.items():
        if key not in result or result[key] == value:
            result[key] = value
        elif key not in NOTES:
            joined = join(key, result[key], value)
            if joined is None:
                result["allOf"] = [*result.get("allOf", []), {key: value}]
            else:
                result[key] = joined
    return result


def join(key: str, one: Any, other: Any) -> Any:
    if key in LOWER:
        return max(one, other)
    if key in UPPER:
        return min(one, other)
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key == "enum":
        return [value for value in one if value in other]
    if key == "type":
        return both_types(one, other)
    if key in {"properties", "patternProperties"}:
        shared = {name: {"allOf": [one[name], other[name]]} for name in one.keys() & other.keys()}
        return {**one, **other, **shared}
    # One of several is followed when filling; whether the other holds too is checked afterwards.
    return None if key in {"anyOf", "oneOf", "$ref"} else one


def both_types(one: Any, other: Any) -> list[str]:
    left, right = types(one), types(other)
    kept = [each for each in left if each in right]
    if "integer" not in kept and "integer" in left + right and "number" in left + right:
        kept.append("integer")
    return kept


def types(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
