"""What a learner can do: mastery, streaks by the learner's day, struggle patterns.

Mastery is by Bayesian knowledge tracing: A. T. Corbett and J. R. Anderson, "Knowledge tracing: Modeling the
acquisition of procedural knowledge", User Modeling and User-Adapted Interaction 4 (1995), pages 253-278.
"""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

# Probabilities: that a skill is known at first, is learnt by a try, is known and fails, is guessed.
KNOWN, LEARN, SLIP, GUESS = 0.2, 0.15, 0.1, 0.2
STRUGGLE = 3  # failures in a row on a topic that raise an alert, and so does each further third
MAX_TOPICS = 100  # of a learner


class Topic(BaseModel):
    mastery: float = KNOWN
    attempts: int = 0
    failures_in_row: int = 0


class Progress(BaseModel):
    topics: dict[str, Topic] = {}
    streak: int = Field(default=0, ge=0)  # days in a row with an attempt
    last_day: date | None = None


class TooManyTopics(Exception):
    pass


def trace(known: float, score: float) -> float:
    """The probability that a skill is known after an attempt.

    The paper knows right and wrong. A score in between mixes the two by its weight: that rule is ours.
    """
    right = known * (1 - SLIP) / (known * (1 - SLIP) + (1 - known) * GUESS)
    wrong = known * SLIP / (known * SLIP + (1 - known) * (1 - GUESS))
    after = score * right + (1 - score) * wrong
    return after + (1 - after) * LEARN


def day_of(moment: datetime, timezone: str) -> date:
    """The learner's day, and today at the latest. Raises ValueError for a timezone that does not exist.

    The clock of a sender that is ahead must not end the learner's streak for all days until then.
    """
    try:
        return min(moment, datetime.now(UTC)).astimezone(ZoneInfo(timezone)).date()
    except OverflowError:
        return date.min  # the year 1, in a timezone where it has not begun
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"There is no timezone {timezone}.") from error


def attempt(progress: Progress, name: str, score: float, day: date) -> bool:
    """Record an attempt. True if the learner struggles with the topic and somebody should know."""
    if name not in progress.topics and len(progress.topics) >= MAX_TOPICS:
        raise TooManyTopics
    topic = progress.topics.setdefault(name, Topic())
    topic.mastery = trace(topic.mastery, score)
    topic.attempts += 1
    topic.failures_in_row = 0 if score >= 0.5 else topic.failures_in_row + 1
    # An event of an earlier day, late or from a clock that went back, changes no streak.
    if progress.last_day is None or day > progress.last_day:
        follows = progress.last_day is not None and (day - progress.last_day).days == 1
        progress.streak = progress.streak + 1 if follows else 1
        progress.last_day = day
    return topic.failures_in_row > 0 and topic.failures_in_row % STRUGGLE == 0
