"""The share of each lesson in the time of all tests, measured by the run in CI.

Both runs of `make test` add to `docs/figures/test_time.json`. Then the chart and the table in docs/tests.md
are made again, so that the linters of the next run find no difference between them.
"""

import os
import re
from collections import defaultdict

import pytest

from bench.records import measured, save
from course.cli import update_figures

CACHED = "course/test-time/{}"  # the key under which pytest caches one run's seconds for the other run
LESSON = re.compile(r"test_(?P<file>\d\d)_|test_container|test_course_pages.*\[(?P<page>\d\d)-")


def lesson(nodeid: str) -> str:
    """The lesson a test belongs to, such as "04"; "course" for the course's own tools."""
    found = LESSON.search(nodeid)
    return (found["file"] or found["page"] or "05") if found else "course"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """After all tests have run in CI, record the seconds of each lesson, and show them."""
    if not os.environ.get("CI") or config.args != config.getini("testpaths") or config.cache is None:
        return
    seconds: dict[str, float] = defaultdict(float)
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if isinstance(report, pytest.TestReport):
            seconds[lesson(report.nodeid)] += report.duration
    config.cache.set(CACHED.format(config.option.markexpr or "all"), dict(seconds))
    if config.option.markexpr == "serial":
        for name, before in config.cache.get(CACHED.format("not serial"), {}).items():
            seconds[name] += before
        groups = sorted(seconds)
        how = (
            "durations of a lesson's tests and of its exercises' faults in CI's run, summed over all workers"
        )
        save(
            "test_time",
            {
                "kind": "bars",
                "title": "Seconds of tests, by lesson",
                "alt": "Bars of the seconds that the tests of each lesson take in CI.",
                "unit": "seconds",
                "groups": groups,
                "series": [{"name": "tests", "values": [round(seconds[group], 1) for group in groups]}],
                "values": {"minutes": round(sum(seconds.values()) / 60, 1)},
                "measured": measured(how, "pytest", "pytest-xdist"),
            },
        )
        update_figures()
