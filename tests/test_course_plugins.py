"""The course's plugins for pytest."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from course.paths import ROOT
from course.polling import until
from course.processes import Processes

HANGS = """
import signal, time
import pytest
from pathlib import Path

@pytest.fixture
def container(tmp_path_factory):
    yield Path("began")
    time.sleep(12)  # longer than pytest-xdist waits
    Path("removed").touch()

def test_hangs(container):
    container.touch()
    signal.pause()
"""

SKIPS = """
import pytest

def test_skips():
    pytest.skip("redis is missing")

@pytest.mark.skipif(True, reason="no root")
def test_skips_by_its_mark():
    pass
"""


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skipped_test_fails_in_ci_and_says_why(ci: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "test_skips.py").write_text(SKIPS)
    options = ["--disable-plugin-autoload", "-p", "support.plugins.skips", "-p", "no:cacheprovider"]
    options += ["-c", os.devnull, f"--rootdir={tmp_path}", "-rfs", "test_skips.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"Two tests were skipped, and pytest ends with {done.returncode}."
    for why in ("redis is missing", "no root"):
        assert why in done.stdout, f"Of a skipped test pytest does not say {why!r}:\n{done.stdout}"


def test_a_run_that_is_interrupted_names_its_tests_and_lets_them_clean_up(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS)
    options = ["--disable-plugin-autoload", "-p", "xdist.plugin", "-n", "1", "-p", "support.plugins.running"]
    options += ["-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "pytest", *options, "test_hangs.py"]
        run = processes.start(command, env=env, cwd=tmp_path, output=log)
    assert until((tmp_path / "began").exists, 60), (tmp_path / "log").read_text()
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) == 2
    said = (tmp_path / "log").read_text()
    assert " s: test_hangs.py::test_hangs" in said, f"The test that hangs is not named:\n{said}"
    assert (tmp_path / "removed").exists(), "Ctrl-C ended the worker before it had removed its container."
