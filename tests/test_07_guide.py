"""Lesson 07: the guide CONTAINER_TOOLS.md, followed to the letter in a copy of the lesson."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from support.forked_programs import StartPython
from support.servers import start_server

from course.models import base_environment
from course.paths import ROOT, copy_sources
from course.processes import Processes

pytestmark = [pytest.mark.dagger, pytest.mark.timeout(300)]
LESSON = ROOT / "code/07_container_tools"
GUIDE = (LESSON / "CONTAINER_TOOLS.md").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the lesson with the files that the guide says to write."""
    folder = copy_sources(LESSON, tmp_path / "lesson")
    files = re.findall(r"^```python file=(\S+)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(files) == 2, "The guide adds one file and one test."
    for name, text in files:
        assert not (folder / name).exists(), f"The guide says to write {name}, which exists."
        (folder / name).write_text(text)
    return folder


def bash(pattern: str) -> str:
    """The command of the guide that matches."""
    commands: list[str] = re.findall(r"```bash\n(.*?)\n```", GUIDE, re.DOTALL)
    return next(each for each in commands if re.search(pattern, each))


def test_the_guides_test_passes_by_the_guides_command(folder: Path) -> None:
    command = bash("pytest").replace("python", sys.executable)
    done = subprocess.run(
        command.split(), cwd=folder, env=base_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (
        f"The guide's command for its test ends with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    assert "1 passed" in done.stdout, (
        f"The guide's command does not report one passed test: {done.stdout[-200:]!r}."
    )


@pytest.mark.usefixtures("dagger_engine")
def test_the_guides_tool_is_found_and_called(
    folder: Path, start_python: StartPython, processes: Processes, offline_model: str, tmp_path: Path
) -> None:
    model = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "x", "MODEL_NAME": "offline"}
    env = base_environment() | model
    server = start_server(start_python, folder / "main.py", env, folder, tmp_path / "log")
    try:
        curl = bash("curl").replace("localhost:8000", server.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
        shown = re.findall(r"```json\n(.*?)\n```", GUIDE, re.DOTALL)
        assert json.loads(done.stdout) == json.loads(shown[0]), (
            f"The guide's command prints {done.stdout!r}, and the guide shows {shown[0]!r}."
        )
        listed = [tool["name"] for tool in httpx2.get(f"{server}/tools").json()]
        assert "count_words" in listed, f"/tools does not list the guide's tool count_words: {listed}."
    finally:
        processes.stop(server.process)


def test_the_lessons_own_tests_pass_with_the_guides_tool(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=folder, env=base_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (
        f"With the guide's tool, the lesson's own tests end with exit code {done.returncode}:\n"
        f"{done.stdout}{done.stderr}"
    )
