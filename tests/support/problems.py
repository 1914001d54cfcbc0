"""Errors as application/problem+json, RFC 9457."""

from typing import Any

import httpx2

PROBLEM = "application/problem+json"


def assert_problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The response is a problem, and carries the id of its request."""
    told = assert_problem_document(response, status)
    assert told["request_id"] == response.headers["x-request-id"], (
        "The error does not carry the request's id."
    )
    return told


def assert_problem_document(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, (
        f"The answer has status {response.status_code}, not {status}: {response.text}"
    )
    assert response.headers["content-type"] == PROBLEM, "An error is not sent as application/problem+json."
    told: dict[str, Any] = response.json()
    assert told["status"] == status, f"The error's body names another status than {status}."
    return told
