"""Arrays and objects that fit: which members they have, and how many."""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import rstr

from offline_model.json_schema.merging import Schema, merged
from offline_model.json_schema.references import BadSchema
from offline_model.json_schema.validator import search

# (schema, name, depth, seed) to candidates that fit the schema.
Members = Callable[[Any, str, int, int], Iterator[Any]]

LARGEST = 2_000


def array(
    schema: Schema, name: str, depth: int, seed: int, members: Members, usual: int
) -> Iterator[list[Any]]:
    low, high = int(schema.get("minItems", 0)), int(schema.get("maxItems", LARGEST))
    contains = schema.get("contains")
    if contains is not None:
        low = max(low, int(schema.get("minContains", 1)))
    if low > LARGEST:
        raise BadSchema(f"an array of {low} items is too long")
    for length in dict.fromkeys([max(low, min(usual, high)), max(low, min(1, high)), low]):
        yield from filled_array(schema, name, depth, seed, members, length)


def filled_array(
    schema: Schema, name: str, depth: int, seed: int, members: Members, length: int
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
            part = merged(part, contains) if isinstance(part, dict) else contains
            wanted -= 1
        value = fresh(members, part, name, depth + 1, seed + index, found, bool(schema.get("uniqueItems")))
        if value is NOTHING:
            break
        found.append(value)
    if len(found) >= int(schema.get("minItems", 0)):
        yield found


NOTHING = object()


def fresh(
    members: Members, schema: Any, name: str, depth: int, seed: int, taken: list[Any], must: bool
) -> Any:
    """The first candidate that is not there yet, or NOTHING; the first at all when it need not be new."""
    known = {json.dumps(each, sort_keys=True) for each in taken}
    fallback: Any = NOTHING
    for turn in range(4 if must else 1):
        for value in itertools.islice(members(schema, name, depth, seed + turn), 60 if must else 6):
            # Two numbers of an object may well be the same, two texts hardly.
            if json.dumps(value, sort_keys=True) not in known or not (must or isinstance(value, str)):
                return value
            fallback = fallback if must or fallback is not NOTHING else value
    return fallback


def object_(
    schema: Schema, depth: int, seed: int, members: Members, wants: Callable[[str, Any], bool]
) -> Iterator[dict[str, Any]]:
    """First with every member that is wanted, then with the required ones alone."""
    properties: Schema = schema.get("properties", {})
    required = list(schema.get("required", []))
    optional = [name for name in properties if name not in required and wants(name, properties[name])]
    for extra in [optional, []] if optional else [[]]:
        names = [name for name in properties if name in required or name in extra]
        names += [name for name in required if name not in properties]
        names = with_dependents(schema, names)
        low, high = int(schema.get("minProperties", 0)), int(schema.get("maxProperties", LARGEST))
        if low > LARGEST:
            raise BadSchema(f"an object of {low} members is too large")
        surplus = [name for name in names if name not in required][: max(0, len(names) - high)]
        names = [name for name in names if name not in surplus]
        more = (name for name in more_names(schema, seed) if name not in names)
        names += itertools.islice(more, max(0, low - len(names)))
        value = members_of(schema, names, required, depth, seed, members)
        if value is not None:
            yield value


def members_of(
    schema: Schema, names: list[str], required: list[str], depth: int, seed: int, members: Members
) -> dict[str, Any] | None:
    for name in names:
        dependent = schema.get("dependentSchemas", {}).get(name)
        if isinstance(dependent, dict):
            schema = merged(schema, dependent)
    found: dict[str, Any] = {}
    for name in [*names, *(each for each in schema.get("required", []) if each not in names)]:
        value = fresh(
            members, member_schema(schema, name), name, depth + 1, seed, list(found.values()), False
        )
        if value is not NOTHING:
            found[name] = value
        elif name in required:
            return None
    return found


def with_dependents(schema: Schema, names: list[str]) -> list[str]:
    needs = schema.get("dependentRequired", {})
    for name in names:
        names += [each for each in needs.get(name, []) if each not in names]
    return names


def member_schema(schema: Schema, name: str) -> Any:
    """All that is said of a member of this name."""
    said = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    said += [part for pattern, part in schema.get("patternProperties", {}).items() if search(pattern, name)]
    if not said:
        return schema.get("additionalProperties", True)
    return said[0] if len(said) == 1 else {"allOf": said}


def more_names(schema: Schema, seed: int) -> Iterator[str]:
    """Names for members that are only asked for by number."""
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
    yield from (f"item_{number}" for number in range(1, LARGEST))
