"""The budget of a run, and the usage that the gateway reads from answers."""

import asyncio
import json

from starlette.responses import Response

from parallel_agents.gateway import Budget, Grant, is_text, usage_of


def test_simultaneous_calls_cannot_spend_more_than_the_budget() -> None:
    budget = Budget(100)
    assert budget.reserve(60)
    assert not budget.reserve(60), "Two calls have reserved the same tokens."
    budget.settle(60, 10)
    assert budget.reserve(90)
    assert not budget.reserve(1)


def charge(answer: bytes) -> tuple[Grant, list[dict[str, int]]]:
    told: list[dict[str, int]] = []

    async def on_usage(usage: dict[str, int]) -> None:
        told.append(usage)

    grant = Grant(Budget(1000), on_usage)
    assert grant.budget.reserve(500)
    asyncio.run(grant.charge(500, usage_of(answer) or {"prompt_tokens": 500}))
    return grant, told


def test_a_call_is_charged_what_the_model_says() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    grant, told = charge(json.dumps({"usage": usage}).encode())
    assert (grant.budget.spent, grant.budget.reserved, told) == (10, 0, [usage])


def test_an_answer_without_usage_is_charged_in_full() -> None:
    for answer in (b'{"usage": null}', b"[DONE]", b'{"usage": {"prompt_tokens": "many"}}'):
        grant, _ = charge(answer)
        assert grant.budget.spent == 500, "A model that counts nothing would make the budget endless."


def test_a_request_that_waits_ends_with_its_token() -> None:
    async def check() -> None:
        grant = Grant(Budget(1), on_usage)

        async def forever() -> Response:
            await asyncio.Event().wait()
            raise AssertionError

        waiting = asyncio.create_task(grant.until_revoked(forever()))
        await asyncio.sleep(0)
        (call,) = grant.calls
        call.cancel()  # as `revoke` does
        assert (await waiting).status_code == 401
        assert not grant.calls

    async def on_usage(usage: dict[str, int]) -> None: ...

    asyncio.run(check())


def test_only_text_is_for_the_model() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://example.org"}}
    for content in ([image], [{"type": "text", "text": "x"}, image], [7], 7):
        assert not is_text([{"role": "user", "content": content}]), "The provider fetches any address."
    for text in ("x", None, [{"type": "text", "text": "x"}]):
        assert is_text([{"role": "user", "content": text}])
    assert not is_text("x") and not is_text(["x"])
