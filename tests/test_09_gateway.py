"""Lesson 09: the model gateway, as the code in a container sees it."""

from pathlib import Path
from typing import Any

import pytest
from support.parallel_agents import ASK, RESULT, Lesson, StartLesson, User
from support.servers import calls, forget_calls

from course.engines.docker import docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def lesson(lesson_09: StartLesson) -> Lesson:
    return lesson_09()


@pytest.fixture(scope="module")
def user(lesson: Lesson) -> User:
    return lesson.user()


def test_the_model_answers_and_the_tokens_are_counted(
    user: User, repository: Path, offline_model: str
) -> None:
    forget_calls(offline_model)
    code = f"""{ASK}
for stream in (False, True):
    status, text = ask(stream=stream)
    print(status, '"choices"' in text, flush=True)
{RESULT}"""
    done = user.run(repository, code)
    assert done.text().splitlines() == ["200 True", "200 True"], (
        f"The agent prints {done.text()!r}, not '200 True' for a plain and for a streamed answer."
    )
    usage = [each.data for each in done.events if each.type == "usage"]
    assert len(usage) == 2, f"The model answered two requests, and the run has {len(usage)} usage events."
    assert usage[1]["prompt_tokens"] > usage[0]["prompt_tokens"] > 0, "Streamed answers are not counted."
    state = done.variation()
    counted = (state["prompt_tokens"], state["completion_tokens"])
    assert counted == (usage[1]["prompt_tokens"], usage[1]["completion_tokens"]), (
        f"The variation's tokens are {counted}, not those of its last usage event."
    )
    asked = calls(offline_model, "What is Docker?")
    assert [each["body"]["model"] for each in asked] == ["offline"] * 2, "The container chooses the model."


def test_only_one_route_is_forwarded_and_only_with_the_token(user: User, repository: Path) -> None:
    code = f"""{ASK}
print(ask("/models", method="GET")[0], ask("/embeddings")[0], ask("/../debug/requests", method="GET")[0])
print(ask(key="the-real-key")[0], ask(key="")[0], ask(key="x")[0])
"""
    lines = user.run(repository, code).text().splitlines()
    assert lines == ["404 404 404", "401 401 401"], (
        f"Three other routes and three wrong keys give {lines}, not 404 for each route and 401 for each key."
    )


def test_without_dagger_output_cannot_be_posted(user: User, repository: Path) -> None:
    code = f"{ASK}\nURL = URL.removesuffix('/v1')\nprint(ask('/output')[0])"
    assert user.run(repository, code).text() == "404", "The gateway keeps what nobody reads."


def test_a_message_with_an_image_is_refused(user: User, repository: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://example.org/secret"}}
    code = f"{ASK}\nprint(ask(messages=[{{'role': 'user', 'content': [{image}]}}])[0])"
    assert user.run(repository, code).text() == "400", "The provider fetches an address that the agent chose."


def test_a_relay_that_was_removed_is_replaced(lesson: Lesson, user: User, repository: Path) -> None:
    code = f"{ASK}\nprint(ask()[0])"
    text = user.run(repository, code).text()
    assert text == "200", f"Before the relay was removed, a request to the model gave {text!r}, not '200'."
    docker("rm", "--force", f"parallel-agents-{lesson.instance}-relay")
    assert user.run(repository, code).text() == "200", "Variations have no model until the server restarts."


def test_a_token_ends_with_its_variation(user: User, repository: Path) -> None:
    token = user.run(repository, "import os; print(os.environ['OPENAI_API_KEY'])").text()
    code = f"{ASK}\nprint(ask(key={token!r})[0])"
    assert user.run(repository, code).text() == "401", "The token of a variation that has ended still works."


def test_the_budget_of_a_run_is_enforced(lesson_09: StartLesson, repository: Path) -> None:
    user = lesson_09(TOKEN_BUDGET="600", MAX_TOKENS="200", MAX_CONCURRENCY="1").user()  # noqa: S106
    code = f"{ASK}\nprint([ask(max_tokens=150)[0] for _ in range(10)], ask()[1])"
    done = user.run(repository, code, variations=2)
    assert "[200, " in done.text(1) and "429" in done.text(1), (
        f"Ten calls go over the budget, and the first gets no 200, or none gets a 429: {done.text(1)!r}"
    )
    assert "insufficient_quota" in done.text(1), (
        f"The agent goes over its budget, and its last answer lacks insufficient_quota: {done.text(1)!r}"
    )
    assert "200" not in done.text(2), "The second variation has a budget of its own, and not the run's."
    spent = sum(each["prompt_tokens"] + each["completion_tokens"] for each in done.run["variations"])
    assert spent <= 600, f"The run has spent {spent} of 600 tokens."
    again = user.run(repository, f"{ASK}\nprint(ask(max_tokens=150)[0])")
    assert again.text() == "200", "The budget of one run ends another run."


def test_a_body_that_is_no_object_or_too_large_is_refused(user: User, repository: Path) -> None:
    code = f"{ASK}\nprint(ask(messages='x' * 1_000_000)[0])\njson.dumps = lambda body: '[]'\nprint(ask()[0])"
    text = user.run(repository, code).text()
    assert text == "413\n400", (
        f"A body of more than 1,000,000 bytes, then a list, give {text!r}, not 413 and 400."
    )


def test_a_model_that_fails_is_told_as_an_error(
    lesson_09: StartLesson, repository: Path, closed_port: int
) -> None:
    settings: dict[str, Any] = {"OPENAI_BASE_URL": f"http://127.0.0.1:{closed_port}/v1"}
    done = lesson_09(**settings).user().run(repository, f"{ASK}\nprint(*ask())")
    assert done.text().startswith("502 "), (
        f"The gateway cannot reach the model, and the agent gets {done.text()!r}, not a 502."
    )
    assert str(closed_port) not in done.text(), "The error shows the model's address to the container."
    tokens = done.variation()["prompt_tokens"]
    assert tokens == 0, f"The model was not reached, and the variation counts {tokens} prompt tokens."
