"""Repositories: one bare mirror for each, private copies of one commit, and the patch that a copy became.

Nothing of a repository is trusted: git runs with its own `gitconfig`, for a limited time and size. Objects
that an agent's changes make are kept apart from the mirror's.
"""

import asyncio
import hashlib
import ipaddress
import os
import re
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from parallel_agents.config import Settings

log = structlog.stdlib.get_logger("parallel-agents")
GITCONFIG = Path(__file__).with_name("gitconfig")
WHILE_IT_CHANGES = (FileNotFoundError, NotADirectoryError, PermissionError)  # an agent works in the folder
REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/remote/HEAD")
PATCH_BYTES, OUTPUT_BYTES = 2_000_000, 10_000_000  # of a patch, and of what any git command prints
PATCH_SECONDS, RESOLVE_SECONDS = 30, 10
NOT_COLLECTED = [f":(exclude){each}" for each in ("*__pycache__/*", "*.pyc", "*.pytest_cache/*", "*.venv/*")]


class BadRepository(Exception):
    """The repository is not allowed, or cannot be cloned."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GitFailed(Exception):
    """A git command failed. Its output may quote an address, so it goes to the log only."""


class Repositories:
    def __init__(self, settings: Settings) -> None:
        self.settings, self.limit = settings, settings.repository_mb * 2**20
        self.mirrors, self.work = (settings.data_dir.resolve() / name for name in ("mirrors", "work"))
        self.roots = [Path(root).expanduser().resolve() for root in settings.local_repositories]
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.in_use: dict[str, Path] = {}  # the mirror of each run

    def open(self) -> int:
        """Remove the work folders that a dead server left. Returns their number."""
        self.mirrors.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)
        left = list(self.work.iterdir())
        for folder in left:
            try:
                remove_tree(folder)
            except subprocess.CalledProcessError as error:
                log.error("a work folder was not removed", folder=folder.name, error=str(error))
        return len(left)

    async def check(self, repository: str) -> tuple[str, list[str]]:
        """The address to fetch from, and git's settings for it. Raises `BadRepository`."""
        if repository.startswith(("http://", "https://")):
            return repository, await self.check_url(repository)
        path = await asyncio.to_thread(Path(repository).resolve)  # links are followed before the comparison
        if not repository.startswith("/") or not any(map(path.is_relative_to, self.roots)):
            raise BadRepository("Give an http(s) URL, or a path in a folder that LOCAL_REPOSITORIES names.")
        try:
            found = (path / ".git").is_dir() or (path / "HEAD").is_file()
        except OSError:  # it may not be read, or its name is too long
            found = False
        if not found:
            raise BadRepository("There is no git repository at this path.")
        return str(path), ["protocol.file.allow=always"]

    async def check_url(self, url: str) -> list[str]:
        """Pin the host to an address that was checked, so that DNS cannot change its mind."""
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~+/-]*)?", url):
            raise BadRepository("The URL may have a host, a port and a path, and nothing else.")
        parts = urlsplit(url)
        host = str(parts.hostname)
        try:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError):  # TimeoutError is an OSError
            raise BadRepository("The host of this URL is not known.") from None
        address = ipaddress.ip_address(str(found[0][4][0]))
        if not address.is_global and not {host, f"{host}:{port}"} & set(self.settings.clone_allowed_hosts):
            raise BadRepository("The host of this URL is not public.")
        pinned = f"{host}:{port}:[{address}]" if address.version == 6 else f"{host}:{port}:{address}"
        return [f"http.curloptResolve={pinned}", f"protocol.{parts.scheme}.allow=always"]

    async def fetch(self, run_id: str, repository: str, ref: str) -> tuple[Path, str]:
        """Bring a run's mirror up to date. Returns it and the commit of the ref. Raises `BadRepository`."""
        address, config = await self.check(repository)
        mirror = self.mirrors / hashlib.sha256(address.encode()).hexdigest()[:32]
        keep = mirror in self.in_use.values()
        self.in_use[run_id] = mirror
        async with self.locks[mirror.name]:
            try:
                async with asyncio.timeout(self.settings.clone_seconds):
                    commit = await self.update(mirror, address, config, ref)
                keep = True
            except TimeoutError:
                raise BadRepository(f"Cloning took longer than {self.settings.clone_seconds:g} s.") from None
            except GitFailed:
                raise BadRepository("The repository could not be cloned.") from None
            finally:
                if not keep:
                    await asyncio.to_thread(remove_tree, mirror)
        return mirror, commit

    async def release(self, run_id: str) -> None:
        """End a run's use of its mirror. Remove mirrors that are too many and unused, the oldest first."""
        self.in_use.pop(run_id, None)
        mirrors = set(self.mirrors.iterdir())
        unused = sorted(mirrors - set(self.in_use.values()), key=lambda mirror: mirror.stat().st_mtime)
        excess = unused[: max(0, len(mirrors) - self.settings.max_mirrors)]
        # Move all before the first await: from then on, a run may fetch into a mirror that is still there.
        for folder in [mirror.rename(self.work / f"{run_id}-{mirror.name}") for mirror in excess]:
            await asyncio.to_thread(remove_tree, folder)

    async def update(self, mirror: Path, address: str, config: list[str], ref: str) -> str:
        await self.git("init", "--quiet", "--bare", "--template=", mirror=mirror)
        command = ("fetch", "--quiet", "--prune", "--no-write-fetch-head", "--", address, *REFS)
        await self.git(*command, mirror=mirror, config=config)
        if await asyncio.to_thread(directory_bytes, mirror) > self.limit:
            raise BadRepository(f"The repository is larger than {self.settings.repository_mb} MB.")
        name = "refs/remote/HEAD" if ref == "HEAD" else ref
        try:
            parse = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            commit = (await self.git(*parse, mirror=mirror)).decode().strip()
        except GitFailed:
            raise BadRepository("The repository has no such branch, tag or commit.") from None
        # A small pack can hold files of any size.
        listed = await self.git("ls-tree", "-r", "--format=%(objectsize)", commit, mirror=mirror)
        sizes = [max(512, int(size)) for size in listed.split() if size.isdigit()]
        if len(listed) >= OUTPUT_BYTES or sum(sizes) > self.limit:
            reason = f"The files of this commit are larger than {self.settings.repository_mb} MB."
            raise BadRepository(reason)
        return commit

    async def git(
        self,
        *command: str,
        mirror: Path,
        config: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        limit: int = OUTPUT_BYTES,
    ) -> bytes:
        """Run git and return its output, at most `limit` bytes of it. Raises `GitFailed`."""
        options = [f"--git-dir={mirror}", *(part for each in config for part in ("-c", each))]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.mirrors), "LC_ALL": "C", "GIT_ASKPASS": "true"}
        env |= {"GIT_CONFIG_GLOBAL": str(GITCONFIG), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
        # No file that git writes is larger than the limit; the unit of `ulimit -f` is 512 bytes.
        bounded = ["sh", "-c", f'ulimit -f {self.limit // 512}; exec git "$@"', "git", *options, *command]
        pipe, no_input = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *bounded,
            stdin=no_input,
            stdout=pipe,
            stderr=pipe,
            env=env | (environment or {}),
            start_new_session=True,  # so that git's own children can be killed with it
        )
        try:
            output, error = await asyncio.gather(read(process.stdout, limit), read(process.stderr, 2000))
            code = await process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()  # asyncio sees the end of a process when its pipes have been read
        if code:
            log.warning("git failed", command=command[0], code=code, error=error.decode(errors="replace"))
            raise GitFailed
        return output


