"""An image in Docker's store: its configuration, history and layers."""

import json
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

from course.containers.commands import run
from course.engines.docker import docker
from course.errors import CourseError


class LocalImage:
    """An image by its name; pulled when Docker does not have it.

    Raises `CourseError` when it cannot be pulled.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        inspected = docker("image", "inspect", name)
        if inspected.returncode and docker("pull", "--quiet", name, seconds=600).returncode == 0:
            inspected = docker("image", "inspect", name)
        if inspected.returncode:
            raise CourseError(f"Docker has no image {name} and cannot pull it. (A URL begins with http://.)")
        self.config: dict[str, Any] = json.loads(inspected.stdout)[0]["Config"]

    @property
    def port(self) -> str:
        """The port that the image says it serves."""
        return str(next(iter(self.config.get("ExposedPorts") or ["8000/tcp"])))

    def history(self) -> list[str]:
        """The instructions that made its layers."""
        return run("history", "--no-trunc", "--format", "{{.CreatedBy}}", self.name).splitlines()

    def layers(self) -> Iterator[tuple[str, Iterator[tuple[str, bytes]]]]:
        """Each layer's name, with the path and content of its files; removed files are included."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as saved:
            run("save", "--output", saved.name, self.name, seconds=300)
            with tarfile.open(saved.name) as image:
                manifest = image.extractfile("manifest.json")
                assert manifest
                for name in json.load(manifest)[0]["Layers"]:
                    with tarfile.open(fileobj=image.extractfile(name)) as layer:
                        yield name, contents(layer)


def contents(layer: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in layer:
        content = layer.extractfile(member) if member.isfile() else None
        if content:
            yield f"/{member.name.removeprefix('./')}", content.read()
