"""In CI a test that is skipped fails: otherwise no one would notice that it has stopped to run."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)  # sees the result of pytest's own handling of skips
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("CI") and report.skipped and isinstance(report.longrepr, tuple):
        file, _, reason = report.longrepr
        # A library's own tests, such as LangChain's, skip what the class under test does not claim to do.
        if "site-packages" not in file:
            report.outcome, report.longrepr = "failed", f"CI runs every test. {reason}"
    return report
