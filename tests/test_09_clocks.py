"""Lesson 09: three clocks, the drain, and what happens after the server's death."""

import os
import signal
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

import httpx2
import pytest
from support.container_tools import ends, renamed_sleep, runs, unique
from support.parallel_agents import RESULT, Lesson, StartLesson, User
from support.problems import assert_problem
from support.servers import assert_ends_with_zero

from course.polling import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def process_in(word: str) -> str:
    """Code that prints a line, and becomes a process that the host can see by the word."""
    return f"print('started', flush=True); {renamed_sleep(word)}"


def test_the_wall_clock_ends_a_variation_that_keeps_talking(lesson_09: StartLesson, repository: Path) -> None:
    lesson, word = lesson_09(AGENT_TIMEOUT="4", IDLE_TIMEOUT="3"), unique()
    code = f"""
import os, time
if os.fork() == 0:
    {renamed_sleep(word)}
while True:
    print("talking", flush=True); time.sleep(0.2)
"""
    user = lesson.user()
    run = user.start(repository, code)
    assert until(lambda: runs(word)), "The process of the variation did not start."
    state = user.finished(run).variation()["state"]
    assert state == "timed_out", f"The wall clock ended the variation, and its state is {state!r}."
    assert not lesson.agents(), "Only the server has stopped waiting: the container is still there."
    assert ends(word), "The container is gone, and its process still runs."
    assert not runs(word), "The container is gone, and its process runs again."


def test_the_idle_clock_ends_a_variation_that_says_nothing(lesson_09: StartLesson, repository: Path) -> None:
    lesson, word = lesson_09(AGENT_TIMEOUT="100", IDLE_TIMEOUT="2"), unique()
    state = lesson.user().run(repository, process_in(word)).variation()["state"]
    assert state == "idle", f"The idle clock ended the variation, and its state is {state!r}."
    assert not lesson.agents(), "Only the server has stopped waiting: the container is still there."
    assert ends(word), "The container is gone, and its process still runs."


def test_a_variation_that_was_timed_out_still_has_its_patch(lesson_09: StartLesson, repository: Path) -> None:
    user = lesson_09(AGENT_TIMEOUT="100", IDLE_TIMEOUT="2").user()
    done = user.run(repository, "import time; open('a.txt', 'a').write('kept'); time.sleep(100)")
    patch = user.http.get(f"/runs/{done.run['id']}/variations/1/patch").text
    assert "+kept" in patch, "What the agent wrote before the clock is lost."


def test_sigterm_takes_no_runs_and_lets_running_ones_finish(lesson_09: StartLesson, repository: Path) -> None:
    lesson = lesson_09(DRAIN_SECONDS="60", DRAIN_DELAY_SECONDS="3")
    user = lesson.user()
    run = user.start(repository, "import time; print('started', flush=True); time.sleep(5)\n" + RESULT)
    user.wait_for(run, "started")
    stream = user.stream(run)
    assert next(stream).type == "state", "The stream does not begin with the run's state."
    lesson.server.process.terminate()
    assert until(lambda: user.http.get("/ready").status_code == 503), (
        "The server was told to stop, and /ready does not answer with 503."
    )
    assert_problem(user.post(repository, RESULT), 503)
    last = list(stream)[-1]
    assert (last.type, last.data["reason"]) == ("done", "done"), "The running variation did not finish."
    assert_ends_with_zero(lesson.server, 60)
    assert not lesson.left(), "The server has ended, and its containers or networks have not."
    again = lesson_09(lesson.data, DRAIN_SECONDS="60", DRAIN_DELAY_SECONDS="3")
    told = again_user(again, user).get(run)
    state = told["variations"][0]["state"]
    assert state == "passed", (
        f"The run finished, and after a restart its variation is {state!r}, not 'passed'."
    )


def test_a_run_that_nobody_follows_finishes_in_the_drain_too(
    lesson_09: StartLesson, repository: Path
) -> None:
    lesson = lesson_09(DRAIN_SECONDS="60")
    user = lesson.user()
    run = user.start(repository, "import time; print('started', flush=True); time.sleep(5)\n" + RESULT)
    user.wait_for(run, "started")
    code = lesson.stop()
    assert code == 0, f"The server was told to stop, and its exit code is {code}."
    told = again_user(lesson_09(lesson.data, DRAIN_SECONDS="60"), user).get(run)
    assert told["variations"][0]["state"] == "passed", "The server did not wait for a run without readers."


