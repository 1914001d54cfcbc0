"""Install Debian packages as root, without questions, and without starting their services."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from course.errors import CourseError

POLICY = Path("/usr/sbin/policy-rc.d")  # Debian runs it before it starts a service: invoke-rc.d(8)


def can_install() -> bool:
    """Whether this is Debian, and this process runs as root."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str, console: Console) -> None:
    """Install a package without the packages that it only recommends."""
    command = f"apt-get install --yes --quiet --no-install-recommends {package}"
    console.print(f"$ {command}", style="bold cyan")
    with no_service_started():
        # Update the list of packages only when it is missing, or too old to install from.
        if not run(command) and not (run("apt-get update --quiet") and run(command)):
            raise CourseError(f"The package could not be installed: {package}")


def run(command: str) -> bool:
    """Run an apt command non-interactively. Return whether it succeeded."""
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command.split(), env=env, check=False).returncode == 0


@contextmanager
def no_service_started() -> Iterator[None]:
    """Keep Debian from starting services that the block installs: tests start their own."""
    aside = POLICY.with_suffix(".aside")
    if POLICY.exists():
        POLICY.rename(aside)
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
        if aside.exists():
            aside.rename(POLICY)
