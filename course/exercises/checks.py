"""Checks of a copy of a lesson: its tests are run against the copy, and each has an outcome.

The tests that an exercise names run first and take seconds. Then all other tests of the lesson run, because a
mend may have broken something else.
"""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from course.errors import CourseError
from course.exercises.format import Exercise
from course.exercises.workspace import WORKSPACE, Progress, workspace_of
from course.paths import ROOT

# Load these pytest plugins only: the others that are installed would slow each of many runs.
PLUGINS = ("--disable-plugin-autoload", "-p", "pytest_asyncio.plugin", "-p", "pytest_timeout")
XDIST = ("-p", "xdist.plugin", "-n", "auto", "--maxprocesses", "4", "--dist")
NO_TESTS = 5  # pytest's exit code when its options leave no test
ALSO = {"05": ("test_container.py",)}  # a lesson's tests whose file name does not begin with its number

COURSE_ERROR = "course.errors.CourseError"
TOLD = ("AssertionError", "Failed", COURSE_ERROR)  # errors whose name says nothing to a learner

Tell = Callable[[str], None]


@dataclass
class Outcome:
    """The outcome of one test, such as test_x[a]; a sentence says why it failed or was skipped."""

    test: str
    result: Literal["passed", "failed", "skipped"]
    sentence: str = ""
    file: str = ""  # below tests/
    details: str = ""  # the last lines of a program that failed, such as a builder's


def lesson_test_files(lesson: str) -> list[str]:
    """The files with a lesson's tests, below tests/."""
    return [path.name for path in sorted((ROOT / "tests").glob(f"test_{lesson}_*.py"))] + [
        *ALSO.get(lesson, ())
    ]


def run_tests(
    root: Path, tests: list[str], options: tuple[str, ...] = (), tell: Tell = lambda _: None
) -> list[Outcome]:
    """Run tests against the lessons in `root`; one outcome a test. `tell` gets the percentage done."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-v", *PLUGINS, "-p", "no:cacheprovider", "--tb=line"]
        command += [*options, f"--junitxml={report}", *(f"tests/{test}" for test in tests)]
        env = os.environ | {"LESSON_ROOT": str(root), "PYTHONDONTWRITEBYTECODE": ""}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=ROOT, env=env, text=True, **output) as run:  # type: ignore[call-overload]
            said = ""
            try:
                for line in run.stdout:
                    said += line
                    if percent := re.search(r"\[ *(\d+%)\]", line):
                        tell(percent[1])
            except KeyboardInterrupt:  # Ctrl-C reached pytest as well: let it clean up
                run.wait(30)
                raise
        if run.returncode not in (0, 1, NO_TESTS):
            raise CourseError(f"The tests could not be run:\n{said[-4000:]}")
        return [outcome(case) for case in ElementTree.parse(report).iter("testcase")]  # noqa: S314  # pytest wrote it


def outcome(case: ElementTree.Element) -> Outcome:
    """The outcome of a test in pytest's report."""
    file = case.attrib["classname"].removeprefix("tests.").replace(".", "/") + ".py"
    for kind in ("failure", "error", "skipped"):
        if (found := case.find(kind)) is not None:
            first, *more = found.attrib.get("message", "").splitlines() or [""]
            if in_fixture := re.match(r'failed on (?:setup|teardown) with "', first):
                first = first[in_fixture.end() :].removesuffix("" if more else '"')
            name, _, said = first.partition(": ")
            sentence = said if name in TOLD else first
            details = (found.text or "").partition("\n")[2] if name == COURSE_ERROR else ""
            result: Literal["failed", "skipped"] = "skipped" if kind == "skipped" else "failed"
            return Outcome(case.attrib["name"], result, sentence, file, details)
    return Outcome(case.attrib["name"], "passed", file=file)


def other_tests(exercise: Exercise) -> dict[str, tuple[str, ...]]:
    """The options of two runs of the lesson's other tests: several at a time, then those that run alone.

    The first lessons' servers start in a second. Later ones start engines and images, which a file shares.
    """
    spread = "worksteal" if exercise.lesson < "05" else "loadscope"
    own = tuple(f"--deselect=tests/{test}" for test in exercise.tests)
    return {
        "the other tests": (*XDIST, spread, "-m", "not of_the_course and not serial", *own),
        "the tests that load the machine": ("-m", "not of_the_course and serial", *own),
    }


@dataclass
class Verdict:
    """Whether the exercise is solved, and the outcomes of all tests that did not pass."""

    solved: bool
    outcomes: list[Outcome]


def check(exercise: Exercise, status: Tell, tell: Tell) -> Verdict:
    """Test a learner's fix, and record the exercise as solved when all tests pass.

    `status` is called with the progress of the run, `tell` with results. When one of the exercise's own tests
    is skipped, the exercise does not count as solved.
    """
    workspace_of(exercise)
    status("running the exercise's own tests on your copy ...")
    own = not_passed(run_tests(WORKSPACE, exercise.acceptance_tests))
    if own:
        return Verdict(False, own)
    tell(f"[green]✓[/green] {exercise.title}: the exercise's own tests pass.")
    others = []
    for name, options in other_tests(exercise).items():

        def show(part: str, name: str = name) -> None:
            status(f"{name}: {part}")

        others += not_passed(run_tests(WORKSPACE, lesson_test_files(exercise.lesson), options, show))
    if any(each.result == "failed" for each in others):
        return Verdict(False, others)
    progress = Progress.load()
    progress.solved = sorted({*progress.solved, exercise.slug})
    progress.save()
    return Verdict(True, others)


def not_passed(outcomes: list[Outcome]) -> list[Outcome]:
    return [each for each in outcomes if each.result != "passed"]
