"""Pass the final answer to a tool, when the request requires a tool call and the answer is a text."""

from offline_model.conversation.documents import documents_for
from offline_model.conversation.messages import Conversation, Reply, Tool, ToolCall
from offline_model.conversation.slot_filling import SlotValues
from offline_model.conversation.tool_selection import is_answer_tool, most_relevant_tool
from offline_model.json_schema.generator import generate


def call_answer_tool(conversation: Conversation, answer: str) -> Reply:
    tool = choose_tool(conversation)
    values = SlotValues(
        conversation, documents_for(conversation), fill_from_documents=is_answer_tool(tool), answer=answer
    )
    return Reply(calls=(ToolCall(tool.name, generate(tool.schema, values, conversation.seed)),))


def choose_tool(conversation: Conversation) -> Tool:
    """The last tool whose name says that it takes the answer, else the last that was not called yet.

    Frameworks put the tool that takes the answer after the others.
    """
    called = {result.call.name for result in conversation.results}
    unused = [tool for tool in conversation.tools if tool.name not in called]
    answer_tools = [tool for tool in conversation.tools if is_answer_tool(tool)]
    if answer_tools or (called and unused):
        return (answer_tools or unused)[-1]
    return most_relevant_tool(conversation)
