"""Lesson 09: Docker and Dagger run the same cases."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.container_tools import ends, renamed_sleep, runs, unique
from support.parallel_agents import ASK, RESULT, Lesson, StartLesson

from course.models import base_environment
from course.polling import until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(
    params=[
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("dagger", marks=pytest.mark.dagger),
    ]
)
def lesson(request: pytest.FixtureRequest, lesson_09: StartLesson) -> Lesson:
    if request.param == "dagger":
        request.getfixturevalue("dagger_engine")
    return lesson_09(ENGINE=request.param, AGENT_TIMEOUT="120", IDLE_TIMEOUT="100")


def test_output_comes_live_and_in_order(lesson: Lesson, repository: Path) -> None:
    user = lesson.user()
    code = "import time\nfor n in range(100):\n    print(n, flush=True)\ntime.sleep(60)"
    run = user.start(repository, code)
    lines: list[str] = []
    for event in user.stream(run):
        lines += event.data["text"].split() if event.type == "log" else []
        if len(lines) == 100:
            break
    assert user.get(run)["state"] == "running", "The output came only at the end."
    user.http.post(f"/runs/{run}/cancel")
    assert lines == [str(n) for n in range(100)], "Lines of the output are lost, or not in order."


def test_a_variation_ends_with_a_result_and_a_patch(lesson: Lesson, repository: Path) -> None:
    user = lesson.user()
    code = f"""
import os, sys
print("an error", file=sys.stderr)
open("a.txt", "a").write("added\\n")
os.remove("b.txt")
{RESULT}"""
    done = user.run(repository, code, variations=2)
    for n in (1, 2):
        state = done.variation(n)
        ended = (state["state"], state["exit_code"], state["tests_passed"])
        assert ended == ("passed", 0, 2), (
            f"The agent reports two passed tests and exits with 0, and variation {n} ends with {ended}:\n"
            f"{state}"
        )
        counts = (state["files_changed"], state["lines_added"], state["lines_removed"])
        assert counts == (2, 1, 1), (
            f"The agent changed two files, with a line added and one removed, and the counts are {counts}."
        )
    streams = {each.data["stream"] for each in done.events if each.type == "log"}
    assert streams == {"stderr"}, (
        f"The agent prints text to stderr alone, and the log events name {sorted(streams)}."
    )
    patch = user.http.get(f"/runs/{done.run['id']}/variations/1/patch").text
    assert "+added" in patch, f"The patch lacks the line that the agent added: {patch!r}"


def test_an_agent_that_breaks_has_its_exit_code(lesson: Lesson, repository: Path) -> None:
    done = lesson.user().run(repository, "import sys; sys.exit(7)")
    state, code = done.variation()["state"], done.variation()["exit_code"]
    assert (state, code) == ("crashed", 7), (
        f"The agent's code exits with 7, and the variation is {state!r} with exit code {code}."
    )


def test_the_model_is_reached_by_the_gateway(lesson: Lesson, repository: Path) -> None:
    done = lesson.user().run(repository, f"{ASK}\nprint(ask()[0], ask(key='x')[0])")
    assert done.text() == "200 401", (
        f"Requests with the token and with a wrong key give {done.text()!r}, not '200 401'."
    )
    assert done.variation()["prompt_tokens"] > 0, "The model has answered, and no prompt tokens are counted."


def test_cancel_ends_the_processes(lesson: Lesson, repository: Path) -> None:
    user, word = lesson.user(), unique()
    run = user.start(repository, f"print('started', flush=True); {renamed_sleep(word)}")
    user.wait_for(run, "started")
    assert until(lambda: runs(word)), "The process of the variation did not start."
    state = user.http.post(f"/runs/{run}/cancel").json().get("state")
    assert state == "cancelled", f"A run was cancelled, and its state is {state!r}."
    assert ends(word), "The run was cancelled, and its process still runs."


def test_the_idle_clock_ends_the_processes(
    request: pytest.FixtureRequest, lesson: Lesson, lesson_09: StartLesson, repository: Path
) -> None:
    short = lesson_09(ENGINE=lesson.settings["ENGINE"], IDLE_TIMEOUT="10")
    word = unique()
    done = short.user().run(repository, f"print('started', flush=True); {renamed_sleep(word)}")
    state = done.variation()["state"]
    assert state == "idle", f"The idle clock ended the variation, and its state is {state!r}."
    assert ends(word), "The time is up, and the process still runs."


def test_dagger_refuses_limits_that_it_cannot_enforce(lesson_root: Path, tmp_path: Path) -> None:
    required = {"SECRET_KEY": "x" * 32, "OPENAI_API_KEY": "x", "DATA_DIR": str(tmp_path)}
    env = base_environment() | required | {"ENGINE": "dagger", "MEMORY_MB": "256", "PIDS": "64"}
    folder = lesson_root / "code/09_parallel_agents"
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, (
        f"The settings have limits that Dagger lacks, and the server's exit code is {done.returncode}, not 1."
    )
    said = "Bad setting ENGINE: Value error, the engine dagger cannot enforce MEMORY_MB, PIDS"
    assert done.stderr.strip() == said, "A limit that the engine lacks is ignored."
