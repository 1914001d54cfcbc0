"""Progress: remember what each learner can do, and raise an alert when one struggles."""

import openai
from fastapi import HTTPException

from config import Settings
from mastery import Progress, TooManyTopics, attempt, day_of
from messages import Answer, Event, Outgoing
from sidecar import Transaction

TOPICS = ("progress.requests",)


class Agent:
    """Its answers are counted, not written, so it asks no model."""

    def __init__(self, settings: Settings, model: openai.AsyncOpenAI) -> None:
        self.settings = settings

    async def handle(self, event: Event, transaction: Transaction) -> Answer:
        """With a score: record an attempt. Without one: say how the learner is doing."""
        user_id, context = event.data.user_id, event.data.context
        key = f"progress:{user_id}"
        progress = Progress.model_validate(await transaction.load(key) or {})
        if context.score is None:
            return Answer(response=describe(progress), result=progress.model_dump(mode="json"))
        module = (context.module or "general").strip().lower()
        try:
            struggles = attempt(progress, module, context.score, day_of(event.time, context.timezone))
        except TooManyTopics:
            raise HTTPException(422, "This learner has too many topics.") from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        transaction.save(key, progress.model_dump(mode="json"))
        topic = progress.topics[module]
        result = {"topic": module, **topic.model_dump(), "streak": progress.streak}
        events = [Outgoing(topic="progress.updates", data={"user_id": user_id, **result})]
        if struggles:
            alert = {"user_id": user_id, "topic": module, "error_count": topic.failures_in_row}
            events.append(Outgoing(topic="struggle.alerts", data=alert))
        step = "Go back to the explanation and read its example." if struggles else "Try the next exercise."
        return Answer(response=describe(progress), next_steps=[step], result=result, events=events)


def describe(progress: Progress) -> str:
    if not progress.topics:
        return "Nothing is known about this learner yet."
    topics = sorted(progress.topics.items(), key=lambda item: -item[1].mastery)
    listed = ", ".join(f"{name} {topic.mastery:.0%}" for name, topic in topics[:10])
    return f"Mastery: {listed}. Days in a row: {progress.streak}."
