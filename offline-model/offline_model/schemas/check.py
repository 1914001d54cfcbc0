"""Checking: is a JSON schema valid, and does a value fit it."""

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

# An empty registry: a `$ref` to another host is an error, never a download.
NOWHERE: Registry[Any] = Registry()
FORMATS = FormatChecker()


class BadSchema(ValueError):
    """The schema is not valid, or no value that fits it was found; the message says which."""


@lru_cache(maxsize=256)
def validator(text: str) -> Validator:
    """A validator for a schema (as JSON text, so that the same schema is only checked once)."""
    schema = json.loads(text)
    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except SchemaError as problem:
        where = "/".join(str(step) for step in problem.absolute_path)
        raise BadSchema(f"{problem.message[:300]}" + (f" (at {where})" if where else "")) from None
    except (RecursionError, TypeError, ValueError, AttributeError, Unresolvable) as problem:
        raise BadSchema(f"not a JSON schema ({type(problem).__name__})") from None
    return kind(schema, registry=NOWHERE, format_checker=FORMATS)


def validator_of(schema: dict[str, Any]) -> Validator:
    try:
        return validator(json.dumps(schema, allow_nan=False))
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, BadSchema):
            raise
        raise BadSchema("not a JSON schema") from None


def fits(checker: Validator, schema: Any, value: Any) -> bool:
    """Whether a value fits a part of the checker's schema; its references are looked up in the whole."""
    try:
        return checker.evolve(schema=schema).is_valid(value)
    except Unresolvable as problem:
        raise BadSchema(f"unresolvable reference {problem.ref!r}") from None
    except (RecursionError, OverflowError, ArithmeticError) as problem:
        raise BadSchema(f"cannot be checked ({type(problem).__name__})") from None
    except Exception as problem:  # noqa: BLE001 - a keyword with a value that only fails when it is used
        raise BadSchema(f"cannot be checked ({type(problem).__name__})") from None
