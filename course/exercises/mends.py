"""The tests of an exercise: its fault is caught, wrong fixes are refused, right ones are accepted.

Each claim runs the lesson's tests on a copy of the lesson, and gives a list of lines that say what is wrong.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from course.exercises.checks import PARALLEL, Outcome, other_tests, run_tests
from course.exercises.format import CandidateFix, Exercise, apply
from course.pages.outputs import matches

Claim = tuple[str, list[str]]


def prove(exercise: Exercise) -> Iterator[Claim]:
    """Each claim about the exercise, with the lines that say why it does not hold."""
    if exercise.solution:
        yield "without the feature its tests fail, each with its sentence", on_copy(exercise, own_tests_fail)
        yield "the solution passes all tests of the lesson", on_copy(exercise, solution_passes)
    else:
        yield "exactly the listed tests fail, each with its sentence", on_copy(exercise, listed_tests_fail)
    for mend in exercise.mends:
        verdict = "accepted" if mend.right else "refused"
        yield f"{verdict}: {mend.about}", on_copy(exercise, partial(mend_holds, mend))


def on_copy(exercise: Exercise, claim: Callable[[Exercise, Path], list[str]]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        exercise.put_into(Path(folder))
        return claim(exercise, Path(folder))


def own_tests_fail(exercise: Exercise, root: Path) -> list[str]:
    """The exercise's own tests fail, each with the sentence of the exercise."""
    return [line for each in run_tests(root, exercise.tests) for line in problems_of(exercise, each)]


def problems_of(exercise: Exercise, outcome: Outcome) -> list[str]:
    """Lines that say what is wrong with the outcome of one of the exercise's own tests, which must fail."""
    if outcome.result != "failed":
        return [f"{outcome.test} {outcome.result} {outcome.sentence}"]
    test = next(test for test in exercise.tests if names(test, outcome.test))
    if not matches(exercise.sentence(test), outcome.sentence):
        return [f"{outcome.test} says {outcome.sentence!r}, not {exercise.sentence(test)!r}"]
    return []


def names(test: str, outcome: str) -> bool:
    """Whether `file.py::test_x` or `file.py::test_x[a]` names the test of an outcome, such as test_x[a]."""
    name = test.partition("::")[2]
    return outcome == name or outcome.partition("[")[0] == name


def listed_tests_fail(exercise: Exercise, root: Path) -> list[str]:
    """The exercise's own tests and those in `also` fail, and no other test of the lesson does."""
    wrong = own_tests_fail(exercise, root)
    tests, options = other_tests(exercise)
    others = run_tests(root, tests, options)
    for each in others:
        listed = any(names(test, each.test) for test in exercise.also)
        if each.result == "skipped" or (each.result == "failed") is not listed:
            wrong.append(f"{each.test} {each.result} {each.sentence}")
    missing = [test for test in exercise.also if not any(names(test, each.test) for each in others)]
    return wrong + [f"there is no {test}" for test in missing]


def solution_passes(exercise: Exercise, root: Path) -> list[str]:
    apply(exercise.solution, root, exercise.slug)
    return accepted(exercise, root)


def mend_holds(mend: CandidateFix, exercise: Exercise, root: Path) -> list[str]:
    """A right fix passes all tests; a wrong fix fails one of them with the sentence in `says`."""
    apply(mend.changes, root, f"{exercise.slug}, {mend.about}")
    if mend.right:
        return accepted(exercise, root)
    told = failures(run_tests(root, exercise.tests))
    if not told:
        told = failures(run_tests(root, *other_tests(exercise)))
    if any(matches(mend.says, each.sentence) for each in told):
        return []
    return [f"{each.test} says {each.sentence!r}" for each in told] or ["no test refuses it"]


def accepted(exercise: Exercise, root: Path) -> list[str]:
    tests, options = other_tests(exercise)
    outcomes = run_tests(root, exercise.tests, PARALLEL) + run_tests(root, tests, options)
    return [f"{e.test} {e.result} {e.sentence}" for e in outcomes if e.result != "passed"]


def failures(outcomes: list[Outcome]) -> list[Outcome]:
    return [each for each in outcomes if each.result == "failed"]
