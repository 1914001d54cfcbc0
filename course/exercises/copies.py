"""Copies of a lesson with faults and mends in them, and the runs of its tests on such a copy."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course.containers.images import AGENTS
from course.errors import CourseError
from course.exercises.checks import Outcome, lesson_test_files, run_tests
from course.exercises.format import CandidateFix, Change, Exercise, apply

Mended = tuple[Exercise, CandidateFix | None]  # an exercise with a fix, or with its fault


@contextmanager
def copy(mended: list[Mended]) -> Iterator[Path]:
    """A copy of the lesson in which exercises are broken and mended, removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for exercise, _ in mended:
            exercise.copy_into(root)
        for exercise, mend in mended:
            apply(exercise.changes, root, exercise.slug)
            apply(mend.changes if mend else [], root, f"{exercise.slug}, {mend and mend.about}")
        yield root


def batches(mends: list[Mended]) -> list[list[Mended]]:
    """Groups of faults or fixes that fit into one copy of the lesson."""
    found: list[list[Mended]] = []
    for mend in mends:
        for batch in found:
            try:
                with copy([*batch, mend]):
                    batch.append(mend)
                    break
            except CourseError:  # both change the same lines
                continue
        else:
            found.append([mend])
    return found


def run_lesson(
    mended: list[Mended], tests: list[str] | None = None, options: tuple[str, ...] = ()
) -> list[Outcome]:
    """Run the tests of the lesson on a copy, and those of the open exercises solved there.

    When `tests` are given, only these of them run.
    """
    solved = [
        file for exercise, mend in mended if exercise.solution and mend for file in exercise.acceptance_tests
    ]
    files = [*lesson_test_files(mended[0][0].lesson), *solved]
    chosen = [test for test in tests or files if test.partition("::")[0] in files]
    if not chosen:
        return []
    changes = [change for e, mend in mended for change in [*e.changes, *(mend.changes if mend else ())]]
    options += ("-m", "not of_the_course", *other_images(changes))
    with copy(mended) as root:
        return run_tests(root, chosen, options)


def other_images(changes: list[Change]) -> tuple[str, ...]:
    """Options that leave out the tests of images which the changes cannot affect.

    An image is built from its own Dockerfile and files that all images share. When nothing but Dockerfiles
    changes, the images of the other Dockerfiles stay the same, byte for byte.
    """
    changed = {change.file for change in changes}
    images = {f"{image.folder}/{image.file}": image.tag.partition(":")[2] for image in AGENTS}
    if changed - set(images):
        return ()
    return ("-k", " and ".join(f"not {tag}" for file, tag in images.items() if file not in changed))
