"""Lesson 09: runs from the request to the table of results, over HTTP and in real containers."""

import json
import subprocess
import threading
import time
from pathlib import Path

import httpx2
import pytest
from support.parallel_agents import RESULT, Lesson, StartLesson, User, git
from support.problems import assert_problem
from support.servers import metrics

from course.polling import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
WAITS = "import time; print('started', flush=True); time.sleep(100)"
# Each variation has another seed, so another number of failing tests and another patch.
DIFFERENT = """
import json, os
seed = int(os.environ["AGENT_SEED"])
open("a.txt", "a").write("x\\n" * seed)
print("variation", seed, os.environ["AGENT_STRATEGY"])
status = "passed" if seed == 2 else "failed"
print(json.dumps({"type": "plan", "text": "a plan"}))
counts = {"tests_passed": 5, "tests_failed": abs(2 - seed)}
print(json.dumps({"type": "result", "status": status, "summary": ""} | counts))
"""


@pytest.fixture(scope="module")
def lesson(lesson_09: StartLesson) -> Lesson:
    return lesson_09(STRATEGIES="careful,bold")


@pytest.fixture(scope="module")
def user(lesson: Lesson) -> User:
    return lesson.user()


def test_a_run_is_accepted_and_tells_where_it_is(user: User, repository: Path, lesson: Lesson) -> None:
    posted = user.post(repository, RESULT, variations=2)
    assert posted.status_code == 202, f"A new run is answered with {posted.status_code}, not with 202."
    run = posted.json()
    location, numbers = posted.headers.get("location"), [each["n"] for each in run["variations"]]
    assert location == f"/api/v1/runs/{run['id']}", f"The Location {location} is not the new run's address."
    assert run["stream_url"] == f"/api/v1/runs/{run['id']}/stream", (
        f"The stream_url {run['stream_url']} is not the address of the run's events."
    )
    assert numbers == [1, 2], f"A run of two variations lists the variations {numbers}."
    done = user.finished(run["id"])
    state, commit, head = done.run["state"], done.run["commit"], git(repository, "rev-parse", "HEAD").strip()
    assert state == "done", f"At the end of its events a run has the state {state!r}, not 'done'."
    assert commit == head, f"The run has the commit {commit}; HEAD of the repository is {head}."
    states = [each["state"] for each in done.run["variations"]]
    assert states == ["passed", "passed"], f"Two variations of an agent that reports success end as {states}."
    last, ids = done.events[-1].type, [int(each.id) for each in done.events]
    assert last == "done", f"The last event of a run has the type {last!r}, not 'done'."
    assert ids == list(range(1, len(ids) + 1)), f"The ids of a run's events are not 1, 2, 3 and so on: {ids}."
    assert not lesson.agents(), "Containers are left after the run."
    assert not list((lesson.data / "work").iterdir()), "Work folders are left after the run."


def test_variations_differ_by_strategy_and_seed_and_are_told_apart(user: User, repository: Path) -> None:
    done = user.run(repository, DIFFERENT, variations=3)
    for n, strategy in ((1, "careful"), (2, "bold"), (3, "careful")):
        assert done.text(n) == f"variation {n} {strategy}", (
            f"Variation {n} prints {done.text(n)!r}, not its seed {n} and its strategy {strategy!r}."
        )
        told = (done.variation(n)["strategy"], done.variation(n)["seed"])
        assert told == (strategy, n), f"Variation {n} has the strategy and seed {told}, not {(strategy, n)}."
        added = done.variation(n)["lines_added"]
        assert added == n, f"The added lines of variation {n} are counted as {added}, not as {n}."
    plans = sorted(each.data["variation"] for each in done.events if each.type == "plan")
    assert plans == [1, 2, 3], f"The plans in the events are of the variations {plans}, not of 1, 2 and 3."


def test_variations_run_at_the_same_time(user: User, repository: Path) -> None:
    run = user.start(repository, WAITS, variations=3)
    states, printed = {}, set()
    for event in user.stream(run):
        if event.type == "state":
            states[event.data["variation"]] = event.data["name"]
        printed |= {event.data["variation"]} if event.type == "log" else set()
        if printed == {1, 2, 3}:
            break
    status = user.http.post(f"/runs/{run}/cancel").status_code
    states.pop(None)  # of the whole run
    assert states == dict.fromkeys((1, 2, 3), "running"), (
        f"When the last of three variations begins, their states are {states}: not all run."
    )
    assert status == 202, f"A cancel is answered with {status}, not with 202."


