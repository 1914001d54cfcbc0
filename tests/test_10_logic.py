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
    assert done.returncode, "The test's program did not fail."
    return done.stderr


def test_the_direct_cause_is_the_root(tracebacks: ModuleType, tmp_path: Path) -> None:
    text = traceback_of(
        "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('no a') from e\n", tmp_path
    )
    raised = tracebacks.parse(text)
    found = (raised.type, raised.message, raised.relation)
    assert found == ("ValueError", "no a", "cause"), (
        f"The parser reads {found}, not a ValueError 'no a' with a direct cause."
    )
    assert raised.root_cause.type == "KeyError", "The root cause of a chain is its first exception."
    line = raised.root_cause.place.line
    assert line == 2, f"The parser says that the KeyError was raised in line {line}, not in line 2."


def test_an_exception_while_another_is_handled_is_not_the_root(
    tracebacks: ModuleType, tmp_path: Path
) -> None:
    text = traceback_of("try:\n    1 / 0\nexcept ZeroDivisionError:\n    missing\n", tmp_path)
    raised = tracebacks.parse(text)
    assert (raised.type, raised.relation) == ("NameError", "context"), (
        f"The parser reads a {raised.type} with the relation {raised.relation!r}, "
        "not a NameError with the relation 'context'."
    )
    assert raised.root_cause.type == "ZeroDivisionError", (
        f"The root cause is a {raised.root_cause.type}, not the ZeroDivisionError that came first."
    )


def test_a_syntax_error_has_a_place_without_a_function(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("x = 1\nif x\n    pass\n", tmp_path))
    found = (raised.type, raised.place.line, raised.place.function)
    assert found == ("SyntaxError", 2, None), (
        f"The parser reads {found}, not a SyntaxError in line 2 and in no function."
    )
    code = raised.place.code
    assert code == "if x", f"The parser reads the line with the error as {code!r}, not as 'if x'."


def test_recursion_says_how_often_the_line_was_reached(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("def f(n):\n    return f(n)\nf(1)\n", tmp_path))
    line = raised.place.line
    assert (raised.type, line) == ("RecursionError", 2), (
        f"The parser reads a {raised.type} in line {line}, not a RecursionError in line 2."
    )
    assert raised.repeated > 900, f"The parser counts {raised.repeated} repeated calls, not more than 900."


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
    assert raised.type == "ExceptionGroup", f"The parser reads a {raised.type}, not an ExceptionGroup."
    members = [member.type for member in raised.members]
    assert members == ["ValueError", "ExceptionGroup"], (
        f"The parser reads the outer group's members as {members}, not as a ValueError, then a group."
    )
    members = [member.type for member in raised.members[1].members]
    assert members == ["KeyError", "OSError"], (
        f"The parser reads the inner group's members as {members}, not as a KeyError, then an OSError."
    )
    assert raised.root_cause.type == "TypeError", "The direct cause of a group comes before its members."


def test_the_place_is_in_the_learners_code(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("import json\njson.loads('{')\n", tmp_path))
    assert raised.type == "JSONDecodeError", f"The parser reads a {raised.type}, not a JSONDecodeError."
    assert raised.place.file.endswith("program.py"), "The place is in the library, not in the learner's code."


def test_an_exception_of_a_functions_own_class_is_read(tracebacks: ModuleType, tmp_path: Path) -> None:
    code = "def f():\n    class Odd(Exception): pass\n    raise Odd('no')\nf()\n"
    raised = tracebacks.parse(traceback_of(code, tmp_path))
    assert raised and (raised.type, raised.message) == ("Odd", "no"), f"The parser reads {raised}."


def test_a_message_may_have_several_lines(tracebacks: ModuleType, tmp_path: Path) -> None:
    raised = tracebacks.parse(traceback_of("raise ValueError('one\\ntwo: 2\\n  three')\n", tmp_path))
    assert raised.message == "one\ntwo: 2\n  three", (
        f"The parser loses or changes lines of a message: {raised.message!r}"
    )


@pytest.mark.parametrize("text", ["", "hello", "Error: something", 'File "a.py", line 1'])
def test_a_text_without_a_traceback_has_no_exception(tracebacks: ModuleType, text: str) -> None:
    raised = tracebacks.parse(text)
    assert raised is None or raised.type == "Error", (
        f"The parser reads the exception {raised.type!r} in a text without a traceback."
    )


PIECES = [
    "Traceback (most recent call last):",
    '  File "a.py", line 3, in f',
    "    x = 1",
    "ValueError: x",
    "  + Exception Group Traceback (most recent call last):",
    "  | ExceptionGroup: g (1 sub-exception)",
    "  +-+---------------- 1 ----------------",
    "    | KeyError: 1",
    "a.: x",
    "    +------------------------------------",
    "The above exception was the direct cause of the following exception:",
    "",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=30), max_size=40))
