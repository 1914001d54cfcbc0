"""The lesson runner: it stops where a page is wrong, leaves nothing behind, and bills nobody."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from support.engines import require
from support.servers import calls

from course.paths import ROOT
from course.polling import until
from course.ports import free_port

pytestmark = [pytest.mark.usefixtures("literal_ports"), pytest.mark.timeout(600)]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a page with the given body; `model: page`, so that it runs without a model."""

    def page(body: str, front: str = "model: page") -> Path:
        path = tmp_path / "99-test.md"
        path.write_text(f'---\nnumber: "99"\ntitle: A test\n{front}\n---\n{body}')
        return path

    return page


def command(page: Path | str) -> list[str]:
    return [sys.executable, "-m", "course", "lesson", str(page)]


def run(page: Path | str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TERM": "dumb"} | env
    return subprocess.run(
        command(page), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def server_fence(port: int) -> str:
    return (
        f"```bash server ready=http://127.0.0.1:{port}/\npython -m http.server {port} --bind 127.0.0.1\n```\n"
    )


def listening(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/", timeout=2).status_code == 200
    except httpx2.TransportError:
        return False


def test_commands_share_one_shell_and_stop_at_the_first_failure(write: Write) -> None:
    fences = ["word=kept", "echo it is $word", "false", "echo never"]
    done = run(write("".join(f"```bash run\n{fence}\n```\n" for fence in fences)))
    assert done.returncode == 1
    assert "it is kept\n" in done.stdout
    assert "99-test.md:12: the command failed with exit code 1" in re.sub(r"\S*/", "", done.stdout)
    assert "never" not in done.stdout


def test_output_that_differs_from_the_page_is_a_failure(write: Write) -> None:
    done = run(write("```bash run\necho one\n```\n```text output\ntwo\n```\n"))
    assert done.returncode == 1
    assert "the page expects other output:\ntwo" in done.stdout


@pytest.fixture
def without_redis(tmp_path: Path) -> str:
    """A search path with all that a page needs, and no Redis."""
    for name in ("bash", "curl", "ps"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    return str(tmp_path)


STEP = "```bash run needs=redis\necho it has\\\nrun\n```\n```text output\nother output than that\n```\n"


def test_a_step_without_its_engine_is_shown_and_not_run(write: Write, without_redis: str) -> None:
    body = f"{STEP}```bash run\necho after\n```\n```text output\nafter\n```\n"
    done = run(write(body), PATH=without_redis)
    assert done.returncode == 0, done.stdout
    assert "$ echo it has" in done.stdout, "What the step would do is not shown."
    assert "it hasrun" not in done.stdout, "A step ran without the engine that it needs."
    told = [line for line in done.stdout.splitlines() if "redis is missing" in line]
    assert told[0].startswith("Not run: redis is missing. Get it: `make engine redis` on Debian")
    assert "\nafter\n" in done.stdout, "The steps after one that was left out did not run."
    assert "Steps that were not run: 1 (missing: redis)." in done.stdout, (
        "A page that ran in part says that it ran."
    )


def test_a_server_without_its_engine_is_not_started(
    write: Write, without_redis: str, closed_port: int
) -> None:
    fence = f"```bash server ready=http://127.0.0.1:{closed_port}/ needs=redis\nexit 3\n```\n"
    done = run(write(fence), PATH=without_redis)
    assert done.returncode == 0, done.stdout
    assert "Not run: redis is missing." in done.stdout


def test_a_step_with_its_engine_runs_and_is_compared(write: Write) -> None:
    require("redis")
    done = run(write(STEP))
    assert done.returncode == 1, "The output of a step that needs an engine is not compared."
    assert "it hasrun" in done.stdout


def test_a_server_that_fails_is_reported_with_its_last_output(write: Write, closed_port: int) -> None:
    fence = f"```bash server ready=http://127.0.0.1:{closed_port}/\necho out of coffee; exit 3\n```\n"
    done = run(write(fence))
    assert done.returncode == 1
    assert "ended with exit code 3" in done.stdout
    assert "out of coffee" in done.stdout


def test_servers_are_stopped_at_the_end(write: Write) -> None:
    port = free_port()
    assert run(write(server_fence(port))).returncode == 0
    assert not listening(port)


def test_a_server_runs_in_the_folder_of_its_cd_and_server_pid_is_its_pid(write: Write) -> None:
    port = free_port()
    server = server_fence(port).replace("python", "cd course && python")
    ask = f'curl -s http://127.0.0.1:{port}/errors.py; ps -o args= -p "$SERVER_PID"'
    done = run(write(f"{server}```bash run\n{ask}\n```\n"))
    assert done.returncode == 0, done.stdout
    assert '"""CourseError: ' in done.stdout, "The server does not serve the folder that it was started in."
    assert f"python -m http.server {port}" in done.stdout, "SERVER_PID is not the server's number."


def test_a_busy_port_is_reported_in_one_line_with_its_owner(write: Write) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], stderr=subprocess.DEVNULL
    ) as taker:
        try:
            assert until(lambda: listening(port))
            done = run(write(server_fence(port)))
        finally:
            taker.terminate()
    assert done.returncode == 1
    assert re.search(rf"^✗ Port {port} is taken by python\S* \(pid {taker.pid}\)", done.stdout, re.MULTILINE)


@pytest.fixture
def waiting(write: Write) -> Iterator[tuple[subprocess.Popen[str], int, list[psutil.Process]]]:
    """A runner in the middle of a page: its server listens, its command waits. With all its descendants."""
    port = free_port()
    page = write(server_fence(port) + "```bash run\necho waiting; sleep 600\n```\n")
    with subprocess.Popen(command(page), cwd=ROOT, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout
        for line in runner.stdout:
            if line == "waiting\n":
                break
        yield runner, port, psutil.Process(runner.pid).children(recursive=True)
        runner.kill()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_all_processes_end_however_the_runner_is_stopped(waiting: Any, sign: signal.Signals) -> None:
    runner, port, started = waiting
    assert len(started) >= 3
    runner.send_signal(sign)
    runner.wait(10)
    gone = until(lambda: not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE])
    assert gone, f"left behind: {[p.cmdline() for p in started if p.is_running()]}"
    assert not listening(port)


def test_keep_leaves_the_servers_running_and_says_how_to_stop_them(write: Write) -> None:
    port = free_port()
    done = run(write(server_fence(port)), KEEP="1")
    try:
        assert listening(port)
        assert f"http://127.0.0.1:{port}" in done.stdout
    finally:
        group = re.search(r"kill -- -(\d+)", done.stdout)
        assert group
        os.killpg(int(group[1]), signal.SIGTERM)
    assert until(lambda: not listening(port))


SHOW_MODEL = '```bash run\necho "$OPENAI_BASE_URL $OPENAI_API_KEY $MODEL_NAME"\n```\n'


def test_an_exported_key_is_not_used_without_model_real(write: Write) -> None:
    done = run(
        write(SHOW_MODEL), OPENAI_API_KEY="sk-mine", LANGSMITH_API_KEY="ls-mine", MODEL_NAME="gpt-dear"
    )
    assert "http://127.0.0.1:9000/v1 offline offline" in done.stdout


def test_model_real_uses_the_key_and_warns_of_the_cost(write: Write) -> None:
    done = run(
        write(SHOW_MODEL.replace("OPENAI_BASE_URL", "HOME")),
        MODEL="real",
        OPENAI_API_KEY="sk-mine",
        MODEL_NAME="m",
    )
    assert "sk-mine m" in done.stdout
    assert "bills" in done.stdout
    assert "needs your key" in run(write(SHOW_MODEL), MODEL="real", OPENAI_API_KEY="").stdout


def test_the_learners_own_server_is_used_and_its_output_is_not_compared(
    write: Write, offline_model: str
) -> None:
    ask = (
        "```bash run\ncurl -s $OPENAI_BASE_URL/chat/completions -H 'Content-Type: application/json'"
        ' -H "Authorization: Bearer $OPENAI_API_KEY" -d \'{"model": "\'$MODEL_NAME\'", "messages":'
        ' [{"role": "user", "content": "Which server am I on?"}]}\'\n```\n```text output\nnot this\n```\n'
    )
    done = run(write(ask, front="needs: nothing"), OPENAI_BASE_URL=f"{offline_model}/v1")
    assert done.returncode == 0, done.stdout
    assert calls(offline_model, "Which server am I on?")
    assert f"The model is yours, at {offline_model}/v1" in done.stdout


def test_an_own_server_that_does_not_answer_is_reported_in_one_line(write: Write, closed_port: int) -> None:
    done = run(write(SHOW_MODEL), OPENAI_BASE_URL=f"http://127.0.0.1:{closed_port}/v1")
    assert done.returncode == 1
    assert "Is its server running?" in done.stdout
