"""Lesson 09's agent: it mends the sample, reports as JSON lines, and ends what it starts."""

import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support.parallel_agents import RESULT, StartLesson, git
from support.repairs import (  # noqa: F401  # a fixture, too
    LESSON,
    SECONDS,
    Repaired,
    RunAgent,
    make_repository,
    run_agent,
)

from course.models import base_environment
from course.paths import copy_sources

STRATEGIES = ["suspicious-first", "smallest-edit", "test-by-test"]
EVENTS = {"plan", "model", "edit", "command", "tests", "say", "result"}


@pytest.fixture(scope="module")
def sample(lesson_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A function that copies the lesson's sample into a repository."""

    def copy() -> Path:
        folder = tmp_path_factory.mktemp("samples") / "sample"
        return make_repository(copy_sources(lesson_root / LESSON / "sample", folder), {})

    return copy


@pytest.fixture(scope="module")
def repaired(sample: Callable[[], Path], run_agent: RunAgent) -> dict[str, Repaired]:
    """The sample, mended by each strategy."""
    folders = [sample() for _ in STRATEGIES]
    with ThreadPoolExecutor() as pool:
        return dict(zip(STRATEGIES, pool.map(run_agent, folders, STRATEGIES), strict=True))


def passing(folder: Path) -> bool:
    """Whether the tests of a repository pass in a process that is not the agent's."""
    env = base_environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=SECONDS).returncode == 0


@pytest.mark.timeout(1_000)
def test_a_strategy_mends_every_test_of_the_sample(repaired: dict[str, Repaired]) -> None:
    mended = [name for name, each in repaired.items() if each.result.get("status") == "passed"]
    assert mended, f"No strategy mends the sample: {[each.result for each in repaired.values()]}"
    for name in mended:
        assert passing(repaired[name].folder), f"{name} says that the tests pass, and they do not."
        failed = repaired[name].result["tests_failed"]
        assert failed == 0, f"{name} says that the tests pass, and counts {failed} that fail."


@pytest.mark.timeout(1_000)
def test_strategies_give_different_patches(repaired: dict[str, Repaired]) -> None:
    patches = {each.patch for each in repaired.values()}
    assert len(patches) > 1, "All strategies changed the same, so there is nothing to compare."


@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_report_is_json_lines_and_ends_with_the_result(
    repaired: dict[str, Repaired], strategy: str
) -> None:
    done = repaired[strategy]
    assert done.code == 0, f"The agent ends with exit code {done.code}, not 0:\n{done.stderr}"
    kinds = [event["type"] for event in done.events]
    assert set(kinds) <= EVENTS, f"The report has events of unknown types: {set(kinds) - EVENTS}"
    assert kinds[0] == "plan", f"The report begins with the event {kinds[0]!r}, not with the plan."
    assert kinds[-1] == "result" and kinds.count("result") == 1, (
        f"The report has {kinds.count('result')} results and ends with {kinds[-1]!r}, not its only result."
    )
    assert done.result.keys() == {"type", "status", "tests_passed", "tests_failed", "summary"}, (
        f"The result lacks a field, or has an unknown one: {list(done.result)}"
    )
    counted = done.result["tests_passed"] + done.result["tests_failed"]
    assert counted == 21, f"The sample has 21 tests, and the result counts {counted}."


@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_the_program_is_changed(repaired: dict[str, Repaired], strategy: str) -> None:
    status = git(repaired[strategy].folder, "status", "--porcelain").splitlines()
    assert status, "Nothing was changed."
    assert all(line.startswith(" M lending/") for line in status), f"The agent left something else: {status}"


def test_an_edit_that_does_not_help_is_taken_back(tmp_path: Path, run_agent: RunAgent) -> None:
    folder = make_repository(
        tmp_path,
        {
            "shop.py": "def greet(name):\n    return 'Hello ' + name\n",
            "test_shop.py": "from shop import greet\n\ndef test_it():\n    assert greet('A') == 'Dear A'\n",
        },
    )
    done = run_agent(folder)
    assert done.of("edit"), "Nothing was tried."
    helpful = [event["after"] for event in done.of("edit") if event["helps"]]
    assert not helpful, f"No edit should mend this test, and the agent says that these help: {helpful}"
    assert done.patch == "", "An edit that does not help is still there."
    status = done.result["status"]
    assert status == "failed", f"The program is as it was, its test fails, and the result says {status!r}."
    assert any("No edit found" in event["text"] for event in done.of("say")), (
        "The agent keeps no edit, and does not say that it found none."
    )


