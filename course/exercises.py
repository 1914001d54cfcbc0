"""Exercises: a lesson broken in one way the world really breaks, for a learner to mend.

`exercises/NN-slug.toml` holds `title`, `story`, `difficulty` (1 to 3), three `hints`, the `tests` that fail
while it is broken, and one or more `changes` {file, old, new}: `old` stands exactly once in the file.
"""

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from course.pages import ROOT
from course.processes import Failed

WORKSPACE = ROOT / "workspace"
STATE = WORKSPACE / "progress.json"
# Tests are run many times: they load these plugins of pytest, and not all that packages bring along.
PLUGINS = ("--disable-plugin-autoload", "-p", "pytest_asyncio.plugin", "-p", "pytest_timeout")
CONTAINERS = ("05", "06")  # lessons whose exercises build images
PARALLEL = ("-p", "xdist.plugin", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")


class Change(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: str
    old: str
    new: str


class Exercise(BaseModel):
    model_config = ConfigDict(extra="forbid")

    slug: str
    title: str
    story: str
    difficulty: int = Field(default=2, ge=1, le=3)
    hints: list[str] = Field(min_length=3, max_length=3)
    tests: list[str] = Field(min_length=1)
    changes: list[Change] = Field(min_length=1)

    @property
    def lesson(self) -> str:
        return self.slug[:2]

    @property
    def programs(self) -> set[Path]:
        """What runs only as a whole: a script of code/, or the folder that the broken file is in."""
        paths = [Path(change.file).parts for change in self.changes]
        return {Path(*parts[: 2 if parts[0] == "code" else 1]) for parts in paths}

    def put_into(self, folder: Path) -> list[Path]:
        """Copy what is to be broken below `folder`, and break it; the broken files.

        `Failed` when a text to break is not there exactly once.
        """
        written: dict[Path, str] = {}
        for change in self.changes:
            path = folder / change.file
            text = written.get(path) or (ROOT / change.file).read_text(encoding="utf-8")
            if text.count(change.old) != 1:
                raise Failed(
                    f"{self.slug}: in {change.file} the text to break stands {text.count(change.old)} times"
                )
            written[path] = text.replace(change.old, change.new)
        for program in self.programs:
            (folder / program).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / program).is_dir():
                shutil.rmtree(folder / program, ignore_errors=True)
                shutil.copytree(
                    ROOT / program, folder / program, ignore=shutil.ignore_patterns("__pycache__")
                )
        for path, text in written.items():
            path.write_text(text, encoding="utf-8")
        return list(written)


class Progress(BaseModel):
    """What a learner has done: exercises solved, the current one of each lesson, hints seen."""

    solved: list[str] = []
    current: dict[str, str] = {}
    hints: dict[str, int] = {}

    @classmethod
    def load(cls) -> "Progress":
        try:
            return cls.model_validate_json(STATE.read_bytes()) if STATE.exists() else cls()
        except ValidationError:
            raise Failed(
                f"{STATE.relative_to(ROOT)}, which counts your mends, is damaged. Delete it to count anew."
            ) from None

    def save(self) -> None:
        WORKSPACE.mkdir(exist_ok=True)
        whole = STATE.with_suffix(
            ".new"
        )  # put in place in one step: whatever happens, there is no half a file
        whole.write_text(self.model_dump_json(indent=2) + "\n")
        whole.replace(STATE)


def exercises(lesson: str = "") -> list[Exercise]:
    """All exercises, or those of a lesson; in each lesson the easy ones first."""
    found = []
    for path in sorted((ROOT / "exercises").glob(f"{lesson}*.toml")):
        found.append(Exercise(slug=path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda exercise: (exercise.lesson, exercise.difficulty, exercise.slug))


def put_aside(exercise: Exercise, tell: Callable[[str], None]) -> None:
    """Keep what a learner has changed in an exercise's files, before others take their place."""
    with tempfile.TemporaryDirectory() as folder:
        for broken in exercise.put_into(Path(folder)):
            name = broken.relative_to(folder)
            mine, kept = WORKSPACE / name, WORKSPACE / "earlier" / exercise.slug / name
            if mine.exists() and mine.read_bytes() != broken.read_bytes():
                kept.parent.mkdir(parents=True, exist_ok=True)
                mine.replace(kept)
                tell(f"What you had changed for {exercise.slug} is in {kept.relative_to(ROOT)} now.")


def choose(name: str, tell: Callable[[str], None] = lambda _: None) -> Exercise:
    """Begin anew, in the workspace, the exercise of that name or the lesson's first unsolved one."""
    progress = Progress.load()
    of_lesson = exercises(name) if name.isdigit() else []
    named = [e for e in exercises() if name in (e.slug, e.slug[3:])]
    unsolved = [e for e in of_lesson if e.slug not in progress.solved]
    if not (of_lesson or named):
        raise Failed(f"There is no exercise {name}. `make progress` lists them.")
    if not (unsolved or named):
        raise Failed(f"You have mended every exercise of lesson {name}. By name you can do one again.")
    exercise = (named or unsolved)[0]
    begun = progress.current.get(exercise.lesson) == exercise.slug and exercise.slug not in progress.solved
    if not (begun and all((WORKSPACE / change.file).exists() for change in exercise.changes)):
        # Exercises that were begun in the same files are not there any more.
        begun_before = {each.slug: each for each in exercises() if each.slug in progress.current.values()}
        for lesson, slug in list(progress.current.items()):
            if slug not in begun_before or begun_before[slug].programs & exercise.programs:
                del progress.current[lesson]
                if slug in begun_before and slug not in progress.solved:
                    put_aside(begun_before[slug], tell)
        exercise.put_into(WORKSPACE)
    progress.current[exercise.lesson] = exercise.slug
    progress.save()
    return exercise


def current(name: str) -> Exercise:
    """The exercise of that lesson that was begun last; if an exercise is named, it must be that one."""
    of_lesson = exercises(name) if name.isdigit() else []
    named = [e for e in exercises() if name in (e.slug, e.slug[3:])]
    if not (of_lesson or named):
        raise Failed(f"There are no exercises for {name}. `make progress` lists all there are.")
    slug = Progress.load().current.get((named or of_lesson)[0].lesson)
    begun = [e for e in named or of_lesson if e.slug == slug]
    if not begun:
        raise Failed(f"No exercise of {name} is begun. Begin with: make exercise-{name}")
    return begun[0]


def next_hint(exercise: Exercise) -> tuple[int, str]:
    """The number of the next hint, and the hint; the last one again when all were given."""
    progress = Progress.load()
    number = min(progress.hints.get(exercise.slug, 0) + 1, len(exercise.hints))
    progress.hints[exercise.slug] = number
    progress.save()
    return number, exercise.hints[number - 1]


def solution(exercise: Exercise) -> str:
    """The difference from the broken files to the right ones."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in exercise.put_into(Path(folder)):
            name = str(path.relative_to(folder))
            broken = path.read_text(encoding="utf-8").splitlines()
            right = (ROOT / name).read_text(encoding="utf-8").splitlines()
            lines += difflib.unified_diff(broken, right, f"broken/{name}", f"right/{name}", lineterm="")
    return "\n".join(lines)


@dataclass
class Outcome:
    """What became of one test: its name, and, if it failed, in its own words why."""

    test: str
    failed: bool
    sentence: str


def run_tests(
    root: Path, *tests: str, options: tuple[str, ...] = (), tell: Callable[[str], None] = lambda _: None
) -> list[Outcome]:
    """Run tests against the lessons in `root` (LESSON_ROOT); one outcome a test. `tell` hears how far."""
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
            except KeyboardInterrupt:  # which pytest has got, too, and needs a moment to clean up after
                run.wait(30)
                raise
        if run.returncode not in (0, 1):
            raise Failed(f"The tests could not be run:\n{said[-4000:]}")
        return [outcome(case) for case in ElementTree.parse(report).iter("testcase")]  # noqa: S314  # pytest wrote it


def outcome(case: ElementTree.Element) -> Outcome:
    failure = case.find("failure")
    if failure is None:
        failure = case.find("error")
    if failure is None:
        return Outcome(case.attrib["name"], False, "")
    sentence = failure.attrib.get("message", "").partition("\n")[0].removeprefix("course.processes.")
    return Outcome(
        case.attrib["name"], True, sentence.removeprefix("AssertionError: ").removeprefix("Failed: ")
    )


def check(exercise: Exercise, tell: Callable[[str], None]) -> list[Outcome]:
    """The failed tests of a learner's mend: of those that the fault breaks, then of the lesson's others."""
    workspace_of(exercise)
    named, files = exercise.tests, dict.fromkeys(test.partition("::")[0] for test in exercise.tests)
    failed = [o for o in run_tests(WORKSPACE, *named) if o.failed]
    if not failed:
        minutes = " (this takes minutes)" if exercise.lesson in CONTAINERS else ""
        told = f"mended; is all else well?{minutes}"
        tell(told)
        others = (*PARALLEL, "-m", "not of_the_course", *(f"--deselect=tests/{test}" for test in named))
        outcomes = run_tests(WORKSPACE, *files, options=others, tell=lambda so_far: tell(f"{told} {so_far}"))
        failed = [o for o in outcomes if o.failed]
    if not failed:
        progress = Progress.load()
        progress.solved = sorted({*progress.solved, exercise.slug})
        progress.save()
    return failed


def workspace_of(exercise: Exercise) -> list[Path]:
    """The learner's files of an exercise; raises `Failed` when one is gone."""
    paths = list(dict.fromkeys(WORKSPACE / change.file for change in exercise.changes))
    for path in paths:
        if not path.exists():
            raise Failed(f"{path.relative_to(ROOT)} is gone. Begin again with: make exercise-{exercise.slug}")
    return paths