class WorkCopy:
    """The folder of a variation: `files` is mounted into its container, the rest is only for the server."""

    def __init__(self, repositories: Repositories, mirror: Path, commit: str, name: str) -> None:
        self.repositories, self.mirror, self.commit = repositories, mirror, commit
        self.folder = repositories.work / name
        self.files = self.folder / "files"

    async def check_out(self) -> None:
        """Write the files of the commit, and an index to compare with. Objects stay in the mirror."""
        self.files.mkdir(parents=True)
        (self.folder / "objects").mkdir()
        await self.git("read-tree", self.commit)
        await self.git("checkout-index", "--all", "--force")
        if os.getuid() == 0:  # the container's user is never root
            await asyncio.to_thread(give_away, self.files)

    async def git(self, *command: str, limit: int = OUTPUT_BYTES) -> bytes:
        environment = {
            "GIT_WORK_TREE": str(self.files),
            "GIT_INDEX_FILE": str(self.folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(self.folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self.mirror / "objects"),
        }
        git = self.repositories.git
        return await git(*command, mirror=self.mirror, environment=environment, limit=limit)

    async def patch(self) -> tuple[bytes, dict[str, int]]:
        """What the agent changed, as a patch, and its counts of files and lines.

        Git follows no symbolic link in the folder: a link is stored as the path that it holds. A repository
        inside the folder is not entered.
        """
        diff = ("diff", "--cached", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "--no-color")
        async with asyncio.timeout(PATCH_SECONDS):
            await asyncio.to_thread(make_readable, self.files)
            await self.git("add", "--all", "--ignore-errors", ".", *NOT_COLLECTED)
            patch = await self.git(*diff, "--binary", self.commit, limit=PATCH_BYTES + 1)
            counted = await self.git(*diff, "--numstat", self.commit, limit=PATCH_BYTES)
        rows = [line.split(b"\t") for line in counted.splitlines() if line.count(b"\t") >= 2]
        added, removed = (sum(int(row[n]) for row in rows if row[n].isdigit()) for n in (0, 1))
        if len(patch) > PATCH_BYTES:
            patch = b"# The patch is larger than %d bytes, and is not kept.\n" % PATCH_BYTES
        return patch, {"files_changed": len(rows), "lines_added": added, "lines_removed": removed}

    async def remove(self) -> None:
        await asyncio.to_thread(remove_tree, self.folder)


async def read(stream: asyncio.StreamReader | None, limit: int) -> bytes:
    """Read to the end, and keep at most `limit` bytes."""
    kept = bytearray()
    while stream and (piece := await stream.read(65_536)):
        kept += piece[: limit - len(kept)]
    return bytes(kept)


def container_user() -> tuple[int, int]:
    """The numeric user of containers: the server's own, which owns the work folders, and never root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (10001, 10001)


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a folder, without following links. Raises OSError for a path that is too long."""
    folders = [str(folder)]
    while folders:
        with suppress(*WHILE_IT_CHANGES), os.scandir(folders.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def directory_bytes(folder: Path) -> int:
    """The disk space of a folder in bytes; each entry counts at least 512."""
    total = 0
    for entry in walk(folder):
        with suppress(*WHILE_IT_CHANGES):
            total += max(512, entry.stat(follow_symlinks=False).st_blocks * 512)
    return total


def give_away(folder: Path) -> None:
    for path in (folder, *walk(folder)):
        os.chown(path, *container_user(), follow_symlinks=False)


def make_readable(folder: Path) -> None:
    """Undo the modes with which an agent would keep the server from reading or removing its files."""
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True, capture_output=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder, however deep an agent made it."""
    if folder.exists():
        make_readable(folder)
        subprocess.run(["rm", "-rf", folder], check=True, capture_output=True)
