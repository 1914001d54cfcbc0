"""Lesson 05, on real builds: what gets into the images, what does not, and what they cost to run."""

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from course import images
from course.containers import Image, Surroundings, run
from course.engines.docker import docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
KINDS = ["basic", "multistage", "latest"]
PLANTED = "sk-planted-by-a-test-0123456789"


@pytest.fixture
def scratch() -> Iterator[str]:
    """The name of an image that is removed afterwards."""
    tag = f"scratch:{uuid.uuid4().hex[:8]}"
    yield tag
    docker("rmi", "--force", tag)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_secrets_do_not_get_in(
    kind: str, build: Callable[[str], str], scratch: str, lesson_root: Path, tmp_path: Path
) -> None:
    build(kind)  # so that of the build below only the source is new
    folder = shutil.copytree(lesson_root / "research-agent", tmp_path / "research-agent")
    for name in (".env", ".env.production", "server.key", ".git/config", "app/.env", "app/server.pem"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"OPENAI_API_KEY={PLANTED}\n")
    made = next(image for image in images.AGENTS if image.tag.endswith(f":{kind}"))
    run("build", f"--tag={scratch}", f"--file={folder / made.file}", str(folder), seconds=500)
    layers = [list(files) for _, files in Image(scratch).layers()]
    found = [path for files in layers for path, content in files if PLANTED.encode() in content]
    assert not found, f"What lay beside the source is in the image: {', '.join(found)}."


def test_same_input_same_image(
    build: Callable[[str], str], scratch: str, lesson_root: Path, tmp_path: Path
) -> None:
    """Built again with no step from the cache, from files with other dates, it is the same to the byte."""
    build("latest")  # so that the first of the two below is nearly all in the builder's cache
    folder = shutil.copytree(
        lesson_root / "research-agent", tmp_path / "research-agent", copy_function=shutil.copy
    )
    # The last stage is always new: the builder's cache knows a COPY by its content, whatever the dates.
    made, origin = [], images.origin("research-agent")
    for anew, source in (("final", lesson_root / "research-agent"), ("system,packages,source,final", folder)):
        run("build", *origin, f"--tag={scratch}", f"--no-cache-filter={anew}", str(source), seconds=500)
        made.append(run("image", "inspect", "--format={{.Id}}", scratch))
    first, second = made
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


@pytest.mark.parametrize("kind", ["multistage", "latest"])
def test_an_edit_of_the_source_keeps_the_packages(
    kind: str, build: Callable[[str], str], scratch: str, lesson_root: Path, tmp_path: Path
) -> None:
    """Only the layer of the source is new, to be built, pushed and pulled."""
    before = layer_ids(build(kind))
    folder = shutil.copytree(lesson_root / "research-agent", tmp_path / "research-agent")
    with (folder / "main.py").open("a") as program:
        program.write(f"# an edit, {time.time_ns()}\n")
    made = next(image for image in images.AGENTS if image.tag.endswith(f":{kind}"))
    run("build", f"--tag={scratch}", f"--file={folder / made.file}", str(folder), seconds=500)
    after = layer_ids(scratch)
    kept, largest = set(before) & set(after), max(before, key=lambda each: before[each])
    assert largest in kept, "After an edit of the source, the layer of the packages is another one."
    new = sum(size for layer, size in after.items() if layer not in kept)
    assert new < 2_000_000, f"After an edit of the source, {new / 1e6:.1f} MB are new."


def layer_ids(tag: str) -> dict[str, int]:
    """The layers of an image, and what each holds in bytes."""
    ids = json.loads(run("image", "inspect", "--format={{json .RootFS.Layers}}", tag))
    sizes = [sum(len(content) for _, content in files) for _, files in Image(tag).layers()]
    return dict(zip(ids, sizes, strict=True))


def test_bytecode_is_taken_as_it_is(build: Callable[[str], str]) -> None:
    """What is compiled again at every start costs half a second of every start."""
    told = docker("run", "--rm", build("latest"), "python", "-v", "-c", "import app.api").stderr
    stale = re.findall(r"^# bytecode is stale for '(\S+)'$", told, re.MULTILINE)
    assert "matches" in told
    assert not stale, (
        f"The bytecode of {len(stale)} modules is thrown away at each start, such as {stale[0]}."
    )
    compiled = re.findall(r"^# code object from '?(/\S+\.py)'?$", told, re.MULTILINE)
    assert not compiled, f"{len(compiled)} modules are compiled at each start, such as {compiled[0]}."


@pytest.mark.parametrize("name", ["Dockerfile.basic", "Dockerfile.multistage", "Dockerfile"])
def test_base_images_have_a_version(name: str, lesson_root: Path) -> None:
    """The same Dockerfile a year later is another image when its base is whatever is newest."""
    text = (lesson_root / "research-agent" / name).read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)) | {"scratch", "${PYTHON_IMAGE}"}
    bases = [
        *re.findall(r"^FROM (\S+)", text, re.MULTILINE),
        *re.findall(r"PYTHON_IMAGE=(\S+)$", text, re.MULTILINE),
    ]
    floating = [base for base in bases if base not in stages and not re.search(r":\d+\.\d+|@sha256:", base)]
    assert not floating, f"{name} is built on {', '.join(floating)}, which is another image every month."


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