def test_the_table_has_the_best_variation_first(user: User, repository: Path) -> None:
    run = user.run(repository, DIFFERENT, variations=3).run["id"]
    rows = user.http.get(f"/runs/{run}/results").json()["rows"]
    assert [each["n"] for each in rows] == [2, 1, 3], (
        "The order is not: passed, fewer failures, smaller patch."
    )


def test_the_patch_of_a_variation_applies(user: User, repository: Path, tmp_path: Path) -> None:
    code = (
        """
import pathlib
pathlib.Path("a.txt").unlink()
pathlib.Path("new.bin").write_bytes(bytes(range(256)))
pathlib.Path("b.txt").write_text("zwei\\n")
"""
        + RESULT
    )
    run = user.run(repository, code).run["id"]
    git(tmp_path, "clone", "--quiet", str(repository), "copy")
    patch = user.http.get(f"/runs/{run}/variations/1/patch")
    media_type = patch.headers["content-type"]
    assert media_type.startswith("text/x-diff"), f"A patch is sent as {media_type}, not as text/x-diff."
    subprocess.run(["git", "apply"], cwd=tmp_path / "copy", input=patch.content, check=True)
    files = sorted(path.name for path in (tmp_path / "copy").glob("[!.]*"))
    assert files == ["b.txt", "new.bin"], f"With the patch, the copy has {files}, not b.txt and new.bin."
    assert (tmp_path / "copy/new.bin").read_bytes() == bytes(range(256)), (
        "The patch does not write the bytes into new.bin that the agent wrote."
    )
    assert git(repository, "status", "--porcelain") == "", "The agent has changed the user's own repository."


def test_a_variation_that_crashes_leaves_the_others_alone(user: User, repository: Path) -> None:
    code = "import os\nif os.environ['AGENT_SEED'] == '1':\n    raise SystemExit(3)\n" + RESULT
    done = user.run(repository, code, variations=3)
    ended = (done.variation(1)["state"], done.variation(1)["exit_code"])
    assert ended == ("crashed", 3), (
        f"The variation of an agent that exits with 3 has the state and the exit code {ended}."
    )
    states = [done.variation(n)["state"] for n in (2, 3)]
    assert states == ["passed", "passed"], f"One variation crashes, and the other two end as {states}."
    state = done.run["state"]
    assert state == "done", f"One variation crashes, and the run ends as {state!r}, not as 'done'."


def test_a_result_that_is_not_valid_is_no_result(user: User, repository: Path) -> None:
    code = (
        """import json; print(json.dumps({"type": "result", "status": "passed", "tests_passed": "many"}))"""
    )
    done = user.run(repository, code)
    state = done.variation()["state"]
    assert state == "crashed", (
        f"A variation whose only result is not valid ends as {state!r}, not as 'crashed'."
    )
    assert "many" in done.text(), "The line is neither a result nor text."


def test_a_reader_resumes_after_the_last_event_it_has_seen(user: User, repository: Path) -> None:
    done = user.run(repository, DIFFERENT, variations=2)
    run, half = done.run["id"], len(done.events) // 2
    rest = user.events(run, after=done.events[half].id)
    assert rest == done.events[half + 1 :], (
        "A reader that resumes gets other events than those after its last one."
    )
    again = user.http.get(f"/runs/{run}/stream", headers={"Last-Event-ID": done.events[-1].id})
    assert again.status_code == 204, "A browser would connect again and again after the last event."


def test_readers_who_come_at_any_time_get_every_event_once_and_in_order(user: User, repository: Path) -> None:
    code = "import time\nfor n in range(300):\n    print(n, flush=True); time.sleep(0.005)\n" + RESULT
    run = user.start(repository, code, variations=2)
    got: list[list[str]] = []

    def read() -> None:
        got.append([each.id for each in user.events(run)])

    readers = [threading.Thread(target=read) for _ in range(12)]
    for reader in readers:
        reader.start()
        time.sleep(0.15)
    for reader in readers:
        reader.join()
    assert len(got) == 12, f"Only {len(got)} of 12 readers got the run's events."
    for ids in got:
        assert ids == [str(n) for n in range(1, len(ids) + 1)], (
            "A reader has missed events, or got one twice."
        )
        assert len(ids) == len(got[0]), "Readers have got different events."


