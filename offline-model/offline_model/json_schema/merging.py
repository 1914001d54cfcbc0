"""Merging: two schemas that both apply, as one from which a value can be generated."""

from typing import Any

Schema = dict[str, Any]

LOWER_BOUNDS = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"}
UPPER_BOUNDS = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"}
ANNOTATIONS = {
    "title", "description", "default", "examples", "$comment", "$schema", "$id", "$defs", "definitions",
}  # fmt: skip


def merged(one: Schema, other: Schema) -> Schema:
    """Both schemas as one. Keywords that cannot be joined go to allOf; the result is validated in the end."""
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
