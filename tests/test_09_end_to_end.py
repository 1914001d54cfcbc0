"""Lesson 09: the lesson's agent repairs the sample repository, in containers, with the offline model."""

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.locks import file_lock
from support.parallel_agents import StartLesson, commit, git

from course.engines.docker import docker as run_docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def agent_image(docker: None, lesson_root: Path) -> Iterator[str]:
    """The image of the lesson's agent."""
    folder = lesson_root / "code/09_parallel_agents"
    tag = f"parallel-agent:{uuid.uuid4().hex[:8]}"
    with file_lock("images"):
        built = run_docker("build", "-t", tag, "-f", f"{folder}/Dockerfile.agent", str(folder), seconds=500)
    assert built.returncode == 0, built.stderr
    yield tag
    run_docker("rmi", "--force", tag)


@pytest.fixture(scope="module")
def sample(repository: Path, lesson_root: Path) -> Path:
    """The sample repository, under git."""
    folder = repository.parent / "lending"
    shutil.copytree(
        lesson_root / "code/09_parallel_agents/sample", folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "the sample with its defects")
    return folder


def test_agents_repair_the_sample_each_in_its_own_way(
    lesson_09: StartLesson, agent_image: str, sample: Path, tmp_path: Path
) -> None:
    settings = {"AGENT_CONTAINER_IMAGE": agent_image, "AGENT_TIMEOUT": "500", "IDLE_TIMEOUT": "200"}
    user = lesson_09(COMMAND_TIMEOUT="100", **settings).user()
    run_id = user.post(sample, "Mend the failing tests.", variations=3).json()["id"]
    done = user.finished(run_id)
    patches = set()
    for row in done.run["variations"]:
        assert row["state"] in ("passed", "failed"), (
            f"The agent has not reported a result: {row}, {done.text(row['n'])}"
        )
        assert row["prompt_tokens"] > 0, "The agent's calls of the model did not go through the gateway."
        patches.add(user.http.get(f"/runs/{run_id}/variations/{row['n']}/patch").text)
    assert len(patches) > 1, "All strategies give the same patch."
    best = user.http.get(f"/runs/{run_id}/results").json()["rows"][0]
    kinds = {event.type for event in done.events if event.data["variation"] == best["n"]}
    assert {"plan", "model", "edit", "command", "tests", "result", "usage", "state"} <= kinds

    copy = tmp_path / "copy"
    git(tmp_path, "clone", "--quiet", str(sample), str(copy))
    failures = failing(copy)
    assert failures > 0, "The sample has no failing tests, so there is nothing to repair."
    patch = user.http.get(f"/runs/{run_id}/variations/{best['n']}/patch")
    subprocess.run(["git", "apply"], cwd=copy, input=patch.content, check=True)
    assert failing(copy) == best["tests_failed"] < failures, "The patch does not do what the result says."


def failing(folder: Path) -> int:
    """The number of failing tests in a copy of the sample, counted on this machine."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return sum(line.startswith("FAILED") for line in done.stdout.splitlines())
