"""The interface of an engine: a server or program that the course does not contain."""

import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from course.engines import debian
from course.errors import CourseError

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agents-in-containers"


class Engine(ABC):
    """A server or program that lessons or their tests need."""

    name: str  # as in `make engine NAME`, and in a page's `needs`
    purpose: str
    install_hint: str  # how a learner gets it
    tests: tuple[
        str, ...
    ] = ()  # numbers of lessons whose tests need it, in addition to the pages that name it
    brings: tuple[str, ...] = ()  # engines that lessons use beside it; `make engine NAME` sets them up too

    @property
    def missing_message(self) -> str:
        """One line that says how to get it."""
        return f"{self.name} is missing. Get it: {self.install_hint}."

    @abstractmethod
    def program(self) -> str | None:
        """The path of its program; None when it is missing."""

    @abstractmethod
    def version(self) -> str | None:
        """Its version; None when it is missing or does not answer."""

    @abstractmethod
    def setup_cost(self) -> str:
        """The disk space and time that `set_up` will take; empty when there is nothing to do."""

    @abstractmethod
    def set_up(self, console: Console) -> None:
        """Install and start it, unless it works. Raises `CourseError` if it cannot be installed."""

    @abstractmethod
    def start(self, console: Console) -> None:
        """Start it, once `set_up` has installed it, and wait until it answers."""

    @abstractmethod
    def stop(self, console: Console) -> None:
        """Stop it, if the course has started it."""

    @abstractmethod
    def clean(self, console: Console) -> None:
        """Stop it, and remove its files from the learner's caches."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The environment variables with which a process finds the engine that the course started."""


@dataclass(frozen=True)
class Program(Engine):
    """An engine that only has to be installed: pages and tests start their own processes of it."""

    name: str
    purpose: str
    install_hint: str
    programs: tuple[str, ...]  # the names that it may have
    tests: tuple[str, ...] = ()
    package: str = ""  # Debian's
    size: str = ""  # disk and time for the package and its dependencies

    def program(self) -> str | None:
        return next(filter(None, map(shutil.which, self.programs)), None)

    def version(self) -> str | None:
        program = self.program()
        return version_of([program, "--version"]) if program else None

    def setup_cost(self) -> str:
        return "" if self.version() else self.size

    def set_up(self, console: Console) -> None:
        if self.version() is None:
            if not debian.can_install():
                raise CourseError(
                    f"{self.missing_message} It is for {self.purpose}. "
                    f"On Debian this installs it: sudo apt-get install {self.package}"
                )
            debian.install(self.package, console)
            if self.version() is None:
                raise CourseError(
                    f"{self.name} is installed, but `{self.name} --version` fails or prints no version."
                )
        console.print(f"✓ {self.name} {self.version()}")

    def start(self, console: Console) -> None:
        """No-op: tests start servers of their own."""

    def stop(self, console: Console) -> None:
        """No-op: nothing was started."""

    def clean(self, console: Console) -> None:
        """No-op: an installed package stays."""

    def environment(self) -> dict[str, str]:
        return {}


def version_of(command: list[str]) -> str | None:
    """The first version number that a command prints; None when it fails or does not answer."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    number = re.search(r"\d+(\.\d+)+", found.stdout)
    return number[0] if number and found.returncode == 0 else None
