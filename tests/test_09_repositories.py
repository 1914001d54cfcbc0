"""Lesson 09: which repositories are cloned, and what a repository cannot do to the server."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.parallel_agents import RESULT, Lesson, StartLesson, User, commit, git
from support.problems import assert_problem

from course.polling import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
LIST = "import os; print(sorted(os.listdir('/work')))\n" + RESULT


@pytest.fixture(scope="module")
def lesson(lesson_09: StartLesson) -> Lesson:
    return lesson_09()


@pytest.fixture(scope="module")
def user(lesson: Lesson) -> User:
    return lesson.user()


@pytest.fixture
def new_repository(repository: Path, request: pytest.FixtureRequest) -> Path:
    """An empty git repository in the folder that LOCAL_REPOSITORIES names."""
    folder: Path = repository.parent / request.node.name
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """A function that puts a repository on a web server of this machine, and returns its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def publish(repository: Path) -> str:
            bare = tmp_path / "repository.git"
            if bare.exists():
                git(bare, "fetch", "--quiet", str(repository), "+refs/heads/*:refs/heads/*")
            else:
                git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(bare))
            git(bare, "update-server-info")
            return f"http://127.0.0.1:{server.server_port}/repository.git"

        yield publish
        server.shutdown()
        thread.join()


def test_addresses_that_are_not_allowed_are_refused(
    user: User, repository: Path, tmp_path: Path, lesson: Lesson
) -> None:
    attacked = tmp_path / "attacked"
    link = repository.parent / "link"
    link.symlink_to(tmp_path)
    git(tmp_path, "init", "--quiet")
    for address in (
        f"--upload-pack=touch {attacked}",
        f"-utouch {attacked}",
        f"ext::sh -c touch% {attacked}",
        f"file://{repository}",
        f"fd::17/{repository}",
        "ssh://git@example.org/x",
        "git@example.org:x",
        "git://example.org/x",
        "http://ada:secret@example.org/x",
        "https://example.org/x --config=core.fsmonitor=x",
        "https://example.org/x?y",
        "https://example.org/\nx",
        "http://127.0.0.1:9000/x.git",
        "http://[::1]/x.git",
        "http://localhost/x.git",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/x",
        "http://0x7f.1/x",
        "/etc",
        str(tmp_path),
        str(link),
        f"{repository.parent}/../{tmp_path.name}",
        f"{repository.parent}/nothing",
        "sample",
    ):
        told = user.post(address)
        assert told.status_code == 422, f"The repository {address!r} is accepted."
        assert_problem(told, 422)
    assert not attacked.exists(), "A repository's address was run as a command."
    link.unlink()


def test_a_path_that_is_too_long_is_refused(user: User, repository: Path) -> None:
    assert_problem(user.post(repository.parent / ("x" * 300)), 422)


def test_a_ref_cannot_be_an_option(user: User, repository: Path) -> None:
    assert_problem(user.post(repository, ref="--output=x"), 422)
    done = user.run(repository, RESULT, ref="no-such-branch")
    state, summary = done.run["state"], done.variation()["summary"]
    assert state == "failed", f"A run of a branch that does not exist has the state {state!r}, not 'failed'."
    assert summary == "The repository has no such branch, tag or commit.", (
        f"The branch of a run does not exist, and the summary of its variation is {summary!r}."
    )
    reason = done.events[-1].data["reason"]
    assert reason == "failed", f"The last event of the run gives the reason {reason!r}, not 'failed'."