def test_no_text_breaks_the_parser(tracebacks: ModuleType, lines: list[str]) -> None:
    raised = tracebacks.parse("\n".join(lines))
    assert raised is None or raised.root_cause.type, "The parser reads an exception without a type."


def test_hints_have_no_code_at_any_level(hints: ModuleType, tracebacks: ModuleType) -> None:
    types = {*hints.HINTS, "StopIteration"}
    for name in types:
        raised = tracebacks.parse(
            f'Traceback (most recent call last):\n  File "a.py", line 3, in f\n{name}: x'
        )
        for level in (1, 2, 3):
            text = hints.hint(raised, level)
            assert text and not hints.gives_away(text), f"The hint gives code away: {text}"
        first = hints.hint(raised, 1)
        assert "line 3 of a.py in f" in first, f"The first hint does not name line 3 of a.py in f: {first}"


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
    confidence = load(lesson_root, "router/classify").classify(query)[1]
    assert confidence == pytest.approx(1 / 3), (
        f"A query without known words has the confidence {confidence}, not one third."
    )


# --- Progress ---


@pytest.fixture(scope="module")
def mastery(lesson_root: Path) -> ModuleType:
    return load(lesson_root, "tracker/mastery")


def test_knowledge_tracing_follows_the_paper(mastery: ModuleType) -> None:
    """One step by hand: P(L|right) = .2*.9 / (.2*.9 + .8*.2) = .5294; then .5294 + .4706*.15 = .6."""
    right, wrong = mastery.trace(0.2, 1.0), mastery.trace(0.2, 0.0)
    assert right == pytest.approx(0.6, abs=1e-4), (
        f"A right answer takes a mastery of 0.2 to {right}, not to 0.6."
    )
    assert wrong == pytest.approx(0.1758, abs=1e-4), (
        f"A wrong answer takes a mastery of 0.2 to {wrong}, not to 0.1758."
    )


@given(st.floats(0.001, 0.999), st.floats(0, 1), st.floats(0, 1))
def test_a_better_score_never_means_less_mastery(
    mastery: ModuleType, known: float, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    less, more = mastery.trace(known, low), mastery.trace(known, high)
    assert 0 <= less <= more + 1e-12 <= 1 + 1e-12, (
        f"The score {low} gives {less}, and {high} gives {more}: mastery falls, or is not from 0 to 1."
    )


def test_a_streak_counts_days_in_a_row_and_ignores_a_clock_that_goes_back(mastery: ModuleType) -> None:
    progress = mastery.Progress()
    days = [1, 1, 2, 3, 2, 3, 5]
    streaks = []
    for day in days:
        mastery.attempt(progress, "loops", 1.0, date(2026, 3, day))
        streaks.append(progress.streak)
    assert streaks == [1, 1, 2, 3, 3, 3, 1], (
        f"Attempts on the days {days} make the streaks {streaks}, not [1, 1, 2, 3, 3, 3, 1]."
    )


def test_the_day_is_the_learners(mastery: ModuleType) -> None:
    late = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    tokyo, new_york = mastery.day_of(late, "Asia/Tokyo"), mastery.day_of(late, "America/New_York")
    assert tokyo == date(2026, 3, 2), f"{late} is 2026-03-02 in Tokyo, and the learner's day is {tokyo}."
    assert new_york == date(2026, 3, 1), (
        f"{late} is 2026-03-01 in New York, and the learner's day is {new_york}."
    )
    for bad in ("Mars/Olympus", "../../etc/passwd", "/etc"):
        with pytest.raises(ValueError, match="no timezone"):
            mastery.day_of(late, bad)


def test_each_third_failure_in_a_row_raises_an_alert(mastery: ModuleType) -> None:
    progress = mastery.Progress()
    scores = [0, 0, 0.4, 0, 0, 0, 1, 0]
    alerts = [mastery.attempt(progress, "loops", score, date(2026, 3, 1)) for score in scores]
    assert alerts == [False, False, True, False, False, True, False, False], (
        f"The scores {scores} raise the alerts {alerts}, not one at the third and one at the sixth score."
    )


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
    assert "lambda" not in json.dumps(given_to_it), "A submission can read a part of the solution."


def test_the_parser_reads_what_this_python_writes(tracebacks: ModuleType) -> None:
    try:
        raise ExceptionGroup("g", [ValueError("a"), TypeError("b")])
    except ExceptionGroup as group:
        raised = tracebacks.parse("".join(traceback.format_exception(group)))
    members = [member.type for member in raised.members]
    assert members == ["ValueError", "TypeError"], (
        f"The parser reads the group's members as {members}, not as a ValueError, then a TypeError."
    )
