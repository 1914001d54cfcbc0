"""The logic of lesson 10's agents, without engines and without a model."""

import json
import subprocess
import sys
import traceback
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.services import FOLDER, load

from course.paths import ROOT

# --- Debug: tracebacks by their structure ---


@pytest.fixture(scope="module")
def tracebacks(lesson_root: Path) -> ModuleType:
    return load(lesson_root, "debugger/tracebacks")


@pytest.fixture(scope="module")
def hints(lesson_root: Path) -> ModuleType:
    return load(lesson_root, "debugger/hints")


def traceback_of(code: str, tmp_path: Path) -> str:
    """What Python prints when this program fails."""
    program = tmp_path / "program.py"
    program.write_text(code)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode
    return done.stderr


def test_the_direct_cause_is_the_root(tracebacks: ModuleType, tmp_path: Path) -> None:
    text = traceback_of(
        "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('no a') from e\n", tmp_path
    )
    raised = tracebacks.parse(text)
    assert (raised.type, raised.message, raised.relation) == ("ValueError", "no a", "cause")
    assert raised.root_cause.type == "KeyError", "The root cause of a chain is its first exception."
    assert raised.root_cause.place.line == 2


def test_an_exception_while_another_is_handled_is_not_the_root(
    tracebacks: ModuleType, tmp_path: Path
) -> None:
    text = traceback_of("try:\n    1 / 0\nexcept ZeroDivisionError:\n    missing\n", tmp_path)
    raised = tracebacks.parse(text)
    assert (raised.type, raised.relation) == ("NameError", "context")
    assert raised.root_cause.type == "ZeroDivisionError"


def test_a_syntax_error_has_a_place_without_a_function(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("x = 1\nif x\n    pass\n", tmp_path))
    assert (raised.type, raised.place.line, raised.place.function) == ("SyntaxError", 2, None)
    assert raised.place.code == "if x"


def test_recursion_says_how_often_the_line_was_reached(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("def f(n):\n    return f(n)\nf(1)\n", tmp_path))
    assert (raised.type, raised.place.line) == ("RecursionError", 2)
    assert raised.repeated > 900


def test_a_group_has_members_at_each_depth(tracebacks: ModuleType, tmp_path: Path) -> None:
    code = """
def part(error):
    try:
        raise error
    except Exception as e:
        return e
inner = ExceptionGroup("inner", [part(KeyError("deep")), part(OSError("disk"))])
raise ExceptionGroup("outer", [part(ValueError("first")), inner]) from TypeError("before")
"""
    raised = tracebacks.parse(traceback_of(code, tmp_path))
    assert raised.type == "ExceptionGroup"
    assert [member.type for member in raised.members] == ["ValueError", "ExceptionGroup"]
    assert [member.type for member in raised.members[1].members] == ["KeyError", "OSError"]
    assert raised.root_cause.type == "TypeError", "The direct cause of a group comes before its members."


def test_the_place_is_in_the_learners_code(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("import json\njson.loads('{')\n", tmp_path))
    assert raised.type == "JSONDecodeError"
    assert raised.place.file.endswith("program.py"), "The place is in the library, not in the learner's code."


def test_a_message_may_have_several_lines(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("raise ValueError('one\\ntwo: 2\\n  three')\n", tmp_path))
    assert raised.message.startswith("one\ntwo: 2")


@pytest.mark.parametrize("text", ["", "hello", "Error: something", 'File "a.py", line 1'])
def test_a_text_without_a_traceback_has_no_exception(tracebacks: ModuleType, text: str) -> None:
    raised = tracebacks.parse(text)
    assert raised is None or raised.type == "Error"


PIECES = [
    "Traceback (most recent call last):",
    '  File "a.py", line 3, in f',
    "    x = 1",
    "ValueError: x",
    "  + Exception Group Traceback (most recent call last):",
    "  | ExceptionGroup: g (1 sub-exception)",
    "  +-+---------------- 1 ----------------",
    "    | KeyError: 1",
    "    +------------------------------------",
    "The above exception was the direct cause of the following exception:",
    "",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=30), max_size=40))
def test_no_text_breaks_the_parser(lines: list[str]) -> None:
    raised = load(ROOT, "debugger/tracebacks").parse("\n".join(lines))
    assert raised is None or raised.root_cause.type


def test_hints_have_no_code_at_any_level(hints: ModuleType, tracebacks: ModuleType) -> None:
    types = {*hints.HINTS, "StopIteration"}
    for name in types:
        raised = tracebacks.parse(
            f'Traceback (most recent call last):\n  File "a.py", line 3, in f\n{name}: x'
        )
        for level in (1, 2, 3):
            text = hints.hint(raised, level)
            assert text and not hints.gives_away(text), f"The hint gives code away: {text}"
        assert "line 3 of a.py in f" in hints.hint(raised, 1)


@pytest.mark.parametrize(
    "text",
    [
        "Write x = int(x) before the loop.",
        "```python\nprint(1)\n```",
        "Use `total += price` here.",
        "Call int(price) on it.",
        "for i in range(3):\n    print(i)",
    ],
)
def test_a_hint_with_code_is_noticed(hints: ModuleType, text: str) -> None:
    assert hints.gives_away(text), f"This hint has code that a learner can copy: {text}"


# --- Triage ---


@pytest.mark.parametrize(
    ("query", "label"),
    [
        ("How do while loops work?", "concept"),
        ("What is the difference between a list and a tuple?", "concept"),
        ("My function crashes with a key error", "debug"),
        ("Why do I get a type error here?", "debug"),
        ('Traceback (most recent call last):\n  File "a.py", line 1', "debug"),
        ("Give me a harder exercise about dictionaries", "exercise"),
        ("I want to practice recursion", "exercise"),
    ],
)
def test_a_query_goes_to_the_agent_that_can_answer_it(lesson_root: Path, query: str, label: str) -> None:
    found, confidence = load(lesson_root, "router/classify").classify(query)
    assert found == label and confidence > 0.6, f"{query!r} goes to {found} with {confidence:.2f}"


