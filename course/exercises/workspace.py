"""The learner's workspace: files to edit, and a record of exercises begun and solved and of hints seen."""

import difflib
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from course.errors import CourseError
from course.exercises.format import Exercise, apply, exercises
from course.paths import ROOT

WORKSPACE = ROOT / "workspace"
STATE = WORKSPACE / "progress.json"


class Progress(BaseModel):
    """Exercises solved, the current exercise of each lesson, and the number of hints seen for each."""

    solved: list[str] = []
    current: dict[str, str] = {}
    hints: dict[str, int] = {}

    @classmethod
    def load(cls) -> "Progress":
        try:
            return cls.model_validate_json(STATE.read_bytes()) if STATE.exists() else cls()
        except ValidationError:
            raise CourseError(
                f"{STATE.relative_to(ROOT)}, which records your progress, is damaged. "
                "Delete it to start over."
            ) from None

    def save(self) -> None:
        WORKSPACE.mkdir(exist_ok=True)
        new = STATE.with_suffix(".new")  # renamed into place, so that a crash leaves no half a file
        new.write_text(self.model_dump_json(indent=2) + "\n")
        new.replace(STATE)


def move_changes_away(exercise: Exercise, tell: Callable[[str], None]) -> None:
    """Move the files that a learner has changed to `earlier/`, before another exercise overwrites them."""
    with tempfile.TemporaryDirectory() as folder:
        for broken in exercise.put_into(Path(folder)):
            name = broken.relative_to(folder)
            mine, kept = WORKSPACE / name, WORKSPACE / "earlier" / exercise.slug / name
            if mine.exists() and mine.read_bytes() != broken.read_bytes():
                kept.parent.mkdir(parents=True, exist_ok=True)
                mine.replace(kept)
                tell(f"Your changes for {exercise.slug} were moved to {kept.relative_to(ROOT)}.")


def choose(name: str, tell: Callable[[str], None] = lambda _: None) -> Exercise:
    """Put into the workspace the exercise of that name, or the first unsolved one of the lesson."""
    progress = Progress.load()
    of_lesson = exercises(name) if name.isdigit() else []
    named = [e for e in exercises() if name in (e.slug, e.slug[3:])]
    unsolved = [e for e in of_lesson if e.slug not in progress.solved]
    if not (of_lesson or named):
        raise CourseError(f"There is no exercise {name}. `make progress` lists them.")
    if not (unsolved or named):
        raise CourseError(f"You have solved every exercise of lesson {name}. Repeat one by its name.")
    exercise = (named or unsolved)[0]
    begun = progress.current.get(exercise.lesson) == exercise.slug and exercise.slug not in progress.solved
    if begun and all((WORKSPACE / file).exists() for file in exercise.files):
        mine = " ".join(str((WORKSPACE / file).relative_to(ROOT)) for file in exercise.files)
        tell(f"You have begun this exercise before; your edits are kept. To start over, first: rm {mine}")
    else:
        # Put aside the exercises that use the same files.
        begun_before = {each.slug: each for each in exercises() if each.slug in progress.current.values()}
        for lesson, slug in list(progress.current.items()):
            if slug not in begun_before or begun_before[slug].programs & exercise.programs:
                del progress.current[lesson]
                if slug in begun_before and slug not in progress.solved:
                    move_changes_away(begun_before[slug], tell)
        exercise.put_into(WORKSPACE)
    progress.current[exercise.lesson] = exercise.slug
    progress.save()
    return exercise


def current(name: str) -> Exercise:
    """The exercise begun last in a lesson. If an exercise is named, it must be that one."""
    of_lesson = exercises(name) if name.isdigit() else []
    named = [e for e in exercises() if name in (e.slug, e.slug[3:])]
    if not (of_lesson or named):
        raise CourseError(f"There are no exercises for {name}. `make progress` lists all there are.")
    slug = Progress.load().current.get((named or of_lesson)[0].lesson)
    begun = [e for e in named or of_lesson if e.slug == slug]
    if not begun:
        raise CourseError(f"No exercise of {name} is begun. Begin with: make exercise-{name}")
    return begun[0]


def next_hint(exercise: Exercise) -> tuple[int, str]:
    """The number and text of the next hint; the last one again when all have been seen."""
    progress = Progress.load()
    number = min(progress.hints.get(exercise.slug, 0) + 1, len(exercise.hints))
    progress.hints[exercise.slug] = number
    progress.save()
    return number, exercise.hints[number - 1]


def solution(exercise: Exercise) -> str:
    """The difference between the files of the exercise and those of its solution."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as begun, tempfile.TemporaryDirectory() as solved:
        exercise.put_into(Path(begun))
        exercise.put_into(Path(solved))
        apply(exercise.solution, Path(solved), exercise.slug)
        for name in exercise.files:
            right = Path(solved, name) if exercise.solution else ROOT / name
            before, after = (p.read_text(encoding="utf-8").splitlines() for p in (Path(begun, name), right))
            lines += difflib.unified_diff(before, after, f"begun/{name}", f"solved/{name}", lineterm="")
        for change in exercise.solution:
            if not change.old:
                new = Path(solved, change.file).read_text(encoding="utf-8").splitlines()
                lines += difflib.unified_diff([], new, "/dev/null", f"solved/{change.file}", lineterm="")
    return "\n".join(lines)


def workspace_of(exercise: Exercise) -> list[Path]:
    """The learner's files of an exercise. Raises `CourseError` when one is missing."""
    paths = [WORKSPACE / file for file in exercise.files]
    for path in paths:
        if not path.exists():
            raise CourseError(
                f"{path.relative_to(ROOT)} is gone. Begin again with: make exercise-{exercise.slug}"
            )
    return paths
