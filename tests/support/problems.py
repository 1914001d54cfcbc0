"""Errors as application/problem+json, RFC 9457."""

from typing import Any

import httpx2

PROBLEM = "application/problem+json"


def assert_problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The response is a problem, and carries the id of its request."""
    told = assert_problem_document(response, status)
    assert told.get("request_id") == response.headers.get("x-request-id", ""), (
        "The error does not carry the request's id."
    )
    return told


def assert_problem_document(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, (
        f"The answer has status {response.status_code}, not {status}: {response.text}"
    )
    kind = response.headers.get("content-type")
    assert kind == PROBLEM, f"An error is sent as {kind}, not as application/problem+json."
    told: dict[str, Any] = response.json()
    assert told.get("status") == status, f"The error's body names another status than {status}."
    return told
