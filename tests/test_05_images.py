"""Lesson 05, with real builds: the images' contents, reproducibility, and cost at run time."""

import dataclasses
import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from course.containers import images
from course.containers.commands import run
from course.containers.local_image import LocalImage
from course.containers.network import TestNetwork
from course.engines.docker import docker
from course.errors import CourseError
from course.paths import copy_sources

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
KINDS = ["basic", "multistage", "latest"]
PLANTED_API_KEY = "sk-planted-by-a-test-0123456789"


Build = Callable[[str], str]
Rebuild = Callable[..., str]


@pytest.fixture
def rebuild(build: Build) -> Iterator[Rebuild]:
    """Return a function that builds an image from a copy of the course, and returns its tag."""
    tags = []

    def build_again(kind: str, root: Path, *options: str) -> str:
        image = agent(kind)
        tags.append(f"{image.tag}-{uuid.uuid4().hex[:8]}")
        images.build(dataclasses.replace(image, tag=tags[-1]), *options, root=root)
        return tags[-1]

    yield build_again
    for tag in tags:
        docker("rmi", "--force", tag)


@pytest.fixture
def copy(lesson_root: Path, tmp_path: Path) -> Path:
    """Return a copy of the agent's folder whose files have other timestamps."""
    folder = copy_sources(lesson_root / "research-agent", tmp_path / "research-agent")
    for path in folder.rglob("*"):
        path.touch()
    return folder


def agent(kind: str) -> images.Image:
    return next(image for image in images.AGENTS if image.tag.endswith(f":{kind}"))


def layers(tag: str) -> list[str]:
    """Return the digests of an image's layers."""
    ids: list[str] = json.loads(run("image", "inspect", "--format={{json .RootFS.Layers}}", tag))
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_planted_secrets_do_not_get_in(kind: str, build: Build, rebuild: Rebuild, copy: Path) -> None:
    clean = build(kind)
    for name in (".env", ".env.production", "server.key", ".git/config", "app/.env", "app/server.pem"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(f"OPENAI_API_KEY={PLANTED_API_KEY}\n")
    planted = rebuild(kind, copy.parent)
    if layers(planted) == layers(clean):
        return
    found = [
        path
        for _, files in LocalImage(planted).layers()
        for path, content in files
        if PLANTED_API_KEY.encode() in content
    ]
    assert not found, f"What lay beside the source is in the image: {', '.join(found)}."


def test_same_input_same_image(build: Build, rebuild: Rebuild, lesson_root: Path, copy: Path) -> None:
    """A build without cache, from files with other timestamps, gives the identical image."""
    build("latest")  # fills the builder's cache for the first of the two builds below
    # The last stage must be rebuilt: the cache key of a COPY is its content, without the timestamps.
    first = rebuild("latest", lesson_root, "--no-cache-filter=final")
    second = rebuild("latest", copy.parent, "--no-cache-filter=system,packages,source,final")
    ids = {run("image", "inspect", "--format={{.Id}}", tag) for tag in (first, second)}
    assert len(ids) == 1, "The same input makes another image."


def test_bill_of_materials_lists_every_package(build: Build, lesson_root: Path, tmp_path: Path) -> None:
    build("latest")
    folder = lesson_root / "research-agent"
    run("build", "--target=sbom", f"--output={tmp_path}", str(folder), seconds=500)
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    form = bill.get("bomFormat")
    assert form == "CycloneDX", f"The bill of materials has the format {form!r}, not CycloneDX."
    listed = {f"{normalize(part['name'])}=={part['version']}" for part in bill["components"]}
    script = (
        "from importlib.metadata import distributions as d; print(*(x.name + '==' + x.version for x in d()))"
    )
    tag = build("latest")
    there = run("run", "--rm", tag, "python", "-I", "-c", script).split()
    held = {f"{normalize(name)}=={version}" for name, _, version in (each.partition("==") for each in there)}
    assert held <= listed, f"The image holds what its bill of materials does not list: {held - listed}."


@pytest.mark.parametrize("kind", ["multistage", "latest"])
def test_an_edit_of_the_source_keeps_the_packages(
    kind: str, build: Build, rebuild: Rebuild, copy: Path
) -> None:
    """Only the source's layer is rebuilt, pushed and pulled."""
    before = dict(zip(layers(build(kind)), sizes(build(kind)), strict=True))
    with (copy / "main.py").open("a") as program:
        program.write("# an edit\n")
    edited = rebuild(kind, copy.parent)
    after = dict(zip(layers(edited), sizes(edited), strict=True))
    kept, largest = set(before) & set(after), max(before, key=lambda each: before[each])
    assert largest in kept, "After an edit of the source, the layer of the packages is another one."
    new = sum(size for layer, size in after.items() if layer not in kept)
    assert new < 2_000_000, f"After an edit of the source, {new / 1e6:.1f} MB are new."


def sizes(tag: str) -> list[int]:
    """Return the size of each layer's files, in bytes."""
    return [sum(len(content) for _, content in files) for _, files in LocalImage(tag).layers()]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [("COPY main.py", "COPY man.py", "/man.py"), ("bin/pip install", "bin/pip instal", 'command "instal"')],
    ids=["COPY", "RUN"],
)
def test_a_dockerfile_that_does_not_build_shows_what_the_builder_said_last(
    right: str, wrong: str, said: str, rebuild: Rebuild, copy: Path
) -> None:
    dockerfile = copy / "Dockerfile.multistage"
    dockerfile.write_text(dockerfile.read_text().replace(right, wrong))
    with pytest.raises(CourseError) as failure:
        rebuild("multistage", copy.parent)
    first, *others = str(failure.value).splitlines()
    assert first.startswith("Dockerfile.multistage could not be built: "), (
        f"The error does not begin by saying that Dockerfile.multistage could not be built: {first!r}."
    )
    assert first.endswith("."), f"The error's first line does not end with a full stop: {first!r}."
    assert said in first, (
        f"The error's first line does not name what is wrong in the Dockerfile, {said}: {first!r}."
    )
    assert any(">>>" in line and wrong in line for line in others), (
        f"The error does not mark the Dockerfile's line with {wrong!r} by >>>:\n{failure.value}"
    )


