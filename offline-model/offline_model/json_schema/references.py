"""References: only those within the schema, and none that leads back to itself without a step down."""

from collections.abc import Iterator
from typing import Any

# OpenAI allows ten levels of objects. A validator makes several calls a level, and Python ends at a thousand.
DEEPEST = 50
UNSUPPORTED = ("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "unevaluatedProperties")
# Keywords whose values are data, not schemas.
DATA = {"const", "enum", "default", "examples"}
# Keywords that apply to the same value as the schema they stand in.
IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")


class BadSchema(ValueError):
    """The schema is not valid, or no value that fits it was found; the message says which."""


def check_references(schema: Any) -> None:
    for part in parts(schema, 0):
        for keyword in UNSUPPORTED:
            if keyword in part:
                raise BadSchema(f"{keyword} is not supported")
        for keyword in ("$id", "$schema"):
            if part is not schema and isinstance(part.get(keyword), str):
                raise BadSchema(f"{keyword} is not supported")
        if isinstance(part.get("$ref"), str):
            follow(schema, part, ())


def parts(node: Any, depth: int) -> Iterator[dict[str, Any]]:
    if depth > DEEPEST:
        raise BadSchema("nested too deeply")
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key not in DATA:
                yield from parts(value, depth + 1)
    elif isinstance(node, list):
        for value in node:
            yield from parts(value, depth + 1)


def follow(root: Any, part: Any, trail: tuple[str, ...]) -> None:
    """Follow references as long as they speak of the same value; a circle would never be decided."""
    if isinstance(part, list):
        for each in part:
            follow(root, each, trail)
    if not isinstance(part, dict):
        return
    reference = part.get("$ref")
    if isinstance(reference, str):
        if reference in trail or len(trail) > DEEPEST:
            raise BadSchema(f"the reference {reference[:100]!r} leads back to itself")
        follow(root, resolve(root, reference), (*trail, reference))
    for keyword in IN_PLACE:
        follow(root, part.get(keyword), trail)


def resolve(root: Any, reference: str) -> Any:
    """The part of a schema that a reference like `#/$defs/node` means."""
    if reference != "#" and not reference.startswith("#/"):
        raise BadSchema(f"unresolvable reference {reference[:100]!r}")
    target = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        try:
            target = target[int(key)] if isinstance(target, list) else target[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise BadSchema(f"unresolvable reference {reference[:100]!r}") from None
    return target
