"""The format of an exercise, `exercises/NN-slug.toml`, and how its changes are applied to a lesson's files.

`title`, `story`, `difficulty` (1 to 3) and three `hints` are for the learner. `tests` fail until the exercise
is solved, each with the sentence at the same position in `says` (`...` matches anything). `also` names other
tests of the lesson that fail until then, and `perhaps` tests of races, which fail or pass by chance.

A fault has `changes` {file, old, new}: `old` occurs exactly once in the lesson's file. An open exercise has a
`solution` of the same form instead: nothing is broken, the tests describe a feature, and the solution proves
that it can be written. There, an empty `old` stands for a new file.

Each of `mends` changes the broken copy as a learner might. A right one must be accepted, a wrong one refused
with the sentence in its `says`. Its `test` names the test that does so, if none of the exercise's own does.
`make mends` tries them all.
"""

import shutil
import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from course.errors import CourseError
from course.paths import ROOT, copy_sources


class ExerciseModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Change(ExerciseModel):
    file: str
    old: str
    new: str


class CandidateFix(ExerciseModel):
    """A change of the broken copy that a learner might make."""

    about: str
    right: bool
    says: str = ""
    test: str = ""
    changes: list[Change] = Field(min_length=1)

    @model_validator(mode="after")
    def only_a_wrong_mend_has_says(self) -> Self:
        if self.right is bool(self.says):
            raise ValueError(
                "a wrong mend needs `says`, the message of the test that refuses it; "
                "a right mend must not have `says`"
            )
        return self


class Exercise(ExerciseModel):
    slug: str
    title: str
    story: str
    difficulty: int = Field(ge=1, le=3)
    hints: list[str] = Field(min_length=3, max_length=3)
    tests: list[str] = Field(min_length=1)
    says: list[str]
    also: list[str] = []
    perhaps: list[str] = []
    changes: list[Change] = []
    solution: list[Change] = []
    mends: list[CandidateFix]

    @model_validator(mode="after")
    def is_a_fault_or_open(self) -> Self:
        if bool(self.changes) is bool(self.solution):
            raise ValueError("an exercise has either changes (a fault) or a solution (an open exercise)")
        if len(self.says) != len(self.tests):
            raise ValueError("each of the tests has one sentence in says")
        if {mend.right for mend in self.mends} != {True, False}:
            raise ValueError("an exercise has at least one right and one wrong mend")
        return self

    @property
    def lesson(self) -> str:
        return self.slug[:2]

    @property
    def acceptance_tests(self) -> list[str]:
        """The tests that a solution must pass; of an open exercise, all tests of its files."""
        if self.changes:
            return self.tests
        return list(dict.fromkeys(test.partition("::")[0] for test in self.tests))

    @property
    def files(self) -> list[str]:
        """The files that the learner edits."""
        return list(dict.fromkeys(change.file for change in self.changes or self.solution if change.old))

    @property
    def programs(self) -> set[Path]:
        """The programs to copy whole: a script of code/, or the folder that holds an edited file."""
        paths = [Path(file).parts for file in self.files]
        return {Path(*parts[: 2 if parts[0] == "code" else 1]) for parts in paths}

    def sentence(self, test: str) -> str:
        """The sentence with which a test fails; `test` may name one of its parameters, such as test_x[a]."""
        told = dict(zip(self.tests, self.says, strict=True))
        return told.get(test) or told[test.partition("[")[0]]

    def put_into(self, folder: Path) -> list[Path]:
        """Copy the lesson into `folder` and break it there; returns the files that the learner edits.

        Raises `CourseError` when a text to change does not occur exactly once.
        """
        self.copy_into(folder)
        return apply(self.changes, folder, self.slug) or [folder / file for file in self.files]

    def copy_into(self, folder: Path) -> None:
        """Copy the lesson's programs into `folder` as they are."""
        for program in self.programs:
            (folder / program).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / program).is_dir():
                shutil.rmtree(folder / program, ignore_errors=True)
                copy_sources(ROOT / program, folder / program)
            else:
                shutil.copy(ROOT / program, folder / program)


def apply(changes: list[Change], folder: Path, name: str) -> list[Path]:
    """Make changes in the files below `folder`; returns those files. `name` stands in errors."""
    for change in changes:
        path = folder / change.file
        if not change.old:
            write_new(path, change.new, name)
            continue
        text = path.read_text(encoding="utf-8")
        if (count := text.count(change.old)) != 1:
            raise CourseError(f"{name}: the text to change occurs {count} times in {change.file}, not once")
        path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    return list(dict.fromkeys(folder / change.file for change in changes))


def write_new(path: Path, text: str, name: str) -> None:
    if path.exists():
        raise CourseError(f"{name}: {path.name} is to be a new file, and exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.lstrip("\n"), encoding="utf-8")


def exercises(lesson: str = "") -> list[Exercise]:
    """All exercises, or those of one lesson; within a lesson the easy ones come first."""
    found = []
    for path in sorted((ROOT / "exercises").glob(f"{lesson}*.toml")):
        found.append(Exercise(slug=path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda exercise: (exercise.lesson, exercise.difficulty, exercise.slug))
