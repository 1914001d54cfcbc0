"""The open exercise 10-sixth-agent: a reviewer, generated as the other agents are."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.services import Sidecar, generate, http_server, running

from course.processes import Processes

CODE = """def add(item, items=[]):
    try:
        items.append(int(item))
    except:
        pass
    return items
"""


def generated(root: Path, folder: Path) -> Path:
    done = generate(root, "--name", "review", "--type", "reviewer", "--output-dir", folder)
    if done.returncode:
        pytest.fail("The generator has no type reviewer.")
    return folder


@pytest.fixture
def sidecar(lesson_root: Path) -> Sidecar:
    return Sidecar(lesson_root)


Review = Callable[[], AbstractContextManager[httpx2.Client]]


@pytest.fixture
def review(lesson_root: Path, sidecar: Sidecar, processes: Processes, tmp_path: Path) -> Review:
    """A function that generates the reviewer and runs it."""

    @contextmanager
    def run() -> Iterator[httpx2.Client]:
        folder = generated(lesson_root, tmp_path / "review")
        with http_server(sidecar) as port, running(processes, folder, port) as client:
            yield client

    return run


def findings(client: httpx2.Client, code: str) -> Any:
    body = {"user_id": "ada", "query": "review", "context": {"code": code}}
    answer = client.post("/process", json=body)
    assert answer.status_code == 200, f"A request for a review is answered with {answer.status_code}."
    result = answer.json()["result"]
    assert "findings" in result, f"The result of a review is {result}, and has no findings."
    return result["findings"]


def test_a_reviewer_passes_its_own_tests(lesson_root: Path, tmp_path: Path) -> None:
    service = generated(lesson_root, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:langsmith_plugin"]
    done = subprocess.run(command, cwd=service, capture_output=True, text=True, check=False, timeout=300)
    failed = re.findall("^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    assert done.returncode == 0, f"The service's own tests fail: {failed}\n{done.stdout}{done.stderr}"


def test_a_reviewer_finds_faults_by_their_lines(review: Review) -> None:
    with review() as client:
        assert findings(client, CODE) == [
            {"line": 1, "rule": "mutable default"},
            {"line": 4, "rule": "bare except"},
        ], "The review does not name what is wrong, with its line and in the order of the lines."
        found = findings(client, "def add(item, items=None):\n    return items or [item]\n")
        assert found == [], f"Nothing is wrong with the code, and the review finds {found}."
        found = findings(client, "x = 1\ndef f(:\n")
        assert found == [{"line": 2, "rule": "syntax"}], (
            f"Line 2 of the code cannot be parsed, and the review finds {found}."
        )


def test_a_review_runs_no_code(review: Review, tmp_path: Path) -> None:
    with review() as client:
        findings(client, f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert not (tmp_path / "ran").exists(), "The review ran the code that it was given."


def test_a_review_answers_an_event_once(review: Review, sidecar: Sidecar) -> None:
    event = {"id": "1", "time": "2026-03-01T12:00:00Z", "topic": "review.requests"}
    event |= {"data": {"user_id": "ada", "query": "review", "context": {"code": CODE}}}  # type: ignore[dict-item]
    with review() as client:
        for _ in range(2):
            answer = client.post("/dapr-subscriber", json=event)
            assert answer.json() == {"status": "SUCCESS"}, (
                "The agent does not take events of review.requests."
            )
    published = sidecar.stand_in.published
    topics = {each["type"] for each in published}
    assert topics == {"review.responses"}, f"A review is published to {topics or 'no topic'}."
    assert published[0]["data"].get("user_id") == "ada", "Nobody can tell whose review this is."
    assert len({each["id"] for each in published}) == 1, "An event that came twice was reviewed twice."
