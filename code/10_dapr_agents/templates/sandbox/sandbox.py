"""Run Python code that nobody has read: in a container without network, without rights, with limits.

Without Docker the answer is `SandboxUnavailable`. There is no other way to run code here.
"""

import asyncio
import uuid
from contextlib import suppress
from dataclasses import dataclass

GRACE = 10  # seconds in which Docker makes and starts a container
MAX_OUTPUT = 65_536  # bytes; a container that prints more is killed
LIMITS = [
    *("--network", "none", "--read-only", "--tmpfs", "/tmp:size=16m,noexec"),  # noqa: S108  # the container's
    *("--memory", "128m", "--memory-swap", "128m", "--cpus", "1", "--pids-limit", "64"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65534:65534"),
    *("--log-driver", "none", "--ulimit", "fsize=1048576", "--ulimit", "nofile=256"),
]


class SandboxUnavailable(Exception):
    """There is no Docker, or it did not start the container."""


@dataclass(frozen=True)
class Outcome:
    """What the code printed, and why it ended: "" if it ended well."""

    output: str
    error: str


async def run_code_safely(code: str, given: str, image: str, seconds: float) -> Outcome:
    """Run code in a new container, for at most `seconds`. `given` is its standard input."""
    name = f"sandbox-{uuid.uuid4().hex}"
    command = ["docker", "run", "--rm", "--interactive", "--init", "--name", name, *LIMITS, image]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            # Should this process be killed, the container ends by itself.
            *("timeout", "--signal=KILL", str(seconds + GRACE), "python", "-I", "-B", "-c", code),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise SandboxUnavailable(str(error)) from error
    assert process.stdin and process.stdout and process.stderr
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(given.encode())
        process.stdin.close()
    try:
        async with asyncio.timeout(seconds):
            output, errors = await asyncio.gather(
                read(process.stdout, process), read(process.stderr, process)
            )
            status = await process.wait()
    except TimeoutError:
        return Outcome("", "it took too long")
    finally:
        if process.returncode is None:
            kill(process)
            await process.communicate()  # asyncio sees the end of a process when its pipes have been read
        if process.returncode != 0:
            await remove(name)
    if max(len(output), len(errors)) > MAX_OUTPUT:
        return Outcome("", "it printed too much")
    said = errors.decode(errors="replace")
    if status == 125 or said.startswith("docker:"):  # docker's own: the code never ran
        raise SandboxUnavailable(said[:500])
    last_line = said.strip().rpartition("\n")[2][:500]
    return Outcome(output.decode(errors="replace"), (last_line or f"exit code {status}") if status else "")


async def read(stream: asyncio.StreamReader, process: asyncio.subprocess.Process) -> bytes:
    """All that a stream brings. When it is too much, the process is killed."""
    found = b""
    while chunk := await stream.read(MAX_OUTPUT):
        if len(found) <= MAX_OUTPUT:
            found += chunk
            if len(found) > MAX_OUTPUT:
                kill(process)
    return found


def kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        process.kill()


async def remove(name: str) -> None:
    """End the container, also one that Docker has made and not started yet."""
    quiet = asyncio.subprocess.DEVNULL
    remover = await asyncio.create_subprocess_exec(
        "docker", "rm", "--force", name, stdout=quiet, stderr=quiet
    )
    await remover.wait()
