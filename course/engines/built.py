"""Engines that the course builds once from pinned sources, and whose processes lessons and tests start."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from course.engines.engine import Engine
from course.errors import CourseError


class BuiltEngine(Engine):
    """A folder with an engine's programs: the machine's own, or one in the course's cache."""

    variable: str  # the environment variable that names the folder
    program_path: str  # from that folder to a file of the engine; a glob
    script: Path  # builds the engine into the folder that is its argument
    cached: Path  # the folder in the cache: one for each version
    size: str  # disk and time to build it

    @abstractmethod
    def require_builder(self, console: Console) -> None:
        """Install what the script needs. Raises `CourseError` when that cannot be installed."""

    def own_folder(self) -> Path | None:
        """The folder of the machine's own installation."""
        return Path(os.environ[self.variable]) if self.variable in os.environ else None

    def folder(self) -> Path | None:
        """The folder that has the engine; None when it is missing."""
        found = (self.own_folder(), self.cached)
        return next((each for each in found if each and any(each.glob(self.program_path))), None)

    def program(self) -> str | None:
        folder = self.folder()
        return str(next(folder.glob(self.program_path))) if folder else None

    def setup_cost(self) -> str:
        return "" if self.version() else self.size

    def set_up(self, console: Console) -> None:
        if self.version() is None:
            self.require_builder(console)
            began = time.monotonic()
            with locked(self.cached.parent):
                if self.folder() is None:
                    run_script(console, f"building {self.name} ({self.size})", self.script, self.cached)
            if self.version() is None:
                raise CourseError(f"{self.name} is built, but does not tell its version: {self.program()}")
            console.print(f"✓ {self.name} {self.version()}: built ({time.monotonic() - began:.0f} s)")
            return
        console.print(f"✓ {self.name} {self.version()}")

    def start(self, console: Console) -> None:
        """No-op: lessons and tests start processes of their own."""

    def stop(self, console: Console) -> None:
        """No-op: nothing was started."""

    def clean(self, console: Console) -> None:
        with console.status(f"removing {self.name} ..."):
            remove(self.cached.parent)

    def environment(self) -> dict[str, str]:
        return {self.variable: str(self.cached)} if self.folder() == self.cached else {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, so that only one process at a time builds into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove(folder: Path) -> None:
    """Remove a folder. It is renamed first, so that an interruption leaves no half of it under its name."""
    if folder.exists():
        doomed = Path(tempfile.mkdtemp(prefix="removed-", dir=folder.parent))
        folder.rename(doomed / folder.name)
        shutil.rmtree(doomed)


def run_script(
    console: Console, name: str, script: Path, *arguments: Path | str, env: Mapping[str, str] | None = None
) -> None:
    """Run a script of `tools/`. Raises `CourseError` with the end of its output when it fails."""
    with console.status(f"{name} ..."):
        done = subprocess.run(
            [script, *arguments],
            env=os.environ | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise CourseError(f"{name} failed:\n{(done.stdout + done.stderr)[-2000:]}")
