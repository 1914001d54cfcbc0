"""Run the tests of a repository in a process of its own, and record which lines each test runs."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

WORK = Path.cwd()
OUTPUT_CHARACTERS = 6_000
Line = tuple[str, int]  # a file of the repository, and the number of a line


@dataclass
class Outcome:
    """What a run of the tests showed. `lines` are those that each test ran."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # a test's output
    lines: dict[str, set[Line]] = field(default_factory=dict)
    broken: str = ""  # why the tests could not run to their end
    timed_out: bool = False


def run_tests(seconds: float) -> Outcome:
    """Run pytest in a process that is killed, with all its children, after `seconds`."""
    # Tests get no token, so that none asks the model by accident.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AGENT_"))}
    with tempfile.TemporaryDirectory() as folder:
        record, log = Path(folder, "record.json"), Path(folder, "log")
        with log.open("wb") as output:
            command = [sys.executable, "-B", __file__, str(record)]
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                return Outcome(broken=f"The tests timed out after {seconds:g} s.", timed_out=True)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # also what a test has left running
                process.wait()
        if not record.exists():
            said = log.read_bytes()[-OUTPUT_CHARACTERS:].decode(errors="replace")
            return Outcome(broken=f"pytest ended early.\n{said}")
        found = json.loads(record.read_text("utf-8"))
    lines = {test: {(file, line) for file, line in ran} for test, ran in found["lines"].items()}
    return Outcome(set(found["passed"]) - found["failed"].keys(), found["failed"], lines)


class Recorder:
    """A plugin of pytest."""

    def __init__(self) -> None:
        self.test = ""
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.lines: dict[str, set[Line]] = defaultdict(set)
        self.folder = f"{WORK}{os.sep}"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.test = nodeid
        threading.settrace(self.trace)
        sys.settrace(self.trace)

    def pytest_runtest_logfinish(self) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(self.folder):
            return None
        if event == "line":
            self.lines[self.test].add((file.removeprefix(self.folder), frame.f_lineno))
        return self.trace

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)


def main() -> int:
    import pytest

    sys.path[0] = str(WORK)  # as `python -m pytest` has it, in place of the agent's folder
    recorder = Recorder()
    status = pytest.main(["-q", "--tb=short", "-p", "no:cacheprovider"], plugins=[recorder])
    lines = {test: sorted(found) for test, found in recorder.lines.items()}
    found = {"passed": recorder.passed, "failed": recorder.failed, "lines": lines}
    Path(sys.argv[1]).write_text(json.dumps(found), "utf-8")
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main())
