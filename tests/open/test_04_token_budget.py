"""An open exercise: a run has a budget of tokens.

Nothing is broken. `MAX_RUN_TOKENS` bounds what all calls of the model in one run may use together, prompts
and answers; 0, the default, is no bound. When a run has used that many, the model is offered no more tools,
so that it must answer with what it has. The run's last event is then `done` with the reason "budget".
"""

from support.research import DEEP, ask, result_of, state, streaming
from support.servers import StartServer, calls


def test_a_run_that_has_used_up_its_tokens_takes_no_more_steps_and_answers(
    research_agent: StartServer, offline_model: str
) -> None:
    agent = research_agent(MAX_RUN_TOKENS="1")
    for word in ("budget", "bill"):  # each run has a budget of its own
        result = result_of(ask(agent, f"{DEEP} And what is a {word}?"))
        steps = len(result["steps"])
        assert steps <= 1, (
            f"The first call of the model used up the run's tokens, and the run took {steps} steps."
        )
        assert len(result["response"]) > 20, (
            "The tokens are used up, and what was found is lost: there is no answer."
        )
        last = calls(offline_model, f"And what is a {word}?")[-1]["body"]
        assert "tools" not in last, (
            "The tokens are used up, and the model is offered tools: one that is offered tools will use them."
        )


def test_the_last_event_says_that_the_budget_ended_the_run(research_agent: StartServer) -> None:
    agent = research_agent(MAX_RUN_TOKENS="1")
    with streaming(agent, f"{DEEP} And what is the end?") as (run_id, stream):
        events = list(stream)
    last = events[-1]
    assert last.type == "done", (
        f"A run that answers ends with `done`, and this one with {last.type} {last.data}."
    )
    reason = last.data["reason"]
    assert reason == "budget", f"The budget ended the run, and its last event gives the reason {reason!r}."
    assert events[-2].type == "usage", "The tokens that were used are not told before the end."
    kept = state(agent, run_id)["result"]["finish_reason"]
    assert kept == "budget", f"The last event gives the reason 'budget', and the run's result {kept!r}."


def test_the_tokens_of_all_calls_count_together(research_agent: StartServer) -> None:
    whole = result_of(ask(research_agent(MAX_RUN_TOKENS="1000000"), f"{DEEP} And what is a sum?"))
    within = len(whole["steps"]), whole["finish_reason"]
    assert within == (5, "stop"), (
        f"A run within its budget takes its five steps and ends with 'stop', not {within}."
    )
    quarter = whole["tokens_used"] // 4
    result = result_of(ask(research_agent(MAX_RUN_TOKENS=str(quarter)), f"{DEEP} And what is a sum?"))
    steps = len(result["steps"])
    assert 1 < steps < 5, (
        f"With a quarter of the tokens that five steps and an answer use, a run took {steps} steps."
    )
