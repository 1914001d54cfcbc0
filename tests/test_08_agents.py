"""Lesson 08: agents as local processes share tasks, die and are replaced; workflows have their shapes."""

import json
import os
import signal
import uuid
from typing import Any

import pytest
from support.agents import Fleet
from support.servers import calls

from course.polling import until

# Seconds of model time: enough for a kill in the middle, and for shapes that a busy machine does not blur.
SLOW = {"MODEL_NAME": "offline?ttft=1.5"}
SHORT_LEASE = {"LEASE_SECONDS": "1"}


def unique(prompt: str) -> str:
    """A prompt by which the offline model's call log can be searched."""
    return f"{prompt} ({uuid.uuid4().hex})"


# --- Claims, leases, deaths ---


def test_each_task_is_given_to_one_agent(fleet: Fleet, offline_model: str) -> None:
    prompt = unique("What is a container?")
    fleet.start("agent-0", "agent-1", "agent-2", MODEL_NAME="offline?ttft=0.3")
    results = fleet.results("fan-out", *[prompt] * 9)
    assert [result["deliveries"] for result in results] == [1] * 9, "A task was given to several agents."
    assert len(calls(offline_model, prompt)) == 9, "The model was not asked once for each of nine tasks."
    assert len({result["agent"] for result in results}) == 3, "The tasks were not shared among the agents."
    assert fleet.counts() == [1] * 9, "A task took effect more than once, or not at all."


def test_a_slow_agent_keeps_its_task(fleet: Fleet, offline_model: str) -> None:
    prompt = unique("What is a lease?")
    fleet.start("agent-0", "agent-1", MODEL_NAME="offline?ttft=5", LEASE_SECONDS="2")
    [result] = fleet.results("fan-out", prompt)
    asked = len(calls(offline_model, prompt))
    assert (result["deliveries"], asked) == (1, 1), (
        f"An agent that is slow, but alive, lost its task to another: the model was asked {asked} times."
    )


def test_the_task_of_a_killed_agent_is_taken_over(fleet: Fleet) -> None:
    prompt = unique("What is a container?")
    fleet.start("agent-0", **SLOW, **SHORT_LEASE)
    fleet.run("submit", prompt, "--name", "orphan")
    fleet.wait_until_asked(prompt)
    fleet.programs["agent-0"].kill()
    fleet.start("agent-1", **SHORT_LEASE)
    result = fleet.result_of(
        "orphan-0", "An agent was killed in the middle of its task, and nobody else does it."
    )
    assert (result["agent"], result["deliveries"]) == ("agent-1", 2), "The task was not taken over."
    assert fleet.counts() == [1], "The task of the killed agent took effect twice."
    takeovers = fleet.metric("agent-1", "agent_takeovers_total")
    assert takeovers == 1, f"The agent took over one task, and its metrics count {takeovers:g}."


def test_an_agent_that_wakes_up_too_late_changes_nothing(fleet: Fleet) -> None:
    prompt = unique("What is a container?")
    fleet.start("agent-0", MODEL_NAME="offline?ttft=3", **SHORT_LEASE)
    fleet.run("submit", prompt, "--name", "late")
    fleet.wait_until_asked(prompt)
    os.kill(fleet.programs["agent-0"].pid, signal.SIGSTOP)
    try:
        fleet.start("agent-1", **SHORT_LEASE)
        result = fleet.result_of("late-0", "The task of an agent that hangs is not taken over.")
    finally:
        os.kill(fleet.programs["agent-0"].pid, signal.SIGCONT)
    assert result["agent"] == "agent-1", (
        f"The result is from {result['agent']}, not from agent-1, which should have taken the task over."
    )
    outcomes = ("lost", "duplicate")
    assert until(
        lambda: any(fleet.metric("agent-0", "agent_tasks_total", outcome=o) for o in outcomes), 20
    ), "The agent that woke up does not know that its task is another's."
    assert fleet.counts() == [1], "Two agents did a task, and it took effect twice."


def test_sigterm_lets_an_agent_finish_its_task(fleet: Fleet) -> None:
    prompt = unique("What is a container?")
    fleet.start("agent-0", **SLOW)
    fleet.run("submit", prompt, "--name", "last")
    fleet.wait_until_asked(prompt)
    fleet.programs["agent-0"].terminate()
    assert fleet.programs["agent-0"].wait(20) == 0, "SIGTERM does not end the agent with exit code 0."
    deliveries = fleet.result_of("last-0", "The agent left without its task's result.")["deliveries"]
    assert deliveries == 1, f"SIGTERM came during a task, which was delivered {deliveries} times, not once."


