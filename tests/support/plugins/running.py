"""A run that is interrupted, such as by CI's time limit, names the tests that had begun and not ended."""

import time

import pytest

BEGAN: dict[str, float] = {}  # when each running test began


def pytest_runtest_logstart(nodeid: str) -> None:
    BEGAN[nodeid] = time.monotonic()


def pytest_runtest_logfinish(nodeid: str) -> None:
    del BEGAN[nodeid]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.INTERRUPTED and reporter:  # workers have no reporter
        reporter.section("tests that did not end")
        for nodeid, began in BEGAN.items():
            reporter.write_line(f"{time.monotonic() - began:.0f} s: {nodeid}")
