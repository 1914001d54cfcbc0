"""Lesson 09: its agents repair its sample repository in containers, and the results can be compared."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import expect
from support.browsers import Visits, browser, visit  # noqa: F401  # fixtures, too
from support.locks import file_lock
from support.parallel_agents import PASSWORD, StartLesson, User, commit, git

from course.engines.docker import docker as run_docker
from course.models import base_environment
from course.paths import copy_sources

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
FIGURES = Path(__file__).parent.parent / "docs/figures"
STRATEGIES = {"suspicious-first", "smallest-edit", "test-by-test"}
EVENTS = {"plan", "model", "edit", "command", "tests", "result", "usage", "state"}


@pytest.fixture(scope="module")
def agent_image(docker: None, lesson_root: Path) -> Iterator[str]:
    """The image of the lesson's agent."""
    folder = lesson_root / "code/09_parallel_agents"
    tag = f"parallel-agent:{uuid.uuid4().hex[:8]}"
    with file_lock("images"):
        built = run_docker("build", "-t", tag, "-f", f"{folder}/Dockerfile.agent", str(folder), seconds=500)
    assert built.returncode == 0, f"The image of the lesson's agent cannot be built:\n{built.stderr}"
    yield tag
    run_docker("rmi", "--force", tag)


@pytest.fixture(scope="module")
def sample(repository: Path, lesson_root: Path) -> Path:
    """The sample, as a git repository."""
    folder = copy_sources(lesson_root / "code/09_parallel_agents/sample", repository.parent / "lending")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "the sample with its defects")
    return folder


def patch_of(user: User, run_id: str, n: int) -> str:
    got = user.http.get(f"/runs/{run_id}/variations/{n}/patch")
    assert got.status_code == 200, f"Variation {n} has no patch: {got.text}"
    return got.text


def failing(folder: Path) -> int:
    """The number of failing tests, counted on this machine."""
    env = base_environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), (
        f"The sample's failing tests cannot be counted: pytest ends with exit code {done.returncode}:\n"
        f"{done.stdout}{done.stderr}"
    )
    found = re.search(r"(\d+) failed", done.stdout)
    return int(found[1]) if found else 0


def test_agents_repair_the_sample_each_in_its_own_way(
    lesson_09: StartLesson, agent_image: str, sample: Path, tmp_path: Path
) -> None:
    user = lesson_09(AGENT_CONTAINER_IMAGE=agent_image, AGENT_TIMEOUT="800", COMMAND_TIMEOUT="200").user()
    done = user.run(sample, "Make the tests pass.", 3)
    run_id, rows = done.run["id"], done.run["variations"]
    states = {row["strategy"]: row["state"] for row in rows}
    assert states.keys() == STRATEGIES, f"The variations have the strategies {sorted(states)}."
    assert "passed" in states.values(), f"No strategy mends the sample: {rows}"
    assert set(states.values()) <= {"passed", "failed"}, f"An agent broke: {rows} {done.text()}"
    assert all(row["prompt_tokens"] > 0 for row in rows), (
        "The agents' calls of the model did not go through the gateway."
    )
    patches = {row["n"]: patch_of(user, run_id, row["n"]) for row in rows}
    assert len(set(patches.values())) > 1, "All strategies give the same patch, so nothing can be compared."
    for row in rows:
        kinds = {event.type for event in done.events if event.data["variation"] == row["n"]}
        assert kinds >= EVENTS, f"Variation {row['n']} has not told what it did: {kinds}"

    best = user.http.get(f"/runs/{run_id}/results").json()["rows"][0]
    assert best["state"] == "passed", "The result table does not begin with the best variation."
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "--quiet", str(sample), str(copy))
    assert failing(copy) > 0, "The sample has no failing tests, so there is nothing to repair."
    subprocess.run(["git", "apply"], cwd=copy, input=patches[best["n"]], text=True, check=True)
    assert failing(copy) == 0, "The result says that all tests pass, and with its patch they do not."


if os.environ.get("SCREENSHOTS"):

    def test_screenshots_of_agents_at_work(
        visit: Visits, lesson_09: StartLesson, agent_image: str, sample: Path
    ) -> None:
        """They are committed, and looked at: one while the agents work, one of the results with a patch."""

        def screenshots(name: str) -> None:
            page.evaluate("document.getElementById('of').textContent = '/repositories/lending'")
            for scheme in schemes:
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=FIGURES / f"09-{name}-{scheme}.png", full_page=True)

        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        user = lesson_09(AGENT_CONTAINER_IMAGE=agent_image, AGENT_TIMEOUT="800").user()
        page = visit(user.lesson.server, viewport={"width": 1280, "height": 800})
        page.fill("#username", user.name)
        page.fill("#password", PASSWORD)
        page.click("button[value=login]")
        page.fill("#repository", str(sample))
        page.click("#send")
        expect(page.locator("#columns article").nth(2)).to_contain_text("Helps.", timeout=600_000)
        screenshots("running")
        expect(page.locator("#state")).to_contain_text("Finished", timeout=600_000)
        page.get_by_role("button", name="Show the patch").first.click()
        expect(page.locator("#patch .added").first).to_be_visible()
        screenshots("results")
