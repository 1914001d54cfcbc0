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
PARALLEL = ("-p", "xdist.plugin", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
ALSO = {"05": ("test_container.py",)}  # a lesson's tests whose file name does not begin with its number

Tell = Callable[[str], None]


@dataclass
class Outcome:
    """The outcome of one test, such as test_x[a]; a sentence says why it failed or was skipped."""

    test: str
    result: Literal["passed", "failed", "skipped"]
    sentence: str = ""
    file: str = ""  # below tests/


def test_files(lesson: str) -> list[str]:
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
        if run.returncode not in (0, 1):
            raise CourseError(f"The tests could not be run:\n{said[-4000:]}")
        return [outcome(case) for case in ElementTree.parse(report).iter("testcase")]  # noqa: S314  # pytest wrote it


def outcome(case: ElementTree.Element) -> Outcome:
    """The outcome of a test in pytest's report."""
    file = case.attrib["classname"].removeprefix("tests.").replace(".", "/") + ".py"
    for kind in ("failure", "error", "skipped"):
        if (found := case.find(kind)) is not None:
            first_line = found.attrib.get("message", "").partition("\n")[0]
            sentence = re.sub(r"^(AssertionError|Failed|course\.errors\.CourseError): ", "", first_line)
            result: Literal["failed", "skipped"] = "skipped" if kind == "skipped" else "failed"
            return Outcome(case.attrib["name"], result, sentence, file)
    return Outcome(case.attrib["name"], "passed", file=file)


def other_tests(exercise: Exercise) -> tuple[list[str], tuple[str, ...]]:
    """All tests of the lesson but the exercise's own, and the options with which they run."""
    own = tuple(f"--deselect=tests/{test}" for test in exercise.tests)
    return test_files(exercise.lesson), (*PARALLEL, "-m", "not of_the_course", *own)


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
    own = not_passed(run_tests(WORKSPACE, exercise.tests))
    if own:
        return Verdict(False, own)
    tell(f"[green]✓[/green] {exercise.title}: the exercise's own tests pass.")
    tests, options = other_tests(exercise)
    others = not_passed(run_tests(WORKSPACE, tests, options, lambda part: status(f"the other tests: {part}")))
    if any(each.result == "failed" for each in others):
        return Verdict(False, others)
    progress = Progress.load()
    progress.solved = sorted({*progress.solved, exercise.slug})
    progress.save()
    return Verdict(True, others)


def not_passed(outcomes: list[Outcome]) -> list[Outcome]:
    return [each for each in outcomes if each.result != "passed"]
