"""Lesson 09: users, passwords, tokens with an expiry, API keys, and own runs only."""

import time
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from support.openapi import assert_openapi_holds
from support.parallel_agents import PASSWORD, RESULT, SECRET_KEY, Lesson, StartLesson, User
from support.problems import assert_problem

from course.polling import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def lesson(lesson_09: StartLesson) -> Lesson:
    return lesson_09()


@pytest.fixture(scope="module")
def user(lesson: Lesson) -> User:
    return lesson.user()


def get(lesson: Lesson, path: str = "/runs", **headers: str) -> httpx2.Response:
    return httpx2.get(lesson.url(path), headers=headers)


def token(**claims: Any) -> str:
    now = int(time.time())
    told = {"iss": "parallel-agents", "iat": now, "exp": now + 60} | claims
    return jwt.encode({name: value for name, value in told.items() if value is not None}, SECRET_KEY, "HS256")


def test_without_a_token_nothing_is_shown(lesson: Lesson) -> None:
    for method, path in (
        ("GET", "/runs"),
        ("POST", "/runs"),
        ("GET", "/runs/x/stream"),
        ("GET", "/auth/keys"),
    ):
        told = httpx2.request(method, lesson.url(path))
        assert_problem(told, 401)
        scheme = told.headers.get("www-authenticate")
        assert scheme == "Bearer", f"The 401 of {method} {path} names the scheme {scheme!r}, not 'Bearer'."


def test_a_name_can_be_registered_once(lesson: Lesson, user: User) -> None:
    again = {"username": user.name, "password": PASSWORD}
    assert_problem(httpx2.post(lesson.url("/auth/register"), json=again), 409)


def test_a_short_password_is_refused(lesson: Lesson) -> None:
    told = httpx2.post(lesson.url("/auth/register"), json={"username": "grace", "password": "short"})
    field = assert_problem(told, 422)["errors"][0]["field"]
    assert field == "password", f"The password is too short, and the error names the field {field!r}."
    assert "short" not in told.text.replace("at least", ""), "The answer repeats the password."


def test_a_wrong_password_and_a_wrong_name_get_the_same_answer(lesson: Lesson, user: User) -> None:
    told = []
    for name, password in ((user.name, "not the password"), ("nobody-has-this", PASSWORD)):
        body = {"username": name, "password": password}
        told.append(assert_problem(httpx2.post(lesson.url("/auth/login"), json=body), 401)["detail"])
    assert told[0] == told[1], "The answer says whether a name is registered."


def test_a_token_of_the_right_key_works(lesson: Lesson, user: User) -> None:
    user_id = jwt.decode(user.token, options={"verify_signature": False})["sub"]
    status = get(lesson, Authorization=f"Bearer {token(sub=user_id)}").status_code
    assert status == 200, f"A request with a valid token is answered with {status}, not with 200."


def test_a_forged_token_and_one_without_an_expiry_are_refused(lesson: Lesson, user: User) -> None:
    user_id = jwt.decode(user.token, options={"verify_signature": False})["sub"]
    forged = {
        "without an expiry": token(sub=user_id, exp=None),
        "of another key": jwt.encode({"sub": user_id, "exp": time.time() + 60}, "x" * 40, "HS256"),
        "without a signature": jwt.encode({"sub": user_id, "exp": time.time() + 60}, "", "none"),
        "of another issuer": token(sub=user_id, iss="somebody"),
        "of nobody": token(sub="nobody"),
        "that is none": "x",
    }
    for name, each in forged.items():
        told = get(lesson, Authorization=f"Bearer {each}")
        assert told.status_code == 401, f"A token {name} is accepted."


def test_a_token_expires(lesson_09: StartLesson) -> None:
    user = lesson_09(TOKEN_SECONDS="2").user()  # noqa: S106
    status = user.http.get("/runs").status_code
    assert status in (200, 401), f"A request with a token is answered with {status}, not with 200 or 401."
    told = until(lambda: (got := user.http.get("/runs")).status_code == 401 and got, 30)
    assert told, "The token never expires."
    assert assert_problem(told, 401)["detail"] == "The token has expired.", (
        "The 401 does not say that the token has expired."
    )


