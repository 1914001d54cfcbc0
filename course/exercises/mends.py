"""The claims about exercises: a fault is caught, wrong mends are refused, right mends are accepted.

Each claim is tested on a copy of the lesson, by one pytest process that starts each server once, and several
claims are tested at a time. Right mends that change different lines share a copy: when all tests of the
lesson pass there, none of these mends broke one. When a test fails, each half of the mends is tested alone,
and so on.
"""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path

from course.containers.images import AGENTS
from course.errors import CourseError
from course.exercises.checks import Outcome, not_passed, run_tests, test_files
from course.exercises.format import CandidateFix, Change, Exercise, apply
from course.pages.outputs import matches

Claim = tuple[str, list[str]]  # the claim, and lines that say why it does not hold
Mended = tuple[Exercise, CandidateFix | None]  # an exercise with a fix, or with its fault


def prove(exercises: list[Exercise], jobs: int) -> Iterator[Claim]:
    """Test all claims about exercises, `jobs` at a time, and give each when it is known."""
    lessons = [list(of_lesson) for _, of_lesson in groupby(exercises, key=lambda exercise: exercise.lesson)]
    todo = [(place, test) for lesson in lessons[::-1] for place, test in enumerate(tests_of(lesson))]
    # All lessons at once, because some wait for the processors and others for containers.
    todo.sort(key=lambda each: each[0])
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(test) for _, test in todo]
        try:
            for done in as_completed(running):
                yield from done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def tests_of(lesson: list[Exercise]) -> list[Callable[[], list[Claim]]]:
    """Functions that test the claims about a lesson's exercises; the longest come first."""
    accepted_fixes = batches([(e, mend) for e in lesson for mend in right_mends(e)])
    return [
        *(partial(test_right_mends, batch) for batch in accepted_fixes),
        *(partial(test_fault, exercise) for exercise in lesson),
        *(partial(test_wrong_mend, e, mend) for e in lesson for mend in e.mends if not mend.right),
    ]


def right_mends(exercise: Exercise) -> list[CandidateFix]:
    """The fixes that must be accepted; the solution of an open exercise is one."""
    found = [mend for mend in exercise.mends if mend.right]
    if exercise.solution:
        found += [CandidateFix(about="the solution", right=True, changes=exercise.solution)]
    return found


def batches(mends: list[Mended]) -> list[list[Mended]]:
    """Groups of fixes that fit into one copy of the lesson."""
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


def test_fault(exercise: Exercise) -> list[Claim]:
    """The exercise's own tests and those in `also` fail, and no other test of the lesson does.

    Without the feature of an open exercise, only its own tests have to be run.
    """
    with copy([(exercise, None)]) as root:
        if exercise.solution:
            claim = f"{exercise.slug}: without the feature its tests fail, each with its sentence"
            return [(claim, own_tests_fail(exercise, root))]
        outcomes = run_lesson(root, [(exercise, None)])
    wrong = []
    for each in outcomes:
        if any(names(test, each.test) for test in exercise.tests):
            wrong += problems_of(exercise, each)
        else:
            expected = any(names(test, each.test) for test in exercise.also)
            wrong += [] if each.result == ("failed" if expected else "passed") else [line(each)]
    listed = [*exercise.tests, *exercise.also]
    missing = [test for test in listed if not any(names(test, each.test) for each in outcomes)]
    claim = f"{exercise.slug}: exactly the listed tests fail, each with its sentence"
    return [(claim, wrong + [f"there is no {test}" for test in missing])]


def test_right_mends(batch: list[Mended]) -> list[Claim]:
    """With right fixes, all tests of the lesson pass."""
    with copy(batch) as root:
        problems = [line(each) for each in not_passed(run_lesson(root, batch))]
    if problems and len(batch) > 1:
        half = len(batch) // 2
        return test_right_mends(batch[:half]) + test_right_mends(batch[half:])
    return [(f"{exercise.slug}: accepted: {mend.about}", problems) for exercise, mend in batch if mend]


def test_wrong_mend(exercise: Exercise, mend: CandidateFix) -> list[Claim]:
    """With a wrong fix a test fails with the sentence in `says`; the exercise's own tests are tried first."""
    with copy([(exercise, mend)]) as root:
        told = not_passed(run_tests(root, exercise.tests))
        if not told:
            told = not_passed(run_lesson(root, [(exercise, mend)]))
    refused = any(each.result == "failed" and matches(mend.says, each.sentence) for each in told)
    problems = [] if refused else [line(each) for each in told] or ["no test refuses it"]
    return [(f"{exercise.slug}: refused: {mend.about}", problems)]


def run_lesson(root: Path, mended: list[Mended]) -> list[Outcome]:
    """Run the tests of a lesson that the changes can affect, and the own tests of open exercises."""
    files = test_files(mended[0][0].lesson)
    own = [test for exercise, _ in mended if exercise.solution for test in exercise.tests]
    changes = [change for e, mend in mended for change in [*e.changes, *(mend.changes if mend else ())]]
    return run_tests(root, [*files, *own], ("-m", "not of_the_course", *other_images(changes)))


def other_images(changes: list[Change]) -> list[str]:
    """Options that leave out the tests of images which the changes cannot affect.

    An image is built from its own Dockerfile and files that all images share. When nothing but Dockerfiles
    changes, the images of the other Dockerfiles stay the same, byte for byte.
    """
    changed = {change.file for change in changes}
    images = {f"{image.folder}/{image.file}": image.tag.partition(":")[2] for image in AGENTS}
    if changed - set(images):
        return []
    return ["-k", " and ".join(f"not {tag}" for file, tag in images.items() if file not in changed)]


def own_tests_fail(exercise: Exercise, root: Path) -> list[str]:
    """The exercise's own tests fail, each with the sentence of the exercise."""
    return [line for each in run_tests(root, exercise.tests) for line in problems_of(exercise, each)]


def problems_of(exercise: Exercise, outcome: Outcome) -> list[str]:
    """Lines that say what is wrong with the outcome of one of the exercise's own tests, which must fail."""
    if outcome.result != "failed":
        return [line(outcome)]
    test = next(test for test in exercise.tests if names(test, outcome.test))
    if not matches(exercise.sentence(test), outcome.sentence):
        return [f"{outcome.test} says {outcome.sentence!r}, not {exercise.sentence(test)!r}"]
    return []


def names(test: str, outcome: str) -> bool:
    """Whether `file.py::test_x` or `file.py::test_x[a]` names the test of an outcome, such as test_x[a]."""
    name = test.partition("::")[2]
    return outcome == name or outcome.partition("[")[0] == name


def line(outcome: Outcome) -> str:
    return f"{outcome.test} {outcome.result}: {outcome.sentence}"
