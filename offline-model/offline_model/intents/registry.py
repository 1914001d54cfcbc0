"""Skills: what the model can do, each a module beside this one, asked in order until one replies.

To add a skill, write a module here with one function

    def reply(conversation: Conversation) -> Reply | None

that returns None for what is not its business, and put it into SKILLS before `lookup`.
"""

from collections.abc import Callable

from offline_model.conversation.messages import Conversation, Reply
from offline_model.intents import (
    greeting,
    lookup,
    memory,
    prompt_injection,
    research,
    structured_output,
    tool_answers,
    tool_calls,
    unknown,
)
from offline_model.intents.final_answer import submit

SKILLS: tuple[Callable[[Conversation], Reply | None], ...] = (
    prompt_injection.reply,
    research.reply,
    tool_calls.reply,
    structured_output.reply,
    tool_answers.reply,
    greeting.reply,
    memory.reply,
    lookup.reply,
    unknown.reply,
)


def answer(conversation: Conversation) -> Reply:
    for skill in SKILLS:
        reply = skill(conversation)
        if reply is None:
            continue
        if conversation.choice == "required" and not reply.calls:
            return submit(conversation, reply.text)
        return reply
    return Reply()
