"""Dapr: its sidecar daprd, and the services placement and scheduler, without containers."""

import re
import shutil
from pathlib import Path

from rich.console import Console

from course.engines import engine
from course.engines.built import BuiltEngine
from course.engines.engine import version_of
from course.errors import CourseError
from course.paths import ROOT

TOOLS = ROOT / "tools" / "dapr"
HINT = "`dapr init` (docs.dapr.io/getting-started), or `make engine dapr` on a machine with Go"


def pinned_version() -> str:
    """The version that is built."""
    pinned = re.search(r"^\s*github\.com/dapr/dapr v(\S+)", (TOOLS / "go.mod").read_text(), re.MULTILINE)
    assert pinned
    return pinned[1]


class Dapr(BuiltEngine):
    """The folder is the one that `dapr init --runtime-path` makes: its programs are in `.dapr/bin`."""

    name = "dapr"
    purpose = "sidecars, and workflows that survive"
    install_hint = HINT
    variable = "DAPR_RUNTIME_PATH"
    program_path = ".dapr/bin/daprd"
    script = TOOLS / "build.sh"
    cached = engine.CACHE / "dapr" / f"v{pinned_version()}"
    size = "5 GB of disk (nearly all of it Go's caches) and six minutes"
    brings = ("kafka", "postgresql")

    def own_folder(self) -> Path | None:
        return super().own_folder() or Path.home()

    def version(self) -> str | None:
        program = self.program()
        return version_of([program, "--version"]) if program else None

    def require_builder(self, console: Console) -> None:
        if shutil.which("go") is None:
            raise CourseError(f"{self.missing_message} Go 1.26 or newer is at go.dev/dl.")
