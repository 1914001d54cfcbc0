"""The pipeline of this lesson: lint, types, tests and the image, each in a container and cached.

Run:  python ci/ci_pipeline.py [IMAGE.tar]   by hand, in GitHub Actions and in GitLab CI alike
Then: docker load --input IMAGE.tar
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TextIO

import dagger
from dagger import dag

FOLDER = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("PYTHON_IMAGE", "python:3.13-slim")
IGNORED = ["**/__pycache__", "**/.*_cache", ".env"]
CHECKS = {
    "lint": "ruff check --select E,F,I,B,UP --line-length 110 .",
    "types": "mypy --strict --explicit-package-bases .",
    "tests": "pytest -q tests",
}


def checked(source: dagger.Directory) -> dagger.Container:
    """A container with the packages, and above them the source, so that an edit installs nothing again."""
    return (
        dag.container()
        .from_(PYTHON)
        .with_mounted_cache("/root/.cache/pip", dag.cache_volume("pip"))
        .with_file("/requirements.txt", source.file("ci/requirements.txt"))
        .with_exec(["pip", "install", "--quiet", "--require-hashes", "-r", "/requirements.txt"])
        .with_directory("/lesson", source)
        .with_workdir("/lesson")
    )


async def step(name: str, work: Awaitable[object], began: float) -> None:
    """Do one step, and print from when to when it ran."""
    start = time.monotonic() - began
    await work
    print(f"{name:6} {start:6.1f} s to {time.monotonic() - began:6.1f} s", flush=True)


async def pipeline(tar: Path) -> None:
    began = time.monotonic()
    source = dag.host().directory(str(FOLDER), exclude=IGNORED)
    container = checked(source)
    steps = [step(name, container.with_exec(line.split()).sync(), began) for name, line in CHECKS.items()]
    image = source.docker_build(build_args=[dagger.BuildArg("PYTHON_IMAGE", PYTHON)])
    steps.append(step("image", image.sync(), began))
    await asyncio.gather(*steps)
    # `docker load` reads Docker's own format, and takes the image's name from an annotation.
    named = image.with_annotation("io.containerd.image.name", "container-tools:ci")
    kind = dagger.ImageMediaTypes.DockerMediaTypes
    await step("export", export(named.as_tarball(media_types=kind), tar), began)


async def export(tarball: dagger.File, tar: Path) -> None:
    """Write the image, unless the file has it already, as the digest beside it says."""
    digest = await tarball.digest()
    if not is_exported(tar, digest):
        await tarball.export(str(tar))
        tar.with_suffix(".digest").write_text(digest)


def is_exported(tar: Path, digest: str) -> bool:
    known = tar.with_suffix(".digest")
    return tar.exists() and known.exists() and known.read_text() == digest


async def run(tar: Path, output: TextIO) -> None:
    """Run the pipeline. Exit with the output of the step that failed."""
    try:
        async with dagger.connection(dagger.Config(log_output=output)):
            await pipeline(tar)
    except dagger.ExecError as error:
        sys.exit(f"{error.stdout}{error.stderr}\nThis step failed: {' '.join(error.command)}")


def main() -> None:
    tar = Path(sys.argv[1] if len(sys.argv) > 1 else "container-tools.tar").resolve()
    with Path(os.environ.get("DAGGER_LOG", os.devnull)).open("a") as output:
        asyncio.run(run(tar, output))


if __name__ == "__main__":
    main()
