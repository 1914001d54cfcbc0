"""Lesson 05, on real builds: what gets into the images, what does not, and what they cost to run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from course import images
from course.containers import Image, Surroundings, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
KINDS = ["basic", "multistage", "latest"]
PLANTED = "sk-planted-by-a-test-0123456789"


@pytest.mark.parametrize("kind", KINDS)
def test_planted_secrets_do_not_get_in(
    kind: str, build: Callable[[str], str], lesson_root: Path, tmp_path: Path
) -> None:
    build(kind)  # so that of the build below only the source is new
    folder = shutil.copytree(lesson_root / "research-agent", tmp_path / "research-agent")
    for name in (".env", ".env.production", "server.key", ".git/config", "app/.env", "app/server.pem"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"OPENAI_API_KEY={PLANTED}\n")
    made = next(image for image in images.AGENTS if image.tag.endswith(f":{kind}"))
    tag = f"planted:{kind}"
    run("build", f"--tag={tag}", f"--file={folder / made.file}", str(folder), seconds=500)
    try:
        layers = [list(files) for _, files in Image(tag).layers()]
        found = [path for files in layers for path, content in files if PLANTED.encode() in content]
    finally:
        run("rmi", "--force", tag)
    assert not found, f"What lay beside the source is in the image: {', '.join(found)}."


def test_same_input_same_image(build: Callable[[str], str], lesson_root: Path, tmp_path: Path) -> None:
    """Built again with no step from the cache, from files with other dates, it is the same to the byte."""
    first = run("image", "inspect", "--format={{.Id}}", build("latest"))
    folder = shutil.copytree(
        lesson_root / "research-agent", tmp_path / "research-agent", copy_function=shutil.copy
    )
    again = "again:latest"
    stages = "--no-cache-filter=system,packages,source"
    options = [stages, *images.origin("research-agent"), f"--tag={again}"]
    run("build", *options, str(folder), seconds=500)
    try:
        second = run("image", "inspect", "--format={{.Id}}", again)
    finally:
        run("rmi", again)
    assert first == second, "The same input makes another image."


def test_bill_of_materials_lists_every_package(
    build: Callable[[str], str], lesson_root: Path, tmp_path: Path
) -> None:
    build("latest")
    folder = lesson_root / "research-agent"
    run("build", "--target=sbom", f"--output={tmp_path}", str(folder), seconds=500)
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {f"{normal(part['name'])}=={part['version']}" for part in bill["components"]}
    script = (
        "from importlib.metadata import distributions as d; print(*(x.name + '==' + x.version for x in d()))"
    )
    tag = build("latest")
    there = run("run", "--rm", tag, "python", "-I", "-c", script).split()
    held = {f"{normal(name)}=={version}" for name, _, version in (each.partition("==") for each in there)}
    assert held <= listed, f"The image holds what its bill of materials does not list: {held - listed}."


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("kind", KINDS)
def test_health_check_costs_little(kind: str, build: Callable[[str], str]) -> None:
    """Under 100 ms of processor time, every few seconds, for as long as the container runs."""
    image = Image(build(kind))
    test = image.config["Healthcheck"]["Test"][1:]
    script = (
        "import resource, subprocess, sys\n"
        "for _ in range(10): subprocess.run(sys.argv[1:], check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print((used.ru_utime + used.ru_stime) / 10)"
    )
    with Surroundings() as around:
        container = around.start(image.name, "--health-interval=500ms")
        container.wait_healthy()
        seconds = float(run("exec", container.id, "python", "-c", script, *test))
    assert seconds < 0.1, f"The health check takes {seconds * 1000:.0f} ms of CPU."


def test_image_says_where_it_comes_from(build: Callable[[str], str]) -> None:
    labels = Image(build("latest")).config["Labels"]
    for name in ("title", "version", "revision", "licenses", "base.name"):
        assert labels.get(f"org.opencontainers.image.{name}"), f"The label {name} is missing."
