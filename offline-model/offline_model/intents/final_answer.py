"""Submitting: an answer that must not be text goes to the tool that takes the answer."""

from offline_model.api.requests import Tool
from offline_model.conversation.documents import background
from offline_model.conversation.messages import Call, Conversation, Reply
from offline_model.conversation.slot_filling import Evidence
from offline_model.conversation.tool_selection import likeliest, schema_of, takes_answer
from offline_model.json_schema.generator import generate


def submit(conversation: Conversation, text: str) -> Reply:
    """Call a tool with what would have been said."""
    tool = receiver(conversation)
    evidence = Evidence(conversation, background(conversation), generous=takes_answer(tool), said=text)
    return Reply(calls=(Call(tool.function.name, generate(schema_of(tool), evidence, conversation.seed)),))


def receiver(conversation: Conversation) -> Tool:
    """The tool that takes the answer, as far as names tell; else the last that was not called yet.

    Frameworks put the tools that take an answer after the others.
    """
    called = {result.call.name for result in conversation.results}
    unused = [tool for tool in conversation.tools if tool.function.name not in called]
    taking = [tool for tool in conversation.tools if takes_answer(tool)]
    if taking or (called and unused):
        return (taking or unused)[-1]
    return likeliest(conversation)
