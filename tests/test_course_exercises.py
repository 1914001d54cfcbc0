"""Exercises cut both ways: each fault is caught by exactly the tests it names, and by their own sentence.

That the untouched lesson passes them is what the rest of `make test` shows.
"""

from pathlib import Path

import pytest

from course.exercises import Exercise, exercises, run_tests


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.slug)
def test_the_fault_is_caught_by_the_tests_it_names(exercise: Exercise, tmp_path: Path) -> None:
    exercise.put_into(tmp_path)
    outcomes = run_tests(tmp_path, *exercise.tests)
    assert len(outcomes) >= len(exercise.tests)
    for outcome in outcomes:
        assert outcome.failed, f"{outcome.test} passes on the broken lesson"
        assert outcome.sentence.endswith("."), (
            f"{outcome.test} does not say what is wrong: {outcome.sentence!r}"
        )
