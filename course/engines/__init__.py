"""Engines: the servers and programs that lessons need besides Python.

Each engine has a module; all have the interface in `course.engines.engine`.
"""

import shutil
import sys
from collections.abc import Iterable

from rich.console import Console

from course.engines import debian
from course.engines.chromium import CHROMIUM
from course.engines.dagger import Dagger
from course.engines.dapr import Dapr
from course.engines.docker import Docker
from course.engines.engine import CACHE, Engine, Program
from course.engines.kafka import Kafka
from course.engines.postgresql import POSTGRESQL
from course.engines.redis import REDIS
from course.errors import CourseError

# Every page needs these. The course does not install them.
TOOLS = (
    Program("python", "everything", "python.org, or your system's packages", (sys.executable,)),
    Program("bash", "the commands of the pages", "your system's packages (Windows: WSL2)", ("bash",)),
    Program("curl", "the commands of the pages", "your system's packages", ("curl",)),
)
ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (Docker(), Dagger(), REDIS, CHROMIUM, Dapr(), Kafka(), POSTGRESQL)
}


def find(name: str) -> Engine:
    """The engine of that name. Raises `CourseError` when there is none."""
    if name not in ENGINES:
        raise CourseError(f"There is no engine {name}. There are: {', '.join(ENGINES)}.")
    return ENGINES[name]


def missing(names: Iterable[str]) -> list[Engine]:
    """The tools and the named engines that this machine lacks."""
    wanted = [*TOOLS, *map(find, dict.fromkeys(names))]
    return [engine for engine in wanted if engine.version() is None]


def set_up(console: Console, names: Iterable[str] = ()) -> None:
    """Set up the named engines, or all. Raises `CourseError` at the end if any could not be set up."""
    named = [each for name in names for each in (name, *find(name).brings)]
    chosen = list(map(find, dict.fromkeys(named))) or list(ENGINES.values())
    announce(console, chosen)
    failures = []
    for engine in chosen:
        try:
            engine.set_up(console)
        except CourseError as failure:
            failures.append(str(failure))
    if failures:
        raise CourseError("\n".join(failures))


def announce(console: Console, chosen: list[Engine]) -> None:
    """Print how much disk and time the set-up will take."""
    costs = {engine.name: engine.setup_cost() for engine in chosen} if debian.can_install() else {}
    for name, cost in costs.items():
        if cost:
            console.print(f"{name} will take {cost}.")
    if any(costs.values()):
        folder = next(each for each in (CACHE, *CACHE.parents) if each.exists())
        console.print(f"Free on this disk: {shutil.disk_usage(folder).free / 1e9:.0f} GB.\n")


def stop(console: Console) -> None:
    """Stop every engine that the course has started; Docker after those that run in it."""
    for engine in reversed(ENGINES.values()):
        engine.stop(console)


def clean(console: Console) -> None:
    """Stop every engine, and remove what it keeps outside the course's folder."""
    for engine in reversed(ENGINES.values()):
        engine.clean(console)


def environment() -> dict[str, str]:
    """The variables by which a process finds the engines that the course has started."""
    found: dict[str, str] = {}
    for engine in ENGINES.values():
        found |= engine.environment()
    return found


def doctor(console: Console, lessons: dict[str, list[str]]) -> bool:
    """Print which engines this machine has and which lessons it can run.

    `lessons` maps a title to the engines it needs. Returns True if no engine is missing.
    """
    from rich.table import (
        Table,
    )  # imported here, because few commands need it and it slows the start of a lesson

    table = Table(box=None, pad_edge=False)
    for heading in ("", "found", "for", "lessons", "how to get it"):
        table.add_column(heading)
    everything = [*TOOLS, *ENGINES.values()]
    versions = {engine.name: engine.version() for engine in everything}
    lacking = {name for name, version in versions.items() if version is None}
    for engine in everything:
        pages = [title.split()[0] for title, needs in lessons.items() if engine.name in needs]
        used = pages + [f"{number} (tests)" for number in engine.tests if number not in pages]
        mark = "[red]✗[/red]" if engine.name in lacking else "[green]✓[/green]"
        table.add_row(
            f"{mark} {engine.name}",
            versions[engine.name] or "-",
            engine.purpose,
            "all" if engine in TOOLS else ", ".join(used),
            engine.install_hint if engine.name in lacking else "",
        )
    console.print(table, "")
    for title, needs in lessons.items():
        lacks = [name for name in (*(tool.name for tool in TOOLS), *needs) if name in lacking]
        console.print(
            f"[red]✗[/red] {title}: needs {', '.join(lacks)}" if lacks else f"[green]✓[/green] {title}"
        )
    return not lacking
