"""The lesson's own commands: `python ci/ci_pipeline.py dev|test|lint`.

dev:  the server on port 8001, with Dagger as its engine and the API's documentation at /docs
test: the lesson's own tests with their coverage, in a container
lint: style, types, and bandit's security checks, in a container

The server itself is in no container: one that starts containers would need the engine's socket.
"""

import asyncio
import os
import secrets
import sys
from pathlib import Path
from typing import TextIO

import dagger
from dagger import dag

FOLDER = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("PYTHON_IMAGE", "python:3.13-slim")
IGNORED = ["**/__pycache__", "**/.*_cache", ".env", "data", "repositories"]
COMMANDS = {
    "test": ["pytest -q -p no:cacheprovider --cov=parallel_agents tests"],
    "lint": [
        "ruff check --select E,F,I,B,UP,ASYNC --line-length 110 --no-cache main.py parallel_agents tests ci",
        "mypy --strict --explicit-package-bases main.py parallel_agents tests",
        # What the skipped ones find is inside of containers: /tmp, all interfaces, and the gateway's URL.
        "bandit --quiet --recursive --severity-level medium --skip B104,B108,B310 parallel_agents",
    ],
}


def container() -> dagger.Container:
    """A container with the packages, and above them the source, so that an edit installs nothing again."""
    source = dag.host().directory(str(FOLDER), exclude=IGNORED)
    return (
        dag.container()
        .from_(PYTHON)
        .with_mounted_cache("/root/.cache/pip", dag.cache_volume("pip"))
        .with_file("/requirements.txt", source.file("ci/requirements.txt"))
        .with_exec(["pip", "install", "--quiet", "--require-hashes", "-r", "/requirements.txt"])
        .with_directory("/lesson", source)
        .with_workdir("/lesson")
    )


def dev() -> None:
    """Become the server."""
    settings = {"ENGINE": "dagger", "DEBUG": "true", "PORT": "8001"}
    key = os.environ.get("SECRET_KEY") or secrets.token_urlsafe(48)
    os.chdir(FOLDER)
    environment = os.environ | settings | {"SECRET_KEY": key}
    os.execve(sys.executable, [sys.executable, "main.py"], environment)  # noqa: S606


async def run(name: str, output: TextIO) -> None:
    """Run the commands of a name. Exit with the output of the one that failed."""
    try:
        async with dagger.connection(dagger.Config(log_output=output)):
            for line in COMMANDS[name]:
                print(await container().with_exec(line.split()).stdout(), end="", flush=True)
    except dagger.ExecError as error:
        sys.exit(f"{error.stdout}{error.stderr}\nThis step failed: {' '.join(error.command)}")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in ("dev", *COMMANDS):
        sys.exit(f"Usage: python ci/ci_pipeline.py dev|{'|'.join(COMMANDS)}")
    if sys.argv[1] == "dev":
        dev()
    with Path(os.environ.get("DAGGER_LOG", os.devnull)).open("a") as output:
        asyncio.run(run(sys.argv[1], output))


if __name__ == "__main__":
    main()