def test_a_reader_that_stops_reading_slows_nobody(user: User, repository: Path) -> None:
    code = "for n in range(20000):\n    print('x' * 40)\n" + RESULT
    run = user.start(repository, code)
    with user.http.stream("GET", f"/runs/{run}/stream") as slow:
        assert next(slow.iter_bytes(), b""), "The slow reader has got no event."
        state = user.finished(run).variation()["state"]
        assert state == "passed", f"While a reader does not read, its run's variation ends as {state!r}."


def test_the_log_of_a_variation_can_be_downloaded(user: User, repository: Path) -> None:
    run = user.run(repository, DIFFERENT, variations=2).run["id"]
    log = user.http.get(f"/runs/{run}/variations/2/log")
    media_type = log.headers["content-type"]
    assert media_type == "text/plain; charset=utf-8", f"A log is sent as {media_type}, not as text in UTF-8."
    assert "variation 2 bold" in log.text, "The log of variation 2 lacks the line that its agent prints."
    assert "variation 1" not in log.text, "The log of variation 2 has output of variation 1."


def test_cancel_stops_all_variations_within_two_seconds(user: User, repository: Path, lesson: Lesson) -> None:
    run = user.start(repository, WAITS, variations=3)
    user.wait_for(run, "started")
    began = time.monotonic()
    status = user.http.post(f"/runs/{run}/cancel").status_code
    assert status == 202, f"A cancel is answered with {status}, not with 202."
    took = time.monotonic() - began
    assert not lesson.agents(), "The run was cancelled, and its containers are still there."
    assert took < 10, f"The cancelled containers were gone after {took:.1f} s."  # bench has the exact figure
    done = user.finished(run)
    assert done.run["state"] == "cancelled", f"A run was cancelled, and its state is {done.run['state']!r}."
    states = {each["state"] for each in done.run["variations"]}
    assert states == {"cancelled"}, f"A run was cancelled, and the states of its variations are {states}."
    assert done.events[-1].data.get("reason") == "cancelled", (
        "A run was cancelled, and its last event does not say so."
    )
    assert user.http.post(f"/runs/{run}/cancel").status_code == 202, "A second cancel fails."


def test_variations_that_wait_can_be_cancelled(lesson_09: StartLesson, repository: Path) -> None:
    lesson = lesson_09(MAX_CONCURRENCY="1")
    user = lesson.user()
    run = user.start(repository, WAITS, variations=3)
    user.wait_for(run, "started")
    assert len(lesson.agents()) == 1, "More variations run at once than MAX_CONCURRENCY allows."
    state = user.http.post(f"/runs/{run}/cancel").json()["state"]
    assert state == "cancelled", f"After a cancel, a run whose variations wait has the state {state!r}."


def test_a_run_that_has_ended_can_be_deleted(user: User, repository: Path) -> None:
    run = user.start(repository, WAITS)
    assert_problem(user.http.delete(f"/runs/{run}"), 409)
    user.http.post(f"/runs/{run}/cancel")
    status = user.http.delete(f"/runs/{run}").status_code
    assert status == 204, f"A DELETE of a run after its cancel is answered with {status}, not with 204."
    assert_problem(user.http.get(f"/runs/{run}"), 404)
    assert_problem(user.http.get(f"/runs/{run}/stream"), 404)


def test_a_variation_that_does_not_exist_has_no_log_and_no_patch(user: User, repository: Path) -> None:
    run = user.run(repository, RESULT).run["id"]
    for n, status in ((2, 404), (0, 422), (10**20, 422)):
        assert_problem(user.http.get(f"/runs/{run}/variations/{n}/log"), status)
        assert_problem(user.http.get(f"/runs/{run}/variations/{n}/patch"), status)


