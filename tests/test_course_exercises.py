"""Exercises: each fault is caught by the tests it names, with the sentence that the exercise records.

The rest of `make test` shows that the untouched lesson passes; `make mends` tries right and wrong mends.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.locks import file_lock

from course.exercises.checks import Outcome, lesson_test_files, run_tests
from course.exercises.copies import Mended, batches, other_images, run_lesson
from course.exercises.format import CandidateFix, Change, Exercise, apply, exercises
from course.exercises.mends import by_halves, named_tests, own_tests_fail, right_mends
from course.exercises.workspace import STATE, WORKSPACE
from course.paths import ROOT, copy_sources

pytestmark = pytest.mark.timeout(900)
IN_CI = pytest.mark.skipif(not os.environ.get("CI"), reason="takes minutes; CI=true make test runs it")
FAULTS = [exercise for exercise in exercises() if exercise.changes]
OPEN = [exercise for exercise in exercises() if exercise.solution]


def marks_of(exercise: Exercise) -> list[pytest.MarkDecorator]:
    """The markers of an open exercise. That of lesson 11 starts the cluster in a process of its own.

    It is not serial: there another test holds the cluster until the end, and this one would wait for ever.
    """
    return [pytest.mark.kubernetes] if exercise.lesson == "11" else []


@pytest.fixture
def shared_model(monkeypatch: pytest.MonkeyPatch, offline_model: str) -> None:
    """Runs of pytest inside a test use this run's offline model, and save the time to start one."""
    monkeypatch.setenv("SHARED_OFFLINE_MODEL", offline_model)


@IN_CI
@pytest.mark.parametrize("exercise", FAULTS, ids=lambda exercise: exercise.slug)
@pytest.mark.usefixtures("shared_model")
def test_the_fault_is_caught_in_a_run_of_its_own(exercise: Exercise, tmp_path: Path) -> None:
    """Only for tests that import what they test; all others run on the broken copy in this very session."""
    assert_own_tests_fail(exercise, tmp_path)


@IN_CI
@pytest.mark.parametrize(
    "exercise", [pytest.param(each, id=each.slug, marks=marks_of(each)) for each in OPEN]
)
@pytest.mark.usefixtures("shared_model")
def test_an_open_exercise_can_be_solved(exercise: Exercise, tmp_path: Path) -> None:
    assert_own_tests_fail(exercise, tmp_path)
    apply(exercise.solution, tmp_path, exercise.slug)
    failed = [o for o in run_tests(tmp_path, exercise.acceptance_tests) if o.result != "passed"]
    assert not failed, failed


def assert_own_tests_fail(exercise: Exercise, folder: Path) -> None:
    """Put the exercise into the folder; its own tests fail there, each with its sentence."""
    exercise.put_into(folder)
    wrong = own_tests_fail(exercise, folder)
    assert not wrong, "\n".join(wrong)


