"""The course's plugins for pytest."""

import os
import signal
import sys
from pathlib import Path

from course.paths import ROOT
from course.polling import until
from course.processes import Processes


def test_a_run_that_is_interrupted_names_the_test_that_did_not_end(
    processes: Processes, tmp_path: Path
) -> None:
    hangs = tmp_path / "test_hangs.py"
    hangs.write_text(
        "import signal\nfrom pathlib import Path\n"
        f"def test_hangs() -> None:\n    Path({str(tmp_path / 'began')!r}).touch()\n    signal.pause()\n"
    )
    options = ["--disable-plugin-autoload", "-p", "xdist.plugin", "-n", "1", "-p", "support.plugins.running"]
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    with (tmp_path / "log").open("w") as log:
        env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
        run = processes.start([*command, "-c", os.devnull, str(hangs)], env=env, cwd=tmp_path, output=log)
    assert until((tmp_path / "began").exists, 60), (tmp_path / "log").read_text()
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 2
    said = (tmp_path / "log").read_text()
    assert " s: test_hangs.py::test_hangs" in said, f"The test that hangs is not named:\n{said}"
