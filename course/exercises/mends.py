"""The claims about exercises: a fault is caught, wrong mends are refused, right mends are accepted.

Each claim is tested on a copy of the lesson, by one pytest process that starts each server once, and several
claims are tested at a time. Faults or right mends that change different lines share a copy: tests that pass
there are broken by none of them. A test that fails runs again on each half of them alone, and so on.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from itertools import groupby
from pathlib import Path

from course.errors import CourseError
from course.exercises.checks import Outcome, not_passed, run_tests
from course.exercises.copies import Mended, batches, copy, other_images, run_lesson
from course.exercises.format import CandidateFix, Exercise, exercises
from course.pages.outputs import matches

Claim = tuple[str, list[str]]  # the claim, and lines that say why it does not hold


def prove(chosen: list[Exercise], jobs: int) -> Iterator[Claim]:
    """Test all claims about exercises, `jobs` at a time, and give each when it is known."""
    todo = []
    for number, lesson in groupby(chosen, key=lambda exercise: exercise.lesson):
        todo += [(place, number, claim) for place, claim in enumerate(claims_of(list(lesson)))]
    # Lessons 06 and 11 start a whole project for each copy: one at a time, beside the others.
    with ThreadPoolExecutor(jobs) as pool, ThreadPoolExecutor(1) as compose:
        running = [
            (compose if number in ("06", "11") else pool).submit(claim)
            for _, number, claim in sorted(todo, key=lambda each: each[0])
        ]
        try:
            for done in as_completed(running):
                try:
                    yield from done.result()
                except CourseError as failure:  # the other claims are tested all the same
                    yield "the tests run on each copy", str(failure).splitlines()
        finally:
            for each in running:
                each.cancel()


def claims_of(lesson: list[Exercise]) -> list[Callable[[], list[Claim]]]:
    """Functions that test the claims about a lesson's exercises; the longest come first."""
    right = batches([(exercise, mend) for exercise in lesson for mend in right_mends(exercise)])
    faults = batches([(exercise, None) for exercise in lesson if exercise.changes])
    return [
        *(partial(right_mends_are_accepted, batch) for batch in right),
        *(partial(unlisted_tests_pass, batch) for batch in faults),
        *(partial(listed_tests_fail, exercise) for exercise in lesson),
        *(partial(wrong_mend_is_refused, e, mend) for e in lesson for mend in e.mends if not mend.right),
    ]


def right_mends(exercise: Exercise) -> list[CandidateFix]:
    """The fixes that must be accepted; the solution of an open exercise is one."""
    found = [mend for mend in exercise.mends if mend.right]
    if exercise.solution:
        found += [CandidateFix(about="the solution", right=True, changes=exercise.solution)]
    return found


def listed_tests_fail(exercise: Exercise) -> list[Claim]:
    """Of all tests that exercises of the lesson name, those of this one fail, and the others pass.

    Of an open exercise, whose tests are about that exercise alone, only those run.
    """
    tests = exercise.tests if exercise.solution else named_tests(exercise.lesson)
    with copy([(exercise, None)]) as root:
        outcomes = run_tests(root, tests, other_images(exercise.changes))
    problems = [
        f"there is no {test}"
        for test in (*exercise.tests, *exercise.also, *exercise.perhaps)
        if not any(names(test, each.test) for each in outcomes)
    ]
    for each in outcomes:
        if any(names(test, each.test) for test in exercise.tests):
            problems += problems_of(exercise, each)
        elif not any(names(test, each.test) for test in exercise.perhaps):
            expected = any(names(test, each.test) for test in exercise.also)
            problems += [] if each.result == ("failed" if expected else "passed") else [line(each)]
    return [(f"{exercise.slug}: its tests fail, each with its sentence", problems)]


def named_tests(lesson: str) -> list[str]:
    """All tests of a lesson of which an exercise says that they fail, or may fail."""
    faults = [exercise for exercise in exercises(lesson) if exercise.changes]
    return sorted({test for each in faults for test in (*each.tests, *each.also, *each.perhaps)})


def unlisted_tests_pass(batch: list[Mended]) -> list[Claim]:
    """With a fault, the tests of the lesson pass that no exercise names."""
    named = tuple(f"--deselect=tests/{test}" for test in named_tests(batch[0][0].lesson))
    found = by_halves(lambda part, tests: not_passed(run_lesson(part, tests, named)), batch, [])
    return [
        (f"{exercise.slug}: no other test fails", list(map(line, failed))) for (exercise, _), failed in found
    ]


def right_mends_are_accepted(batch: list[Mended]) -> list[Claim]:
    """With a right fix, all tests of the lesson pass."""
    found = by_halves(lambda part, tests: not_passed(run_lesson(part, tests)), batch, [])
    return [
        (f"{exercise.slug}: accepted: {mend.about}", list(map(line, failed)))
        for (exercise, mend), failed in found
        if mend
    ]


def by_halves(
    test: Callable[[list[Mended], list[str]], list[Outcome]], batch: list[Mended], tests: list[str]
) -> list[tuple[Mended, list[Outcome]]]:
    """Test a batch together, and what failed again on each half alone; the failed tests of each member.

    On a batch of one it runs again as well, because a test may fail beside many others that load the machine.
    """
    failed = test(batch, tests)
    if not failed or (tests and len(batch) == 1):
        return [(each, failed) for each in batch]
    half, again = len(batch) // 2, [f"{each.file}::{each.test}" for each in failed]
    parts = [part for part in (batch[:half], batch[half:]) if part]
    return [found for part in parts for found in by_halves(test, part, again)]


def wrong_mend_is_refused(exercise: Exercise, mend: CandidateFix) -> list[Claim]:
    """With a wrong fix, the test that it names, or one of the exercise's own, fails with its sentence.

    When none of these fails, all tests of the lesson run.
    """
    tests = [mend.test] if mend.test else exercise.acceptance_tests
    with copy([(exercise, mend)]) as root:
        told = not_passed(run_tests(root, tests)) or not_passed(run_lesson([(exercise, mend)]))
    refused = any(each.result == "failed" and matches(mend.says, each.sentence) for each in told)
    problems = [] if refused else list(map(line, told)) or ["no test refuses it"]
    return [(f"{exercise.slug}: refused: {mend.about}", problems)]


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