def test_pages_of_runs_have_no_gaps_while_new_runs_come(lesson: Lesson, repository: Path) -> None:
    user = lesson.user()
    runs = [user.start(repository, RESULT) for _ in range(4)]
    first = user.http.get("/runs", params={"limit": 2}).json()
    user.start(repository, RESULT)
    second = user.http.get("/runs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    seen = [each["id"] for each in first["runs"] + second["runs"]]
    assert seen == runs[::-1], "The second page repeats a run of the first, or leaves one out."
    cursor = second["next_cursor"]
    assert cursor is None, f"The last page of runs has a cursor for a next page: {cursor}."
    assert_problem(user.http.get("/runs", params={"cursor": "x' OR 1=1"}), 422)


def test_an_idempotency_key_starts_one_run(user: User, repository: Path) -> None:
    key = {"Idempotency-Key": "one"}
    told = [user.post(repository, RESULT, headers=key) for _ in range(3)]
    statuses = [each.status_code for each in told]
    assert statuses == [202] * 3, f"Three equal requests with one key are answered with {statuses}, not 202."
    assert len({each.json()["id"] for each in told}) == 1, "The same key has started several runs."
    assert_problem(user.post(repository, "pass", headers=key), 409)
    user.finished(told[0].json()["id"])


def test_simultaneous_requests_with_one_key_start_one_run(user: User, repository: Path) -> None:
    told: list[httpx2.Response] = []
    send = lambda: told.append(user.post(repository, RESULT, headers={"Idempotency-Key": "two"}))  # noqa: E731
    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [each.status_code for each in told]
    assert statuses == [202] * 8, (
        f"Eight simultaneous requests with one key are answered with {statuses}, not with 202 each:\n"
        f"{[each.text for each in told]}"
    )
    assert len({each.json()["id"] for each in told}) == 1, "The same key has started several runs."


def test_a_user_has_a_quota_of_variations(lesson_09: StartLesson, repository: Path) -> None:
    lesson = lesson_09(MAX_VARIATIONS_PER_USER="3", MAX_VARIATIONS="4")
    user = lesson.user()
    told = user.post(repository, WAITS, variations=5)
    assert told.status_code != 202, "A run of 5 variations was accepted; MAX_VARIATIONS is 4."
    assert told.status_code == 422, f"A run that is too large is answered with {told.status_code}, not 422."
    assert_problem(told, 422)
    run = user.start(repository, WAITS, variations=2)
    told = user.post(repository, WAITS, variations=2)
    assert told.status_code != 202, "A user runs 4 variations at once; MAX_VARIATIONS_PER_USER is 3."
    assert told.status_code == 429, f"A full quota is answered with {told.status_code}, not 429."
    assert_problem(told, 429)
    assert int(told.headers.get("retry-after", "0")) > 0, "The 429 does not say when to try again."
    assert lesson.user().post(repository, RESULT).status_code == 202, "One user's quota stops another user."
    user.http.post(f"/runs/{run}/cancel")
    state = user.run(repository, RESULT, variations=2).run["state"]
    assert state == "done", f"After a cancel, the user's next run ends with the state {state!r}."


def passed_variations(lesson: Lesson) -> float:
    return metrics(lesson.url("")).get(("agent_variations_total", "passed"), 0)


def test_health_ready_and_metrics(lesson: Lesson, user: User, repository: Path) -> None:
    before = passed_variations(lesson)
    user.run(repository, RESULT)
    health, ready = (httpx2.get(lesson.url(path)).json() for path in ("/health", "/ready"))
    assert health.get("status") == "healthy", f"/health does not say that the server is healthy: {health}"
    assert ready.get("dependencies") == {"store": "ok", "engine": "ok"}, (
        f"/ready does not say that the store and the engine are ok: {ready}"
    )
    counted = until(lambda: passed_variations(lesson) > before)
    assert counted, "A variation has passed, and /metrics does not count it."
    assert until(lambda: "agent_running_variations 0.0" in httpx2.get(lesson.url("/metrics")).text), (
        "The run has ended, and /metrics does not say that no variation runs."
    )
    reply = httpx2.get(f"{lesson.server}/health", headers={"X-Request-ID": "mine"})
    request_id = reply.headers.get("x-request-id")
    assert request_id == "mine", f"A request with the id 'mine' is answered with the id {request_id!r}."


def test_the_log_is_json_with_request_ids(lesson: Lesson, user: User) -> None:
    user.http.get("/runs", headers={"X-Request-ID": "look-for-this"})
    lines = until(lambda: [line for line in lesson.server.log.read_text().splitlines() if "look-for" in line])
    assert lines, "The log has no line with the id of a request."
    endpoint = json.loads(lines[0]).get("endpoint")
    assert endpoint == "/api/v1/runs", f"A request for /api/v1/runs is logged with the endpoint {endpoint}."


def test_a_body_that_is_too_large_is_refused(user: User, repository: Path) -> None:
    assert_problem(user.post(repository, "x" * 100_000), 413)