def test_what_outlasts_the_drain_is_interrupted_and_says_so(lesson_09: StartLesson, repository: Path) -> None:
    lesson, word = lesson_09(DRAIN_SECONDS="1"), unique()
    user = lesson.user()
    run = user.start(repository, process_in(word))
    user.wait_for(run, "started")
    stream = user.stream(run)
    assert next(stream).type == "state", "The stream does not begin with the run's state."
    code = lesson.stop()
    assert code == 0, f"The server was told to stop, and its exit code is {code}."
    assert list(stream)[-1].data == {"variation": None, "reason": "interrupted"}, (
        "The stop interrupted the run, and the last event does not say so."
    )
    assert not lesson.left(), "The server has ended, and its containers or networks have not."
    assert ends(word), "The server has ended, and the agent still runs."
    told = again_user(lesson_09(lesson.data, DRAIN_SECONDS="1"), user).get(run)
    assert (told["state"], told["variations"][0]["state"]) == ("interrupted", "interrupted"), (
        "The stop interrupted the run, and its state does not say so."
    )


def again_user(lesson: Lesson, user: User) -> User:
    """The same user at a server that was started again."""
    user.lesson = lesson
    user.http.base_url = lesson.url("")
    return user


def test_a_killed_server_leaves_nothing_and_loses_no_result(lesson_09: StartLesson, repository: Path) -> None:
    lesson, word = lesson_09(MAX_CONCURRENCY="4"), unique()
    user = lesson.user()
    code = f"""
import os, time
if os.environ["AGENT_SEED"] in ("1", "2"):
    {RESULT.strip().replace(chr(10), chr(10) + "    ")}
    raise SystemExit
{process_in(word)}
"""
    run = user.start(repository, code, variations=8)
    passed = (each for each in user.stream(run) if each.type == "state" and each.data["name"] == "passed")
    finished = {event.data["variation"]: event for event in islice(passed, 2)}
    assert set(finished) == {1, 2}, f"Variations 1 and 2 are to pass, and these did: {sorted(finished)}."
    assert until(lambda: runs(word)), "The process of the variation did not start."
    os.kill(lesson.server.process.pid, signal.SIGKILL)
    lesson.server.process.wait(20)
    assert lesson.agents(), "The test needs containers that the dead server has left."

    again = again_user(lesson_09(lesson.data, MAX_CONCURRENCY="4"), user)
    assert until(lambda: not again.lesson.left()), f"Orphans are left: {again.lesson.left()}."
    assert ends(word), "The containers are gone, and a process of theirs still runs."
    assert until(lambda: not list((lesson.data / "work").iterdir())), (
        "Work folders of the dead server are left."
    )
    told = again.get(run)
    assert told["state"] == "interrupted", (
        f"The server was killed during a run, and the run's state is {told['state']!r}."
    )
    states = [each["state"] for each in told["variations"]]
    assert states == ["passed"] * 2 + ["interrupted"] * 6, (
        "A finished result is lost, or an interrupted one hidden."
    )
    assert told["variations"][0]["summary"] == "ok", "The summary of a finished variation is lost."
    assert again.http.get(f"/runs/{run}/variations/1/patch").status_code == 200, "A finished patch is lost."
    events = again.events(run)
    assert events[-1].data == {"variation": None, "reason": "interrupted"}, (
        "The run was interrupted, and its last event does not say so."
    )
    assert [int(each.id) for each in events] == list(range(1, len(events) + 1)), (
        "The run's events have gaps, or come twice."
    )
    assert finished[1] in events, "An event that a reader had seen is lost."
    assert again.run(repository, RESULT).run["state"] == "done", "After the sweep no run works any more."


def test_a_stream_whose_end_was_lost_ends_all_the_same(lesson_09: StartLesson, repository: Path) -> None:
    lesson = lesson_09(DRAIN_DELAY_SECONDS="0.01")
    user = lesson.user()
    run = user.start(repository, RESULT)
    last = user.events(run)[-1]
    lesson.stop()
    with closing(sqlite3.connect(lesson.data / "parallel_agents.db")) as database:  # as a kill may leave it
        database.execute("DELETE FROM event WHERE run_id = ? AND type = 'done'", (run,))
        database.commit()
    again = lesson_09(lesson.data, DRAIN_DELAY_SECONDS="0.01")
    headers = user.http.headers | {"Last-Event-ID": str(int(last.id) - 1)}
    answer = httpx2.get(again.url(f"/runs/{run}/stream"), headers=headers)
    assert answer.status_code == 204, "A reader is told to come back for ever."


def test_two_servers_do_not_share_a_data_folder(lesson_09: StartLesson, repository: Path) -> None:
    lesson = lesson_09()
    with pytest.raises(pytest.fail.Exception, match="Another server uses the folder"):
        lesson_09(lesson.data, LOG_LEVEL="DEBUG")


def test_without_an_engine_the_server_says_so_in_one_line(lesson_09: StartLesson, closed_port: int) -> None:
    with pytest.raises(pytest.fail.Exception) as failed:
        lesson_09(DOCKER_HOST=f"tcp://127.0.0.1:{closed_port}")
    assert "The engine docker cannot be reached" in str(failed.value), (
        "The server did not start, and does not say that it cannot reach Docker."
    )
    assert "Traceback" not in str(failed.value), "A learner without Docker reads a traceback."
