"""Skills: what the model can do, each a module beside this one, asked in order until one replies.

To add a skill, write a module here with one function

    def reply(conversation: Conversation) -> Reply | None

that returns None for what is not its business, and put it into SKILLS before `lookup`.
"""

from collections.abc import Callable

from offline_model.conversation import Conversation, Reply
from offline_model.skills import (
    call_tools,
    greeting,
    lookup,
    obey,
    remember,
    research,
    structured,
    unknown,
    use_results,
)
from offline_model.skills.submit import submit

SKILLS: tuple[Callable[[Conversation], Reply | None], ...] = (
    obey.reply,
    research.reply,
    call_tools.reply,
    structured.reply,
    use_results.reply,
    greeting.reply,
    remember.reply,
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
