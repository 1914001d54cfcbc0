"""Repositories: one bare mirror for each, private copies of one commit, and the patch that a copy became.

Nothing of a repository is trusted. Git runs without hooks, submodules, credentials and settings of this
machine, for a limited time and size. Objects that an agent's changes make are kept apart from the mirror's.
"""

import asyncio
import hashlib
import ipaddress
import os
import re
import shutil
import signal
import socket
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from parallel_agents.config import Settings

log = structlog.stdlib.get_logger("parallel-agents")
PATCH_BYTES = 2_000_000  # of the patch of a variation
PATCH_SECONDS = 30
LISTING_BYTES = 10_000_000  # of the list of a commit's files
NOT_COLLECTED = "__pycache__/\n*.pyc\n.pytest_cache/\n.venv/\n"
SAFE = ["core.hooksPath=/dev/null", "core.fsmonitor=false", "core.symlinks=true", "core.autocrlf=false"]
SAFE += [
    "credential.helper=",
    "submodule.recurse=false",
    "protocol.allow=never",
    "http.followRedirects=false",
]
SAFE += ["gc.auto=0", "maintenance.auto=false", "fetch.fsckObjects=true", "diff.external="]


class BadRepository(Exception):
    """The repository is not allowed, or cannot be cloned."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GitFailed(Exception):
    """A git command failed. Its output may quote an address, so it goes to the log only."""


class Repositories:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.mirrors = settings.data_dir.resolve() / "mirrors"
        self.work = settings.data_dir.resolve() / "work"
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.excluded = settings.data_dir.resolve() / "not-collected"
        roots = [Path(root).expanduser().resolve() for root in settings.local_repositories]
        self.roots = roots

    def open(self) -> None:
        for folder in (self.mirrors, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.excluded.write_text(NOT_COLLECTED)

    def sweep(self) -> int:
        """Remove the work folders and half-made mirrors that a dead server left."""
        left = [*self.work.iterdir(), *self.mirrors.glob("*.new")]
        for folder in left:
            remove_tree(folder)
        return len(left)

    async def check(self, repository: str) -> str:
        """The address to clone from. Raises `BadRepository` if it is not allowed."""
        if repository.startswith(("http://", "https://")):
            await self.resolve(repository)
            return repository
        if not repository.startswith("/") or not self.roots:
            raise BadRepository("Give an http(s) URL, or a path in a folder that LOCAL_REPOSITORIES names.")
        path = await asyncio.to_thread(Path(repository).resolve)  # links are followed before the comparison
        if not any(path.is_relative_to(root) for root in self.roots):
            raise BadRepository("This path is not in a folder that LOCAL_REPOSITORIES names.")
        if not ((path / ".git").is_dir() or (path / "HEAD").is_file()):
            raise BadRepository("There is no git repository at this path.")
        return str(path)

    async def resolve(self, url: str) -> list[str]:
        """Options that pin the host to an address that was checked, so that DNS cannot change its mind."""
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~+/-]*)?", url):
            raise BadRepository("The URL may have a host, a port and a path, and nothing else.")
        parts = urlsplit(url)
        host = str(parts.hostname)
        try:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            raise BadRepository("The host of this URL is not known.") from None
        address = str(found[0][4][0])
        allowed = {host, f"{host}:{port}"} & set(self.settings.clone_allowed_hosts)
        if not allowed and not ipaddress.ip_address(address).is_global:
            raise BadRepository("The host of this URL is not public.")
        bracketed = f"[{address}]" if ":" in address else address
        return [f"http.curloptResolve={host}:{port}:{bracketed}"]

    async def fetch(self, address: str, ref: str) -> tuple[Path, str]:
        """Bring the mirror up to date. Returns it and the commit of the ref. Raises `BadRepository`."""
        name = hashlib.sha256(address.encode()).hexdigest()[:32]
        mirror, new = self.mirrors / name, self.mirrors / f"{name}.new"
        async with self.locks[name]:
            try:
                async with asyncio.timeout(self.settings.clone_seconds):
                    await self.update(address, mirror, new)
            except TimeoutError:
                raise BadRepository(f"Cloning took longer than {self.settings.clone_seconds:g} s.") from None
            except GitFailed:
                raise BadRepository("The repository could not be cloned.") from None
            finally:
                remove_tree(new)
            try:
                spec = f"{ref}^{{commit}}"
                told = await self.git(
                    "rev-parse", "--verify", "--quiet", "--end-of-options", spec, mirror=mirror
                )
            except GitFailed:
                raise BadRepository("The repository has no such branch, tag or commit.") from None
            await self.check_size(mirror, commit := told.decode().strip())
            return mirror, commit

    async def check_size(self, mirror: Path, commit: str) -> None:
        """Refuse a commit whose files are too large or too many: a small pack can hold any number."""
        large = BadRepository(f"The files of this commit are larger than {self.settings.repository_mb} MB.")
        try:
            async with asyncio.timeout(self.settings.clone_seconds):
                listed = await self.git(
                    "ls-tree", "-r", "-l", "-z", commit, mirror=mirror, limit=LISTING_BYTES
                )
        except TimeoutError:
            raise large from None
        sizes = [entry.split(b"\t")[0].split()[-1] for entry in listed.split(b"\0") if b"\t" in entry]
        used = sum(max(512, int(size)) for size in sizes if size.isdigit())
        if len(listed) >= LISTING_BYTES or used > self.settings.repository_mb * 2**20:
            raise large

    async def update(self, address: str, mirror: Path, new: Path) -> None:
        local = address.startswith("/")
        config = ["protocol.file.allow=always"] if local else await self.resolve(address)
        config += [] if local else ["protocol.http.allow=always", "protocol.https.allow=always"]
        if await asyncio.to_thread(mirror.exists):
            refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
            await self.git(
                "fetch",
                "--prune",
                "--no-write-fetch-head",
                "--",
                address,
                *refs,
                mirror=mirror,
                config=config,
            )
            if directory_bytes(mirror) > self.settings.repository_mb * 2**20:
                remove_tree(mirror)
                raise BadRepository(f"The repository is larger than {self.settings.repository_mb} MB.")
            return
        remove_tree(new)
        # A local clone would copy files without the transport's checks; --no-local uses the transport.
        await self.git("clone", "--bare", "--no-local", "--template=", "--", address, str(new), config=config)
        if directory_bytes(new) > self.settings.repository_mb * 2**20:
            raise BadRepository(f"The repository is larger than {self.settings.repository_mb} MB.")
        await asyncio.to_thread(new.rename, mirror)

    async def copy(self, mirror: Path, commit: str, name: str) -> "WorkCopy":
        """A private copy of a commit: its files, and an index to compare with. Objects stay in the mirror."""
        folder = self.work / name
        copy = WorkCopy(self, mirror, commit, folder)
        (folder / "files").mkdir(parents=True)
        (folder / "objects").mkdir()
        await copy.git("read-tree", commit)
        await copy.git("checkout-index", "--all", "--force")
        if os.getuid() == 0:  # the container's user is never root
            await asyncio.to_thread(give_away, folder / "files")
        return copy

    async def git(
        self,
        *command: str,
        mirror: Path | None = None,
        config: list[str] | None = None,
        environment: dict[str, str] | None = None,
        limit: int | None = None,
    ) -> bytes:
        """Run git and return its output, at most `limit` bytes of it. Raises `GitFailed`."""
        options = [f"--git-dir={mirror}"] if mirror else []
        options += [part for each in SAFE + (config or []) for part in ("-c", each)]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.mirrors),
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
        }
        env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ASKPASS": "true"}
        env |= {name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ} | (
            environment or {}
        )
        blocks = self.settings.repository_mb * 2**11  # of 512 bytes, the unit of ulimit -f
        bounded = ["sh", "-c", f'ulimit -f {blocks}; exec git "$@"', "git", *options, *command]
        process = await asyncio.create_subprocess_exec(
            *bounded,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,  # so that git's own children can be killed with it
            limit=limit or 2**16,
        )
        try:
            output, error = await asyncio.gather(read(process.stdout, limit), read(process.stderr, 2000))
            code = await process.wait()
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await process.wait()
        if code:
            log.warning("git failed", command=command[0], code=code, error=error.decode(errors="replace"))
            raise GitFailed
        return output


class WorkCopy:
    """The folder of a variation: `files` is mounted into its container, the rest is only for the server."""

    def __init__(self, repositories: Repositories, mirror: Path, commit: str, folder: Path) -> None:
        self.repositories, self.mirror, self.commit, self.folder = repositories, mirror, commit, folder
        self.files = folder / "files"

    async def git(self, *command: str, limit: int | None = None) -> bytes:
        environment = {
            "GIT_WORK_TREE": str(self.files),
            "GIT_INDEX_FILE": str(self.folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(self.folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self.mirror / "objects"),
        }
        config = [f"core.excludesFile={self.repositories.excluded}"]
        return await self.repositories.git(
            *command, mirror=self.mirror, config=config, environment=environment, limit=limit
        )

    async def patch(self) -> tuple[bytes, tuple[int, int, int]]:
        """What the agent changed, as a patch, and the counts of files, added and removed lines.

        Git reads the folder and follows no symbolic link in it: a link is stored as the path that it holds.
        A repository inside the folder is not entered.
        """
        async with asyncio.timeout(PATCH_SECONDS):
            await asyncio.to_thread(make_readable, self.files)
            await self.git("add", "--all", "--ignore-errors", ".")
            diff = [
                "diff",
                "--cached",
                "--no-ext-diff",
                "--no-textconv",
                "--ignore-submodules=all",
                "--no-color",
            ]
            patch = await self.git(*diff, "--binary", self.commit, limit=PATCH_BYTES + 1)
            counted = await self.git(*diff, "--numstat", self.commit, limit=PATCH_BYTES)
        rows = [
            line.split("\t")
            for line in counted.decode(errors="replace").splitlines()
            if line.count("\t") >= 2
        ]
        added = sum(int(row[0]) for row in rows if row[0].isdigit())
        removed = sum(int(row[1]) for row in rows if row[1].isdigit())
        if len(patch) > PATCH_BYTES:
            patch = b"# The patch is larger than %d bytes, and is not kept.\n" % PATCH_BYTES
        return patch, (len(rows), added, removed)

    async def remove(self) -> None:
        await asyncio.to_thread(remove_tree, self.folder)


async def read(stream: asyncio.StreamReader | None, limit: int | None) -> bytes:
    """Read to the end, and keep at most `limit` bytes."""
    kept = bytearray()
    while stream and (piece := await stream.read(65_536)):
        kept += piece if limit is None else piece[: limit - len(kept)]
    return bytes(kept)


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a folder, without following links. What vanishes meanwhile is left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(Path(entry.path))
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return


def directory_bytes(folder: Path) -> int:
    """The disk space of a folder in bytes; each entry counts at least 512."""
    total = 0
    for entry in walk(folder):
        try:
            total += max(512, entry.stat(follow_symlinks=False).st_blocks * 512)
        except FileNotFoundError:
            continue
    return total


def container_user() -> tuple[int, int]:
    """The numeric user of containers: the server's own, which owns the work folders, and never root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (10001, 10001)


def give_away(folder: Path) -> None:
    for path in (folder, *(Path(entry.path) for entry in walk(folder))):
        os.chown(path, *container_user(), follow_symlinks=False)


def make_readable(folder: Path) -> None:
    """Undo the modes with which an agent would keep the server from reading or removing its folders."""
    for entry in walk(folder):
        if (
            entry.is_dir(follow_symlinks=False)
            and stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode) & 0o700 != 0o700
        ):
            Path(entry.path).chmod(0o700)


def remove_tree(folder: Path) -> None:
    if folder.exists():
        make_readable(folder)
        shutil.rmtree(folder)
