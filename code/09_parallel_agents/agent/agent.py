"""An agent that repairs a repository: run the tests, ask a model for one edit, keep it if it helps, repeat.

It works in the current folder, a copy of the repository, and prints one JSON object a line. The tests tell
how suspicious each line is, and the model sees the most suspicious functions with these figures.

    AGENT_PROMPT="Make the tests pass" OPENAI_BASE_URL=... OPENAI_API_KEY=... python agent.py
"""

import ast
import json
import math
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError
from pydantic import BaseModel
from recorder import OUTPUT_CHARACTERS, WORK, Line, Outcome, run_tests

PROMPT = os.environ.get("AGENT_PROMPT", "Make the tests pass.")
SEED = int(os.environ.get("AGENT_SEED", "0"))
MODEL = os.environ.get("OPENAI_MODEL", "offline")
COMMAND_SECONDS = float(os.environ.get("AGENT_COMMAND_SECONDS", "60"))
MAX_PROPOSALS = 80
PROPOSALS_A_FUNCTION = 20  # then the next function has its turn


@dataclass(frozen=True)
class Strategy:
    """Which edits the agent asks for first, and when it is content."""

    request: str
    one_test: bool = False  # mend one failing test after the other
    hasty: bool = False  # keep the first edit that helps, and look for no better one


STRATEGIES = {
    "suspicious-first": Strategy("most suspicious line first"),
    "smallest-edit": Strategy("smallest edit first", hasty=True),
    "test-by-test": Strategy("the likeliest mistake first", one_test=True),
}

INSTRUCTIONS = """\
You repair a Python program. The user lists a function with numbered lines. The first number of a line is how
suspicious it is, from 0 to 1. Then follow the output of failing tests, and the edits that did not help.
Propose one edit: `file` and `line` say which line, `replacement` is its new text with its indentation (it may
be several lines), `reason` says why in one sentence. Do not repeat an edit that did not help.
Do not change tests. If you know no edit, set `file`, `line` and `replacement` to null."""


class Edit(BaseModel, extra="forbid"):
    """The model's answer."""

    file: str | None
    line: int | None
    replacement: str | None
    reason: str


def report(kind: str, **fields: Any) -> None:
    print(json.dumps({"type": kind, **fields}, ensure_ascii=False), flush=True)


# --- Fault localisation ---


def suspicion(outcome: Outcome, failing: set[str]) -> dict[Line, float]:
    """Ochiai's coefficient of each line of the program that a failing test ran, from 0 to 1.

    A line is suspicious when many failing tests run it, and few passing ones
    (https://doi.org/10.1109/TAIC.PART.2007.13).
    """
    in_failing = Counter(line for test in failing for line in outcome.lines.get(test, ()))
    in_passing = Counter(line for test in outcome.passed for line in outcome.lines.get(test, ()))
    return {
        line: ran / math.sqrt(len(failing) * (ran + in_passing[line]))
        for line, ran in in_failing.items()
        if is_program(line[0])
    }


def is_program(file: str) -> bool:
    path = Path(file)
    tests = path.stem.startswith("test_") or path.stem.endswith("_test") or path.stem == "conftest"
    return path.suffix == ".py" and not tests and "tests" not in path.parts


@dataclass(frozen=True)
class Function:
    file: str
    name: str
    first: int
    last: int

    def listing(self, scores: dict[Line, float]) -> str:
        numbered = enumerate(read(self.file).split("\n")[self.first - 1 : self.last], self.first)
        lines = [f"{scores.get((self.file, number), 0):.2f} {number:5} | {line}" for number, line in numbered]
        return "\n".join([f"File: {self.file}", *lines])


def read(file: str) -> str:
    return (WORK / file).read_bytes().decode()  # not read_text, which would change the ends of lines


def suspicious_functions(scores: dict[Line, float]) -> list[Function]:
    """The functions that failing tests ran, by their most suspicious line; short ones first among equals."""
    highest: dict[Function, float] = {}
    for file in {file for file, _ in scores}:
        try:
            tree = ast.parse(read(file))
        except UnicodeDecodeError:  # a source in another encoding is left alone
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                last = node.end_lineno or node.lineno
                body = range(node.body[0].lineno, last + 1)
                if ran := [scores[file, line] for line in body if (file, line) in scores]:
                    highest[Function(file, node.name, node.lineno, last)] = max(ran)
    return sorted(highest, key=lambda each: (-highest[each], each.last - each.first, each.name))


# --- Repair ---


