"""Temperatures: convert degrees Celsius to Fahrenheit."""

import re

from offline_model.conversation import Conversation, Reply

ORDER = 75

CELSIUS = re.compile(r"(-?\d+(?:\.\d+)?) ?°?C(?:elsius)? in (?:°?F|Fahrenheit)\b", re.IGNORECASE)


def reply(conversation: Conversation) -> Reply | None:
    asked = CELSIUS.search(conversation.question)
    if asked is None:
        return None
    degrees = float(asked[1])
    return Reply(f"{degrees:g} °C are {degrees * 9 / 5 + 32:g} °F.")
