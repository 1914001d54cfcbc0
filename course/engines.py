"""Engines: what this machine has, what each is for, and how to get what is missing."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Need:
    """Something a lesson needs: how to find its version, what it is for, and where it comes from."""

    name: str
    command: tuple[str, ...]
    purpose: str
    get: str
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
        "images",
        "docs.docker.com/get-docker",
    ),
    Need(
        "redis-server",
        ("redis-server", "--version"),
        "tests of lesson 04: several replicas share their runs",
        "`make engine`, or redis.io/docs/latest/operate/oss_and_stack/install",
    ),
    Need(
        "chromium",
        ("chromium", "--version"),
        "tests of lesson 04: its web page in a real browser",
        "`make engine`, or chromium.org (Chrome will do)",
        also=("chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
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