class Repair:
    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.client = OpenAI(max_retries=2, timeout=120)
        self.tried: list[Edit] = []
        self.proposals = self.kept = 0
        self.hopeless: set[str] = set()  # tests for which no edit was found

    def run(self) -> Outcome:
        """Mend tests until all pass, or nothing is left to try."""
        outcome = self.test()
        report_tests(outcome)
        while not outcome.broken and self.proposals < MAX_PROPOSALS and (failing := self.next_tests(outcome)):
            better = self.mend(outcome, failing)
            if better is None:
                self.hopeless |= failing
                names = ", ".join(test.rpartition("::")[2] for test in sorted(failing))
                report("say", text=f"No edit found for {names}.")
            outcome = better or outcome
        return outcome

    def test(self) -> Outcome:
        began = time.monotonic()
        outcome = run_tests(COMMAND_SECONDS)
        facts = {"exit_code": int(bool(outcome.failed or outcome.broken)), "timed_out": outcome.timed_out}
        report("command", command="pytest", seconds=round(time.monotonic() - began, 2), **facts)
        return outcome

    def next_tests(self, outcome: Outcome) -> set[str]:
        left = sorted(outcome.failed.keys() - self.hopeless)
        return set(left[:1] if self.strategy.one_test else left)

    def mend(self, before: Outcome, failing: set[str]) -> Outcome | None:
        """Keep an edit of the most suspicious function for which one helps; None when none does."""
        scores = suspicion(before, failing)
        for function in suspicious_functions(scores):
            if self.proposals >= MAX_PROPOSALS:
                break
            report("say", text=f"I look at {function.name} in {function.file}.")
            if best := self.best_edit(before, failing, function, function.listing(scores)):
                text, after = best
                (WORK / function.file).write_bytes(text.encode())
                self.kept += 1
                # Lines may have moved, and what did not help before may help now.
                self.tried = [edit for edit in self.tried if edit.file != function.file]
                report("say", text=f"I keep the best edit of {function.name}.")
                report_tests(after)
                return after
        return None

    def best_edit(
        self, before: Outcome, failing: set[str], function: Function, listing: str
    ) -> tuple[str, Outcome] | None:
        """The file's text with the best edit: the first that mends all tests which run its line, if any."""
        best: tuple[str, Outcome] | None = None
        for _ in range(min(PROPOSALS_A_FUNCTION, MAX_PROPOSALS - self.proposals)):
            self.proposals += 1
            try:
                edit = self.propose(before, failing, listing)
                if edit.file is None:
                    break
                self.tried.append(edit)
                text = edited(edit, function)
            except (ValueError, SyntaxError) as wrong:  # pydantic raises ValueErrors
                report("say", text=f"The model's answer is no edit: {wrong}")
                continue
            after = self.try_edit(edit, text, before, failing)
            if after and (best is None or len(after.passed) > len(best[1].passed)):
                best = text, after
            reached = {test for test in before.failed if (edit.file, edit.line) in before.lines.get(test, ())}
            if after and (self.strategy.hasty or not reached & after.failed.keys()):
                break
        return best

    def propose(self, outcome: Outcome, failing: set[str], listing: str) -> Edit:
        """Ask the model for one edit. Raises OpenAIError, and ValidationError for another answer."""
        output = "\n\n".join(f"{test}\n{outcome.failed[test]}" for test in sorted(failing))
        tried = "\n".join(edit.model_dump_json(exclude={"reason"}) for edit in self.tried)
        request = (
            f"Task: {PROMPT}\nStrategy: {self.strategy.request}\n\n{listing}\n\n"
            f"Output of the failing tests:\n{output[:OUTPUT_CHARACTERS]}\n\n"
            f"Edits that did not help:\n{tried or 'none'}\n"
        )
        answer = self.client.chat.completions.parse(
            model=MODEL,
            seed=SEED,
            messages=[{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": request}],
            response_format=Edit,
        )
        edit = answer.choices[0].message.parsed
        if edit is None:
            raise ValueError(answer.choices[0].message.refusal)
        report("model", **edit.model_dump())
        return edit

    def try_edit(self, edit: Edit, text: str, before: Outcome, failing: set[str]) -> Outcome | None:
        """Run the tests with an edit. Return their outcome if one more passes, and none fails that passed."""
        path = WORK / str(edit.file)
        original = path.read_bytes()
        path.write_bytes(text.encode())
        try:
            after = self.test()
        finally:
            path.write_bytes(original)
        helps = bool(failing & after.passed) and not after.failed.keys() & before.passed
        line = original.decode().split("\n")[(edit.line or 1) - 1]
        report("edit", file=edit.file, line=edit.line, before=line, after=edit.replacement, helps=helps)
        return after if helps else None


def edited(edit: Edit, function: Function) -> str:
    """The file's text with an edit. Raises ValueError or SyntaxError for an edit that cannot be tried."""
    line = edit.line or 0
    if edit.file != function.file or not function.first <= line <= function.last:
        raise ValueError(f"{edit.file}, line {line}, is not in the function that the model was shown.")
    lines = read(str(edit.file)).split("\n")
    lines[line - 1] = edit.replacement or ""
    text = "\n".join(lines)
    ast.parse(text)
    return text


def report_tests(outcome: Outcome) -> None:
    counts = {"passed": len(outcome.passed), "failed": len(outcome.failed)}
    report("tests", **counts, failing=sorted(outcome.failed))


def main() -> int:
    name = os.environ.get("AGENT_STRATEGY", next(iter(STRATEGIES)))
    if name not in STRATEGIES:
        print(f"AGENT_STRATEGY is {name!r}; the strategies are {', '.join(STRATEGIES)}.", file=sys.stderr)
        return 2
    strategy = STRATEGIES[name]
    report("plan", strategy=name, text=f"Run the tests, ask for one edit at a time: {strategy.request}.")
    repair, summary = Repair(strategy), ""
    try:
        outcome = repair.run()
    except OpenAIError as error:
        outcome, summary = repair.test(), f"The model cannot be asked: {str(error)[:500]} "
    summary += outcome.broken[-2_000:] or f"{repair.kept} edits kept of {repair.proposals} proposed."
    done = outcome.passed and not outcome.failed and not outcome.broken
    counts = {"tests_passed": len(outcome.passed), "tests_failed": len(outcome.failed)}
    report("result", status="passed" if done else "failed", **counts, summary=summary)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
