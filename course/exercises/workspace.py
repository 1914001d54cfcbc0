"""The learner's workspace: the exercise that is begun, its edits, the hints seen, and what is mended."""

import difflib
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from course.errors import Failed
from course.exercises.format import Exercise, apply, exercises
from course.paths import ROOT

WORKSPACE = ROOT / "workspace"
STATE = WORKSPACE / "progress.json"


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
    if begun and all((WORKSPACE / file).exists() for file in exercise.files):
        mine = " ".join(str((WORKSPACE / file).relative_to(ROOT)) for file in exercise.files)
        tell(f"You have begun this exercise before; your edits are kept. To start over, first: rm {mine}")
    else:
        # Exercises that were begun in the same files give way.
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
    """The difference from the files of the exercise to those that solve it."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as begun, tempfile.TemporaryDirectory() as solved:
        exercise.put_into(Path(begun))
        exercise.put_into(Path(solved))
        apply(exercise.solution, Path(solved), exercise.slug)
        for name in exercise.files:
            right = Path(solved, name) if exercise.solution else ROOT / name
            before, after = (p.read_text(encoding="utf-8").splitlines() for p in (Path(begun, name), right))
            lines += difflib.unified_diff(before, after, f"begun/{name}", f"solved/{name}", lineterm="")
    return "\n".join(lines)


def workspace_of(exercise: Exercise) -> list[Path]:
    """The learner's files of an exercise; raises `Failed` when one is gone."""
    paths = [WORKSPACE / file for file in exercise.files]
    for path in paths:
        if not path.exists():
            raise Failed(f"{path.relative_to(ROOT)} is gone. Begin again with: make exercise-{exercise.slug}")
    return paths
