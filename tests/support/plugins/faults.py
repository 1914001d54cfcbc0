"""In CI, every test that an exercise names also runs on the broken copy, and has to fail there.

Such a test is collected a second time, with the copy as its `lesson_root`, and shares the session's model,
Redis and browser. It counts as passed when it fails with the sentence in the exercise.
"""

import os
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest

from course.exercises.format import Exercise, exercises
from course.pages.outputs import matches

# These start first, so that no worker is left alone with one of them at the end.
SLOWEST_FILES = [
    "test_course_pages.py",
    "test_06_compose.py",
    "test_10_agents.py",
    "test_10_launcher.py",
    "test_container.py",
    "test_05_images.py",
    "test_course_exercises.py",
    "test_10_generator.py",
    "test_03_graceful_shutdown.py",
    "test_02_production_api.py",
    "test_04_research.py",
]
# For exercises whose tests import the code under test: this test runs them in another process.
NESTED = "test_the_fault_is_caught_in_a_run_of_its_own"


@cache
def faults() -> dict[str, Exercise]:
    """The exercises with a fault, by slug; none outside CI, because the tests take minutes."""
    if not os.environ.get("CI") or "LESSON_ROOT" in os.environ:
        return {}
    return {exercise.slug: exercise for exercise in exercises() if exercise.changes}


@pytest.hookimpl(trylast=True)  # after the test's own parameters
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = f"{metafunc.definition.path.name}::{metafunc.definition.name}"
    named = [s for s, e in faults().items() if name in [test.partition("[")[0] for test in e.tests]]
    if named and "lesson_root" in metafunc.fixturenames:
        ids = [pytest.HIDDEN_PARAM, *named]
        metafunc.parametrize("lesson_root", [None, *named], ids=ids, indirect=True)


def fault_of(item: pytest.Item) -> Exercise | None:
    """The exercise on whose broken copy a test runs."""
    callspec = getattr(item, "callspec", None)
    return faults().get(callspec.params.get("lesson_root")) if callspec else None


def name_in_exercise(item: pytest.Item, exercise: Exercise) -> str | None:
    """The test as its exercise names it, with or without parameters; None when it does not name it."""
    assert isinstance(item, pytest.Function)
    parameters = item.callspec.id.removesuffix(exercise.slug).removesuffix("-")
    for name in (item.originalname, f"{item.originalname}[{parameters}]"):
        if (test := f"{item.path.name}::{name}") in exercise.tests:
            return test
    return None


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, and the broken copies last, grouped by exercise.

    Of a broken copy, keep only the tests that its exercise names.
    """
    covered: dict[str, set[str | None]] = {}
    for item in items:
        if exercise := fault_of(item):
            covered.setdefault(exercise.slug, set()).add(name_in_exercise(item, exercise))
    shared = {slug for slug, tests in covered.items() if tests - {None} == set(faults()[slug].tests)}

    def wanted(item: pytest.Item) -> bool:
        if exercise := fault_of(item):
            return exercise.slug in shared and name_in_exercise(item, exercise) is not None
        return not (item.name.startswith(NESTED) and item.name[len(NESTED) + 1 : -1] in shared)

    items[:] = [item for item in items if wanted(item)]
    items.sort(key=order)


def order(item: pytest.Item) -> tuple[int, str]:
    name, slug = item.path.name, getattr(fault_of(item), "slug", "")
    return (SLOWEST_FILES.index(name) if name in SLOWEST_FILES and not slug else len(SLOWEST_FILES), slug)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    exercise = fault_of(pyfuncitem)
    if exercise is None:
        return (yield)
    try:
        yield
    except (Exception, pytest.fail.Exception) as failure:  # noqa: BLE001  # compared below
        told = str(failure).partition("\n")[0]
    else:
        pytest.fail(f"It passes on the broken copy of {exercise.slug}.")
    expected = exercise.sentence(str(name_in_exercise(pyfuncitem, exercise)))
    assert matches(expected, told), f"It fails for another reason: {told!r}, not {expected!r}."
    return True


def broken_copy(slug: str, folder: Path) -> Path:
    """The folder, with the broken copy of an exercise in it."""
    faults()[slug].put_into(folder)
    return folder
