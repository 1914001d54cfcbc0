"""Engines: what this machine has, what each is for, and how to get what is missing."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from course.processes import Failed

POLICY = Path("/usr/sbin/policy-rc.d")  # asked by Debian before it starts a service: invoke-rc.d(8)


@dataclass(frozen=True)
class Need:
    """Something a lesson needs: how to find its version, what it is for, and where it comes from."""

    name: str
    command: tuple[str, ...]
    purpose: str
    get: str
    debian: str = ""  # the package that `make engine` installs
    also: tuple[str, ...] = ()  # other names that the program goes by

    @property
    def program(self) -> str | None:
        """The path of the program; None when it is not there under any of its names."""
        return next(filter(None, map(shutil.which, (self.command[0], *self.also))), None)


NEEDS = (
    Need("python", (sys.executable, "--version"), "everything", "python.org, or your system's packages"),
    Need(
        "bash", ("bash", "--version"), "the commands of the pages", "your system's packages (Windows: WSL2)"
    ),
    Need("curl", ("curl", "--version"), "the commands of the pages", "your system's packages"),
    Need(
        "docker",
        ("docker", "version", "--format", "{{.Server.Version}}"),
        "lessons 05 and 06: images and containers",
        "docs.docker.com/get-docker, or on Debian `make engine`",
    ),
    Need(
        "redis-server",
        ("redis-server", "--version"),
        "tests of lesson 04: shared runs",
        "`make engine` on Debian, `brew install redis` on macOS",
        debian="redis-server",
    ),
    Need(
        "chromium",
        ("chromium", "--version"),
        "tests of lesson 04: its web page",
        "`make engine` on Debian; Google's Chrome will do as well",
        debian="chromium",
        also=("google-chrome", "chromium-browser"),
    ),
)
ALWAYS = ("python", "bash", "curl")


def version(need: Need) -> str | None:
    """The version that a need tells; None when it is not there or does not answer."""
    if (program := need.program) is None:
        return None
    try:
        found = subprocess.run(
            [program, *need.command[1:]], capture_output=True, text=True, timeout=10, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    number = re.search(r"\d+(\.\d+)+", found.stdout)
    return number[0] if number and found.returncode == 0 else None


def missing(names: Sequence[str]) -> list[Need]:
    """Those of the named needs, and of what every page needs, that this machine lacks."""
    return [need for need in NEEDS if need.name in (*ALWAYS, *names) and version(need) is None]


def set_up(console: Console) -> None:
    """Install the Debian packages of the engines that are missing; `Failed` where that is not ours to do."""
    lacking = [need for need in NEEDS if need.debian and need.program is None]
    if not lacking:
        console.print("Every engine that the lessons so far need is there.")
        return
    packages = " ".join(need.debian for need in lacking)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        told = "\n".join(f"{need.name} ({need.purpose}) comes from {need.get}." for need in lacking)
        raise Failed(f"{told}\nOn Debian this installs it: sudo apt-get install {packages}")
    install = f"apt-get install --yes --quiet --no-install-recommends {packages}"
    console.print(f"$ {install}", style="bold cyan")
    with no_service_started():
        # The list of packages is fetched only where it is missing, or too old to find them.
        if not run_apt(install) and not (run_apt("apt-get update --quiet") and run_apt(install)):
            raise Failed(f"The packages could not be installed: {packages}")


def run_apt(command: str) -> bool:
    """Whether apt did it, asking nothing."""
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command.split(), env=env, check=False).returncode == 0


@contextmanager
def no_service_started() -> Iterator[None]:
    """What is installed meanwhile is not started: tests start servers of their own."""
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


def doctor(console: Console, lessons: dict[str, list[str]]) -> bool:
    """Print what is there, and which lessons (title to needs) that allows; whether all is there."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "found", "for", "how to get it"):
        table.add_column(title)
    lacking = [need.name for need in missing([need.name for need in NEEDS])]
    for need in NEEDS:
        there = need.name not in lacking
        mark = "[green]✓[/green]" if there else "[red]✗[/red]"
        table.add_row(f"{mark} {need.name}", version(need) or "-", need.purpose, "" if there else need.get)
    console.print(table, "")
    for title, needs in lessons.items():
        lacks = [name for name in (*ALWAYS, *needs) if name in lacking]
        console.print(
            f"[red]✗[/red] {title}: needs {', '.join(lacks)}" if lacks else f"[green]✓[/green] {title}"
        )
    return not lacking
