"""Generate a value that is valid for a JSON schema. Values come from the conversation where it has them.

Libraries such as hypothesis-jsonschema generate random values. The arguments of a tool call have to come from
the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from offline_model.json_schema.scalars import Number, numbers, strings
from offline_model.json_schema.schemas import InvalidSchema, Schema, merged, resolve, types
from offline_model.json_schema.validator import is_valid, pattern_matches, validator_of

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_DEPTH = 24
# From this depth on only required properties are generated, so that a recursive schema ends.
SPARSE_DEPTH = 4
# Seeds that are tried, and values for each seed.
MAX_TRIES = 24
# Schemas that are visited for one value.
MAX_VISITS = 5_000
# Items of an array, and properties of an object.
MAX_SIZE = 2_000
# Stands for a value that could not be generated; None is a value.
NO_VALUE = object()

# The keywords from which the type of a schema without `type` is guessed.
TYPE_HINTS = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "minProperties"},
    "array": {"items", "prefixItems", "minItems", "uniqueItems"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}


class ValueSource(Protocol):
    """The values that a conversation has for a field of this name; the best stand first in each list."""

    def texts(self, name: str, schema: Schema) -> list[str]: ...
    def numbers(self, name: str, schema: Schema) -> list[Number]: ...
    def choices(self, name: str, schema: Schema, options: list[Any]) -> list[Any]: ...
    def booleans(self, name: str, schema: Schema) -> list[bool]: ...
    def should_fill(self, name: str, schema: Schema) -> bool: ...
    def listed_items(self) -> Sequence[ValueSource]: ...


def generate(schema: Schema, source: ValueSource, seed: int = 0) -> Any:
    """A value that fits; raises InvalidSchema if the schema is invalid or no value was found."""
    validator = validator_of(schema)
    try:
        schema = dict(validator.schema)  # type: ignore[arg-type]  # the request's validation allows objects only
        generator = ValueGenerator(schema, validator, source)
        for variant in range(MAX_TRIES):
            for value in islice(generator.values(schema, "", 0, seed + variant), MAX_TRIES):
                if is_valid(validator, schema, value):
                    return value
    except (RecursionError, OverflowError):
        raise InvalidSchema("nested too deeply, or its numbers are too large") from None
    raise InvalidSchema("no value that fits it was found")


class ValueGenerator:
    """Walks one schema and yields candidates, best first. jsonschema decides which of them fit.

    No candidate is made for `contains` and `propertyNames`, which OpenAI's structured outputs do not have.
    """

    def __init__(self, root: Schema, validator: Validator, source: ValueSource) -> None:
        self.root = root
        self.validator = validator
        self.source = source
        self.visits_left = MAX_VISITS

    def values(self, schema: Any, name: str, depth: int, seed: int) -> Iterator[Any]:
        self.visits_left -= 1
        if self.visits_left < 0 or depth > MAX_DEPTH or schema is False:
            return
        if schema is True or schema == {}:
            yield from self.source.texts(name, {})[:3] or ["text"]
        elif "const" in schema:
            yield schema["const"]
        elif "enum" in schema:
            yield from self.enum(schema, name, seed)
        elif "$ref" in schema:
            target, rest = resolve(self.root, schema["$ref"]), without(schema, "$ref")
            yield from self.values(merged(target, rest), name, depth + 1, seed)
        elif "anyOf" in schema or "oneOf" in schema:
            yield from self.branches(schema, name, depth, seed)
        elif "allOf" in schema:
            whole = reduce(merged, schema["allOf"], without(schema, "allOf"))
            yield from self.values(whole, name, depth + 1, seed)
        else:
            for kind in self.kinds(schema, depth):
                yield from self.of_kind(kind, schema, name, depth, seed)

    def valid_values(self, schema: Any, name: str, depth: int, seed: int) -> Iterator[Any]:
        for value in islice(self.values(schema, name, depth, seed), 80):
            if is_valid(self.validator, schema, value):
                yield value

    def enum(self, schema: Schema, name: str, seed: int) -> Iterator[Any]:
        options = list(schema["enum"])
        yield from self.source.choices(name, schema, options)
        turn = seed % max(1, len(options))
        yield from options[turn:] + options[:turn]

    def branches(self, schema: Schema, name: str, depth: int, seed: int) -> Iterator[Any]:
        """One branch after the other; deep in the schema the simplest first, so that recursion ends."""
        key = "anyOf" if "anyOf" in schema else "oneOf"
        branches = [branch for branch in schema[key] if branch is not False]
        if depth >= SPARSE_DEPTH or not self.source.should_fill(name, schema):
            branches.sort(key=lambda branch: len(str(branch)) if "$ref" not in str(branch) else 10**6)
        else:
            branches.sort(key=lambda branch: isinstance(branch, dict) and branch.get("type") == "null")
        for branch in branches:
            whole = merged(without(schema, key), branch)
            for value in islice(self.values(whole, name, depth + 1, seed), 30):
                if is_valid(self.validator, schema, value):
                    yield value

    def kinds(self, schema: Schema, depth: int) -> list[str]:
        """The types that a value may have, from `type` or guessed from the other keywords."""
        if "type" in schema:
            return sorted(types(schema["type"]), key=lambda kind: (kind == "null") is (depth < SPARSE_DEPTH))
        guessed = [kind for kind, keywords in TYPE_HINTS.items() if keywords & schema.keys()]
        return [*guessed, "string", "integer", "boolean", "null"]

    def of_kind(self, kind: str, schema: Schema, name: str, depth: int, seed: int) -> Iterator[Any]:
        if kind == "string":
            yield from strings(schema, self.source.texts(name, schema), seed)
        elif kind in {"number", "integer"}:
            yield from numbers(schema, self.source.numbers(name, schema), kind == "integer", seed)
        elif kind == "boolean":
            yield from [*self.source.booleans(name, schema), True, False]
        elif kind == "null":
            yield None
        elif kind == "array":
            yield from self.object_for_each_item(schema, name, depth, seed)
            yield from self.arrays(schema, name, depth, seed)
        elif kind == "object":
            yield from self.objects(schema, depth, seed)

    def object_for_each_item(self, schema: Schema, name: str, depth: int, seed: int) -> Iterator[list[Any]]:
        """An array of objects, one for each item that the question lists."""
        items = schema.get("items")
        while isinstance(items, dict) and "$ref" in items:
            items = resolve(self.root, items["$ref"])
        if not isinstance(items, dict) or items.get("type") != "object" or depth >= SPARSE_DEPTH:
            return
        generators = [ValueGenerator(self.root, self.validator, item) for item in self.source.listed_items()]
        found = [next(each.valid_values(items, name, depth + 1, seed), None) for each in generators]
        if found and None not in found:
            yield found

    def arrays(self, schema: Schema, name: str, depth: int, seed: int) -> Iterator[list[Any]]:
        low, high = int(schema.get("minItems", 0)), int(schema.get("maxItems", MAX_SIZE))
        if low > MAX_SIZE:
            raise InvalidSchema(f"an array of {low} items is too long")
        prefix, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):  # the older form of prefixItems
            prefix, rest = rest, schema.get("additionalItems", True)
        unique = bool(schema.get("uniqueItems"))
        usual = self.default_length(schema, name, depth)
        for length in dict.fromkeys([max(low, min(usual, high)), max(low, min(1, high)), low]):
            found: list[Any] = []
            for index, part in enumerate([*prefix[:length], *[rest] * (length - len(prefix))]):
                value = self.next_value(part, name, depth + 1, seed + index, found, unique)
                if value is NO_VALUE:
                    break
                found.append(value)
            if len(found) >= low:
                yield found

    def default_length(self, schema: Schema, name: str, depth: int) -> int:
        """How many items an array has: one for each text that the conversation has, at most three."""
        items = schema.get("items")
        if depth >= SPARSE_DEPTH or not isinstance(items, dict):
            return 0 if depth >= SPARSE_DEPTH else 1
        return min(3, len(self.source.texts(name, items)) or 1) if items.get("type") == "string" else 3

    def objects(self, schema: Schema, depth: int, seed: int) -> Iterator[dict[str, Any]]:
        """First with every property that is wanted, then with the required ones only, then with all."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        low, high = int(schema.get("minProperties", 0)), int(schema.get("maxProperties", MAX_SIZE))
        if low > MAX_SIZE:
            raise InvalidSchema(f"an object of {low} properties is too large")
        optional = [each for each in properties if each not in required]
        wanted = [each for each in optional if self.should_fill(each, properties[each], depth)]
        # Names for properties that minProperties asks for without naming them.
        more = [*optional, *(f"item_{number}" for number in range(1, low + 1))]
        for chosen in [*([wanted[: max(0, high - len(required))]] if wanted else []), [], optional]:
            names = [name for name in properties if name in required or name in chosen]
            names += [name for name in required if name not in properties]
            names += [name for name in more if name not in names][: max(0, low - len(names))]
            found: dict[str, Any] = {}
            for name in names:
                part = property_schema(schema, name)
                value = self.next_value(part, name, depth + 1, seed, list(found.values()), False)
                if value is not NO_VALUE:
                    found[name] = value
            if found.keys() >= set(required):
                yield found

    def should_fill(self, name: str, schema: Any, depth: int) -> bool:
        return depth < SPARSE_DEPTH and isinstance(schema, dict) and self.source.should_fill(name, schema)

    def next_value(
        self, schema: Any, name: str, depth: int, seed: int, taken: list[Any], unique: bool
    ) -> Any:
        """The first value that is not in `taken`, else one that is, unless it has to be `unique`."""
        known = {json.dumps(each, sort_keys=True) for each in taken}
        fallback: Any = NO_VALUE
        for turn in range(4 if unique else 1):
            candidates = self.valid_values(schema, name, depth, seed + turn)
            for value in islice(candidates, 60 if unique else 6):
                # Equal numbers in one object are plausible, equal texts are not.
                if json.dumps(value, sort_keys=True) not in known or not (unique or isinstance(value, str)):
                    return value
                fallback = fallback if unique or fallback is not NO_VALUE else value
        return fallback


def without(schema: Schema, keyword: str) -> Schema:
    return {key: value for key, value in schema.items() if key != keyword}


def property_schema(schema: Schema, name: str) -> Any:
    """The schema of a property: by its name, by the patterns that match it, or for additional properties."""
    parts = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    patterns = schema.get("patternProperties", {}).items()
    parts += [part for pattern, part in patterns if pattern_matches(pattern, name)]
    if not parts:
        return schema.get("additionalProperties", True)
    return parts[0] if len(parts) == 1 else {"allOf": parts}
