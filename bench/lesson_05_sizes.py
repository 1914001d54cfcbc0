"""What is in the images? `python bench/lesson_05_sizes.py`, needs the images of `make images`."""

import gzip
import json
import re
import tempfile
from pathlib import Path

from bench.records import measured, save
from course.containers.commands import run
from course.containers.images import AGENTS
from course.paths import ROOT

MB = 1_000_000
BASE = "python:3.13-slim"
# The size of each distribution: its files on the disk, with bytecode.
PACKAGES = """
import json
import re
from importlib.metadata import distributions
from pathlib import Path
sizes = {}
for one in distributions():
    files = {Path(one.locate_file(f)) for f in one.files or []}
    files |= {c for f in files for c in f.parent.glob(f"__pycache__/{f.stem}.*.pyc")}
    sizes[one.name] = sum(f.stat().st_size for f in files if f.is_file())
print(json.dumps(sizes))
"""


def unpacked_size(tag: str) -> float:
    return int(run("image", "inspect", "--format={{.Size}}", tag)) / MB


def compressed_size(tag: str) -> float:
    """The size in a registry: all layers, compressed by gzip."""
    with tempfile.TemporaryDirectory() as folder:
        saved, small = Path(folder) / "image.tar", Path(folder) / "image.tar.gz"
        run("save", f"--output={saved}", tag, seconds=300)
        with saved.open("rb") as whole, gzip.open(small, "wb", compresslevel=6) as file:
            while piece := whole.read(1 << 20):
                file.write(piece)
        return small.stat().st_size / MB


def layers(tag: str) -> list[tuple[str, float]]:
    """The size of the base image, and of what each line of the Dockerfile added."""
    base, steps = history(BASE), history(tag)
    if steps[: len(base)] != base:  # the image has the base's files in a layer of its own
        return steps
    return [(f"the base image (a stand-in for {BASE})", sum(size for _, size in base)), *steps[len(base) :]]


def history(tag: str) -> list[tuple[str, float]]:
    """Each step that made an image, the first one first, and the size that it added."""
    output = run("history", "--no-trunc", "--human=false", "--format={{.Size}}\t{{.CreatedBy}}", tag)
    lines = [line.partition("\t") for line in reversed(output.splitlines())]
    return [(made, int(size) / MB) for size, _, made in lines]


def main() -> None:
    version = run("version", "--format={{.Server.Version}}")
    how = "one build of each; gzip level 6 of all layers; on a stand-in base image"
    tags = [BASE, *(image.tag for image in AGENTS)]
    names = ["base", "basic", "multistage", "optimized"]
    whole, small = [unpacked_size(tag) for tag in tags], [compressed_size(tag) for tag in tags]
    save(
        "lesson_05_sizes",
        {
            "title": "What the images weigh",
            "kind": "bars",
            "alt": "Megabytes of the base image and of the three images, unpacked and packed.",
            "measured": measured(how, Docker=version),
            "values": {"optimized_to_basic": round(whole[3] / whole[1], 3)},
            "unit": "MB",
            "groups": names,
            "series": [
                {"name": "unpacked", "values": [round(size, 1) for size in whole]},
                {"name": "gzip", "values": [round(size, 1) for size in small]},
            ],
        },
    )
    sizes = json.loads(run("run", "--rm", AGENTS[-1].tag, "python", "-c", PACKAGES))
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:14]
    rest = sum(sizes.values()) - sum(size for _, size in largest)
    save_layers(
        "lesson_05_packages",
        "What is in the packages of the optimized image",
        "The research agent's packages by size, the largest at the bottom, stripped and with their bytecode.",
        [*((name, size / MB) for name, size in largest), (f"{len(sizes) - len(largest)} others", rest / MB)],
        measured(how, Docker=version),
    )
    for name, image in zip(names[1:], AGENTS, strict=True):
        # The history of an image does not name the stage that a layer came from; the Dockerfile does.
        text = (ROOT / image.folder / image.file).read_text()
        stages = iter(re.findall(r"COPY --link --from=(\w+) /layer /", text))
        steps = [
            (f"COPY --from={next(stages)} /layer /" if "COPY /layer /" in made else made, size)
            for made, size in layers(image.tag)
        ]
        steps = [(made, size) for made, size in steps if size >= 0.1]
        save_layers(
            f"lesson_05_layers_{name}",
            f"The layers of research-agent:{image.tag.partition(':')[2]}",
            f"What each step of {image.file} adds, the first at the bottom.",
            [(shorten(made), size) for made, size in steps],
            measured(how, Docker=version),
        )


def shorten(made: str) -> str:
    """An instruction as the Dockerfile has it, without what the builder added."""
    for noise in ("/bin/sh -c ", "# buildkit", "#(nop) "):
        made = made.replace(noise, "")
    line = (
        " ".join(made.split())
        .replace("|", "/")
        .replace("<", "")
        .replace(">", "")
        .replace("[", "")
        .replace("]", "")
    )
    return (line[:57] + " ...") if len(line) > 60 else line


def save_layers(
    name: str, title: str, alt: str, sizes: list[tuple[str, float]], how: dict[str, object]
) -> None:
    stacked = [{"label": label, "size": round(size, 1)} for label, size in sizes]
    record = {"title": title, "kind": "layers", "alt": alt, "measured": how, "layers": stacked}
    record["values"] = {"total": round(sum(size for _, size in sizes), 1)}
    save(name, record)


if __name__ == "__main__":
    main()
