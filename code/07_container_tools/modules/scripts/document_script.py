"""Validate a JSON or YAML document against a JSON Schema, and name each fault by JSON pointer (RFC 6901)."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError


def parse(text: str, form: str) -> Any:
    """Raises ValueError with the reason when the text is not JSON, or not YAML."""
    try:
        return json.loads(text) if form == "json" else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def pointer(path: Any) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def faults(given: dict[str, Any]) -> list[dict[str, str]]:
    try:
        document = parse(given["document"], given["format"])
    except ValueError as error:
        return [{"pointer": "", "message": f"This is not {given['format'].upper()}: {error}"}]
    errors = Draft202012Validator(given["schema"]).iter_errors(document)
    found = [{"pointer": pointer(error.absolute_path), "message": error.message[:500]} for error in errors]
    return sorted(found, key=lambda fault: fault["pointer"])


given = json.loads(Path(sys.argv[1]).read_text())
try:
    Draft202012Validator.check_schema(given["schema"])
except SchemaError as error:
    sys.exit(f"The schema is not a JSON Schema: {error.message[:500]} at {pointer(error.absolute_path)!r}")
found = faults(given)
print(json.dumps({"valid": not found, "errors": found[:100]}))
