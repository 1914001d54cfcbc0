"""Engines: what is missing is said with the way to get it, and what is there is a real server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RedisServer, require
from rich.console import Console

from course import engines
from course.pages import ROOT


def engine(path: str) -> tuple[int, str]:
    """Run `make engine`'s command with that search path for programs."""
    done = subprocess.run(
        [sys.executable, "-m", "course", "engine"],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_missing_engine_is_named_with_its_package_where_we_may_not_install_it(tmp_path: Path) -> None:
    code, said = engine(str(tmp_path))  # where there is no apt-get either
    assert code == 1
    assert "redis-server (tests of lesson 04: shared runs) comes from" in said
    assert "apt-get install redis-server chromium" in said


def test_nothing_is_done_where_every_engine_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("redis-server", "chromium", "apt-get"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (console := Console()).capture() as said:
        engines.set_up(console)
    assert said.get() == "Every engine that the lessons so far need is there.\n"


def test_a_test_without_its_engine_is_skipped_and_in_ci_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="redis-server is missing; it comes from"):
        require("redis-server")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="redis-server is missing; it comes from"):
        require("redis-server")


def test_redis_has_its_data_again_after_it_was_killed(redis_server: RedisServer) -> None:
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.set("cargo", "bananas")
        redis_server.kill()
        assert not redis_server.answers()
        redis_server.start()
        assert client.get("cargo") == b"bananas"
        client.delete("cargo")
