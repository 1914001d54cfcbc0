"""The images of the course: what each is built from, and how."""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from course import engines
from course.engines.docker import docker
from course.errors import CourseError
from course.paths import ROOT


@dataclass(frozen=True)
class Image:
    tag: str
    folder: str
    file: str = "Dockerfile"
    options: tuple[str, ...] = field(default=())
    known_faults: frozenset[str] = (
        frozenset()
    )  # checks that it fails; the first lines of its Dockerfile list them

    def command(self, *more: str) -> list[str]:
        """The command that builds it, in the course's folder."""
        dockerfile = f"{self.folder}/{self.file}"
        return ["docker", "build", "--tag", self.tag, "--file", dockerfile, *self.options, *more, self.folder]


AGENTS = (
    Image(
        "research-agent:basic",
        "research-agent",
        "Dockerfile.basic",
        known_faults=frozenset(
            {"runs_as_numeric_non_root", "contains_no_build_leftovers", "holds_no_installer"}
        ),
    ),
    Image(
        "research-agent:multistage",
        "research-agent",
        "Dockerfile.multistage",
        known_faults=frozenset({"holds_no_installer"}),
    ),
    Image("research-agent:latest", "research-agent"),
)
MODEL = Image("offline-model:latest", "offline-model", options=("--build-context", "docs=docs"))
LESSONS = tuple(
    Image(f"lesson-{name[:2]}:latest", "code", options=("--build-arg", f"LESSON={name}"))
    for name in ("01_basic_api", "02_production_api", "03_graceful_shutdown")
)


def origin(folder: str) -> list[str]:
    """Build arguments with the last commit of a folder, and the time of that commit.

    The time of the build would give every build another digest.
    """
    asked = ["git", "log", "-1", "--format=%ct %H", "--", folder]
    try:
        told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or a folder that was not cloned
        told = ""
    seconds, revision = told.split() or ("0", "unknown")
    return ["--build-arg", f"SOURCE_DATE_EPOCH={seconds}", "--build-arg", f"REVISION={revision}"]


def build(image: Image, *more: str, root: Path = ROOT) -> None:
    """Build an image from the course, or from a copy at `root`. Raises `CourseError` with the last lines."""
    try:
        done = subprocess.run(
            image.command(*origin(image.folder), *more),
            cwd=root,
            env=os.environ | engines.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise CourseError("Docker is missing. `make doctor` says how to get it.") from None
    if done.returncode:
        raise CourseError(build_failure(image, done.stderr))


def build_failure(image: Image, output: str) -> str:
    """The error message of a failed build.

    The last line of the failed step and the builder's error in one sentence, then the last
    25 lines of output.
    """
    lines = [line for line in output.splitlines() if line.strip()] or ["it printed nothing"]
    error = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
    step = re.search(r"^------\n > \[.*?\n(.*?)^------$", output, re.MULTILINE | re.DOTALL)
    last = [re.sub(r"^[\d.]+ ", "", line) for line in step[1].splitlines()[-1:]] if step else []
    sentence = "; ".join([*last, error.removeprefix("ERROR: ")])
    return "\n".join([f"{image.file} could not be built: {sentence}.", *lines[-25:]])


def remove() -> None:
    """Remove the images of the course, and no others."""
    ours = {image.tag.partition(":")[0] for image in (MODEL, *AGENTS, *LESSONS)}
    for tag in docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split():
        if tag.partition(":")[0] in ours:
            docker("rmi", "--force", tag)