def test_modules_are_not_recompiled_at_start(build: Build) -> None:
    """Compiling modules again would add half a second to every start."""
    verbose = ("python", "-v", "-c", "import app.api")
    told = docker("run", "--rm", build("latest"), *verbose, seconds=300).stderr
    stale = re.findall(r"^# bytecode is stale for '(\S+)'$", told, re.MULTILINE)
    assert "matches" in told, f"The program's modules cannot be imported: {told.strip()[-300:]}."
    assert not stale, (
        f"The bytecode of {len(stale)} modules is thrown away at each start, such as {stale[0]}."
    )
    compiled = re.findall(r"^# code object from '?(/\S+\.py)'?$", told, re.MULTILINE)
    assert not compiled, f"{len(compiled)} modules are compiled at each start, such as {compiled[0]}."


@pytest.mark.parametrize("name", ["Dockerfile.basic", "Dockerfile.multistage", "Dockerfile"])
def test_base_images_have_a_version(name: str, lesson_root: Path) -> None:
    """With a base image without a version, the same Dockerfile gives another image a year later."""
    text = (lesson_root / "research-agent" / name).read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    for name_of, value in reversed(arguments.items()):
        text = text.replace(f"${{{name_of}}}", value)
    stages = {"scratch", *re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)}
    bases = [base for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if base not in stages]
    floating = [base for base in bases if not re.search(r":\d+\.\d+|@sha256:", base)]
    assert not floating, f"{name} is built on {', '.join(floating)}, which is another image every month."


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("kind", KINDS)
def test_health_check_costs_little(kind: str, build: Build, network: TestNetwork) -> None:
    """The check runs every few seconds, so it may take at most 100 ms of CPU time."""
    image = LocalImage(build(kind))
    form, *check = image.config.get("Healthcheck", {}).get("Test", ["NONE"])
    assert form != "NONE", "The image has no HEALTHCHECK."
    script = (
        "import resource, subprocess, sys, time\n"
        "def used():\n"
        "    children = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    return children.ru_utime + children.ru_stime\n"
        "deadline = time.monotonic() + 60\n"
        "while subprocess.run(sys.argv[1:]).returncode and time.monotonic() < deadline: time.sleep(0.2)\n"
        "before = used()\n"
        "for _ in range(10): subprocess.run(sys.argv[1:], check=True)\n"
        "print((used() - before) / 10)"
    )
    container = network.start(image.name, "--no-healthcheck")
    try:
        command = ["/bin/sh", "-c", *check] if form == "CMD-SHELL" else check
        seconds = float(run("exec", container.id, "python", "-c", script, *command, seconds=120))
    finally:
        container.remove()
    assert seconds < 0.1, f"The health check takes {seconds * 1000:.0f} ms of CPU."


def test_image_says_where_it_comes_from(build: Build) -> None:
    labels = LocalImage(build("latest")).config["Labels"] or {}
    for name in ("title", "version", "revision", "licenses", "base.name"):
        assert labels.get(f"org.opencontainers.image.{name}"), f"The label {name} is missing."