def course(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "course", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.fixture
def empty_workspace(tmp_path: Path) -> Iterator[None]:
    """The learner's own workspace is put aside meanwhile; tests that use it take turns."""
    aside = tmp_path / "aside"
    with file_lock("workspace"):
        if WORKSPACE.exists():
            shutil.move(WORKSPACE, aside)
        yield
        shutil.rmtree(WORKSPACE, ignore_errors=True)
        if aside.exists():
            shutil.move(aside, WORKSPACE)


@IN_CI
@pytest.mark.usefixtures("empty_workspace", "shared_model")
def test_a_learner_can_begin_fail_get_hints_and_solve_an_exercise() -> None:
    code, said = course("check", "01")
    assert (code, "Begin with: make exercise-01" in said) == (1, True)
    code, said = course("exercise", "endless-query")
    assert (code, "workspace/code/01_basic_api.py" in said) == (0, True)
    assert "→ 01-endless-query" in course("progress")[1]
    code, said = course("check", "01")
    assert code == 1
    assert "✗ test_a_query_over_ten_thousand_characters_is_refused" in said
    assert "A query of 10,001 characters was answered with 200" in said
    assert [course("hint", "01")[1][:12] for _ in range(4)] == [
        "Hint 1 of 3:",
        "Hint 2 of 3:",
        *2 * ["Hint 3 of 3:"],
    ]
    assert "+    query: str = Field(min_length=1, max_length=10_000" in course("solution", "01")[1]
    (WORKSPACE / "code/01_basic_api.py").write_text("this is no Python")
    code, said = course("check", "01")
    assert code == 1
    assert "SyntaxError" in said
    shutil.copy(ROOT / "code/01_basic_api.py", WORKSPACE / "code")
    code, said = course("check", "01")
    assert (code, "Solved: The query without end" in said) == (0, True), said
    said = course("progress")[1]
    assert "✓ 01-endless-query" in said
    assert f"01 A basic agent API: 1 of {len(exercises('01'))} solved" in said


@pytest.mark.usefixtures("empty_workspace")
def test_edits_for_one_exercise_are_kept_when_another_begins() -> None:
    course("exercise", "endless-query")
    (WORKSPACE / "code/01_basic_api.py").write_text("# my mend")
    other = next(e.slug for e in exercises("01") if e.slug != "01-endless-query")
    code, said = course("exercise", other)
    kept = WORKSPACE / "earlier/01-endless-query/code/01_basic_api.py"
    assert (code, str(kept.relative_to(ROOT)) in said) == (0, True), said
    assert kept.read_text() == "# my mend"
    assert (WORKSPACE / "code/01_basic_api.py").read_text() != "# my mend"


@pytest.mark.parametrize("folder", ["code", "research-agent", "offline-model"])
def test_a_copy_of_a_lesson_has_the_files_that_git_knows_and_no_others(folder: str, tmp_path: Path) -> None:
    copy_sources(ROOT / folder, tmp_path / folder)
    known = ("git", "ls-files", "--cached", "--others", "--exclude-standard", folder)
    listed = subprocess.run(known, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    copied = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()]
    assert sorted(copied) == sorted(listed)


@pytest.mark.docker
@pytest.mark.usefixtures("docker", "shared_model")
def test_known_faults_of_a_dockerfile_also_hold_for_a_learners_copy(tmp_path: Path) -> None:
    copy_sources(ROOT / "research-agent", tmp_path / "research-agent")
    known = "basic and (runs_as_numeric_non_root or contains_no_build_leftovers)"
    outcomes = run_tests(tmp_path, ["test_container.py"], ("-k", known))
    assert [outcome.result for outcome in outcomes] == ["passed", "passed"]


@pytest.mark.docker
@pytest.mark.usefixtures("docker", "empty_workspace", "shared_model")
def test_the_builders_last_lines_are_shown_when_a_learners_dockerfile_does_not_build() -> None:
    course("exercise", "lists-left")
    with (WORKSPACE / "research-agent/Dockerfile").open("a") as dockerfile:
        dockerfile.write("COPIE main.py .\n")
    code, said = course("check", "05")
    assert (code, "  Dockerfile could not be built: " in said) == (1, True), said
    assert re.search(r"^ +\d+ \| >>> COPIE main.py", said, re.MULTILINE), said


@pytest.mark.usefixtures("empty_workspace", "shared_model")
def test_a_mend_that_this_machine_cannot_check_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    course("exercise", "half-said")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # where there is no Redis
    code, said = course("check", "04")
    assert code == 1
    assert "not checked (1 test): redis is missing. Get it: " in said
    assert "✓ 04-half-said" not in course("progress")[1]


@pytest.mark.usefixtures("empty_workspace")
def test_an_exercise_that_is_begun_again_keeps_its_edits_and_says_so() -> None:
    course("exercise", "endless-query")
    mine = WORKSPACE / "code/01_basic_api.py"
    mine.write_text("# my mend")
    said = course("exercise", "endless-query")[1]
    assert "your edits are kept. To start over, first: rm workspace/code/01_basic_api.py" in said
    assert mine.read_text() == "# my mend"


@pytest.mark.usefixtures("empty_workspace")
def test_damaged_progress_is_one_clear_line() -> None:
    course("exercise", "endless-query")
    STATE.write_text('{"solved": [')
    for words in (("progress",), ("exercise", "01"), ("check", "01"), ("hint", "01")):
        code, said = course(*words)
        assert code == 1
        name = STATE.relative_to(ROOT)
        assert said == f"✗ {name}, which records your progress, is damaged. Delete it to start over.\n"


@pytest.mark.parametrize("lesson", sorted({each.lesson for each in exercises()}))
def test_each_right_mend_is_in_one_shared_copy(lesson: str) -> None:
    mends = [(exercise, mend) for exercise in exercises(lesson) for mend in right_mends(exercise)]
    found = batches(list(mends))
    together = [(exercise.slug, mend and mend.about) for batch in found for exercise, mend in batch]
    assert sorted(together) == sorted((exercise.slug, mend.about) for exercise, mend in mends)
    assert len(found) < len(mends)


def test_a_mend_that_fails_among_others_is_found_with_the_failed_tests_alone() -> None:
    mended = [(exercise, None) for exercise in FAULTS[:7]]
    failure, runs = Outcome("test_x[a]", "failed", "It is broken.", "test_01.py"), []

    def run(part: list[Mended], tests: list[str]) -> list[Outcome]:
        runs.append(tests)
        return [failure] if mended[4] in part else []

    found = by_halves(run, list(mended), [])
    assert found == [(each, [failure] if each is mended[4] else []) for each in mended]
    assert runs == [[], *[["test_01.py::test_x[a]"]] * 6]


def test_where_an_open_exercise_is_not_solved_its_tests_do_not_run() -> None:
    fault = next(each for each in FAULTS if each.lesson == "01")
    assert run_lesson([(fault, None)], ["open/test_01_history.py::test_braces_in_a_turn_are_text"]) == []


def test_a_change_of_one_dockerfile_runs_no_tests_of_the_other_images() -> None:
    def change(*files: str) -> list[Change]:
        return [Change(file=f"research-agent/{file}", old="x", new="") for file in files]

    assert other_images(change("Dockerfile")) == ("-k", "not basic and not multistage")
    assert other_images(change("Dockerfile", "Dockerfile.multistage")) == ("-k", "not basic")
    assert other_images(change("Dockerfile", "main.py")) == ()


def test_tests_are_left_out_by_their_whole_name() -> None:
    """`pytest --deselect` leaves out all tests whose names begin with the given one."""
    for lesson in {each.lesson for each in exercises()}:
        for named in named_tests(lesson):
            file, _, test = named.partition("[")[0].partition("::")
            defined = re.findall(r"def (test_\w+)", (ROOT / "tests" / file).read_text())
            assert [name for name in defined if name.startswith(test)] == [test]


def test_each_assertion_that_a_mend_can_meet_has_a_sentence() -> None:
    """A learner reads the first line of a failure: without a sentence, it is only the assertion's code."""
    files = {
        file for each in exercises() for file in (*lesson_test_files(each.lesson), *each.acceptance_tests)
    }
    bare = [
        f"{file}:{node.lineno}: an assertion without a sentence"
        for file in sorted({file.partition("::")[0] for file in files})
        for node in ast.walk(ast.parse((ROOT / "tests" / file).read_text()))
        if isinstance(node, ast.Assert) and not node.msg
    ]
    assert not bare, "\n".join(bare)


def changed_files(exercise: Exercise, changes: list[Change], folder: Path) -> None:
    """Copy the files that changes of the broken copy concern, and make the changes."""
    changes = [*exercise.changes, *changes]
    for file in {change.file for change in changes if change.old}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    apply(changes, folder, folder.name)


def assert_ruff_finds_nothing(rules: str, folder: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--isolated", f"--select={rules}"]
    done = subprocess.run(
        [*command, "--output-format=concise", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_fault_leaves_nothing_unused_that_gives_it_away(tmp_path: Path) -> None:
    for fault in FAULTS:
        changed_files(fault, [], tmp_path / fault.slug)
    assert_ruff_finds_nothing("F401,F811,F841", tmp_path)


def test_no_mend_uses_a_name_that_is_not_defined(tmp_path: Path) -> None:
    for exercise in exercises():
        for number, mend in enumerate(exercise.mends):
            changed_files(exercise, mend.changes, tmp_path / f"{exercise.slug}-{number}")
    assert_ruff_finds_nothing("F821", tmp_path)


def test_easy_exercises_come_first() -> None:
    for lesson in {each.lesson for each in exercises()}:
        levels = [each.difficulty for each in exercises(lesson)]
        assert levels == sorted(levels)


def test_the_whole_folder_of_a_broken_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    (root / "research-agent/app").mkdir(parents=True)
    (root / "research-agent/main.py").write_text("import app.page")
    (root / "research-agent/app/page.js").write_text("let colour = 'red';")
    (copy / "research-agent").mkdir(parents=True)
    (copy / "research-agent/of_another_exercise.py").write_text("")
    monkeypatch.setattr("course.exercises.format.ROOT", root)
    change = Change(file="research-agent/app/page.js", old="red", new="blue")
    mends = [
        CandidateFix(about="", right=right, says="" if right else "x.", changes=[change])
        for right in (True, False)
    ]
    told: dict[str, Any] = {"title": "", "story": "", "difficulty": 1, "hints": ["", "", ""]}
    exercise = Exercise(slug="04-x", **told, tests=["x"], says=["x."], changes=[change], mends=mends)
    assert exercise.put_into(copy) == [copy / "research-agent/app/page.js"]
    texts = {str(path.relative_to(copy)): path.read_text() for path in copy.rglob("*.*")}
    assert texts == {
        "research-agent/main.py": "import app.page",
        "research-agent/app/page.js": "let colour = 'blue';",
    }
