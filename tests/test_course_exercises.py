"""Exercises cut both ways: each fault is caught by exactly the tests it names, and by their own sentence.

That the untouched lesson passes them is what the rest of `make test` shows.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import turn

from course.exercises import CONTAINERS, STATE, WORKSPACE, Change, Exercise, exercises, run_tests
from course.pages import ROOT

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shared_model(monkeypatch: pytest.MonkeyPatch, offline_model: str) -> None:
    """Runs of pytest inside a test use this run's offline model, and save the time to start one."""
    monkeypatch.setenv("SHARED_OFFLINE_MODEL", offline_model)


@pytest.mark.skipif(not os.environ.get("CI"), reason="minutes long; CI=true make test proves each exercise")
@pytest.mark.parametrize(
    "exercise",
    [pytest.param(e, marks=[pytest.mark.docker] if e.lesson in CONTAINERS else []) for e in exercises()],
    ids=lambda exercise: exercise.slug,
)
@pytest.mark.usefixtures("shared_model")
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
    """The learner's own workspace is put aside meanwhile; tests that use it take turns."""
    aside = tmp_path / "aside"
    with turn("workspace"):
        if WORKSPACE.exists():
            shutil.move(WORKSPACE, aside)
        yield
        shutil.rmtree(WORKSPACE, ignore_errors=True)
        if aside.exists():
            shutil.move(aside, WORKSPACE)


@pytest.mark.usefixtures("empty_workspace", "shared_model")
def test_a_learner_begins_fails_asks_mends_and_is_counted() -> None:
    code, said = course("check", "01")
    assert (code, "Begin with: make exercise-01" in said) == (1, True)
    code, said = course("exercise", "endless-query")
    assert (code, "workspace/code/01_basic_api.py" in said) == (0, True)
    assert "→ 01-endless-query" in course("progress")[1]
    code, said = course("check", "01")
    assert code == 1
    assert "✗ test_a_query_over_ten_thousand_characters_is_refused" in said
    assert "A query of 10,001 characters went through" in said
    assert [course("hint", "01")[1][:12] for _ in range(4)] == [
        "Hint 1 of 3:",
        "Hint 2 of 3:",
        *2 * ["Hint 3 of 3:"],
    ]
    assert (
        "+            strip_whitespace=True, min_length=1, max_length=10_000" in course("solution", "01")[1]
    )
    (WORKSPACE / "code/01_basic_api.py").write_text("this is no Python")
    code, said = course("check", "01")
    assert code == 1
    assert "SyntaxError" in said
    shutil.copy(ROOT / "code/01_basic_api.py", WORKSPACE / "code")
    code, said = course("check", "01")
    assert (code, "Mended: The query without end" in said) == (0, True), said
    said = course("progress")[1]
    assert "✓ 01-endless-query" in said
    assert "01 A basic agent API: 1 of 10 mended" in said


@pytest.mark.usefixtures("empty_workspace")
def test_what_was_changed_for_one_exercise_is_kept_when_another_begins() -> None:
    course("exercise", "endless-query")
    (WORKSPACE / "code/01_basic_api.py").write_text("# my mend")
    other = next(e.slug for e in exercises("01") if e.slug != "01-endless-query")
    code, said = course("exercise", other)
    kept = WORKSPACE / "earlier/01-endless-query/code/01_basic_api.py"
    assert (code, str(kept.relative_to(ROOT)) in said) == (0, True), said
    assert kept.read_text() == "# my mend"
    assert (WORKSPACE / "code/01_basic_api.py").read_text() != "# my mend"


@pytest.mark.docker
@pytest.mark.usefixtures("shared_model")
def test_what_a_dockerfile_says_of_itself_is_known_of_a_learners_copy_too(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "research-agent", tmp_path / "research-agent")
    known = "basic and (runs_as_nobody or holds_only_what_runs)"
    outcomes = run_tests(tmp_path, "test_container.py", options=("-k", known))
    assert [outcome.sentence for outcome in outcomes] == ["", ""]


@pytest.mark.usefixtures("empty_workspace")
def test_damaged_progress_is_one_clear_line() -> None:
    course("exercise", "endless-query")
    STATE.write_text('{"solved": [')
    for words in (("progress",), ("exercise", "01"), ("check", "01"), ("hint", "01")):
        code, said = course(*words)
        assert code == 1
        assert (
            said
            == f"✗ {STATE.relative_to(ROOT)}, which counts your mends, is damaged. Delete it to count anew.\n"
        )


def test_easy_exercises_come_first() -> None:
    for lesson in {each.lesson for each in exercises()}:
        levels = [each.difficulty for each in exercises(lesson)]
        assert levels == sorted(levels)


def test_a_program_of_many_files_is_broken_in_a_copy_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    (root / "research-agent/app").mkdir(parents=True)
    (root / "research-agent/main.py").write_text("import app.page")
    (root / "research-agent/app/page.js").write_text("let colour = 'red';")
    (copy / "research-agent").mkdir(parents=True)
    (copy / "research-agent/of_another_exercise.py").write_text("")
    monkeypatch.setattr("course.exercises.ROOT", root)
    change = Change(file="research-agent/app/page.js", old="red", new="blue")
    exercise = Exercise(slug="04-x", title="", story="", hints=["", "", ""], tests=["x"], changes=[change])
    assert exercise.put_into(copy) == [copy / "research-agent/app/page.js"]
    texts = {str(path.relative_to(copy)): path.read_text() for path in copy.rglob("*.*")}
    assert texts == {
        "research-agent/main.py": "import app.page",
        "research-agent/app/page.js": "let colour = 'blue';",
    }
