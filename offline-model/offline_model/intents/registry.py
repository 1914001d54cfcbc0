"""The registry finds the intents, and asks them in order until one replies.

An intent is a module in this folder with an `ORDER`, the lowest is asked first, and a function `reply`, which
returns None when the question is for another intent. `docs/reference/offline-model.md` adds one.
"""

from importlib import import_module
from operator import attrgetter
from pkgutil import iter_modules
from typing import Protocol, cast

from offline_model import intents
from offline_model.conversation.documents import documents_for
from offline_model.conversation.messages import Conversation, Reply, ToolCall
from offline_model.conversation.slot_filling import SlotValues
from offline_model.conversation.tool_selection import is_answer_tool, most_relevant_tool
from offline_model.json_schema.generator import generate


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


def call_answer_tool(conversation: Conversation, answer: str) -> Reply:
    """Give an answer to a tool: the last whose name says that it takes the answer, else an unused one.

    Frameworks put the tool that takes the answer after the others.
    """
    called = {result.call.name for result in conversation.results}
    unused = [tool for tool in conversation.tools if tool.name not in called]
    answer_tools = [tool for tool in conversation.tools if is_answer_tool(tool)]
    if answer_tools or (called and unused):
        tool = (answer_tools or unused)[-1]
    else:
        tool = most_relevant_tool(conversation)
    values = SlotValues(
        conversation, documents_for(conversation), fill_from_documents=is_answer_tool(tool), answer=answer
    )
    return Reply(calls=(ToolCall(tool.name, generate(tool.schema, values, conversation.seed)),))


INTENTS = find_intents()
