"""The registry finds the intents, and asks them in order until one replies.

An intent is a module in this folder with an `ORDER`, the lowest is asked first, and a function `reply`, which
returns None when the question is for another intent. `docs/reference/offline-model.md` adds one.
"""

from importlib import import_module
from operator import attrgetter
from pkgutil import iter_modules
from typing import Protocol, cast

from offline_model import intents
from offline_model.conversation import Conversation, Reply
from offline_model.intents.tool_calls import call_answer_tool


class Intent(Protocol):
    ORDER: int

    def reply(self, conversation: Conversation, /) -> Reply | None: ...


def find_intents() -> list[Intent]:
    modules = [import_module(f"{intents.__name__}.{found.name}") for found in iter_modules(intents.__path__)]
    return sorted((cast(Intent, m) for m in modules if hasattr(m, "ORDER")), key=attrgetter("ORDER"))


def answer(conversation: Conversation) -> Reply:
    """The first intent's reply; as the call of a tool when the request requires one."""
    replies = (intent.reply(conversation) for intent in INTENTS)
    reply = next(reply for reply in replies if reply is not None)
    if conversation.tool_choice == "required" and not reply.calls:
        return call_answer_tool(conversation, reply.text)
    return reply if conversation.parallel_tool_calls else Reply(reply.text, reply.calls[:1])


INTENTS = find_intents()
