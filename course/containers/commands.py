"""Docker commands that have to succeed, and a pace at which to repeat them."""

from functools import partial

from course import polling
from course.engines.docker import docker
from course.errors import Failed

until = partial(polling.until, pause=0.25)  # each look is a docker command


def run(*arguments: str, seconds: float = 60) -> str:
    """Run a docker command and return its output; `Failed` with its error text when it fails."""
    done = docker(*arguments, seconds=seconds)
    if done.returncode:
        raise Failed(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()