def test_an_edit_that_breaks_another_test_is_taken_back(tmp_path: Path, run_agent: RunAgent) -> None:
    test = """
from shop import limit

def test_as_it_is():
    assert limit() == 3

def test_one_more():
    assert limit() == 4

def test_more():
    assert limit() > 3
"""
    files = {"shop.py": "def limit():\n    return 3\n", "test_shop.py": test}
    done = run_agent(make_repository(tmp_path, files))
    assert any(event["after"] == "    return 4" for event in done.of("edit")), "The edit was not tried."
    kept = [event["text"] for event in done.of("say") if "I keep" in event["text"]]
    assert not kept, "An edit was kept that breaks a test which passed before."
    assert done.patch == "", "An edit that breaks another test is still in the program."
    passed = done.result["tests_passed"]
    assert passed == 1, f"One test passes, as before, and the result counts {passed}."


def test_a_test_that_never_ends_is_killed_with_its_children(tmp_path: Path, run_agent: RunAgent) -> None:
    mark = f"3{uuid.uuid4().int % 10**8:08}"
    test = f"import subprocess\n\ndef test_hang():\n    subprocess.run(['sleep', '{mark}'])\n"
    done = run_agent(make_repository(tmp_path, {"test_hang.py": test}), AGENT_COMMAND_SECONDS="3")
    commands = done.of("command")
    assert commands, f"The agent broke off: {done.stderr.splitlines()[-1:]}"
    assert commands[0]["timed_out"], "The command's clock did not end it."
    assert done.result["type"] == "result", "The tests ran out of time, and the agent gives no result."
    assert done.result["status"] == "failed" and "timed out" in done.result["summary"], (
        "The tests ran out of time, and the result does not say so."
    )
    left = [each.pid for each in psutil.process_iter(["cmdline"]) if mark in (each.info["cmdline"] or [])]
    assert not left, f"A child of the test still runs: {left}"


def test_the_tests_of_the_repository_get_no_token(tmp_path: Path, run_agent: RunAgent) -> None:
    test = "import os\n\ndef test_it():\n    assert not {'OPENAI_API_KEY', 'AGENT_SEED'} & {*os.environ}\n"
    done = run_agent(make_repository(tmp_path, {"test_env.py": test}))
    assert done.result["status"] == "passed", "The tests of a repository have the token of the model."


def test_a_model_that_fails_is_reported(sample: Callable[[], Path], run_agent: RunAgent) -> None:
    done = run_agent(sample(), OPENAI_MODEL="offline?fault=401")
    assert done.code == 0, (
        f"The model fails, and the agent ends with exit code {done.code}: {done.stderr.splitlines()[-1:]}"
    )
    status, summary = done.result["status"], done.result["summary"]
    assert status == "failed", f"The model fails at each call, and the result's status is {status!r}."
    assert "The model cannot be asked" in summary, (
        f"The summary does not say that the model fails: {summary!r}"
    )
    assert done.result["tests_failed"] > 0, "The model gave no edit, and the result counts no failed test."
    assert done.patch == "", "The model gave no edit, and the agent has changed the repository."


def test_an_unknown_strategy_is_refused(tmp_path: Path, run_agent: RunAgent) -> None:
    done = run_agent(tmp_path, "guess")
    assert done.code == 2, f"An unknown strategy ends the agent with exit code {done.code}, not 2."
    assert "suspicious-first" in done.stderr, (
        f"The agent does not name all of its strategies: {done.stderr.splitlines()[-1:]}"
    )
    assert not done.events, "The agent refuses the strategy, and reports events all the same."


@pytest.mark.docker
def test_the_command_line_shows_every_variation(
    lesson_09: StartLesson,
    repository: Path,
    lesson_root: Path,
) -> None:
    lesson = lesson_09()
    server = str(lesson.server)
    env = base_environment() | {
        "PARALLEL_AGENTS_SERVER": server,
        "PARALLEL_AGENTS_PASSWORD": "a long password",
    }

    def command(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "parallel_agents", *words],
            cwd=lesson_root / LESSON,
            env=env | more,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    key = command("key", f"user-{uuid.uuid4().hex[:8]}", "--register")
    assert key.returncode == 0, f"`key --register` ends with exit code {key.returncode}, not 0:\n{key.stderr}"
    code = f"print('\\x1b[31mred', flush=True)\n{RESULT}"
    done = command("run", str(repository), code, "-n", "2", PARALLEL_AGENTS_KEY=key.stdout.strip())
    assert done.returncode == 0, (
        f"Both variations should pass, and `run` ends with exit code {done.returncode}:\n"
        f"{done.stderr}{done.stdout}"
    )
    for n in (1, 2):
        assert f"[{n}] state: passed" in done.stdout, f"The output does not show that variation {n} passed."
    assert "\x1b[31m" not in done.stdout, "An agent's output steers the terminal."
    refused = command("run", str(repository), code, PARALLEL_AGENTS_KEY="wrong")
    assert refused.returncode == 1 and refused.stderr.startswith("401"), (
        f"With a wrong key, `run` does not end with exit code 1 and a 401, but with {refused.returncode} and "
        f"{refused.stderr[-200:]!r}."
    )
