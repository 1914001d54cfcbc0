"""An agent that repairs a repository: run the tests, ask a model for one edit, keep it if it helps, repeat.

It runs in a container, in the folder of its own copy of the repository, and prints one JSON object a line.
How suspicious a line is follows from the tests that run it (Ochiai's coefficient, as fault localisation has
it). The model answers with one edit as JSON (`SCHEMA`). An edit stays when more tests pass and none breaks.

    AGENT_PROMPT="Make the tests pass" OPENAI_BASE_URL=... OPENAI_API_KEY=... python agent.py
"""

import ast
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

PROMPT = os.environ.get("AGENT_PROMPT", "Make the tests pass.")
SEED = int(os.environ.get("AGENT_SEED", "0"))
COMMAND_SECONDS = float(os.environ.get("AGENT_COMMAND_SECONDS", "60"))
MAX_PROPOSALS = 120
PROPOSALS_A_FUNCTION = 20  # then the next functions have their turn
MAX_WRONG_ANSWERS = 3  # of the model, one after the other
PATIENCE = 12  # proposals after one that helps only some of the tests that run its line
OUTPUT_CHARACTERS = 6_000
WORK = Path.cwd()


@dataclass(frozen=True)
class Strategy:
    """What the agent shows to the model at once, and what it asks for."""

    request: str
    functions: int  # how many suspicious functions the model sees
    one_test: bool = False  # mend one failing test after the other; another failing test may stay as it is


STRATEGIES = {
    "suspicious-first": Strategy("most suspicious line first", functions=1),
    "smallest-edit": Strategy("smallest edit first", functions=2),
    "test-by-test": Strategy("the likeliest mistake first", functions=2, one_test=True),
}

INSTRUCTIONS = """\
You repair a Python program. The user lists functions with numbered lines. The first number of a line is how
suspicious it is, from 0 to 1. Then follow the output of failing tests, and the edits that did not help.
Propose one edit: `file` and `line` say which line, `replacement` is its new text with its indentation (it may
be several lines), `reason` says why in one sentence. Do not repeat an edit that did not help.
Do not change tests. If you know no edit, set `file`, `line` and `replacement` to null."""

NULLABLE_TEXT = {"type": ["string", "null"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "file": NULLABLE_TEXT,
        "line": {"type": ["integer", "null"]},
        "replacement": NULLABLE_TEXT,
        "reason": {"type": "string"},
    },
    "required": ["file", "line", "replacement", "reason"],
    "additionalProperties": False,
}


def report(kind: str, **fields: Any) -> None:
    print(json.dumps({"type": kind, **fields}, ensure_ascii=False), flush=True)


# --- The tests ---


@dataclass
class TestRun:
    """The outcomes of a run of the tests. `lines` are the (file, line) that each test ran."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # a test's output
    lines: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    broken: str = ""  # why the tests could not run to their end

    def better_than(self, before: "TestRun", wanted: set[str]) -> bool:
        """Whether a wanted test passes that failed, and no test fails that passed."""
        mended = (before.failed.keys() & wanted) - self.failed.keys()
        return not self.broken and bool(mended) and not self.failed.keys() & before.passed


class Recorder:
    """A plugin of pytest that records each test's outcome, and which lines of the repository it runs."""

    def __init__(self, trace: bool) -> None:
        self.trace, self.test = trace, ""
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.folder = f"{WORK}{os.sep}"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.test = nodeid
        if self.trace:
            threading.settrace(self.trace_call)
            sys.settrace(self.trace_call)

    def pytest_runtest_logfinish(self) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def trace_call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self.trace_line if frame.f_code.co_filename.startswith(self.folder) else None

    def trace_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            file = frame.f_code.co_filename.removeprefix(self.folder)
            self.lines[self.test].add((file, frame.f_lineno))
        return self.trace_line

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)


def record_tests(output: str, trace: bool, tests: list[str]) -> int:
    """Run pytest in this process, and write what happened to a file. The agent starts itself for it."""
    import pytest

    sys.path[0] = str(WORK)  # as `python -m pytest` has it, in place of the agent's folder
    recorder = Recorder(trace)
    status = pytest.main(["-q", "--tb=short", "-p", "no:cacheprovider", *tests], plugins=[recorder])
    lines = {test: sorted(found) for test, found in recorder.lines.items()}
    found = {"passed": recorder.passed, "failed": recorder.failed, "lines": lines}
    Path(output).write_text(json.dumps(found), "utf-8")
    return int(status)


