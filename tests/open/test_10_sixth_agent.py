"""The open exercise 10-sixth-agent: a reviewer, generated as the other agents are."""

import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def service(lesson_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    done = generate(lesson_root, "--name", "review", "--type", "reviewer", "--output-dir", folder)
    if done.returncode:
        pytest.fail("The generator has no type reviewer.")
    return folder


@pytest.fixture
def sidecar(lesson_root: Path) -> Sidecar:
    return Sidecar(lesson_root)


@pytest.fixture
def review(service: Path, sidecar: Sidecar, processes: Processes) -> Iterator[httpx2.Client]:
    with http_server(sidecar) as port, running(processes, service, port) as client:
        yield client


def findings(client: httpx2.Client, code: str) -> Any:
    body = {"user_id": "ada", "query": "review", "context": {"code": code}}
    return client.post("/process", json=body).raise_for_status().json()["result"]["findings"]


def test_a_reviewer_passes_its_own_tests(service: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:langsmith_plugin"]
    done = subprocess.run(command, cwd=service, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_reviewer_finds_faults_by_their_lines(review: httpx2.Client) -> None:
    assert findings(review, CODE) == [
        {"line": 1, "rule": "mutable default"},
        {"line": 4, "rule": "bare except"},
    ], "The review does not name what is wrong, with its line and in the order of the lines."
    assert findings(review, "def add(item, items=None):\n    return items or [item]\n") == []
    assert findings(review, "x = 1\ndef f(:\n") == [{"line": 2, "rule": "syntax"}]


def test_a_review_runs_no_code(review: httpx2.Client, tmp_path: Path) -> None:
    findings(review, f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert not (tmp_path / "ran").exists(), "The review ran the code that it was given."


def test_a_review_answers_an_event_once(review: httpx2.Client, sidecar: Sidecar) -> None:
    event = {"id": "1", "time": "2026-03-01T12:00:00Z", "topic": "review.requests"}
    event |= {"data": {"user_id": "ada", "query": "review", "context": {"code": CODE}}}  # type: ignore[dict-item]
    for _ in range(2):
        answer = review.post("/dapr-subscriber", json=event).raise_for_status().json()
        assert answer == {"status": "SUCCESS"}, "The agent does not take events of review.requests."
    published = sidecar.stand_in.published
    assert {each["type"] for each in published} == {"review.responses"}
    assert published[0]["data"]["user_id"] == "ada", "Nobody can tell whose review this is."
    assert len({each["id"] for each in published}) == 1, "An event that came twice was reviewed twice."
