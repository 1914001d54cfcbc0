"""Arrays and objects that fit a schema: which items and properties they have, and how many."""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import rstr

from offline_model.json_schema.schemas import InvalidSchema, Schema, merged
from offline_model.json_schema.validator import pattern_matches

# From (schema, name, depth, seed) to values that fit the schema, best first.
Values = Callable[[Any, str, int, int], Iterator[Any]]

MAX_SIZE = 2_000
# Stands for a value that could not be generated; None is a value.
NO_VALUE = object()


def array(
    schema: Schema, name: str, depth: int, seed: int, values: Values, usual: int
) -> Iterator[list[Any]]:
    low, high = int(schema.get("minItems", 0)), int(schema.get("maxItems", MAX_SIZE))
    contains = schema.get("contains")
    if contains is not None:
        low = max(low, int(schema.get("minContains", 1)))
    if low > MAX_SIZE:
        raise InvalidSchema(f"an array of {low} items is too long")
    for length in dict.fromkeys([max(low, min(usual, high)), max(low, min(1, high)), low]):
        yield from array_of_length(schema, name, depth, seed, values, length)


def array_of_length(
    schema: Schema, name: str, depth: int, seed: int, values: Values, length: int
) -> Iterator[list[Any]]:
    items = schema.get("items", True)
    prefix = schema.get("prefixItems", items if isinstance(items, list) else [])
    rest = schema.get("additionalItems", True) if isinstance(items, list) else items
    contains = schema.get("contains", True)
    wanted = int(schema.get("minContains", 1)) if "contains" in schema else 0
    found: list[Any] = []
    for index in range(length):
        part = prefix[index] if index < len(prefix) else rest
        if index >= len(prefix) and wanted > 0 and isinstance(contains, dict):
            part = merged(part, contains)
            wanted -= 1
        value = next_item(values, part, name, depth + 1, seed + index, found, bool(schema.get("uniqueItems")))
        if value is NO_VALUE:
            break
        found.append(value)
    if len(found) >= int(schema.get("minItems", 0)):
        yield found


def next_item(
    values: Values, schema: Any, name: str, depth: int, seed: int, taken: list[Any], unique: bool
) -> Any:
    """The first value that is not in `taken`. If `unique` is False, fall back to one that is in `taken`."""
    known = {json.dumps(each, sort_keys=True) for each in taken}
    fallback: Any = NO_VALUE
    for turn in range(4 if unique else 1):
        for value in itertools.islice(values(schema, name, depth, seed + turn), 60 if unique else 6):
            # Equal numbers in one object are plausible, equal texts are not.
            if json.dumps(value, sort_keys=True) not in known or not (unique or isinstance(value, str)):
                return value
            fallback = fallback if unique or fallback is not NO_VALUE else value
    return fallback


def object_(
    schema: Schema, depth: int, seed: int, values: Values, should_fill: Callable[[str, Any], bool]
) -> Iterator[dict[str, Any]]:
    """First with every property that is wanted, then with the required ones only."""
    properties: Schema = schema.get("properties", {})
    required = list(schema.get("required", []))
    optional = [name for name in properties if name not in required and should_fill(name, properties[name])]
    for extra in [optional, []] if optional else [[]]:
        names = [name for name in properties if name in required or name in extra]
        names += [name for name in required if name not in properties]
        names = add_dependents(schema, names)
        low, high = int(schema.get("minProperties", 0)), int(schema.get("maxProperties", MAX_SIZE))
        if low > MAX_SIZE:
            raise InvalidSchema(f"an object of {low} properties is too large")
        surplus = [name for name in names if name not in required][: max(0, len(names) - high)]
        names = [name for name in names if name not in surplus]
        more = (name for name in extra_names(schema, seed) if name not in names)
        names += itertools.islice(more, max(0, low - len(names)))
        value = object_with(schema, names, required, depth, seed, values)
        if value is not None:
            yield value


def object_with(
    schema: Schema, names: list[str], required: list[str], depth: int, seed: int, values: Values
) -> dict[str, Any] | None:
    for name in names:
        schema = merged(schema, schema.get("dependentSchemas", {}).get(name))
    found: dict[str, Any] = {}
    for name in [*names, *(each for each in schema.get("required", []) if each not in names)]:
        value = next_item(
            values, property_schema(schema, name), name, depth + 1, seed, list(found.values()), False
        )
        if value is not NO_VALUE:
            found[name] = value
        elif name in required:
            return None
    return found


def add_dependents(schema: Schema, names: list[str]) -> list[str]:
    needs = schema.get("dependentRequired", {})
    for name in names:
        names += [each for each in needs.get(name, []) if each not in names]
    return names


def property_schema(schema: Schema, name: str) -> Any:
    """The schema of a property: by its name, by the patterns that match it, or for additional properties."""
    parts = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    parts += [
        part
        for pattern, part in schema.get("patternProperties", {}).items()
        if pattern_matches(pattern, name)
    ]
    if not parts:
        return schema.get("additionalProperties", True)
    return parts[0] if len(parts) == 1 else {"allOf": parts}


def extra_names(schema: Schema, seed: int) -> Iterator[str]:
    """Names for the properties that minProperties asks for without naming them."""
    yield from schema.get("properties", {})
    chance = random.Random(seed)  # noqa: S311 - the same request must get the same answer
    rule = schema.get("propertyNames", {})
    patterns = [rule["pattern"]] if isinstance(rule, dict) and "pattern" in rule else []
    for pattern in [*patterns, *schema.get("patternProperties", {})]:
        try:
            yield from (rstr.Rstr(chance).xeger(pattern) for _ in range(40))
        except (re.error, KeyError, IndexError, ValueError, TypeError, RecursionError):
            continue
    if isinstance(rule, dict):
        yield from (str(value) for value in rule.get("enum", []))
    yield from (f"item_{number}" for number in range(1, MAX_SIZE))
