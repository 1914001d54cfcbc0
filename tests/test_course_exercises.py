"""Exercises cut both ways: each fault is caught by exactly the tests it names, and by their own sentence.

That the untouched lesson passes them is what the rest of `make test` shows.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from course.exercises import WORKSPACE, Exercise, exercises, run_tests
from course.pages import ROOT


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.slug)
def test_the_fault_is_caught_by_the_tests_it_names(exercise: Exercise, tmp_path: Path) -> None:
    exercise.put_into(tmp_path)
    outcomes = run_tests(tmp_path, *exercise.tests)
    assert len(outcomes) >= len(exercise.tests)
    for outcome in outcomes:
        assert outcome.failed, f"{outcome.test} passes on the broken lesson"
        assert outcome.sentence.endswith("."), (
            f"{outcome.test} does not say what is wrong: {outcome.sentence!r}"
        )


def course(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "course", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.fixture
def empty_workspace(tmp_path: Path) -> Iterator[None]:
    """The learner's own workspace is put aside meanwhile."""
    aside = tmp_path / "aside"
    if WORKSPACE.exists():
        shutil.move(WORKSPACE, aside)
    yield
    shutil.rmtree(WORKSPACE, ignore_errors=True)
    if aside.exists():
        shutil.move(aside, WORKSPACE)


def test_a_learner_begins_fails_asks_mends_and_is_counted(empty_workspace: None) -> None:
    code, said = course("check", "01")
    assert (code, "Begin with: make exercise-01" in said) == (1, True)
    code, said = course("exercise", "answer-for-nobody")
    assert (code, "workspace/code/01_basic_api.py" in said) == (0, True)
    code, said = course("check", "01")
    assert code == 1
    assert "✗ test_a_client_that_leaves_cancels_the_model_call[/v1/invoke]" in said
    assert "The client has left, and the model still works for it." in said
    assert [course("hint", "01")[1][:12] for _ in range(4)] == [
        "Hint 1 of 3:",
        "Hint 2 of 3:",
        *2 * ["Hint 3 of 3:"],
    ]
    assert "+            message = await unless_client_leaves" in course("solution", "01")[1]
    (WORKSPACE / "code/01_basic_api.py").write_text("this is no Python")
    code, said = course("check", "01")
    assert code == 1
    assert "SyntaxError" in said
    shutil.copy(ROOT / "code/01_basic_api.py", WORKSPACE / "code")
    code, said = course("check", "01")
    assert (code, "Mended: An answer for nobody" in said) == (0, True), said
    assert "✓ 01-answer-for-nobody" in course("progress")[1]
