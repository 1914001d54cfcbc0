"""Grade a submission: its function is called in the sandbox, and its results are compared here.

The expected results never enter the container. Code in it that writes results of its own only makes a guess.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

MAX_RESULT = 10_000  # characters of one result
CASE_SECONDS = 2  # of processor time; a case may sleep four times as long
TOO_LATE = '{"error": "it took too long"}'
# Runs in the container. Each case is a process, so one that hangs costs no other.
RUNNER = """
import json, os, resource, select, signal, sys
given = json.load(sys.stdin)
def call(case, pipe):
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"], given["seconds"] + 1))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    names = {"__name__": "submission"}
    try:
        exec(compile(given["code"], "submission.py", "exec"), names)
        found = {"value": names[given["function"]](*case)}
        text = json.dumps(found)
    except BaseException as error:
        text = json.dumps({"error": type(error).__name__})
    os.write(pipe, text.encode()[:given["most"]])
    os._exit(0)
for case in given["cases"]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        call(case, writing)
    os.close(writing)
    ready = select.select([reading], [], [], 4 * given["seconds"])[0]
    text = os.read(reading, given["most"]).decode(errors="replace") if ready else given["late"]
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        text = given["late"]
    print(text.replace(chr(10), " ") or '{"error": "it ended without a result"}', flush=True)
"""


class Exercise(BaseModel):
    id: str
    topic: str
    level: str
    function: str
    task: str
    solution: str
    hints: list[str]
    cases: list[tuple[list[Any], Any]]


def read_bank(path: Path) -> dict[str, Exercise]:
    found = [Exercise.model_validate(each) for each in tomllib.loads(path.read_text("utf-8"))["exercises"]]
    return {exercise.id: exercise for exercise in found}


class Grade(BaseModel):
    score: float  # the part of the cases that are right, from 0 to 1
    passed: int
    cases: int
    faults: list[str]


def sandbox_input(exercise: Exercise, code: str) -> str:
    cases = [arguments for arguments, _ in exercise.cases]
    limits = {"most": MAX_RESULT, "seconds": CASE_SECONDS, "late": TOO_LATE}
    return json.dumps({"code": code, "function": exercise.function, "cases": cases, **limits})


def grade(exercise: Exercise, output: str, error: str) -> Grade:
    """Compare what the container printed, a line for each case, with what is expected."""
    lines = output.splitlines()
    passed, faults = 0, []
    for number, (arguments, expected) in enumerate(exercise.cases):
        found = read_line(lines[number]) if number < len(lines) else {"error": error or "no result"}
        if "value" in found and found["value"] == expected and type(found["value"]) is type(expected):
            passed += 1
        else:
            shown = ", ".join(map(repr, arguments))
            wrong = found.get("error") or "a wrong result"
            faults.append(f"{exercise.function}({shown[:200]}): {str(wrong)[:200]}")
    return Grade(score=passed / len(exercise.cases), passed=passed, cases=len(exercise.cases), faults=faults)


def read_line(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"error": "no result that can be read"}


def gives_away(hint: str, solution: str, run: int = 5) -> bool:
    """Whether a hint has so many words and signs of the solution in a row that a learner could copy it."""
    body = [line for line in solution.splitlines() if not line.startswith("def ")]
    tokens, said = split("\n".join(body)), split(hint)
    runs = {tuple(tokens[at : at + run]) for at in range(len(tokens) - run + 1)}
    return any(tuple(said[at : at + run]) in runs for at in range(len(said) - run + 1))


def split(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)