def test_a_task_that_kills_three_agents_goes_to_the_dead_letters(fleet: Fleet) -> None:
    names = [f"agent-{number}" for number in range(4)]
    fleet.start(*names, CRASH_ON="poison", **SHORT_LEASE)
    [dead, alive] = fleet.results("fan-out", "poison", "What is a container?")
    assert dead["error"], "A task that kills its agents has a result that says nothing of it."
    assert dead["deliveries"] == 4, (
        f"A task that kills its agents was given up at delivery {dead['deliveries']}, not at the fourth."
    )
    codes = sorted(str(fleet.programs[name].poll()) for name in names)
    assert codes == ["-9", "-9", "-9", "None"], f"Not three of four agents were killed: {codes}."
    assert alive["answer"], "A task that kills its agents stopped its neighbour."
    counts = fleet.counts()
    assert counts == [1, 1], f"The two tasks did not take effect once each: {counts}"


def test_a_dead_letter_can_be_put_back_into_the_queue(fleet: Fleet) -> None:
    fleet.start("agent-0", MODEL_NAME="offline?fault=500", LEASE_SECONDS="0.3")
    [dead] = fleet.results("fan-out", "What is a container?", "--name", "again")
    assert fleet.results("dead-letters") == [dead], "The command dead-letters does not show the task."
    fleet.programs["agent-0"].kill()
    fleet.start("agent-1")
    redriven = fleet.run("redrive")["tasks"]
    assert redriven == ["again-0"], f"The command redrive reports {redriven}, not again-0 alone."
    result = fleet.result_of("again-0", "A task was put back into the queue, and nobody does it.")
    assert (result["answer"] != "", result["deliveries"]) == (True, 1), "It was not done as a new task is."
    assert fleet.results("dead-letters") == [], "The task was done, and is still a dead letter."
    assert fleet.counts() == [1], "A task that was put back took effect twice."
    redriven = fleet.run("redrive")["tasks"]
    assert redriven == [], f"No task is a dead letter, and the command redrive reports {redriven}."


def test_a_task_that_fails_is_tried_again(fleet: Fleet) -> None:
    fleet.start(
        "agent-0", MODEL_NAME=f"offline?fault=500&every=2&tps={uuid.uuid4().int % 1000 + 1000}", **SHORT_LEASE
    )
    results = fleet.results("fan-out", "What is a container?", "What is an image?")
    assert all(result["answer"] for result in results), "A failure of the model has cost a task."
    failed = fleet.metric("agent-0", "agent_tasks_total", outcome="failed")
    assert failed == 1, (
        f"The model fails at every second call, and for two tasks the metrics count {failed:g} failures."
    )
    counts = fleet.counts()
    assert counts == [1, 1], f"The two tasks did not take effect once each: {counts}"


@pytest.mark.parametrize(("name", "value"), [("AGENT_ID", ""), ("LEASE_SECONDS", "soon")])
def test_a_bad_setting_is_one_line_that_names_it(fleet: Fleet, name: str, value: str) -> None:
    agent = fleet.spawn("agent.py", settings={"AGENT_ID": "agent-0", name: value})
    said = fleet.said(agent)
    assert agent.returncode == 1, f"A bad setting ends the agent with exit code {agent.returncode}, not 1."
    assert said.startswith(f"Bad setting {name}: "), f"The agent does not name the bad setting: {said}"
    assert said.count("\n") == 1, f"The agent says more than one line: {said}"


def test_a_task_that_is_submitted_again_is_done_once(fleet: Fleet, offline_model: str) -> None:
    prompt = unique("What is idempotency?")
    fleet.start("agent-0")
    for _ in range(2):
        fleet.run("submit", prompt, "--name", "same", "--times", "3")
    fleet.result_of("same-2", "The tasks have no results.")
    assert len(calls(offline_model, prompt)) == 3, (
        "A client repeated its request, and the model was asked again."
    )


# --- Compositions ---


def spans(results: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(result["started"], result["ended"]) for result in results]


def test_a_fan_out_runs_its_tasks_at_once(fleet: Fleet) -> None:
    fleet.start("agent-0", "agent-1", "agent-2", **SLOW)
    times = spans(fleet.results("fan-out", "What is a container?", "What is an image?", "What is a layer?"))
    assert max(start for start, _ in times) < min(end for _, end in times), (
        "The tasks of a fan-out ran one after the other, with agents to spare."
    )


def test_a_dead_letter_does_not_stop_the_other_tasks_of_a_fan_out(fleet: Fleet) -> None:
    fleet.start("agent-0", MODEL_NAME="offline?fault=500", LEASE_SECONDS="0.3")
    results = fleet.results("fan-out", "What is a container?", "What is an image?")
    errors = [bool(result["error"]) for result in results]
    assert errors == [True, True], (
        f"The model fails at every call; of two tasks, these have a result with an error: {errors}."
    )


