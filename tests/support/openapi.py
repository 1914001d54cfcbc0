"""Check an API against its OpenAPI document."""

from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from schemathesis import GenerationMode

from support.problems import PROBLEM

GENERATION_MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

OPERATIONS = pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        ("/health", "GET", GenerationMode.POSITIVE),
        ("/ready", "GET", GenerationMode.POSITIVE),
        *[(path, "POST", mode) for path in ("/v1/invoke", "/v1/stream") for mode in GENERATION_MODES],
    ],
)


def assert_responses_match_openapi(url: str, path: str, method: str, mode: GenerationMode) -> None:
    """Send requests that the OpenAPI document allows or forbids. Every response must be a documented one."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method]

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(timeout=20)

    check()


def assert_openapi_holds(url: str) -> None:
    """The document is valid, and describes problems with the media type that they have."""
    document = httpx2.get(f"{url}/openapi.json").json()
    try:
        validate(document)
    except OpenAPIValidationError as error:
        pytest.fail(f"The description is not valid OpenAPI {document['openapi']}: {error}.")
    names = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            types = set(operation["responses"]["default"]["content"])
            assert types == {PROBLEM}, f"{method} {path} describes its problems as {types}, not as {PROBLEM}."
    assert len(set(names)) == len(names), f"Two operations have one name: {names}."