def run_tests(tests: list[str] | None = None, trace: bool = False) -> TestRun:
    """Run the tests in a process of its own, which is killed with all its children after COMMAND_SECONDS."""
    begun, timed_out = time.monotonic(), False
    # Tests are the repository's code: they get no key of the model.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AGENT_"))}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "tests.json")
        command = [
            sys.executable,
            "-B",
            __file__,
            "--record",
            str(output),
            "trace" if trace else "",
            *(tests or []),
        ]
        with Path(folder, "log").open("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            try:
                process.wait(COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                timed_out = True
            try:
                os.killpg(process.pid, signal.SIGKILL)  # also what a test has left running
            except ProcessLookupError:
                pass
            process.wait()
            log.seek(0)
            said = log.read(1_000_000)[-OUTPUT_CHARACTERS:]
        found = json.loads(output.read_text("utf-8")) if output.exists() and not timed_out else None
    shown = f"pytest {len(tests)} failing tests" if tests else "pytest"
    seconds = round(time.monotonic() - begun, 2)
    report("command", command=shown, exit_code=process.returncode, seconds=seconds, timed_out=timed_out)
    if found is None:
        why = (
            f"The tests timed out after {COMMAND_SECONDS:g} s."
            if timed_out
            else f"pytest ended early.\n{said}"
        )
        return TestRun(broken=why)
    lines = {test: {(file, line) for file, line in ran} for test, ran in found["lines"].items()}
    return TestRun(set(found["passed"]) - found["failed"].keys(), found["failed"], lines)


# --- Suspicion ---


def suspicion(run: TestRun, failing: set[str]) -> dict[tuple[str, int], float]:
    """Ochiai's coefficient of each line of the program that a failing test ran."""
    failing_runs = Counter(line for test in failing for line in run.lines.get(test, ()))
    passing_runs = Counter(line for test in run.passed for line in run.lines.get(test, ()))
    return {
        line: ran / math.sqrt(len(failing) * (ran + passing_runs[line]))
        for line, ran in failing_runs.items()
        if is_program(line[0])
    }


def is_program(file: str) -> bool:
    name = Path(file).name
    tests = (
        name.startswith("test_")
        or name.endswith("_test.py")
        or name == "conftest.py"
        or "tests" in Path(file).parts
    )
    return name.endswith(".py") and not tests


@dataclass(frozen=True)
class Function:
    """A function of the repository: its lines, and the suspicion of those that ran."""

    file: str
    name: str
    first: int
    last: int

    def listing(self, suspicion: dict[tuple[str, int], float]) -> str:
        lines = read_lines(self.file)[self.first - 1 : self.last]
        numbered = (
            f"{suspicion.get((self.file, number), 0):.2f} {number:5} | {line}"
            for number, line in enumerate(lines, self.first)
        )
        return "\n".join([f"File: {self.file}", *numbered])


def read_lines(file: str) -> list[str]:
    return (WORK / file).read_bytes().decode().split("\n")  # not read_text, which would change line ends


def suspicious_functions(suspicion: dict[tuple[str, int], float]) -> list[Function]:
    """The functions that failing tests ran, by their most suspicious line; short ones first among equals."""
    highest: dict[Function, float] = {}
    for file in {file for file, _ in suspicion}:
        nodes = [node for node in ast.walk(ast.parse("\n".join(read_lines(file)))) if hasattr(node, "lineno")]
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                function = Function(file, node.name, node.lineno, node.end_lineno or node.lineno)
                body = range(node.body[0].lineno, function.last + 1)
                if scores := [suspicion[file, line] for line in body if (file, line) in suspicion]:
                    highest[function] = max(scores)
    return sorted(
        highest, key=lambda function: (-highest[function], function.last - function.first, function.name)
    )


# --- The model ---


class WrongAnswer(Exception):
    """The model's answer is no edit that could be tried."""


class ModelFailed(Exception):
    """The model cannot be asked."""


@dataclass(frozen=True)
class Edit:
    file: str
    line: int
    replacement: str

    def as_json(self) -> str:
        return json.dumps(
            {"file": self.file, "line": self.line, "replacement": self.replacement}, ensure_ascii=False
        )


class Model:
    def __init__(self) -> None:
        from openai import (
            OpenAI,
            OpenAIError,
        )  # takes half a second, which runs of the tests need not wait for

        self.client, self.error = OpenAI(max_retries=2, timeout=120), OpenAIError
        self.name = os.environ.get("OPENAI_MODEL", "offline")

    def propose(
        self, strategy: Strategy, run: TestRun, failing: set[str], tried: list[Edit], listings: str
    ) -> Edit | None:
        """Ask for one edit; None when the model knows no other."""
        output = "\n\n".join(f"{test}\n{run.failed[test]}" for test in sorted(failing))[:OUTPUT_CHARACTERS]
        failed = "\n".join(edit.as_json() for edit in tried)
        request = (
            f"Task: {PROMPT}\nStrategy: {strategy.request}\n\n{listings}\n\n"
            f"Output of the failing tests:\n{output}\n\n"
            f"Edits that did not help:\n{failed or 'none'}\n"
        )
        try:
            answer = self.client.chat.completions.create(
                model=self.name,
                seed=SEED,
                messages=[{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": request}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "edit", "schema": SCHEMA, "strict": True},
                },
            )
        except self.error as error:
            raise ModelFailed(f"The model cannot be asked: {error}") from error
        text = answer.choices[0].message.content or ""
        try:
            value = json.loads(text)
            file, line, replacement = value["file"], value["line"], value["replacement"]
            reason = str(value["reason"])
        except (ValueError, KeyError, TypeError) as error:
            raise WrongAnswer(
                f"The model's answer is not the JSON object that was asked for: {text[:200]!r}"
            ) from error
        usage = answer.usage
        tokens = (
            {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
            if usage
            else {}
        )
        report("model", file=file, line=line, replacement=replacement, reason=reason, **tokens)
        if file is None:
            return None
        if not (isinstance(file, str) and type(line) is int and isinstance(replacement, str)):
            raise WrongAnswer("The model's edit has a field of another type.")
        return Edit(file, line, replacement)


def checked(edit: Edit, listed: list[Function], tried: list[Edit]) -> str:
    """The file's new text. Raises WrongAnswer for an edit that is none, was tried, or is not Python."""
    function = next(
        (each for each in listed if each.file == edit.file and each.first <= edit.line <= each.last), None
    )
    if function is None:
        raise WrongAnswer(f"{edit.file}, line {edit.line}, is not in a function that the model was shown.")
    if edit in tried:
        raise WrongAnswer("The model repeats an edit that did not help.")
    lines = read_lines(edit.file)
    end = "\r" if lines[edit.line - 1].endswith("\r") else ""
    changed = "\n".join([*lines[: edit.line - 1], edit.replacement.rstrip("\r") + end, *lines[edit.line :]])
    try:
        ast.parse(changed)
    except (SyntaxError, ValueError) as error:
        raise WrongAnswer(f"With this edit {edit.file} is not Python: {error}") from error
    if changed == "\n".join(lines):
        raise WrongAnswer("The edit changes nothing.")
    return changed


# --- The repair ---


class Repair:
    def __init__(self, strategy: Strategy) -> None:
        self.strategy, self.model = strategy, Model()
        self.tried: list[Edit] = []
        self.proposals = self.kept = 0
        self.hopeless: set[str] = set()  # tests for which no edit was found

    def run(self) -> TestRun:
        """Mend tests until all pass, or nothing is left to try."""
        run = self.test_all()
        while not run.broken and (failing := self.next_tests(run)) and self.proposals < MAX_PROPOSALS:
            better = self.mend(run, failing)
            if better is None:
                self.hopeless |= failing
                report("say", text=f"No edit found for {', '.join(sorted(failing))}.")
            run = better or run
        return run

    def next_tests(self, run: TestRun) -> set[str]:
        left = sorted(run.failed.keys() - self.hopeless)
        return set(left[:1] if self.strategy.one_test else left)

    def test_all(self) -> TestRun:
        run = run_tests(trace=True)
        report("tests", passed=len(run.passed), failed=len(run.failed), failing=sorted(run.failed))
        return run

    def mend(self, run: TestRun, failing: set[str]) -> TestRun | None:
        """Try edits of the suspicious functions, some at a time, until one makes the tests better."""
        measured = suspicion(run, failing)
        functions = suspicious_functions(measured)
        for at in range(0, len(functions), self.strategy.functions):
            listed = functions[at : at + self.strategy.functions]
            report("say", text=f"I look at {', '.join(f'{each.name} in {each.file}' for each in listed)}.")
            if better := self.mend_functions(run, failing, listed, measured):
                return better
        return None

    def mend_functions(
        self, run: TestRun, failing: set[str], listed: list[Function], measured: dict[tuple[str, int], float]
    ) -> TestRun | None:
        """Keep the first edit with which all tests pass that run its line; else the best that helps."""
        best: tuple[Edit, str, TestRun] | None = None
        listings = "\n\n".join(function.listing(measured) for function in listed)
        wrong = patience = 0
        last = min(MAX_PROPOSALS, self.proposals + PROPOSALS_A_FUNCTION * len(listed))
        while self.proposals < last and wrong < MAX_WRONG_ANSWERS and patience < PATIENCE:
            self.proposals += 1
            edit = None
            try:
                edit = self.model.propose(self.strategy, run, failing, self.tried, listings)
                if edit is None:
                    break
                changed = checked(edit, listed, self.tried)
            except WrongAnswer as answer:
                report("say", text=str(answer))
                self.tried += [edit] if edit and edit not in self.tried else []
                wrong += 1
                continue
            wrong, patience = 0, patience + bool(best)
            self.tried.append(edit)
            after = self.try_edit(edit, changed, run, failing)
            if after is None:
                continue
            reached = {test for test in failing if (edit.file, edit.line) in run.lines.get(test, ())}
            if best is None or len(after.passed) > len(best[2].passed):
                best = edit, changed, after
            if self.strategy.one_test or not reached & after.failed.keys():
                break
            report(
                "say", text="This edit helps some of the tests that run its line. I look for a better one."
            )
        return self.keep(*best) if best else None

    def try_edit(self, edit: Edit, changed: str, run: TestRun, failing: set[str]) -> TestRun | None:
        """Run the failing tests with an edit, then all tests. Return their outcome if it is better."""
        path = WORK / edit.file
        original = path.read_bytes()
        path.write_bytes(changed.encode())
        try:
            after = run_tests(sorted(failing))
            if helps := not after.broken and len(after.failed) < len(failing):
                after = self.test_all()
                helps = after.better_than(run, failing)
        finally:
            path.write_bytes(original)
        before = read_lines(edit.file)[edit.line - 1]
        report("edit", file=edit.file, line=edit.line, before=before, after=edit.replacement, helps=helps)
        return after if helps else None

    def keep(self, edit: Edit, changed: str, after: TestRun) -> TestRun:
        (WORK / edit.file).write_bytes(changed.encode())
        self.kept += 1
        # The file's lines may have moved, and what did not help before may help now.
        self.tried = [other for other in self.tried if other.file != edit.file]
        report(
            "say",
            text=f"I keep the edit of {edit.file}, line {edit.line}: {len(after.failed)} tests still fail.",
        )
        return after


def main() -> int:
    name = os.environ.get("AGENT_STRATEGY", next(iter(STRATEGIES)))
    if name not in STRATEGIES:
        print(f"AGENT_STRATEGY is {name!r}; the strategies are {', '.join(STRATEGIES)}.", file=sys.stderr)
        return 2
    strategy = STRATEGIES[name]
    files = [path for path in WORK.rglob("*.py") if is_program(str(path.relative_to(WORK)))]
    steps = (
        f"Run the tests of {len(files)} program files, measure which lines failing tests run, and ask for one"
    )
    report("plan", strategy=name, text=f"{steps} edit at a time: {strategy.request}.")
    repair, summary = Repair(strategy), ""
    try:
        run = repair.run()
    except ModelFailed as error:
        run, summary = repair.test_all(), f"{str(error)[:500]} "
    summary += run.broken[-2_000:] or f"{repair.kept} edits kept of {repair.proposals} proposed."
    done = not run.broken and not run.failed and bool(run.passed)
    counts = {"tests_passed": len(run.passed), "tests_failed": len(run.failed)}
    report("result", status="passed" if done else "failed", **counts, summary=summary)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        raise SystemExit(record_tests(sys.argv[2], bool(sys.argv[3]), sys.argv[4:]))
    raise SystemExit(main())