def test_a_run_works_on_the_commit_of_its_ref(user: User, repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD~1").strip()
    for ref in (first, first[:10], "main~1"):
        told = user.post(repository, LIST, ref=ref)
        if ref == "main~1":
            assert_problem(told, 422)
        else:
            done = user.finished(told.json()["id"])
            assert (done.run["commit"], done.text()) == (first, "['a.txt']"), (
                f"A run of {ref} has the commit {done.run['commit']} and lists the files {done.text()!r}, "
                f"not {first} and its only file a.txt."
            )


def test_a_public_repository_is_cloned_over_http_and_its_mirror_is_kept(
    lesson_09: StartLesson, new_repository: Path, web: Callable[[Path], str]
) -> None:
    (new_repository / "one").touch()
    commit(new_repository, "one")
    url = web(new_repository)
    lesson = lesson_09(CLONE_ALLOWED_HOSTS=url.split("/")[2])
    user = lesson.user()
    files = user.run(url, LIST).text()
    assert files == "['one']", f"A run on a repository at a URL lists {files!r}, not its only file 'one'."
    (new_repository / "two").touch()
    commit(new_repository, "two")
    web(new_repository)
    assert user.run(url, LIST, variations=2).text(2) == "['one', 'two']", (
        "The mirror is not brought up to date."
    )
    mirrors = list((lesson.data / "mirrors").iterdir())
    assert len(mirrors) == 1, "The same repository has several mirrors."


def test_mirrors_that_no_run_uses_are_bounded(
    lesson_09: StartLesson, repository: Path, new_repository: Path
) -> None:
    (new_repository / "one").touch()
    commit(new_repository, "one")
    lesson = lesson_09(MAX_MIRRORS="1")
    user, mirrors = lesson.user(), lesson.data / "mirrors"
    run = user.start(repository, "import time; print('started', flush=True); time.sleep(100)")
    user.wait_for(run, "started")
    used = list(mirrors.iterdir())
    user.run(new_repository, RESULT)
    assert until(lambda: list(mirrors.iterdir()) == used), "It is not the unused mirror that is removed."
    user.http.post(f"/runs/{run}/cancel")
    files = user.run(new_repository, LIST).text()
    assert files == "['one']", (
        f"A run on a repository without a mirror lists {files!r}, not its only file 'one'."
    )
    assert until(lambda: len(list(mirrors.iterdir())) == 1), "The mirrors grow without a bound."
    assert list(mirrors.iterdir()) != used, "The mirror that was used last is removed, and not the older one."
    assert until(lambda: not list((lesson.data / "work").iterdir())), (
        "The runs have ended, and folders are left in the server's work folder."
    )


def test_hooks_filters_and_submodules_of_a_repository_do_nothing(
    user: User, new_repository: Path, tmp_path: Path, repository: Path
) -> None:
    attacked = tmp_path / "attacked"
    (new_repository / ".gitattributes").write_text("* filter=attack diff=attack\n")
    (new_repository / "file").write_text("text\n")
    (new_repository / "link").symlink_to("/etc/passwd")
    git(
        new_repository,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(repository),
        "sub",
    )
    commit(new_repository, "all")
    config = {
        "filter.attack.smudge": f"touch {attacked}",
        "filter.attack.clean": f"touch {attacked}",
        "uploadpack.packObjectsHook": f"touch {attacked}",
        "core.fsmonitor": f"touch {attacked}",
    }
    for name, value in config.items():
        git(new_repository, "config", name, value)
    for hook in ("post-checkout", "post-merge", "pre-auto-gc", "reference-transaction"):
        path = new_repository / ".git/hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {attacked}\n")
        path.chmod(0o755)
    attacked.unlink(missing_ok=True)
    done = user.run(new_repository, LIST + "open('file', 'a').write('more')")
    state, changed = done.variation()["state"], done.variation()["files_changed"]
    assert state == "passed", (
        f"A variation of a repository with hooks, filters and a submodule ends as {state!r}, not as 'passed'."
    )
    assert "'sub'" in done.text() and "'link'" in done.text(), (
        f"The agent does not find both the submodule's folder and the link: it prints {done.text()!r}."
    )
    assert changed == 1, f"The agent changes one file, and the variation counts {changed}."
    assert not attacked.exists(), "The repository has run a command on the server."


def test_a_repository_that_is_too_large_is_refused(lesson_09: StartLesson, new_repository: Path) -> None:
    (new_repository / "large").write_bytes(os.urandom(3 * 2**20))
    commit(new_repository, "large")
    lesson = lesson_09(REPOSITORY_MB="1")
    state = lesson.user().run(new_repository, RESULT).run["state"]
    assert state == "failed", f"A run on a repository of 3 MB ends as {state!r}; REPOSITORY_MB is 1."
    assert not list((lesson.data / "mirrors").iterdir()), "What was cloned is left."


def test_a_small_repository_with_large_files_is_refused(lesson_09: StartLesson, new_repository: Path) -> None:
    for n in range(30):
        (new_repository / f"{n}").write_bytes(bytes(100_000))  # all the same, and almost nothing in a pack
    commit(new_repository, "large")
    done = lesson_09(REPOSITORY_MB="1").user().run(new_repository, RESULT)
    state, summary = done.run["state"], done.variation()["summary"]
    assert state == "failed", f"A run on files of 3 MB ends as {state!r}; REPOSITORY_MB is 1."
    assert summary == "The files of this commit are larger than 1 MB.", (
        f"The files of a commit are too large, and the summary of the variation is {summary!r}."
    )


def test_a_clone_that_takes_too_long_is_given_up(lesson_09: StartLesson) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        lesson = lesson_09(CLONE_SECONDS="2", CLONE_ALLOWED_HOSTS=host)
        done = lesson.user().run(f"http://{host}/x.git", RESULT)
    state, summary = done.run["state"], done.variation()["summary"]
    assert state == "failed", f"A run whose clone gets no answer ends as {state!r}, not as 'failed'."
    assert "longer than 2 s" in summary, (
        f"The summary does not say that the clone took longer than CLONE_SECONDS, 2 s: {summary!r}."
    )
