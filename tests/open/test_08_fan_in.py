"""The open exercise of lesson 08: a composition whose last task gets the answers of all others."""

from support.agents import Fleet

PROMPTS = ["What is a container?", "What is an image?", "What is a layer?"]


def test_a_fan_in_gives_all_answers_to_one_task(fleet: Fleet) -> None:
    fleet.start("agent-0", "agent-1", "agent-2", MODEL_NAME="offline?ttft=1.5")
    *parts, summary = fleet.results("fan-in", *PROMPTS, "--name", "f")
    assert [part["prompt"] for part in parts] == PROMPTS, "The results are not in the order of the prompts."
    assert max(part["started"] for part in parts) < min(part["ended"] for part in parts), (
        "The prompts of a fan-in were asked one after the other, with agents to spare."
    )
    assert summary["task"] == "f-summary", "The last result is not that of the task NAME-summary."
    assert summary["prompt"].startswith("Summarise these answers:"), "The summary's prompt begins otherwise."
    places = [summary["prompt"].find(part["answer"]) for part in parts]
    assert -1 not in places, "An answer did not reach the summary."
    assert places == sorted(places), "The answers are not in the order of the prompts."
    assert summary["after"] == [part["task"] for part in parts], "`after` does not name the summary's tasks."
    assert summary["started"] >= max(part["ended"] for part in parts), "The summary began before its answers."


def test_a_dead_letter_is_left_out_of_the_summary(fleet: Fleet) -> None:
    agents = [f"agent-{number}" for number in range(4)]
    fleet.start(*agents, CRASH_ON="poison", LEASE_SECONDS="1")
    dead, good, summary = fleet.results("fan-in", "poison", "What is a container?", "--name", "f")
    assert dead["error"], "The poison has an answer."
    assert summary["after"] == [good["task"]], "The summary names a task that has no answer."
    assert good["answer"] in summary["prompt"], "The answer beside a dead letter did not reach the summary."