@pytest.mark.parametrize("query", ["", "zzz qqq", "42", "x" * 100_000])
def test_a_query_without_known_words_has_no_confidence(lesson_root: Path, query: str) -> None:
    assert load(lesson_root, "router/classify").classify(query)[1] == pytest.approx(1 / 3)


# --- Progress ---


@pytest.fixture(scope="module")
def mastery(lesson_root: Path) -> ModuleType:
    return load(lesson_root, "tracker/mastery")


def test_knowledge_tracing_follows_the_paper(mastery: ModuleType) -> None:
    """One step by hand: P(L|right) = .2*.9 / (.2*.9 + .8*.2) = .5294; then .5294 + .4706*.15 = .6."""
    assert mastery.trace(0.2, 1.0) == pytest.approx(0.6, abs=1e-4)
    assert mastery.trace(0.2, 0.0) == pytest.approx(0.1758, abs=1e-4)


@given(st.floats(0.001, 0.999), st.floats(0, 1), st.floats(0, 1))
def test_a_better_score_never_means_less_mastery(known: float, one: float, other: float) -> None:
    trace = load(ROOT, "tracker/mastery").trace
    low, high = sorted((one, other))
    assert 0 <= trace(known, low) <= trace(known, high) + 1e-12 <= 1 + 1e-12


def test_a_streak_counts_days_in_a_row_and_ignores_a_clock_that_goes_back(mastery: ModuleType) -> None:
    progress = mastery.Progress()
    days = [1, 1, 2, 3, 2, 3, 5]
    streaks = []
    for day in days:
        mastery.attempt(progress, "loops", 1.0, date(2026, 3, day))
        streaks.append(progress.streak)
    assert streaks == [1, 1, 2, 3, 3, 3, 1]


def test_the_day_is_the_learners(mastery: ModuleType) -> None:
    late = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    assert mastery.day_of(late, "Asia/Tokyo") == date(2026, 3, 2)
    assert mastery.day_of(late, "America/New_York") == date(2026, 3, 1)
    for bad in ("Mars/Olympus", "../../etc/passwd", "/etc"):
        with pytest.raises(ValueError, match="no timezone"):
            mastery.day_of(late, bad)


def test_each_third_failure_in_a_row_raises_an_alert(mastery: ModuleType) -> None:
    progress = mastery.Progress()
    scores = [0, 0, 0.4, 0, 0, 0, 1, 0]
    alerts = [mastery.attempt(progress, "loops", score, date(2026, 3, 1)) for score in scores]
    assert alerts == [False, False, True, False, False, True, False, False]


def test_a_learner_cannot_have_endless_topics(mastery: ModuleType) -> None:
    progress = mastery.Progress()
    for number in range(mastery.MAX_TOPICS):
        mastery.attempt(progress, f"topic {number}", 1.0, date(2026, 3, 1))
    with pytest.raises(mastery.TooManyTopics):
        mastery.attempt(progress, "one more", 1.0, date(2026, 3, 1))


# --- Exercises ---


@pytest.fixture(scope="module")
def grading(lesson_root: Path) -> ModuleType:
    return load(lesson_root, "generator/grading")


def bank(grading: ModuleType, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = grading.read_bank(root / FOLDER / "templates/generator/bank.toml")
    return found


def test_no_hint_gives_the_solution_away(grading: ModuleType, lesson_root: Path) -> None:
    for exercise in bank(grading, lesson_root).values():
        assert len(exercise.hints) == 3, f"{exercise.id} has {len(exercise.hints)} hints, not three."
        for hint in exercise.hints:
            assert not grading.gives_away(hint, exercise.solution), (
                f"A learner can copy a part of the solution of {exercise.id} from its hint: {hint}"
            )


def test_each_solution_of_the_bank_passes_its_cases(grading: ModuleType, lesson_root: Path) -> None:
    for exercise in bank(grading, lesson_root).values():
        names: dict[str, Any] = {}
        exec(exercise.solution, names)  # noqa: S102  # ours
        values = [names[exercise.function](*arguments) for arguments, _ in exercise.cases]
        printed = "\n".join(json.dumps({"value": value}) for value in values)
        graded = grading.grade(exercise, printed, "")
        assert graded.score == 1, f"{exercise.id}: {graded.faults}"


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"value": "6"}', '{"value": true}', "[" * 5_000])
def test_a_line_that_is_no_right_result_counts_nothing(
    grading: ModuleType, lesson_root: Path, line: str
) -> None:
    exercise = bank(grading, lesson_root)["loops-total"]
    graded = grading.grade(exercise, "\n".join([line, '{"value": 0}']), "")
    assert (graded.passed, graded.score) == (1, 0.25), graded.faults


def test_the_expected_results_do_not_enter_the_sandbox(grading: ModuleType, lesson_root: Path) -> None:
    exercise = bank(grading, lesson_root)["functions-compose"]
    given_to_it = json.loads(grading.sandbox_input(exercise, "code"))
    assert "12" not in json.dumps(given_to_it["cases"]), "A submission can read what is expected of it."
    assert "lambda" not in json.dumps(given_to_it)


def test_the_parser_reads_what_this_python_writes(tracebacks: ModuleType) -> None:
    try:
        raise ExceptionGroup("g", [ValueError("a"), TypeError("b")])
    except ExceptionGroup as group:
        raised = tracebacks.parse("".join(traceback.format_exception(group)))
    assert [member.type for member in raised.members] == ["ValueError", "TypeError"]
