"""Lesson 01 and hostile input: every answer is a documented one, and never a 5xx."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from support.connections import assert_headers_are_bounded, assert_probes_take_head
from support.openapi import OPERATIONS, assert_openapi_holds, assert_responses_match_openapi
from support.problems import PROBLEM, assert_problem_document
from support.servers import StartServer

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url(start_script: Callable[[str], StartServer]) -> str:
    base_url: str = start_script("code/01_basic_api.py")()
    return base_url


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=20) as client:
        yield client


# --- What OpenAPI promises ---


def test_openapi_is_valid_and_describes_problems_as_they_are_sent(url: str) -> None:
    assert_openapi_holds(url)
    problem = httpx2.get(f"{url}/openapi.json").json()["paths"]["/v1/invoke"]["post"]["responses"]["default"]
    fields = problem["content"][PROBLEM]["schema"]["properties"]
    assert {"title", "status", "detail"} <= set(fields), (
        "A generated client learns nothing of a problem's fields."
    )


def test_probes_answer_head_and_a_405_names_it(url: str) -> None:
    assert_probes_take_head(url, "/health", "/ready")


def test_headers_of_17_mb_are_refused_without_reading_them(url: str) -> None:
    assert_headers_are_bounded(url)


@OPERATIONS
def test_every_response_matches_the_openapi_document(
    url: str, path: str, method: str, mode: GenerationMode
) -> None:
    assert_responses_match_openapi(url, path, method, mode)


# --- Fields ---


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \n\t "}, "query"),
        ({"query": "\u0085\ufeff"}, "query"),
        ({"query": "x" * 10_001}, "query"),
        ({"query": None}, "query"),
        ({"query": 7}, "query"),
        ({"query": ["What?"]}, "query"),
        ({"query": "What?", "context": "a string"}, "context"),
        ({"query": "What?", "context": {"x": float("nan")}}, "context"),
        ({"query": "What?", "stream": "perhaps"}, "stream"),
        ({"query": "What?", "stream": 1}, "stream"),
        ({"query": "What?", "stream": "yes"}, "stream"),
        ({"query": "What?", "temperature": 1}, "temperature"),
        ({"query": "half a pair: \ud800"}, "query"),
        ({"query": "What?", "context": {"x": "\ud800"}}, "context"),
    ],
)
def test_a_bad_field_is_a_422_that_names_it(api: httpx2.Client, body: dict[str, Any], field: str) -> None:
    for path in ("/v1/invoke", "/v1/stream"):
        told = assert_problem_document(api.post(path, content=json.dumps(body), headers=JSON), 422)
        assert field in [error["field"] for error in told["errors"]], (
            f"The request is refused, but the error does not name the field {field!r}."
        )


def test_a_field_name_that_is_no_unicode_is_a_422(api: httpx2.Client) -> None:
    assert_problem_document(
        api.post("/v1/invoke", content='{"query": "What?", "\\ud800": 1}', headers=JSON), 422
    )


def assert_answered(response: httpx2.Response) -> None:
    assert response.status_code == 200, f"An allowed query was refused: {response.text}"


def test_ten_thousand_characters_are_accepted_whatever_their_size(api: httpx2.Client) -> None:
    for letter in ("x", "ü", "🐳"):
        assert_answered(api.post("/v1/invoke", json={"query": letter * 10_000}))
    escaped = json.dumps({"query": "🐳" * 10_000})
    assert_answered(api.post("/v1/invoke", content=escaped, headers=JSON))


def test_a_query_over_ten_thousand_characters_is_refused(api: httpx2.Client) -> None:
    status = api.post("/v1/invoke", json={"query": "x" * 10_001}).status_code
    assert status == 422, (
        f"A query of 10,001 characters was answered with {status}: the API promises to refuse it with a 422."
    )


def test_nul_and_control_characters_are_only_text(api: httpx2.Client) -> None:
    assert_answered(api.post("/v1/invoke", json={"query": "What is\x00a\x1bcontainer?"}))


# --- Bodies ---


@pytest.mark.parametrize(
    "body", ["", "{", "null", "[]", "What?", '{"query": "What?"', "\x00", '"query"', "NaN"]
)
def test_a_body_that_is_no_object_is_a_422(api: httpx2.Client, body: str) -> None:
    assert_problem_document(api.post("/v1/invoke", content=body, headers=JSON), 422)


def test_another_content_type_is_a_422(api: httpx2.Client) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        response = api.post(
            "/v1/invoke", content='{"query": "What?"}', headers={"Content-Type": content_type}
        )
        assert_problem_document(response, 422)


def test_bytes_that_are_no_utf8_are_a_400(api: httpx2.Client) -> None:
    assert_problem_document(api.post("/v1/invoke", content=b'{"query": "\xff\xfe"}', headers=JSON), 400)


def test_deep_nesting_is_refused(api: httpx2.Client) -> None:
    deep = '{"query": "What?", "context": ' + '{"x":' * 20_000 + "1" + "}" * 20_000 + "}"
    status = api.post("/v1/invoke", content=deep, headers=JSON).status_code
    assert status in (400, 422), (
        f"JSON nested 20,000 deep must be refused with 400 or 422, not with {status}."
    )


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    body=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: json.dumps({"query": text}).encode())
)
def test_no_bytes_at_all_make_a_server_error(api: httpx2.Client, body: bytes) -> None:
    response = api.post("/v1/invoke", content=body, headers=JSON)
    assert response.status_code in (200, 400, 422), f"{body!r} was answered with {response.status_code}."
