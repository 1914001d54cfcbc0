"""The registry finds the intents, and asks them in order until one replies.

An intent is a module in this folder with two names:

    ORDER = 75  # intents with a lower number are asked first


    def reply(conversation: Conversation) -> Reply | None:
        # None: the question is for another intent

`docs/reference/offline-model.md` shows a complete one.
"""

from importlib import import_module
from operator import attrgetter
from pkgutil import iter_modules
from typing import Protocol, cast

from offline_model import intents
from offline_model.conversation.messages import Conversation, Reply
from offline_model.intents.final_answer import call_answer_tool


class Intent(Protocol):
    ORDER: int

    def reply(self, conversation: Conversation, /) -> Reply | None: ...


def find_intents() -> list[Intent]:
    modules = [import_module(f"{intents.__name__}.{found.name}") for found in iter_modules(intents.__path__)]
    return sorted((cast(Intent, m) for m in modules if hasattr(m, "ORDER")), key=attrgetter("ORDER"))


def answer(conversation: Conversation) -> Reply:
    """The first intent's reply; as the call of a tool when the request requires one."""
    for intent in INTENTS:
        reply = intent.reply(conversation)
        if reply is None:
            continue
        if conversation.tool_choice == "required" and not reply.calls:
            return call_answer_tool(conversation, reply.text)
        return reply
    return Reply()


INTENTS = find_intents()