def test_an_api_key_works_until_it_is_revoked(lesson: Lesson, user: User) -> None:
    made = user.http.post("/auth/keys", json={"name": "laptop"})
    assert made.status_code == 201, (
        f"The request for an API key is answered with {made.status_code}, not 201."
    )
    key = made.json()["key"]
    status = get(lesson, **{"X-API-Key": key}).status_code
    assert status == 200, f"A request with a valid API key is answered with {status}, not with 200."
    assert key not in user.http.get("/auth/keys").text, "The key is shown again."
    status = user.http.delete(f"/auth/keys/{made.json()['id']}").status_code
    assert status == 204, f"The request to revoke a key is answered with {status}, not with 204."
    assert_problem(get(lesson, **{"X-API-Key": key}), 401)


def test_the_database_has_neither_keys_nor_passwords(lesson: Lesson, user: User) -> None:
    key = user.http.post("/auth/keys", json={"name": "laptop"}).json()["key"]
    stored = b"".join(path.read_bytes() for path in lesson.data.glob("parallel_agents.db*"))
    assert b"$argon2id$" in stored, "The database has no Argon2id hash of a password."
    for secret in (key, PASSWORD, "the-real-key"):
        assert secret.encode() not in stored, "The database has a secret as it is, and not its hash."
        assert secret not in lesson.server.log.read_text(), "The log has a secret."


def test_a_user_sees_only_their_own_runs(lesson: Lesson, user: User, repository: Path) -> None:
    run = user.run(repository, RESULT).run["id"]
    other = lesson.user()
    for method, path in (
        ("GET", ""),
        ("GET", "/stream"),
        ("GET", "/results"),
        ("GET", "/variations/1/log"),
        ("GET", "/variations/1/patch"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        told = other.http.request(method, f"/runs/{run}{path}")
        assert told.status_code == 404, f"{method} {path} shows another user's run: {told.text}"
    assert other.http.get("/runs").json()["runs"] == [], "The list of runs shows another user's run."
    key = user.http.post("/auth/keys", json={"name": "laptop"}).json()["id"]
    assert_problem(other.http.delete(f"/auth/keys/{key}"), 404)


def test_requests_over_the_rate_limit_get_a_429(lesson_09: StartLesson) -> None:
    user = lesson_09(RATE_LIMIT_RPM="3").user()
    told = [user.http.post("/auth/keys", json={"name": "x"}) for _ in range(4)]
    statuses = [each.status_code for each in told]
    assert statuses == [201, 201, 201, 429], (
        f"Three requests a minute are allowed, and four are answered with {statuses}."
    )
    assert_problem(told[3], 429)
    wait = int(told[3].headers["retry-after"])
    assert 1 <= wait <= 60, f"The 429 tells the client to wait {wait} seconds, not from 1 to 60."
    assert user.http.get("/runs").status_code == 200, "Reading counts as writing."


def test_logins_from_one_address_are_limited(lesson_09: StartLesson) -> None:
    lesson = lesson_09(LOGIN_LIMIT_RPM="3")
    body = {"username": "ada", "password": PASSWORD}
    told = [httpx2.post(lesson.url("/auth/login"), json=body).status_code for _ in range(4)]
    assert told == [401, 401, 401, 429], "Passwords can be tried without a limit."


def test_the_openapi_document_is_there_only_with_debug(lesson: Lesson, lesson_09: StartLesson) -> None:
    status = httpx2.get(f"{lesson.server}/docs").status_code
    assert status == 404, f"Without DEBUG, /docs is answered with {status}, not with 404."
    debug = lesson_09(DEBUG="true")
    status = httpx2.get(f"{debug.server}/docs").status_code
    assert status == 200, f"With DEBUG, /docs is answered with {status}, not with 200."
    paths = httpx2.get(f"{debug.server}/openapi.json").json()["paths"]
    expected = {"/api/v1/runs", "/api/v1/runs/{run_id}/stream", "/api/v1/auth/login", "/api/v1/health"}
    assert expected <= set(paths), f"The document does not describe {sorted(expected - set(paths))}."
    assert paths["/api/v1/runs"]["get"]["security"], "The document does not say that a token is needed."
    assert_openapi_holds(str(debug.server))
    for path, media_type in {
        "/runs": "application/json",
        "/runs/{run_id}/stream": "text/event-stream",
        "/runs/{run_id}/variations/{n}/log": "text/plain",
        "/runs/{run_id}/variations/{n}/patch": "text/x-diff",
        "/metrics": "text/plain",
    }.items():
        described = list(paths[f"/api/v1{path}"]["get"]["responses"]["200"]["content"])
        assert described == [media_type], f"The document says that {path} is sent as {described}."
