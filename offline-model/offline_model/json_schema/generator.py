"""Generate a value that is valid for a JSON schema. Values come from the conversation where it has them.

Libraries such as hypothesis-jsonschema generate random values. The arguments of a tool call have to come from
the conversation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol

from offline_model.json_schema.containers import array, object_
from offline_model.json_schema.scalars import Number, numbers, strings
from offline_model.json_schema.schemas import InvalidSchema, Schema, merged, resolve, types
from offline_model.json_schema.validator import is_valid, validator_of

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_DEPTH = 24
# From this depth on only required properties are generated, so that a recursive schema ends.
SPARSE_DEPTH = 4
# Seeds that are tried, and values for each seed.
MAX_TRIES = 24
# Schemas that are visited for one value.
MAX_VISITS = 5_000

# The keywords from which the type of a schema without `type` is guessed.
TYPE_HINTS = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "minProperties"},
    "array": {"items", "prefixItems", "minItems", "uniqueItems", "contains"},
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
            for value in itertools.islice(generator.values(schema, "", 0, seed + variant), MAX_TRIES):
                if is_valid(validator, schema, value):
                    return value
    except (RecursionError, OverflowError):
        raise InvalidSchema("nested too deeply, or its numbers are too large") from None
    raise InvalidSchema("no value that fits it was found")


class ValueGenerator:
    """Walks one schema and yields candidates, best first. jsonschema decides which of them fit."""

    def __init__(self, root: Schema, validator: Validator, source: ValueSource) -> None:
        self.root = root
        self.validator = validator
        self.source = source
        self.visits_left = MAX_VISITS

    def values(self, schema: Any, name: str, depth: int, seed: int) -> Iterator[Any]:
        self.visits_left -= 1
        if self.visits_left < 0 or depth > MAX_DEPTH:
            return
        if schema is True or schema == {}:
            yield from self.source.texts(name, {})[:3] or ["text"]
        elif isinstance(schema, dict):
            yield from self.of_schema(schema, name, depth, seed)

    def of_schema(self, schema: Schema, name: str, depth: int, seed: int) -> Iterator[Any]:
        if "const" in schema:
            yield schema["const"]
        elif "enum" in schema:
            yield from self.enum(schema, name, seed)
        elif "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            target = resolve(self.root, schema["$ref"])
            yield from self.values(merged(target, rest), name, depth + 1, seed)
        elif "anyOf" in schema or "oneOf" in schema:
            yield from self.branches(schema, name, depth, seed)
        elif "allOf" in schema:
            rest = {key: value for key, value in schema.items() if key != "allOf"}
            yield from self.values(reduce(merged, schema["allOf"], rest), name, depth + 1, seed)
        else:
            if "if" in schema:
                yield from self.conditional(schema, name, depth, seed)
            for kind in self.kinds(schema, depth):
                yield from self.of_kind(kind, schema, name, depth, seed)

    def enum(self, schema: Schema, name: str, seed: int) -> Iterator[Any]:
        options = list(schema["enum"])
        yield from self.source.choices(name, schema, options)
        turn = seed % max(1, len(options))
        yield from options[turn:] + options[:turn]

    def branches(self, schema: Schema, name: str, depth: int, seed: int) -> Iterator[Any]:
        """One branch after the other; deep in the schema the simplest first, so that recursion ends."""
        key = "anyOf" if "anyOf" in schema else "oneOf"
        rest = {each: value for each, value in schema.items() if each != key}
        branches = [branch for branch in schema[key] if branch is not False]
        if depth >= SPARSE_DEPTH or not self.source.should_fill(name, schema):
            branches.sort(key=lambda branch: len(str(branch)) if "$ref" not in str(branch) else 10**6)
        else:
            branches.sort(key=lambda branch: isinstance(branch, dict) and branch.get("type") == "null")
        for branch in branches:
            for value in itertools.islice(self.values(merged(rest, branch), name, depth + 1, seed), 30):
                if is_valid(self.validator, schema, value):
                    yield value

    def conditional(self, schema: Schema, name: str, depth: int, seed: int) -> Iterator[Any]:
        rest = {key: value for key, value in schema.items() if key not in {"if", "then", "else"}}
        for parts in ([schema["if"], schema.get("then", True)], [schema.get("else", True)]):
            yield from self.values(reduce(merged, parts, rest), name, depth + 1, seed)

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
            yield from array(
                schema, name, depth, seed, self.valid_values, self.default_length(schema, name, depth)
            )
        elif kind == "object":
            yield from object_(
                schema, depth, seed, self.valid_values, lambda each, part: self.should_fill(each, part, depth)
            )

    def valid_values(self, schema: Any, name: str, depth: int, seed: int) -> Iterator[Any]:
        for value in itertools.islice(self.values(schema, name, depth, seed), 80):
            if is_valid(self.validator, schema, value):
                yield value

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

    def default_length(self, schema: Schema, name: str, depth: int) -> int:
        """How many items an array has: one for each text that the conversation has, at most three."""
        items = schema.get("items")
        if depth >= SPARSE_DEPTH or not isinstance(items, dict):
            return 0 if depth >= SPARSE_DEPTH else 1
        return min(3, len(self.source.texts(name, items)) or 1) if items.get("type") == "string" else 3

    def should_fill(self, name: str, schema: Any, depth: int) -> bool:
        return depth < SPARSE_DEPTH and isinstance(schema, dict) and self.source.should_fill(name, schema)
