"""Engines that tests need, and images that they build."""

import dataclasses
import os
import uuid
from pathlib import Path

import pytest

from course import engines
from course.containers import images
from support.locks import turn


def require(name: str) -> str:
    """The path of an engine's program; without it the test is skipped in one line, and in CI fails."""
    engine = engines.find(name)
    if engine.version() and (program := engine.program()):
        return program
    raise (pytest.fail if os.environ.get("CI") else pytest.skip).Exception(engine.advice)


def build_own(image: images.Image, root: Path) -> str:
    """Build an image under a name of this process's own; the name.

    Another worker, checkout or check can then neither replace nor remove what a test looks at. Builds take
    turns, so that later ones find all steps in the builder's cache.
    """
    own = dataclasses.replace(image, tag=f"{image.tag}-{uuid.uuid4().hex[:8]}")
    with turn("images"):
        images.build(own, root=root)
    return own.tag
