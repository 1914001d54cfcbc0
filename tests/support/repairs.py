"""Lesson 09's agent, run on a repository as its container runs it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from course.models import base_environment
from support.parallel_agents import commit, git

SECONDS = 900  # for a repair on a busy machine
LESSON = "code/09_parallel_agents"


@dataclass
class Repaired:
    """What an agent printed, and the folder that it worked in."""

    folder: Path
    code: int
    events: list[dict[str, Any]]
    stderr: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def result(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def patch(self) -> str:
        return git(self.folder, "diff")


RunAgent = Callable[..., Repaired]


def make_repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "first")
    return folder


@pytest.fixture(scope="module")
def run_agent(offline_model: str, lesson_root: Path) -> RunAgent:
    def run(folder: Path, strategy: str = "suspicious-first", **settings: str) -> Repaired:
        env = base_environment() | {
            "AGENT_PROMPT": "Make the tests pass.",
            "AGENT_STRATEGY": strategy,
            "AGENT_SEED": "1",
            "OPENAI_BASE_URL": f"{offline_model}/v1",
            "OPENAI_API_KEY": "scoped-token",
            "OPENAI_MODEL": "offline",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the plugins of the course, which the image does not have
            **settings,
        }
        done = subprocess.run(
            [sys.executable, str(lesson_root / LESSON / "agent/agent.py")],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return Repaired(folder, done.returncode, events, done.stderr)

    return run
