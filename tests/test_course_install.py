"""Set-up: what can be wrong with a machine is said in one clear line, with what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course.paths import ROOT

OLD_PYTHON = "import sys; sys.version_info = (3, 9, 18)"
NO_VENV = "import sys; sys.modules['venv'] = None"
NOTHING = "pass"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A course with nothing installed: set-up and locks, and a home of its own."""
    for folder in ("course", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    tmp_path.chmod(0o755)
    return tmp_path


def install(checkout: Path, before: str = NOTHING, **env: str) -> str:
    """Run set-up after `before`; what it printed."""
    script = checkout / "course" / "install.py"
    code = f"{before}\nimport runpy, sys\nsys.argv[1:] = ['lessons']\n"
    code += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    # Root, whom no file mode stops, gives that right up.
    as_user = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*as_user, sys.executable, "-c", code],
        env=os.environ | {"HOME": str(checkout), "XDG_CACHE_HOME": str(checkout / ".cache")} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def test_an_old_python_is_refused_with_advice(checkout: Path) -> None:
    printed = install(checkout, OLD_PYTHON)
    assert "Python 3.11 or newer is needed, and this is 3.9." in printed
    assert "make PYTHON=" in printed


def test_a_missing_venv_module_is_named_with_its_package(checkout: Path) -> None:
    assert f"python{sys.version_info[0]}.{sys.version_info[1]}-venv" in install(checkout, NO_VENV)


def test_a_folder_that_cannot_be_written_to_is_named(checkout: Path) -> None:
    checkout.chmod(0o555)
    try:
        printed = install(checkout)
    finally:
        checkout.chmod(0o755)
    assert "cannot be written to" in printed


def test_a_first_install_without_a_network_says_so(checkout: Path) -> None:
    nowhere = "http://127.0.0.1:9/simple"
    printed = install(
        checkout,
        PIP_INDEX_URL=nowhere,
        UV_DEFAULT_INDEX=nowhere,
        PIP_RETRIES="0",
        UV_HTTP_RETRIES="0",
        PIP_FIND_LINKS="",
        PIP_DEFAULT_TIMEOUT="2",
    )
    assert "the packages could not be installed" in printed
    assert "needs the internet" in printed
