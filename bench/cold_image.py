"""A base image that no engine has seen: the files of python:3.13-slim in one new layer."""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from course.containers.commands import run
from course.engines.docker import BASE
from course.engines.docker_daemon import MIRROR


@contextmanager
def cold_image() -> Iterator[str]:
    """The name of such an image in the course's registry, from which the engine has to pull all of it."""
    word = uuid.uuid4().hex
    name = f"{MIRROR}/library/python:cold-{word[:8]}"
    run("run", "--name", word, BASE, "sh", "-c", f"echo {word} > /{word}; echo {word} >> /etc/motd")
    try:
        run("commit", word, f"{name}-layers")
        run("rm", word)
        run("create", "--name", word, f"{name}-layers")
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/image.tar"
            run("export", "--output", archive, word)
            run("import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", archive, name)
        run("push", "--quiet", name)
        yield name
    finally:
        run("rm", "--force", word)
        run("rmi", "--force", name, f"{name}-layers")