def test_a_sequence_waits_for_each_answer_and_hands_it_on(fleet: Fleet) -> None:
    fleet.start("agent-0", "agent-1", **SLOW)
    first, second = fleet.results("sequential", "What is a container?", "Say it in one sentence: {answer}")
    assert first["ended"] <= second["started"], "A step began before the answer that it needs was there."
    assert first["answer"] in second["prompt"], "A step did not get the answer before it."
    assert second["after"] == [first["task"]], (
        f"The second step says that it came after {second['after']}, not after {first['task']} alone."
    )


@pytest.mark.parametrize(
    ("question", "steps"),
    [("What is a container?", ["check"]), ("Which fish live in the Baltic Sea?", ["Docker", "Python"])],
)
def test_a_condition_routes_by_the_first_answer(fleet: Fleet, question: str, steps: list[str]) -> None:
    fleet.start("agent-0", "agent-1", **SLOW)
    first, *follow = fleet.results("conditional", question, "--name", "c")
    assert [result["task"] for result in follow] == [f"c-{step}" for step in steps], (
        "It took the wrong route."
    )
    assert all(result["started"] >= first["ended"] for result in follow), (
        "A route was taken before the answer."
    )
    if len(follow) > 1:
        assert max(start for start, _ in spans(follow)) < min(end for _, end in spans(follow)), (
            "The experts were asked one after the other, with agents to spare."
        )


def test_an_event_starts_its_workflow(fleet: Fleet) -> None:
    fleet.start("agent-0")
    listener = fleet.spawn("coordination.py", "event-driven", "Summarise: {event}", "Shorter: {answer}")
    event = fleet.run("publish", "Container 7 was killed.")["event"]
    first, second = json.loads(fleet.said(listener))["results"]
    assert first["prompt"] == "Summarise: Container 7 was killed.", (
        f"The first step's prompt is {first['prompt']!r}, not the given one with the event's text in it."
    )
    assert first["after"] == [event], (
        f"The first step says that it came after {first['after']}, not after the event {event} alone."
    )
    assert first["submitted"] * 1000 >= int(event.partition("-")[0]), "A task began before its event."
    assert second["started"] >= first["ended"], "The second step began before the first one had ended."


def test_an_event_whose_listener_died_is_handled_once(fleet: Fleet, offline_model: str) -> None:
    fleet.start("agent-0", **SLOW)
    mark = uuid.uuid4().hex
    prompt = f"Summarise: {{event}} ({mark})"
    fleet.run("publish", "Container 7 was killed.")
    listener = fleet.spawn("coordination.py", "event-driven", prompt)
    fleet.wait_until_asked(mark)
    listener.kill()
    listener.wait()
    lost = "A listener was killed in the middle of its workflow, and the event is lost."
    [result] = fleet.run("event-driven", prompt, seconds=20, otherwise=lost)["results"]
    asked = len(calls(offline_model, mark))
    assert (asked, fleet.counts()) == (1, [1]), (
        f"A listener was killed and started again: the model was asked {asked} times for one event."
    )
    assert result["answer"], "The event was handled, and its result has no answer."


def test_events_of_the_same_text_are_two_events(fleet: Fleet) -> None:
    fleet.start("agent-0")
    for _ in range(2):
        fleet.run("publish", "Container 7 was killed.")
    runs = [fleet.results("event-driven", "Summarise: {event}") for _ in range(2)]
    assert runs[0][0]["task"] != runs[1][0]["task"], "Two events of the same text are taken for one."
    counts = fleet.counts()
    assert counts == [1, 1], f"The tasks of the two events did not take effect once each: {counts}"


# --- Metrics ---


def test_metrics_tell_what_agents_and_queue_do(fleet: Fleet) -> None:
    fleet.start("agent-0")
    fleet.start_exporter()
    fleet.results("fan-out", "What is a container?", "What is an image?")
    assert until(lambda: fleet.metric("agent-0", "agent_tasks_total", outcome="done") == 2), (
        "The agent did two tasks, and its metrics do not say so."
    )
    fleet.programs["agent-0"].terminate()
    assert fleet.programs["agent-0"].wait(20) == 0, "SIGTERM does not end the agent with exit code 0."
    fleet.run("submit", "What is a layer?", "--times", "3")
    states = {
        state: fleet.metric("queue", "queue_tasks", state=state)
        for state in ("waiting", "held", "done", "dead")
    }
    assert states == {"waiting": 3, "held": 0, "done": 2, "dead": 0}, (
        f"Three tasks wait and two are done, and the metrics of the queue say {states}."
    )
