"""Run docker commands that must succeed, and poll with them."""

from functools import partial

from course import polling
from course.engines.docker import docker
from course.errors import CourseError

until = partial(polling.until, pause=0.25)  # each poll runs a docker command


def run(*arguments: str, seconds: float = 60) -> str:
    """Run a docker command and return its output. Raises `CourseError` with its error text."""
    done = docker(*arguments, seconds=seconds)
    if done.returncode:
        raise CourseError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()
